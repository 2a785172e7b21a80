//! Starts worker processes, on a thread of its own that lives as long as the pool: the parent-death signal of a child fires when the
//! *thread* that started it ends, and a start takes a millisecond that nobody else should wait for.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::fork_server::ForkedEnd;
use super::last_lines::Pipe;
use super::link::Started;
use crate::boot::{self, Entry, Role, SUMMONS, Summons, TEST_ENTRY};
use crate::codec;
use crate::limits::{BOOT_BYTES, PROTOCOL_VERSION};
use crate::output::Output;
use crate::sys::cgroup::{Delegated, Group, Place};
use crate::sys::{self, capture, pidfd::PidFd, socket};
use crate::transport::block::WorkerBlock;
use crate::transport::task_queue::TaskQueueWriter;
use crate::transport::tasks;
use crate::wire::hello::{Boot, ForkServerBoot, Kin, Summoned};

/// How worker processes come to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StartMethod {
    /// Each is a fresh copy of the executable: nothing of this program's memory is in it.
    #[default]
    Spawn,
    /// They are forked from a fork server, a fresh copy of the executable with one thread: quicker, and what the [`preload`](crate::PoolBuilder::preload) function has put into memory
    /// is there once for all of them. The fork server is the pool's guardian too: if this program is killed, it kills the workers and whatever they have started, also what
    /// has left their process groups.
    ForkServer,
}

/// The parent's end of a standard stream of a worker.
#[derive(Debug)]
pub(crate) enum Sink {
    /// It is not the pool's affair.
    Elsewhere,
    Captured(OwnedFd),
    Tagged(Pipe),
}

impl Sink {
    /// Both ends. The worker's is `None` if it has none.
    fn open(output: Output, ours: BorrowedFd<'_>) -> io::Result<(Sink, Option<OwnedFd>)> {
        Ok(match output {
            // one that is closed here is nowhere there
            Output::Inherit => (Sink::Elsewhere, ours.try_clone_to_owned().ok()),
            Output::Discard => (Sink::Elsewhere, None),
            Output::Captured => {
                let file = capture::capture_file()?;
                let theirs = file.try_clone()?;
                (Sink::Captured(file), Some(theirs))
            }
            Output::Tagged => {
                let (reader, writer) = io::pipe()?;
                (Sink::Tagged(Pipe::new(reader)?), Some(writer.into()))
            }
        })
    }
}

/// The pipes of a worker whose output is tagged.
#[derive(Debug)]
pub(crate) struct Printed {
    pub(crate) stdout: Option<Pipe>,
    pub(crate) stderr: Option<Pipe>,
}

/// The CPU of a seat, if workers are bound.
pub(crate) fn cpu_of(cpus: &[u32], seat: u32) -> Option<u32> {
    cpus.get(seat as usize % cpus.len().max(1)).copied()
}

/// How a pool starts its workers.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    pub(crate) pool: String,
    pub(crate) role: Role,
    /// `None`: copies of this executable.
    pub(crate) executable: Option<PathBuf>,
    /// `None` removes a variable.
    pub(crate) env: Vec<(OsString, Option<OsString>)>,
    pub(crate) env_clear: bool,
    pub(crate) current_dir: Option<PathBuf>,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
    pub(crate) max_result: u64,
    pub(crate) memory_limit: Option<u64>,
    /// Where each gets a cgroup of its own.
    pub(crate) groups: Option<Arc<Delegated>>,
    /// Small tasks and replies go by shared memory.
    pub(crate) fast_lane: bool,
    /// Worker `i` is bound to number `i` of these, again and again.
    pub(crate) cpus: Vec<u32>,
    pub(crate) niceness: Option<i32>,
    pub(crate) limits: Vec<crate::sandbox::Limit>,
    /// The file of what the worker may do, and its length.
    pub(crate) sandbox: Option<(Arc<OwnedFd>, u64)>,
    /// The file of the shared object, and its length.
    pub(crate) shared: Option<(Arc<OwnedFd>, u64)>,
    /// Workers live in a PID namespace of their pool's, from which this program must be seen by this number in /proc.
    pub(crate) seen: Option<u32>,
    /// `None` for a worker of a pool.
    pub(crate) member: Option<Box<Member>>,
}

/// What a [`Process`](crate::Process) is told about itself, which a worker of a pool is not.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) lineage: String,
    pub(crate) daemon: bool,
}

impl Recipe {
    /// Starts one process and connects it. Everything that it needs is on its way when this returns; it has not said hello yet.
    pub(crate) fn start(&self, seat: u32, wires: Wires) -> io::Result<Started> {
        let (ours, theirs) = self.connect(seat, wires, false)?;
        let Theirs { stdin, stdout, stderr } = theirs;
        let (pid, pidfd) = self.spawn(stdin, stdout, stderr)?;
        Ok(ours.started(seat, pid, pidfd, None))
    }

    /// Starts the fork server, and sends it its descriptors. The socket by which it has been started tells if it never got as far as `init()`.
    pub(crate) fn start_fork_server(&self, fds: [RawFd; 2]) -> io::Result<(PidFd, OwnedFd)> {
        let (stream, theirs) = socket::stream_pair()?;
        let name = format!("{}-forks", self.pool);
        let boot = ForkServerBoot {
            version: PROTOCOL_VERSION,
            depth: self.role.depth + 1,
            name,
            parent: std::process::id(),
            seen: self.seen,
        };
        send_first(&stream, &Summoned::ForkServer(boot), &fds)?;
        let ours = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().ok();
        let stdout = if self.hides_stdout() { None } else { ours(io::stdout().as_fd()) };
        let (_, pidfd) = self.spawn(theirs, stdout, ours(io::stderr().as_fd()))?;
        Ok((pidfd, stream))
    }

    /// Makes the rest of what connects a worker with this program, and sends it its first message.
    pub(crate) fn connect(
        &self,
        seat: u32,
        wires: Wires,
        is_forked: bool,
    ) -> io::Result<(Ours, Theirs)> {
        let Wires { stream, stdin, sender, tasks, block, block_fd } = wires;
        let (stdout, their_stdout) = Sink::open(self.stdout, io::stdout().as_fd())?;
        let (stderr, their_stderr) = Sink::open(self.stderr, io::stderr().as_fd())?;
        let group = self.groups.as_ref().map(|groups| groups.create()).transpose()?;
        let entrance = group.as_ref().map(Group::entrance).transpose()?;
        let mut fds = vec![tasks.as_raw_fd(), block_fd.as_raw_fd()];
        fds.extend(entrance.as_ref().map(AsRawFd::as_raw_fd));
        let (hidden, shown) = if self.hides_stdout() && !is_forked {
            (their_stdout, None)
        } else {
            (None, their_stdout)
        };
        self.send_boot(&stream, seat, fds, hidden.as_ref().map(AsRawFd::as_raw_fd))?;
        let ours = Ours { stream, sender, block, group, sinks: [stdout, stderr] };
        Ok((ours, Theirs { stdin, stdout: shown, stderr: their_stderr }))
    }

    fn spawn(
        &self,
        stdin: OwnedFd,
        stdout: Option<OwnedFd>,
        stderr: Option<OwnedFd>,
    ) -> io::Result<(u32, PidFd)> {
        let summons = Summons::text(sys::inode(stdin.as_fd())?, std::process::id());
        let stdio = |fd: Option<OwnedFd>| fd.map_or_else(Stdio::null, Stdio::from);
        let mut command = self.command(stdin, summons, stdio(stdout), stdio(stderr));
        let mut child = command.spawn().map_err(|error| self.blaming(error))?;
        let pid = child.id();
        match PidFd::open(pid) {
            Ok(pidfd) => Ok((pid, pidfd)),
            Err(error) => {
                // no descriptor for it: nothing is left behind
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// The system does not say which file it is about.
    fn blaming(&self, error: io::Error) -> io::Error {
        let directory = self.current_dir.as_ref().filter(|directory| !directory.is_dir());
        let text = match (directory, &self.executable) {
            (Some(directory), _) => {
                format!("its current_dir {} is no directory", directory.display())
            }
            (None, Some(executable)) => format!("executable {}: {error}", executable.display()),
            (None, None) => return error,
        };
        io::Error::new(error.kind(), text)
    }

    fn send_boot(
        &self,
        stream: &OwnedFd,
        seat: u32,
        mut fds: Vec<RawFd>,
        stdout: Option<RawFd>,
    ) -> io::Result<()> {
        let boot = Boot {
            version: PROTOCOL_VERSION,
            seat: self.member.is_none().then_some(seat),
            depth: self.role.depth + 1,
            max_result: self.max_result,
            memory_limit: self.memory_limit,
            cpu: cpu_of(&self.cpus, seat),
            niceness: self.niceness,
            has_group: self.groups.is_some(),
            limits: self.limits.clone(),
            sandbox: self.sandbox.as_ref().map(|(_, len)| *len),
            shared: self.shared.as_ref().map(|(_, len)| *len),
            has_stdout: stdout.is_some(),
            fast_lane: self.fast_lane,
            captured: [self.stdout, self.stderr].map(|output| output == Output::Captured),
            kin: self.kin(seat),
            image: match &self.member {
                Some(_) => Some(sys::process::image_id()?),
                None => None,
            },
        };
        fds.extend(self.shared.as_ref().map(|(file, _)| file.as_raw_fd()));
        fds.extend(self.sandbox.as_ref().map(|(file, _)| file.as_raw_fd()));
        fds.extend(stdout);
        send_first(stream, &Summoned::Worker(boot), &fds)
    }

    fn kin(&self, seat: u32) -> Kin {
        let parent_name = boot::name().to_owned();
        match self.member.as_deref().cloned() {
            Some(Member { name, lineage, daemon }) => Kin { name, lineage, daemon, parent_name },
            None => {
                let name = format!("{}-{seat}", self.pool);
                Kin { lineage: name.clone(), name, daemon: true, parent_name }
            }
        }
    }

    /// A copy of a test binary prints a heading before it becomes a worker: it gets the real standard output only then.
    fn hides_stdout(&self) -> bool {
        self.executable.is_none() && self.role.entry == Entry::Test
    }

    /// Without `pre_exec`, so that std can use `posix_spawn`: forking a parent of a gigabyte takes 50 times as long. The only
    /// descriptor that is passed is standard input; the others follow over it, so nothing can leak into a process that another thread
    /// of this program starts at the same time.
    fn command(&self, stdin: OwnedFd, summons: String, stdout: Stdio, stderr: Stdio) -> Command {
        let mut command = match &self.executable {
            Some(path) => Command::new(path),
            None => Command::new("/proc/self/exe"),
        };
        if self.executable.is_none() {
            if let Some(name) = std::env::args_os().next() {
                command.arg0(name);
            }
            if self.role.entry == Entry::Test {
                command.args([TEST_ENTRY, "--nocapture", "--test-threads=1"]);
            }
        }
        if self.env_clear {
            command.env_clear();
        }
        for (name, value) in &self.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(directory) = &self.current_dir {
            command.current_dir(directory);
        }
        command
            .env(SUMMONS, summons)
            .process_group(0)
            .stdin(Stdio::from(stdin))
            .stdout(stdout)
            .stderr(stderr);
        command
    }
}

/// Both ends of what connects a worker with this program, whichever it is: its sockets and the memory that they share.
#[derive(Debug)]
pub(crate) struct Wires {
    stream: OwnedFd,
    stdin: OwnedFd,
    sender: TaskQueueWriter,
    tasks: OwnedFd,
    block: WorkerBlock,
    block_fd: OwnedFd,
}

impl Wires {
    /// `first` is the first message of the task queue, if there is one already: then the worker is not woken for that.
    pub(crate) fn new(first: &[u8], fast_lane: bool) -> io::Result<Wires> {
        let (stream, stdin) = socket::stream_pair()?;
        let (sender, tasks) = tasks::channel()?;
        let (block, block_fd) = WorkerBlock::create()?;
        let mut sender = TaskQueueWriter::new(sender, fast_lane.then(|| block.tasks()));
        if !first.is_empty() {
            sender.send(first).map_err(|_| io::Error::other("its first message was not sent"))?;
        }
        Ok(Wires { stream, stdin, sender, tasks, block, block_fd })
    }
}

/// The first message to a process, which is sent before the process is started.
fn send_first(stream: &OwnedFd, message: &Summoned, fds: &[RawFd]) -> io::Result<()> {
    let mut bytes = Vec::new();
    codec::encode(message, &mut bytes, BOOT_BYTES as u64)
        .map_err(|_| io::Error::other("its name or that of its parent is too long"))?;
    socket::send_with(stream.as_fd(), &bytes, fds).map(drop)
}

/// This program's ends of what connects it with a worker.
#[derive(Debug)]
pub(crate) struct Ours {
    stream: OwnedFd,
    sender: TaskQueueWriter,
    block: WorkerBlock,
    group: Option<Group>,
    sinks: [Sink; 2],
}

/// The worker's ends that are not in its first message.
#[derive(Debug)]
pub(crate) struct Theirs {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

impl Ours {
    /// With the process that has the others.
    pub(crate) fn started(
        self,
        seat: u32,
        pid: u32,
        pidfd: PidFd,
        ends: Option<ForkedEnd>,
    ) -> Started {
        let Ours { stream, sender, block, group, sinks } = self;
        let home = group.is_none().then(Place::own).flatten();
        Started { seat, pid, pidfd, ends, stream, sender, block, group, home, sinks }
    }
}

/// The name of a variable that no environment can hold.
pub(crate) fn bad_variable(env: &[(OsString, Option<OsString>)]) -> Option<&OsStr> {
    let zero = |text: &OsStr| text.as_bytes().contains(&0);
    let is_bad = |name: &OsStr, value: Option<&OsStr>| {
        name.is_empty() || name.as_bytes().contains(&b'=') || zero(name) || value.is_some_and(zero)
    };
    env.iter()
        .find(|(name, value)| is_bad(name, value.as_deref()))
        .map(|(name, _)| name.as_os_str())
}
