//! A parent program whose workers are confined: builds a pool as its arguments say, has a worker try something, and prints how that went.
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]
#![allow(clippy::print_stdout, reason = "tells the test what has happened")]
#![allow(unsafe_code, reason = "system calls as untrusted code would make them")]

use std::fs;
use std::io::{self, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::process::Command;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pool_core::{Lock, Pool, Sandbox, SharedBytes, StartMethod, Value};

/// What the parent has in memory and workers are not to see.
static SECRET: &[u8; 16] = b"a parent's secre";

fn main() {
    pool_core::init();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [profile, method, probe, rest @ ..] = &args[..] else { panic!("PROFILE METHOD PROBE ..") };
    let mut sandbox = match profile.as_str() {
        "none" | "confined" => Sandbox::confined(),
        "strict" => Sandbox::strict(),
        "strict-best-effort" => Sandbox::strict().best_effort(),
        _ => panic!("unknown profile"),
    };
    for argument in rest {
        sandbox = match argument.split_once(':') {
            Some(("read", path)) => sandbox.read(path),
            Some(("write", path)) => sandbox.write(path),
            _ => sandbox,
        };
    }
    let method = if method == "fork" { StartMethod::ForkServer } else { StartMethod::Spawn };
    let builder = pool_tests::plain_builder(2).start_method(method);
    let builder = if profile == "none" { builder } else { builder.sandbox(sandbox) };
    let builder = builder.env("ALLOWED", "yes");
    let builder = match probe.as_str() {
        // the first file of the arguments is read by the initializer
        "initializer" => builder.initializer(initializer, (rest[0].clone(),)),
        _ => builder,
    };
    let pool = match builder.build() {
        Ok(pool) => pool,
        Err(error) => return println!("build: {error}"),
    };
    let answer = match probe.as_str() {
        "status" => fs::read_to_string(format!("/proc/{}/status", pid_of(&pool))).unwrap(),
        "limits" => fs::read_to_string(format!("/proc/{}/limits", pid_of(&pool))).unwrap(),
        "gaps" => format!("{:?} {:?}", pool.sandbox_gaps(), pool.apply(u64::pow, (2, 3))),
        "environment" => pool.apply(environment, ()).unwrap(),
        "works" => works(&pool),
        "steal" => steal(&pool),
        _ => pool.apply(try_it, (probe.clone(), rest.to_vec(), std::process::id())).unwrap(),
    };
    println!("{answer}");
    // nothing that was tried has harmed it
    assert_eq!(pool.map(|x: u64| x + 1, 0..4).unwrap(), [1, 2, 3, 4]);
    println!("well");
}

fn pid_of(pool: &Pool) -> u32 {
    pool.apply(std::process::id, ()).unwrap()
}

fn initializer(path: String) -> anyhow::Result<()> {
    fs::read(path)?;
    Ok(())
}

fn environment() -> String {
    let names: Vec<String> = std::env::vars().map(|(name, _)| name).collect();
    names.join(",")
}

/// All that a task may expect to work in the strictest sandbox.
fn works(pool: &Pool) -> String {
    let big = pool.apply(|bytes: Vec<u8>| bytes, (vec![7u8; 3 << 20],)).unwrap();
    assert_eq!(big, vec![7; 3 << 20], "large arguments and results");
    let threads = || {
        let threads: Vec<_> = (0..4).map(|n: u64| std::thread::spawn(move || n * n)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum::<u64>()
    };
    assert_eq!(pool.apply(threads, ()).unwrap(), 14, "threads");
    let panics = || -> u32 { panic!("as it pleases") };
    let told = pool.apply(panics, ()).unwrap_err().to_string();
    assert!(told.contains("as it pleases"), "{told}");
    let printed = || {
        print!("");
        io::stdout().flush().is_ok()
    };
    assert!(pool.apply(printed, ()).unwrap(), "printing");
    let bytes = SharedBytes::new(&[3; 1000]).unwrap();
    assert_eq!(pool.apply(|bytes: SharedBytes| bytes[999], (bytes,)).unwrap(), 3, "shared bytes");
    let (lock, value) = (Lock::new().unwrap(), Value::new(0u64).unwrap());
    let add = |lock: Lock, value: Value<u64>| {
        let _held = lock.lock();
        *value.lock().unwrap() += 1;
    };
    for _ in 0..10 {
        pool.apply(add, (lock.clone(), value.clone())).unwrap();
    }
    assert_eq!(*value.lock().unwrap(), 10, "locks and values");
    let sleeps = || std::time::Instant::now().elapsed().as_secs();
    assert_eq!(pool.apply(sleeps, ()).unwrap(), 0, "clocks");
    let dies = || -> () { std::process::abort() };
    let told = pool.apply(dies, ()).unwrap_err().to_string();
    assert!(told.contains("SIGABRT"), "{told}");
    "all".to_owned()
}

/// What untrusted code would do with the number and the addresses of its parent, if it knew them.
fn steal(pool: &Pool) -> String {
    let (address, len) = (SECRET.as_ptr() as usize, SECRET.len());
    let read = |parent: u32, address: usize, len: usize| -> String {
        let mut copy = vec![0u8; len];
        let local = libc::iovec { iov_base: copy.as_mut_ptr().cast(), iov_len: len };
        let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: len };
        let parent = parent as i32;
        // SAFETY: `local` is memory of this process; what lies in the other one, the kernel checks.
        let got =
            unsafe { libc::process_vm_readv(parent, &raw const local, 1, &raw const remote, 1, 0) };
        outcome(Errno::result(got).map_err(io::Error::from))
    };
    let write = |parent: u32, address: usize, len: usize| -> String {
        let mut copy = vec![1u8; len];
        let local = libc::iovec { iov_base: copy.as_mut_ptr().cast(), iov_len: len };
        let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: len };
        let parent = parent as i32;
        // SAFETY: as above; it is read from.
        let put = unsafe {
            libc::process_vm_writev(parent, &raw const local, 1, &raw const remote, 1, 0)
        };
        outcome(Errno::result(put).map_err(io::Error::from))
    };
    let me = std::process::id();
    let workers: Vec<u32> = pool.workers().iter().map(|worker| worker.pid()).collect();
    let mut answers = vec![pool.apply(read, (me, address, len)).unwrap()];
    answers.push(pool.apply(write, (me, address, len)).unwrap());
    // the address is of no use there, but it is not even looked at
    answers.extend(workers.iter().map(|&pid| pool.apply(read, (pid, address, len)).unwrap()));
    assert_eq!(SECRET, b"a parent's secre");
    answers.join(",")
}

fn outcome<T>(result: io::Result<T>) -> String {
    match result {
        Ok(_) => "OK".to_owned(),
        Err(error) => match error.raw_os_error() {
            Some(code) => format!("{:?}", Errno::from_raw(code)),
            None => format!("{error}"),
        },
    }
}

fn system_call(number: i64, arguments: [i64; 3]) -> io::Result<i64> {
    let [a, b, c] = arguments;
    // SAFETY: the calls that are tried take integers only, or null where they take a pointer.
    Ok(Errno::result(unsafe { libc::syscall(number, a, b, c, 0, 0) })?)
}

fn try_it(probe: String, rest: Vec<String>, parent: u32) -> String {
    let argument = rest.first().cloned().unwrap_or_default();
    let sibling = || rest[0].parse::<i32>().unwrap();
    match probe.as_str() {
        "read" => outcome(fs::read(argument)),
        "list" => outcome(fs::read_dir(argument)),
        "write" => outcome(fs::write(argument, "x")),
        "truncate" => outcome(fs::OpenOptions::new().read(true).custom_truncate(&argument)),
        "remove" => outcome(fs::remove_file(argument)),
        "chmod" => outcome(
            nix::sys::stat::fchmodat(
                nix::fcntl::AT_FDCWD,
                argument.as_str(),
                nix::sys::stat::Mode::S_IRWXU,
                nix::sys::stat::FchmodatFlags::FollowSymlink,
            )
            .map_err(io::Error::from),
        ),
        "round-trip" => {
            let file = format!("{argument}/new");
            let written = fs::write(&file, "text").and_then(|()| fs::read(&file));
            outcome(written.and_then(|_| fs::remove_file(&file)))
        }
        "read-memory-file" => outcome(fs::File::open(format!("/proc/{parent}/mem"))),
        "read-environment" => outcome(fs::read(format!("/proc/{parent}/environ"))),
        "tcp" => outcome(std::net::TcpStream::connect(argument)),
        "udp" => outcome(std::net::UdpSocket::bind("127.0.0.1:0")),
        "unix" => outcome(UnixStream::connect(argument)),
        "abstract" => outcome(
            SocketAddr::from_abstract_name(argument)
                .and_then(|address| UnixStream::connect_addr(&address)),
        ),
        "datagram-pair" => outcome(UnixDatagram::pair()),
        "stream-pair" => outcome(UnixStream::pair()),
        "kill-parent" => outcome(kill(Pid::from_raw(parent as i32), None).map_err(io::Error::from)),
        "kill-group" => {
            outcome(kill(Pid::from_raw(-(parent as i32)), Signal::SIGTERM).map_err(io::Error::from))
        }
        "kill-all" => outcome(system_call(libc::SYS_kill, [-1, libc::SIGCONT.into(), 0])),
        "kill-sibling" => outcome(kill(Pid::from_raw(sibling()), None).map_err(io::Error::from)),
        "kill-thread-of-parent" => {
            outcome(system_call(libc::SYS_tgkill, [parent.into(), parent.into(), 0]))
        }
        "own-descriptor" => {
            let (reader, _writer) = std::io::pipe().unwrap();
            let number = std::os::fd::AsRawFd::as_raw_fd(&reader).into();
            let command = i64::from(libc::F_SETOWN);
            outcome(system_call(libc::SYS_fcntl, [number, command, parent.into()]))
        }
        "type" => outcome(system_call(libc::SYS_ioctl, [0, libc::TIOCSTI as i64, 0])),
        "watch" => {
            let queue = system_call(libc::SYS_inotify_init1, [0, 0, 0]);
            let path = std::ffi::CString::new(argument).unwrap();
            let watch = |queue| {
                system_call(libc::SYS_inotify_add_watch, [queue, path.as_ptr() as i64, 256])
            };
            outcome(queue.and_then(watch))
        }
        "trace-parent" => {
            outcome(system_call(libc::SYS_ptrace, [libc::PTRACE_SEIZE.into(), parent.into(), 0]))
        }
        "start" => outcome(Command::new("/bin/true").status()),
        "fork" => match unsafe_fork() {
            Ok(0) => std::process::abort(),
            forked => outcome(forked),
        },
        "session" => outcome(system_call(libc::SYS_setsid, [0, 0, 0])),
        "outlive-parent" => {
            outcome(system_call(libc::SYS_prctl, [libc::PR_SET_PDEATHSIG.into(), 0, 0]))
        }
        "be-dumped" => outcome(system_call(libc::SYS_prctl, [libc::PR_SET_DUMPABLE.into(), 1, 0])),
        "limit-parent" => {
            outcome(system_call(libc::SYS_prlimit64, [parent.into(), libc::RLIMIT_CORE.into(), 0]))
        }
        "is-dumpable" => format!("{:?}", nix::sys::prctl::get_dumpable()),
        "touch" => outcome(
            fs::File::open(argument)
                .and_then(|file| file.set_modified(std::time::SystemTime::UNIX_EPOCH)),
        ),
        "ring" => outcome(system_call(libc::SYS_io_uring_setup, [1, 0, 0])),
        // getpid, by the number that programs of 32-bit pointers use
        "x32" => outcome(system_call(0x4000_0000 + 39, [0, 0, 0])),
        "filter" => outcome(system_call(libc::SYS_seccomp, [1, 0, 0])),
        "nested-pool" => match pool_tests::plain_builder(1).build() {
            Ok(_) => "OK".to_owned(),
            Err(_) => "refused".to_owned(),
        },
        _ => panic!("unknown probe"),
    }
}

/// As `fork` of libc, which would be satisfied with other system calls.
fn unsafe_fork() -> io::Result<i64> {
    system_call(libc::SYS_clone, [libc::SIGCHLD.into(), 0, 0])
}

trait CustomTruncate {
    fn custom_truncate(&mut self, path: &str) -> io::Result<fs::File>;
}

impl CustomTruncate for fs::OpenOptions {
    /// Linux cuts a file also if it is opened for reading only, which std does not let one ask for.
    fn custom_truncate(&mut self, path: &str) -> io::Result<fs::File> {
        std::os::unix::fs::OpenOptionsExt::custom_flags(self, libc::O_TRUNC).open(path)
    }
}
