//! A program with processes of its own: does what its first argument says, tells the test about it on standard output, and obeys standard input.
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]
#![allow(clippy::print_stdout, reason = "tells the test what it does")]

use std::time::Duration;

use pool_core::{Process, ProcessError, Thread, active_children};
use pool_tests::{Gate, Ledger, census, eventually, fault};

fn main() {
    pool_core::init();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["children", daemon, how, gate, ledger] => {
            children(daemon.parse().unwrap(), how, gate, ledger);
        }
        ["abandon", ledger] => abandon(ledger),
        ["cycles", count] => cycles(count.parse().unwrap()),
        ["thread-cycles", count] => thread_cycles(count.parse().unwrap()),
        ["forked-copy", gate] => forked_copy(gate),
        ["ignores-sigchld"] => ignores_sigchld(),
        ["few-descriptors"] => few_descriptors(),
        ["prints"] => prints(),
        _ => panic!("unknown arguments: {args:?}"),
    }
}

fn report(what: &str) {
    let holdings = census::holdings(std::process::id());
    println!(
        "{what} {} {} {} {}",
        holdings.descriptors, holdings.threads, holdings.children, holdings.rss_kib
    );
}

/// Two processes, started by a thread that ends at once, and then this program ends in some way.
fn children(daemon: bool, how: &str, gate: &str, ledger: &str) {
    let work = |gate: String, ledger: String| {
        Gate::wait_at(&gate);
        Ledger::note(&ledger, 1);
    };
    let start = {
        let (gate, ledger) = (gate.to_owned(), ledger.to_owned());
        move || {
            let builder = Process::builder().daemon(daemon);
            builder.spawn(work, (gate.clone(), ledger.clone())).unwrap().pid().unwrap()
        }
    };
    let starter = std::thread::spawn(move || [start(), start()]);
    let pids = starter.join().unwrap();
    println!("{} {}", pids[0], pids[1]);
    std::io::stdin().read_line(&mut String::new()).unwrap();
    match how {
        "return" => {}
        "exit" => exit(3),
        "panic" => panic!("main goes wrong"),
        "abort" => std::process::abort(),
        _ => panic!("unknown: {how}"),
    }
}

/// A process that is to go on, and a parent that is killed in the next moment.
fn abandon(ledger: &str) {
    let note = |ledger: String, number: u64| Ledger::note(&ledger, number);
    let small = Process::builder().daemon(false);
    small.spawn(note, (ledger.to_owned(), 1)).unwrap();
    fault::Fault::Raise(9).happen();
}

#[allow(clippy::exit, reason = "exit with live children is what is tested")]
fn exit(code: i32) -> ! {
    std::process::exit(code)
}

/// Processes come and go in every way.
fn cycles(count: usize) {
    let spawn = |cycle: usize| match cycle % 5 {
        0 => {
            let process = Process::spawn(|x: u64| x + 1, (1,)).unwrap();
            assert_eq!(process.join(), Ok(2));
        }
        1 => {
            let process = Process::spawn(std::thread::park, ()).unwrap();
            let _sentinel = process.sentinel().unwrap();
            process.kill().unwrap();
            assert!(process.join().is_err() && process.exit_code() == Some(-9));
            process.close().unwrap();
        }
        2 => {
            let process = Process::spawn(|x: Vec<u8>| x, (vec![7; 300_000],)).unwrap();
            assert_eq!(pool_core::wait(&[&process], None), [0]);
        }
        3 => {
            let process = Process::spawn(|| fault::Fault::Abort.happen(), ()).unwrap();
            assert!(process.join().is_err());
        }
        _ => {
            // detached
            drop(Process::spawn(|| (), ()).unwrap());
            assert!(active_children().iter().all(pool_core::ChildProcess::wait));
        }
    };
    (0..20).for_each(spawn);
    report("before");
    (0..count).for_each(spawn);
    report("after");
}

fn thread_cycles(count: usize) {
    let spawn = |cycle: usize| {
        let thread = Thread::spawn(move || assert!(cycle.is_multiple_of(2)), ()).unwrap();
        assert!(!pool_core::wait(&[&thread], None).is_empty());
        assert_eq!(thread.join().is_ok(), cycle.is_multiple_of(2));
    };
    let settled_report = |what: &str| {
        // the kernel takes a thread off its list just after it has told those who join
        eventually(Duration::from_secs(20), "only this thread is left", || {
            census::list("/proc/self/task").len() == 1
        });
        report(what);
    };
    (0..20).for_each(spawn);
    settled_report("before");
    (0..count).for_each(spawn);
    settled_report("after");
}

/// A forked copy of this program can't do anything to its processes, and is told so.
fn forked_copy(gate: &str) {
    let work = |gate: String| {
        Gate::wait_at(&gate);
        std::process::id()
    };
    let process = Process::spawn(work, (gate.to_owned(),)).unwrap();
    let mut process = Some(process);
    #[allow(unsafe_code, reason = "fork is the point")]
    // SAFETY: the child runs only what is tested, none of which takes a lock that another thread could hold, and _exit.
    let copy = unsafe { libc::fork() };
    if copy == 0 {
        let owner = std::os::unix::process::parent_id();
        let forked = ProcessError::ForkedCopy { owner };
        let process = process.take().unwrap();
        let ok = process.join() == Err(forked.clone().into())
            && process.kill() == Err(forked.clone())
            && !process.wait()
            && Process::spawn(|| 1, ()).map(drop) == Err(forked)
            && active_children().is_empty();
        drop(process);
        fault::Fault::ExitAtOnce(if ok { 0 } else { 1 }).happen();
    }
    let status = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(copy), None).unwrap();
    println!(
        "{}",
        status == nix::sys::wait::WaitStatus::Exited(nix::unistd::Pid::from_raw(copy), 0)
    );
    std::io::stdin().read_line(&mut String::new()).unwrap();
    let process = process.unwrap();
    println!("{}", process.join().ok() == process.pid());
}

/// The kernel reaps the children: only their exit status is lost.
fn ignores_sigchld() {
    #[allow(unsafe_code, reason = "ignoring SIGCHLD is what is tested")]
    // SAFETY: ignoring a signal runs no code.
    unsafe {
        use nix::sys::signal::{SigHandler, Signal, signal};
        signal(Signal::SIGCHLD, SigHandler::SigIgn).unwrap();
    }
    let good = Process::spawn(|| 1, ()).unwrap();
    println!("{:?} {:?}", good.join(), good.exit_code());
    let failed = Process::spawn(|| fault::Fault::Panic.happen(), ()).unwrap();
    println!("{} {:?}", failed.join().is_err(), failed.exit_code());
    let lost = Process::spawn(|| fault::Fault::ExitAtOnce(3).happen(), ()).unwrap();
    println!("{} {:?}", lost.join().is_err(), lost.exit_code());
    report("after");
}

/// Descriptors run out: `start` says so, leaves nothing, and can be tried again.
fn few_descriptors() {
    use nix::sys::resource::{Resource, setrlimit};
    let first = setrlimit(Resource::RLIMIT_NOFILE, 4, 10_000)
        .map(|()| Process::spawn(|| 1, ()).map(drop))
        .unwrap();
    assert!(matches!(first, Err(ProcessError::Os { .. })), "{first:?}");
    setrlimit(Resource::RLIMIT_NOFILE, 10_000, 10_000).unwrap();
    assert_eq!(Process::spawn(|| 1, ()).unwrap().join(), Ok(1));
    report("before");
    let mut refused = 0;
    for limit in 4..30 {
        let process = Process::new(|| 1, ());
        setrlimit(Resource::RLIMIT_NOFILE, limit, 10_000).unwrap();
        let started = process.start();
        setrlimit(Resource::RLIMIT_NOFILE, 10_000, 10_000).unwrap();
        if let Err(error) = started {
            assert!(matches!(error, ProcessError::Os { .. }), "{error:?}");
            assert!(process.pid().is_none() && active_children().is_empty());
            refused += 1;
            process.start().unwrap();
        }
        assert_eq!(process.join_timeout(Duration::from_secs(60)), Ok(1));
    }
    assert!(refused > 3, "{refused}");
    report("after");
}

/// What a process prints comes out, also without a newline, and also if it calls `exit`.
fn prints() {
    Process::spawn(|| print!("[returned]"), ()).unwrap().join().unwrap();
    let exits = || {
        print!("[exited]");
        fault::Fault::Exit(7).happen();
    };
    let exits = Process::spawn(exits, ()).unwrap();
    assert!(exits.join().is_err());
    print!("{:?}", exits.exit_code());
    let quiet = Process::builder().stdout(pool_core::Output::Discard);
    quiet.spawn(|| print!("[discarded]"), ()).unwrap().join().unwrap();
}
