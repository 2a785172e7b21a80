//! For the code of tasks: which worker runs it, and what it may know.
//!
//! ```
//! # fn main() -> anyhow::Result<()> {
//! # pool_core::init();
//! use pool_core::worker;
//! let pool = pool_core::Pool::new(2)?;
//! let id = pool.apply(|| worker::task_id().map(|id| id.get()), ())?;
//! assert_eq!(id, Some(1));
//! # Ok(())
//! # }
//! ```

// The child's side: receive, mark as started, call, reply. Single-threaded, on the thread that called `init()`.

pub(crate) mod context;
mod fork_server;
mod inbox;
mod outbox;
mod printed;

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

pub use context::{
    CancelToken, State, cancel_token, cancelled, index, set_state, shared, state, task_id,
    try_state,
};
use fork_server::Forked;
use inbox::{End, Inbox};
use outbox::Outbox;

use crate::boot::{self, Family, Role, Summons};
use crate::limits::{BOOT_BYTES, PROTOCOL_VERSION};
use crate::sandbox::Confinement;
use crate::sys::{failpoint, process, signal, socket};
use crate::task::{Registry, panics};
use crate::transport::block::WorkerBlock;
use crate::transport::task_queue::TaskQueueReader;
use crate::transport::tasks::{SpareReceiver, TaskReceiver};
use crate::wire::from_worker::{Header, Kind};
use crate::wire::hello::{Boot, Hello, Summoned};
use crate::{codec, sys};

/// Exit codes of a worker that could not start; the parent's error names them.
const EXIT_BOOT_FAILED: i32 = 101;
/// Exit code of a worker whose task the parent has given up, or whose status page was overwritten.
const EXIT_CONDEMNED: i32 = 102;

/// Serves the parent until it says stop or is gone.
pub(crate) fn run(summons: &Summons, entry: boot::Entry, registry: Registry) -> ! {
    let end = begin(summons, entry).map(|(inbox, outbox)| {
        // what they hold is let go by the end of this process: were the socket closed before, its parent would be woken twice
        let (mut inbox, mut outbox) = (ManuallyDrop::new(inbox), ManuallyDrop::new(outbox));
        inbox.serve(&mut outbox, &registry)
    });
    context::leave();
    failpoint::at("worker.leave");
    leave(match end {
        Ok(End::Stop | End::Orphaned) => 0,
        Ok(End::Condemned) => EXIT_CONDEMNED,
        Err(_) => EXIT_BOOT_FAILED,
    })
}

/// Tells the parent that this program never calls `init()`.
pub(crate) fn not_initialized() -> ! {
    let stdin = std::io::stdin();
    // without a parent there is nobody to be told
    let _ = socket::send_all(stdin.as_fd(), &Header::new(Kind::NotInitialized).encode());
    leave(EXIT_BOOT_FAILED)
}

#[expect(clippy::exit, reason = "a worker ends inside init(), whose caller must not go on")]
fn leave(code: i32) -> ! {
    std::process::exit(code)
}

fn begin(summons: &Summons, entry: boot::Entry) -> std::io::Result<(Inbox, Outbox)> {
    failpoint::at("worker.begin");
    process::close_inherited()?;
    signal::restore_defaults();
    let stream = process::take_stdin()?;
    // sent before this process was started, so there is nothing to wait for
    match receive_boot(&stream)? {
        (Summoned::Worker(boot), fds) => {
            let (parent, family) = (summons.parent, summons.parent);
            prepare(stream, boot, fds, Origin { parent, family, entry, forked: None })
        }
        (Summoned::ForkServer(boot), fds) => {
            let Forked { stream: own, parent, spare, image } =
                fork_server::serve(&boot, fds, entry)?;
            drop(stream);
            let (family, forked) = (summons.parent, Some((spare, image)));
            match receive_boot(&own)? {
                (Summoned::Worker(boot), fds) => {
                    prepare(own, boot, fds, Origin { parent, family, entry, forked })
                }
                (Summoned::ForkServer(_), _) => Err(sys_error("a fork server of a fork server")),
            }
        }
    }
}

/// How a worker has come to be.
struct Origin {
    /// The process that has started it.
    parent: u32,
    /// The one that uses it.
    family: u32,
    entry: boot::Entry,
    /// What the fork server that it was has made, and known about the executable.
    forked: Option<(SpareReceiver, [u64; 4])>,
}

fn prepare(
    stream: OwnedFd,
    boot: Boot,
    fds: Vec<OwnedFd>,
    origin: Origin,
) -> std::io::Result<(Inbox, Outbox)> {
    let Origin { parent, family, entry, forked } = origin;
    failpoint::at("worker.booted");
    if boot.kin.daemon {
        process::arm_parent_death()?;
        if process::parent() != parent && process::parent() != 0 {
            // the parent ended before the line above
            leave(0);
        }
    }
    let missing = || sys_error("descriptors are missing");
    let mut fds = fds.into_iter();
    let tasks = fds.next().ok_or_else(missing)?;
    let page = fds.next().ok_or_else(missing)?;
    if boot.has_group {
        // first of all: what it needs from here on counts there
        sys::cgroup::enter(fds.next().ok_or_else(missing)?)?;
    }
    if let Some(len) = boot.shared {
        let content = sys::memory::read_sealed(fds.next().ok_or_else(missing)?, len)?;
        context::set_shared(context::SharedObject::Encoded(Arc::new(content)));
    }
    let sandbox = match boot.sandbox {
        Some(len) => Some(read_plan(fds.next().ok_or_else(missing)?, len)?),
        None => None,
    };
    if boot.has_stdout {
        process::put(&fds.next().ok_or_else(missing)?, 1)?;
    }
    let printed = printed::Capture::new(boot.captured);
    if let Some(cpu) = boot.cpu {
        process::pin_to(cpu)?;
    }
    if let Some(niceness) = boot.niceness {
        process::set_niceness(niceness)?;
    }
    process::set_name(&boot.kin.name);
    process::prefer_for_oom();
    if let Some(bytes) = boot.memory_limit {
        process::limit_memory(bytes)?;
    }
    for &limit in &boot.limits {
        sys::sandbox::limit(limit)?;
    }
    boot::set(Role { depth: boot.depth, entry });
    panics::keep();
    let block = WorkerBlock::map(page.as_fd())?;
    if let Some(seat) = boot.seat {
        context::enter(seat, block.status());
    }
    let mut outbox = Outbox::new(stream, &block, boot.fast_lane, boot.max_result);
    let (spare, image) = match forked {
        Some(forked) => forked,
        None => (SpareReceiver::new()?, process::image_id()?),
    };
    let hello = Hello { version: PROTOCOL_VERSION, depth: boot.depth, image };
    failpoint::at("worker.hello");
    outbox.hold(Header::new(Kind::Hello), |body| {
        codec::encode(&hello, body, u64::MAX).map_err(|_| sys_error("hello"))
    })?;
    if boot.seat.is_none() || sandbox.is_some() {
        // a worker of a pool is asked at once whether it is ready, and says both
        let said = outbox.release();
        if boot.kin.daemon {
            // the others go on without their parent: their task is there already
            said?;
        }
    }
    if boot.image.is_some_and(|expected| expected != image) {
        // the parent reads why in the hello; a task that it has sent means nothing here
        leave(EXIT_BOOT_FAILED);
    }
    failpoint::at("worker.greeted");
    if let Some(plan) = sandbox {
        confine(&plan, &mut outbox)?;
    }
    boot::set_family(Family { kin: boot.kin, parent: family, maker: parent });
    let lane = boot.fast_lane.then(|| block.tasks());
    let tasks = TaskQueueReader::new(TaskReceiver::adopt(spare, &tasks)?, lane);
    Ok((Inbox::new(tasks, block, printed), outbox))
}

fn read_plan(file: OwnedFd, len: u64) -> std::io::Result<Confinement> {
    codec::decode(&sys::memory::read_sealed(file, len)?).map_err(std::io::Error::other)
}

/// Before any code of the user's: from here on, this process can do what the plan leaves it.
fn confine(plan: &Confinement, outbox: &mut Outbox) -> std::io::Result<()> {
    let gaps = sys::sandbox::confine(plan);
    if gaps.is_empty() {
        return Ok(());
    }
    outbox.send(Header::new(Kind::Unconfined), |body| {
        codec::encode(&gaps, body, u64::MAX).map_err(|_| sys_error("gaps"))
    })?;
    if plan.required {
        // the parent has been told why
        leave(EXIT_BOOT_FAILED);
    }
    Ok(())
}

fn receive_boot(stream: &OwnedFd) -> std::io::Result<(Summoned, Vec<OwnedFd>)> {
    let mut bytes = [0; BOOT_BYTES];
    let (len, fds) = loop {
        match sys::socket::receive_with(stream.as_fd(), &mut bytes) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            received => break received?,
        }
    };
    let boot: Summoned = codec::decode(&bytes[..len]).map_err(std::io::Error::other)?;
    // a parent of another version is told by the hello, and refuses
    Ok((boot, fds))
}

fn sys_error(what: &'static str) -> std::io::Error {
    std::io::Error::other(what)
}
