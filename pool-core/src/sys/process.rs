//! What a worker does to itself when it starts, and what identifies an executable.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::OnceLock;

use super::{check, namespace, replace_number};
use crate::error::ExitCause;

/// This process gets SIGKILL when the thread that started it ends. To be followed by a look at [`parent`].
pub(crate) fn arm_parent_death() -> io::Result<()> {
    Ok(nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?)
}

/// Ends this process as another one has ended, as far as that can be: without core dump, and at once.
pub(crate) fn leave_like(cause: ExitCause) -> ! {
    let code = match cause {
        ExitCause::Exited(code) => code,
        ExitCause::Signaled { signal, .. } => {
            if let Ok(signal) = nix::sys::signal::Signal::try_from(signal) {
                let _ =
                    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0);
                let _ = nix::sys::signal::raise(signal);
            }
            1
        }
        _ => 1,
    };
    // SAFETY: ends the process, without running anything that the other one has run already.
    unsafe { libc::_exit(code) }
}

/// Undoes [`arm_parent_death`].
pub(crate) fn disarm_parent_death() -> io::Result<()> {
    Ok(nix::sys::prctl::set_pdeathsig(None)?)
}

/// Makes the process that `command` will start get SIGKILL when the thread that starts it ends, however it ends.
///
/// For tasks that start commands: a worker that is killed takes them along, also when nobody is left who could signal its process group. What the
/// command starts in its turn is not covered. The process is started by a fork, which is quick as long as this process is small.
///
/// ```
/// use std::process::Command;
/// let status = pool_core::die_with_parent(&mut Command::new("true")).status()?;
/// assert!(status.success());
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn die_with_parent(command: &mut Command) -> &mut Command {
    let parent = std::process::id();
    let arm = move || {
        arm_parent_death()?;
        if self::parent() == parent { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    };
    // SAFETY: between fork and exec only prctl and getppid are called, which are plain system calls; the error has no allocation.
    unsafe { command.pre_exec(arm) }
}

/// The process id of the parent, 0 if it is outside this PID namespace.
pub(crate) fn parent() -> u32 {
    nix::unistd::getppid().as_raw().unsigned_abs()
}

/// Closes what was inherited from the parent's program, except 0, 1 and 2: nothing that it has open is for its workers.
///
/// Only descriptors without the close-on-exec flag can have come that way. Those with it were opened by this process, by something that ran before
/// `init()`, and stay.
pub(crate) fn close_inherited() -> io::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fd")?.collect::<io::Result<Vec<_>>>()? {
        let number = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        let Some(number) = number.filter(|&number| number > 2) else { continue };
        // SAFETY: integers only. A number that is not open any more, as that of the directory, is an error, which is no flag.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        if flags >= 0 && flags & libc::FD_CLOEXEC == 0 {
            // SAFETY: opened by another program before this one was executed in its place, so nothing here owns it: what Rust opens is
            // closed on exec.
            unsafe { libc::close(number) };
        }
    }
    Ok(())
}

/// Moves standard input away and puts an empty file in its place.
pub(crate) fn take_stdin() -> io::Result<OwnedFd> {
    let taken = super::duplicate_number(0)?;
    let empty = match std::fs::File::open("/dev/null") {
        Ok(file) => OwnedFd::from(file),
        // a container without /dev: an empty anonymous file reads the same
        Err(_) => nix::sys::memfd::memfd_create(c"stdin", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?,
    };
    put(&empty, 0)?;
    Ok(taken)
}

/// Puts `file` at descriptor `number` (0, 1 or 2), to be inherited by what this process starts.
pub(crate) fn put(file: &OwnedFd, number: i32) -> io::Result<()> {
    replace_number(file.as_fd(), number)?;
    // SAFETY: integers only; the standard streams are meant to be inherited.
    unsafe { check(libc::fcntl(number, libc::F_SETFD, 0)) }.map(drop)
}

/// Puts an empty file at descriptor `number`.
pub(crate) fn put_nothing(number: i32) -> io::Result<()> {
    let file = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    put(&file.into(), number)
}

/// Makes this process, and what it starts, a likelier choice of the kernel's than its parent when memory runs out. Raising needs no privilege.
pub(crate) fn prefer_for_oom() {
    const MORE: i32 = 300;
    let mut text = [0; 16];
    // a container may forbid it: then it is as it is
    let Ok(file) = File::options().read(true).write(true).open("/proc/self/oom_score_adj") else {
        return;
    };
    let known = file.read_at(&mut text, 0).ok().and_then(|len| text.get(..len));
    let known = known.and_then(|text| std::str::from_utf8(text).ok()?.trim().parse::<i32>().ok());
    if let Some(known) = known {
        let _ = file.write_at((known + MORE).min(1000).to_string().as_bytes(), 0);
    }
}

/// Limits the address space of this process, and of those that it starts.
pub(crate) fn limit_memory(bytes: u64) -> io::Result<()> {
    use nix::sys::resource::{Resource, setrlimit};
    Ok(setrlimit(Resource::RLIMIT_AS, bytes, bytes)?)
}

/// Whether this process may run on the CPU of this number.
pub(crate) fn may_run_on(cpu: usize) -> bool {
    let me = nix::unistd::Pid::from_raw(0);
    nix::sched::sched_getaffinity(me).is_ok_and(|cpus| cpus.is_set(cpu) == Ok(true))
}

/// Binds this thread, and what it starts, to one CPU.
pub(crate) fn pin_to(cpu: u32) -> io::Result<()> {
    let mut cpus = nix::sched::CpuSet::new();
    cpus.set(cpu as usize)?;
    Ok(nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &cpus)?)
}

/// Sets the niceness of this thread, and of what it starts.
pub(crate) fn set_niceness(niceness: i32) -> io::Result<()> {
    // SAFETY: integers only; 0 is the calling thread.
    unsafe { check(libc::setpriority(libc::PRIO_PROCESS, 0, niceness)) }.map(drop)
}

/// The resident memory of a child of this process, in bytes; `None` if it can't be told.
pub(crate) fn resident_bytes(pid: u32) -> Option<u64> {
    let pid = namespace::to_proc(pid)?;
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * page.unsigned_abs())
}

/// How a process has ended that was not collected yet, from /proc; `None` if it lives, was collected, or that does not show it: an exit with 0 looks like what this process may not see.
pub(crate) fn zombie_cause(pid: u32) -> Option<ExitCause> {
    let pid = namespace::to_proc(pid)?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    if fields.first() != Some(&"Z") {
        return None;
    }
    // field 52 of the file, as wait tells it
    let status: i32 = fields.get(49)?.parse().ok()?;
    match (status >> 8 & 0xff, status & 0x7f) {
        (0, 0) => None,
        (code, 0) => Some(ExitCause::Exited(code)),
        (_, signal) => Some(ExitCause::Signaled { signal, core_dumped: status & 0x80 != 0 }),
    }
}

/// The name that `ps` and `top` show for this process.
pub(crate) fn set_name(name: &str) {
    if let Ok(name) = std::ffi::CString::new(name) {
        // only for the eye
        let _ = nix::sys::prctl::set_name(&name);
    }
}

/// Whether this is the thread that `main` runs on.
pub(crate) fn on_main_thread() -> bool {
    nix::unistd::gettid() == nix::unistd::getpid()
}

/// The number by which the kernel and its tools know this thread.
pub(crate) fn thread_id() -> u32 {
    nix::unistd::gettid().as_raw().unsigned_abs()
}

/// What tells one executable file from another, also after it was replaced on disk: device, inode, size and time of change
/// of the running image.
pub(crate) fn image_id() -> io::Result<[u64; 4]> {
    let stat = nix::sys::stat::stat("/proc/self/exe")?;
    let changed =
        (stat.st_mtime as u64).wrapping_mul(1_000_000_000).wrapping_add(stat.st_mtime_nsec as u64);
    Ok([stat.st_dev, stat.st_ino, stat.st_size as u64, changed])
}

/// How many processes the kernel has killed for lack of memory since it started; `None` without /proc.
///
/// It is asked for at the start and the end of each worker, so the file stays open, and is read in one piece: the kernel adds all its numbers up for each read.
pub(crate) fn oom_kills() -> Option<u64> {
    static NUMBERS: OnceLock<Option<File>> = OnceLock::new();
    let file = NUMBERS.get_or_init(|| File::open("/proc/vmstat").ok()).as_ref()?;
    let mut text = vec![0; 16 << 10];
    let mut len = 0;
    loop {
        match file.read_at(&mut text[len..], len as u64) {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
        if let Some(kills) = number_after(&text[..len], b"\noom_kill ") {
            return Some(kills);
        }
        text.resize(len + (16 << 10), 0);
    }
    None
}

/// The number behind a name, if its line is complete.
fn number_after(text: &[u8], name: &[u8]) -> Option<u64> {
    let at = text.windows(name.len()).position(|part| part == name)?;
    let rest = &text[at + name.len()..];
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    std::str::from_utf8(&rest[..end]).ok()?.parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]
mod tests {
    use std::process::Stdio;

    use super::*;

    #[test]
    fn a_zombie_shows_how_it_has_ended() {
        for (script, expected) in [
            ("exit 3", Some(ExitCause::Exited(3))),
            ("exit 255", Some(ExitCause::Exited(255))),
            ("kill -9 $$", Some(ExitCause::Signaled { signal: 9, core_dumped: false })),
            // might be what is not shown
            ("exit 0", None),
        ] {
            let mut command = Command::new("sh");
            let mut child = command.args(["-c", script]).stdin(Stdio::null()).spawn().unwrap();
            while !super::super::pidfd::has_ended(child.id()) {
                std::thread::yield_now();
            }
            assert_eq!(zombie_cause(child.id()), expected, "{script}");
            child.wait().unwrap();
        }
        assert_eq!(zombie_cause(std::process::id()), None, "it lives");
    }
}
