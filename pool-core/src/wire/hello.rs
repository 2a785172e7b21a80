//! The handshake: what the parent tells a fresh worker, and what the worker answers before it gets any task.

use serde::{Deserialize, Serialize};

use crate::limits::PROTOCOL_VERSION;
use crate::sandbox::Limit;

/// What a process is to be, as the first bytes on its socket say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Summoned {
    Worker(Boot),
    ForkServer(ForkServerBoot),
}

/// What a fork server is told. The descriptors for orders and for the ends of workers come with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ForkServerBoot {
    pub(crate) version: u32,
    pub(crate) depth: u32,
    pub(crate) name: String,
    /// Its parent's process id.
    pub(crate) parent: u32,
    /// It is to be the first process of a PID namespace, from which the parent must be seen by this number in /proc.
    pub(crate) seen: Option<u32>,
}

/// First bytes on the reply socket, parent → worker, together with the descriptors of the task channel and the shared block
/// (and of the entrance of its cgroup, of the shared object and the real standard output, see below).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Boot {
    pub(crate) version: u32,
    /// The seat of a worker of a pool; `None` in a [`Process`](crate::Process).
    pub(crate) seat: Option<u32>,
    /// 1 for a worker of the first program, 2 for a worker of a worker.
    pub(crate) depth: u32,
    pub(crate) max_result: u64,
    pub(crate) memory_limit: Option<u64>,
    /// What it may take of other things.
    pub(crate) limits: Vec<Limit>,
    /// The length of its encoded [`Confinement`](crate::sandbox::Confinement), whose file follows that of the shared object.
    pub(crate) sandbox: Option<u64>,
    /// The CPU that it is bound to.
    pub(crate) cpu: Option<u32>,
    pub(crate) niceness: Option<i32>,
    /// The third descriptor is the entrance of its cgroup.
    pub(crate) has_group: bool,
    /// The length of the shared object, whose file follows these descriptors.
    pub(crate) shared: Option<u64>,
    /// The last descriptor is its standard output.
    pub(crate) has_stdout: bool,
    /// Whether small replies go by the lane.
    pub(crate) fast_lane: bool,
    /// Whether standard output and standard error are files that are emptied after each task.
    pub(crate) captured: [bool; 2],
    pub(crate) kin: Kin,
    /// The executable that this must be a copy of, if tasks are sent before the parent has seen the answer.
    pub(crate) image: Option<[u64; 4]>,
}

/// What a process knows about itself and who started it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kin {
    pub(crate) name: String,
    /// What the default names of its own processes begin with.
    pub(crate) lineage: String,
    /// It ends with its parent.
    pub(crate) daemon: bool,
    pub(crate) parent_name: String,
}

/// The worker's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) version: u32,
    pub(crate) depth: u32,
    pub(crate) image: [u64; 4],
}

impl Hello {
    /// Why this worker can't be used, if so. `image` is given if the worker must be a copy of this executable.
    pub(crate) fn refuse(&self, depth: u32, image: Option<[u64; 4]>) -> Option<String> {
        if self.version != PROTOCOL_VERSION {
            let theirs = self.version;
            return Some(format!(
                "the worker speaks version {theirs} of the protocol, this program {PROTOCOL_VERSION}: build both with the same pool-core"
            ));
        }
        if self.depth != depth {
            return Some(format!(
                "the worker counts {} nested pools, this program {depth}",
                self.depth
            ));
        }
        match image {
            Some(image) if image != self.image => Some(
                "the worker was started from another executable than this program: was the file replaced?".to_owned(),
            ),
            _ => None,
        }
    }
}
