//! Starting other programs without copying this process: the child borrows its memory until it executes the program, as `posix_spawn` does. Unlike that, the child gets a
//! parent-death signal.

mod clone;

use std::cell::Cell;
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};

/// What the child runs on until it executes the program: a few frames, none of them deep.
const STACK_BYTES: usize = 64 << 10;

/// Where programs are looked for if there is no `PATH`, as by the C library.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

const SHELL: &CStr = c"/bin/sh";

/// Numbers of signals, the last of them included.
const SIGNALS: std::ops::RangeInclusive<i32> = 1..=64;

/// A program with its arguments and surroundings.
#[derive(Debug)]
pub(crate) struct Program {
    /// Its path; several, to be tried in turn, if it is looked up on `PATH`.
    paths: Texts,
    arguments: Texts,
    environment: Texts,
    directory: Option<CString>,
}

impl Program {
    /// `environment` is added to that of this process. A text with a zero byte in it is an error.
    pub(crate) fn new<'a>(
        argv: &[&'a OsStr],
        environment: &[(&'a OsStr, &'a OsStr)],
        directory: Option<&Path>,
    ) -> io::Result<Program> {
        let name = *argv.first().ok_or(io::ErrorKind::InvalidInput)?;
        let directory = directory.map(|path| CString::new(path.as_os_str().as_bytes()));
        let added = |known: &OsStr| environment.iter().any(|(name, _)| *name == known);
        let inherited: Vec<_> = std::env::vars_os().filter(|(name, _)| !added(name)).collect();
        let inherited = inherited.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()));
        // of several values for one name the last one counts
        let last = |at: usize, name: &OsStr| !environment[at + 1..].iter().any(|(n, _)| *n == name);
        let own = environment.iter().enumerate().filter(|(at, (name, _))| last(*at, name));
        let (mut all, mut path) = (Texts::default(), OsStr::new(DEFAULT_PATH));
        for (name, value) in inherited.chain(own.map(|(_, pair)| *pair)) {
            all.push([name.as_bytes(), b"=", value.as_bytes()])?;
            if name == "PATH" {
                path = value;
            }
        }
        let mut arguments = Texts::default();
        argv.iter().try_for_each(|text| arguments.push([text.as_bytes()]))?;
        Ok(Program {
            paths: paths_of(name, path)?,
            arguments,
            environment: all,
            directory: directory.transpose()?,
        })
    }

    /// Starts it with these standard streams, all above 2. It gets SIGKILL when the calling thread ends, however that ends.
    pub(crate) fn start(&self, streams: [BorrowedFd<'_>; 3]) -> io::Result<Launched> {
        self.start_by(clone::with_default_handlers, streams)
    }

    /// `reset` is tried first.
    fn start_by(&self, reset: clone::Reset, streams: [BorrowedFd<'_>; 3]) -> io::Result<Launched> {
        let arguments = self.arguments.pointers();
        // a file without an interpreter's name is a script of the shell: SHELL FILE ARGUMENTS..
        let rest = arguments[1..].iter().copied();
        let for_shell = [SHELL.as_ptr(), ptr::null()].into_iter().chain(rest);
        let for_shell = for_shell.map(|text| AtomicPtr::new(text.cast_mut())).collect();
        let child = Child {
            paths: self.paths.pointers(),
            arguments,
            for_shell,
            environment: self.environment.pointers(),
            directory: self.directory.as_ref().map_or(ptr::null(), |path| path.as_ptr()),
            streams: streams.map(|stream| stream.as_raw_fd()),
            parent: std::process::id(),
            is_reset: Cell::new(false),
            error: AtomicI32::new(0),
        };
        let launched = child.start(reset)?;
        match child.error.load(Ordering::Acquire) {
            0 => Ok(launched),
            error => {
                // it has ended already; how does not matter
                let _ = launched.wait();
                Err(io::Error::from_raw_os_error(error))
            }
        }
    }
}

/// Texts for the kernel: each ends with a zero byte and has none in it. They lie in one buffer, because an environment has many.
#[derive(Debug, Default)]
struct Texts {
    bytes: Vec<u8>,
    starts: Vec<usize>,
}

impl Texts {
    /// Adds the text that these parts make.
    fn push<const N: usize>(&mut self, parts: [&[u8]; N]) -> io::Result<()> {
        self.starts.push(self.bytes.len());
        for part in parts {
            if part.contains(&0) {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "a zero byte in a text"));
            }
            self.bytes.extend_from_slice(part);
        }
        self.bytes.push(0);
        Ok(())
    }

    /// Where they are, with a null pointer at the end.
    fn pointers(&self) -> Vec<*const libc::c_char> {
        let each = self.starts.iter().map(|&start| self.bytes[start..].as_ptr().cast());
        each.chain([ptr::null()]).collect()
    }
}

/// Where a program of this name may be, in the order of preference.
fn paths_of(name: &OsStr, path: &OsStr) -> io::Result<Texts> {
    if name.is_empty() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let (name, mut paths) = (name.as_bytes(), Texts::default());
    if name.contains(&b'/') {
        paths.push([name])?;
        return Ok(paths);
    }
    for folder in path.as_bytes().split(|byte| *byte == b':') {
        match folder {
            [] => paths.push([name])?,
            folder => paths.push([folder, b"/", name])?,
        }
    }
    Ok(paths)
}

/// A process that was started and not collected.
#[derive(Debug)]
pub(crate) struct Launched {
    pidfd: OwnedFd,
}

impl Launched {
    /// Waits for its end, and collects it.
    pub(crate) fn wait(&self) -> io::Result<ExitStatus> {
        loop {
            let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
            // SAFETY: the kernel fills in the structure, which is as large as it expects; zero is a value of it.
            let (result, info) = unsafe {
                let fd = self.pidfd.as_raw_fd() as libc::id_t;
                let result = libc::waitid(libc::P_PIDFD, fd, info.as_mut_ptr(), libc::WEXITED);
                (result, info.assume_init())
            };
            if result == 0 {
                // SAFETY: what was waited for is the end of a child, for which this field is filled in.
                let status = unsafe { info.si_status() };
                // as `wait` has it: a signal in the low bits, with a mark for a core dump, or the code above them
                return Ok(ExitStatus::from_raw(match info.si_code {
                    libc::CLD_EXITED => (status & 0xff) << 8,
                    libc::CLD_DUMPED => status | 0x80,
                    _ => status,
                }));
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    /// Sends it SIGKILL.
    pub(crate) fn kill(&self) {
        // SAFETY: integers and a null pointer, which means "no siginfo".
        unsafe {
            let none = ptr::null::<libc::siginfo_t>();
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                libc::SIGKILL,
                none,
                0,
            );
        }
    }
}

impl AsFd for Launched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// What the child needs, all of it made beforehand: it must not allocate. All lists of pointers end with a null pointer.
struct Child {
    paths: Vec<*const libc::c_char>,
    arguments: Vec<*const libc::c_char>,
    /// The second one is the path of the script, which the child fills in.
    for_shell: Vec<AtomicPtr<libc::c_char>>,
    environment: Vec<*const libc::c_char>,
    directory: *const libc::c_char,
    streams: [RawFd; 3],
    parent: u32,
    /// Whether the kernel has taken all handlers away from it.
    is_reset: Cell<bool>,
    /// Why the program could not be executed.
    error: AtomicI32,
}

impl Child {
    fn start(&self, reset: clone::Reset) -> io::Result<Launched> {
        let mut stack = Vec::<MaybeUninit<u128>>::with_capacity(STACK_BYTES / 16);
        // SAFETY: the child runs on a stack of its own and in the memory of this process, while this thread is suspended; it reads what `self` holds, which lives until
        // the child has executed the program or ended. All signals are blocked meanwhile, so that no handler of this process runs in the child. The stack is aligned to
        // 16 bytes, and has this size.
        unsafe {
            let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
            let data = ptr::from_ref(self).cast_mut().cast();
            let stack = stack.spare_capacity_mut().as_mut_ptr();
            self.is_reset.set(true);
            let mut result = reset(stack.cast(), STACK_BYTES, run_child, data);
            if result.as_ref().is_err_and(clone::is_unknown) {
                self.is_reset.set(false);
                let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
                let (top, mut pidfd) = (stack.add(STACK_BYTES / 16).cast(), -1);
                result = match libc::clone(run_child, top, flags, data, &raw mut pidfd) {
                    ..0 => Err(io::Error::last_os_error()),
                    _ => Ok(pidfd),
                };
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut());
            // a new descriptor, which nobody else owns
            Ok(Launched { pidfd: OwnedFd::from_raw_fd(result?) })
        }
    }

    /// In the child: becomes the program, or returns the number of the error.
    ///
    /// # Safety
    /// To be called in the child only; only system calls may be made there.
    unsafe fn become_program(&self) -> i32 {
        // SAFETY: plain system calls with integers and with pointers to what the parent has prepared.
        unsafe {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return errno();
            }
            if libc::getppid().unsigned_abs() != self.parent {
                return libc::ESRCH;
            }
            reset_signals(self.is_reset.get());
            if !self.directory.is_null() && libc::chdir(self.directory) != 0 {
                return errno();
            }
            for (number, stream) in (0..).zip(self.streams) {
                if libc::dup2(stream, number) < 0 {
                    return errno();
                }
            }
            let mut none = MaybeUninit::uninit();
            libc::sigemptyset(none.as_mut_ptr());
            libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
            self.execute()
        }
    }

    /// Tries one path after the other, as `execvp` does.
    ///
    /// # Safety
    /// As above.
    unsafe fn execute(&self) -> i32 {
        let mut result = libc::ENOENT;
        for &path in self.paths.iter().take_while(|path| !path.is_null()) {
            // SAFETY: all lists end with a null pointer, and what they point to outlives the child.
            let error = unsafe {
                libc::execve(path, self.arguments.as_ptr(), self.environment.as_ptr());
                errno()
            };
            match error {
                libc::ENOENT | libc::ENOTDIR => {}
                // perhaps another one can be executed; if not, that is the reason
                libc::EACCES => result = libc::EACCES,
                libc::ENOEXEC => {
                    self.for_shell[1].store(path.cast_mut(), Ordering::Relaxed);
                    // SAFETY: an AtomicPtr has the same bits as a pointer; otherwise as above.
                    return unsafe {
                        let arguments = self.for_shell.as_ptr().cast();
                        libc::execve(SHELL.as_ptr(), arguments, self.environment.as_ptr());
                        errno()
                    };
                }
                error => return error,
            }
        }
        result
    }
}

/// The child's whole life, up to the program.
extern "C" fn run_child(data: *mut libc::c_void) -> libc::c_int {
    // SAFETY: what the parent has passed, which is suspended until this process has ended or executed the program.
    unsafe {
        let child = &*data.cast::<Child>();
        child.error.store(child.become_program(), Ordering::Release);
    }
    127
}

/// Signals have their usual meaning in the program: those that this process handles, if the kernel has not seen to that, or ignores as Rust does with SIGPIPE.
///
/// # Safety
/// To be called in the child only, which has a table of its own.
unsafe fn reset_signals(is_reset: bool) {
    let handled = if is_reset { libc::SIGPIPE..=libc::SIGPIPE } else { SIGNALS };
    for signal in handled {
        // SAFETY: no handler is installed, only taken away; numbers that are no signals are errors without effect. All signals are blocked now, so none comes in between.
        unsafe {
            if libc::signal(signal, libc::SIG_DFL) == libc::SIG_IGN && signal != libc::SIGPIPE {
                libc::signal(signal, libc::SIG_IGN);
            }
        }
    }
}

/// The number of the last error.
///
/// # Safety
/// In the child it is the parent's, which does not look at it meanwhile.
unsafe fn errno() -> i32 {
    // SAFETY: the C library gives the address of this thread's number.
    unsafe { *libc::__errno_location() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel of long ago.
    ///
    /// # Safety
    /// None is needed.
    unsafe fn unknown(
        _: *mut libc::c_void,
        _: usize,
        _: clone::Life,
        _: *mut libc::c_void,
    ) -> io::Result<libc::c_int> {
        Err(io::Error::from_raw_os_error(libc::ENOSYS))
    }

    #[test]
    fn a_kernel_that_knows_no_clone3_starts_programs_too() {
        let argv = ["sh", "-c", "kill -PIPE $$"].map(OsStr::new);
        let program = Program::new(&argv, &[], None).unwrap();
        let nothing = std::fs::File::open("/dev/null").unwrap();
        for reset in [unknown as clone::Reset, clone::with_default_handlers] {
            let launched = program.start_by(reset, [nothing.as_fd(); 3]).unwrap();
            // Rust programs ignore this signal
            assert_eq!(launched.wait().unwrap().signal(), Some(libc::SIGPIPE));
        }
    }
}
