//! Parent programs in surroundings that are not as they should be. Does what its first argument says and tells the test about it on standard output.
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]
#![allow(clippy::print_stdout, reason = "tells the test what it does")]

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use pool_core::TaskError;
use pool_tests::{Gate, Ledger, census, eventually, fault};

const SOON: Duration = Duration::from_secs(20);

fn main() {
    pool_core::init();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["two-squares"] => two_squares(),
        ["waits-and-does-not"] => waits_and_does_not(),
        ["starts-slowly", worker, gate, starts] => starts_slowly(worker, gate, starts),
        ["few-processes"] => few_processes(),
        ["paused-task", gate, limit_ms] => paused_task(gate, limit_ms.parse().unwrap()),
        ["paused-start", gate, starts] => paused_start(gate, starts),
        ["as-init"] => as_init(),
        ["reuses-numbers", count] => reuses_numbers(count.parse().unwrap()),
        ["executes-another", gate] => executes_another(gate),
        ["no-memory-for-a-result"] => no_memory_for_a_result(),
        ["no-descriptors-left"] => no_descriptors_left(),
        ["timer-storm"] => timer_storm(),
        ["reaps-strangers"] => reaps_strangers(),
        ["blocked-signals", gate] => blocked_signals(gate),
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

fn wait_for_end() {
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

/// Takes longer than a thread looks for a reply before it sleeps.
fn slow_square(x: u64) -> u64 {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(5) {
        std::hint::spin_loop();
    }
    x * x
}

/// One worker whose replies are read by the thread that waits for them, then by the pool's own because nobody waits, and so on; tells how many workers that has cost.
fn waits_and_does_not() {
    let pool = match pool_tests::plain_builder(1).build() {
        Ok(pool) => pool,
        Err(error) => return println!("build: {error}"),
    };
    for round in 0..6 {
        let waited = pool.apply(slow_square, (round,));
        let handle = pool.apply_async(slow_square, (round,)).unwrap();
        let (done, is_done) = std::sync::mpsc::channel();
        handle.on_done(move || done.send(()).unwrap());
        is_done.recv().unwrap();
        for outcome in [waited, handle.get()] {
            if outcome != Ok(round * round) {
                return println!("{outcome:?}");
            }
        }
    }
    println!("lost {}", pool.stats().workers_lost);
}

fn two_squares() {
    match pool_tests::plain_builder(2).build() {
        Ok(pool) => println!("{:?}", pool.map(|x: u64| x * x, 0..4)),
        Err(error) => println!("build: {error:?}"),
    }
}

fn starts_slowly(worker: &str, gate: &str, starts: &str) {
    let plan = format!("1000 wait {gate}");
    let builder = pool_tests::plain_builder(1).executable(worker);
    drop(builder.env("POOL_TESTS_EVIL", plan).env("POOL_TESTS_STARTS", starts).build());
}

/// Threads and processes run out while the pool is built: an error, or a smaller pool, and nothing is left.
fn few_processes() {
    // long enough that this thread sleeps for the result, for which it has a descriptor from then on
    assert_eq!(pool_tests::plain_pool(1).apply(slow_square, (3,)), Ok(9));
    let (_, hard) = getrlimit(Resource::RLIMIT_NPROC).unwrap();
    let threads = census::holdings(std::process::id()).threads;
    report("before");
    for limit in 1..=8 {
        setrlimit(Resource::RLIMIT_NPROC, limit, hard).unwrap();
        let pool = pool_tests::plain_builder(3).start_timeout(Duration::from_millis(300)).build();
        let built = pool.map(|pool| pool.apply(u64::pow, (2, 3)).unwrap());
        assert!(matches!(built, Ok(8) | Err(_)), "{limit}: {built:?}");
        assert!(limit > 1 || built.is_err());
        eventually(SOON, "its threads end", || {
            census::holdings(std::process::id()).threads == threads
        });
    }
    setrlimit(Resource::RLIMIT_NPROC, hard, hard).unwrap();
    assert_eq!(pool_tests::plain_pool(2).apply(u64::pow, (2, 3)), Ok(8));
    report("after");
}

/// A task with a time limit waits at the gate while this process is stopped.
fn paused_task(gate: &str, limit_ms: u64) {
    let pool = pool_tests::plain_pool(2);
    let limit = Duration::from_millis(limit_ms);
    let wait = |gate: String| Gate::wait_at(&gate);
    let handle = pool.task(wait).timeout(limit).apply_async((gate.to_owned(),)).unwrap();
    println!("{:?}", handle.get());
}

/// The replacement of a worker comes up while this process is stopped, and takes longer than it may.
fn paused_start(gate: &str, starts: &str) {
    let initializer = |gate: String, starts: String| {
        Ledger::note(&starts, 0);
        if std::fs::read_to_string(&starts).unwrap().lines().count() > 1 {
            Gate::wait_at(&gate);
        }
    };
    let builder = pool_tests::plain_builder(1).start_timeout(Duration::from_secs(1));
    let pool = builder.initializer(initializer, (gate.to_owned(), starts.to_owned()));
    let pool = pool.build().unwrap();
    fault::send(pool.workers()[0].pid(), Signal::SIGKILL);
    println!("{:?}", pool.apply(u64::pow, (2, 10)));
}

/// This process is the init of its namespace: orphans of others become its children.
fn as_init() {
    println!("{}", std::process::id());
    let pool = pool_tests::plain_pool(2);
    let leaves_an_orphan = || {
        // $! is the number of what becomes sleep: in a script, a background process leads no group, so setsid need not fork
        let script = "setsid sleep 1000 >&2 & echo $!";
        let mut shell = Command::new("sh");
        let output = shell.args(["-c", script]).stderr(std::process::Stdio::null());
        let mut child = output.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
        child.wait().unwrap();
        line.trim().parse::<u32>().unwrap()
    };
    let orphan = pool.apply(leaves_an_orphan, ()).unwrap();
    eventually(SOON, "the orphan is ours, and in a session of its own", || {
        let orphan = census::process(orphan);
        orphan.is_some_and(|process| process.parent == 1 && process.name == "sleep")
    });
    let ends = || fault::Fault::ExitAtOnce(3).happen();
    println!("{}", pool.apply(ends, ()).unwrap_err().to_string().contains("exited with code 3"));
    assert!(census::is_alive(orphan), "a stranger is left alone");
    fault::send(orphan, Signal::SIGKILL);
    let is_zombie = || census::process(orphan).is_some_and(|process| process.state == 'Z');
    eventually(SOON, "the orphan ends", is_zombie);
    println!("{:?}", pool.map(|x: u64| x * x, 0..4));
    pool.close();
    pool.join().unwrap();
    // what the pool did not start it has not collected either
    println!("{}", is_zombie());
}

/// Numbers of processes are used again all the time: the pool signals and reaps its own only.
fn reuses_numbers(count: u64) {
    let pool = pool_tests::plain_pool(2);
    let mut pids = std::collections::HashMap::<u32, u32>::new();
    for number in 0..count {
        let ends = || -> u32 {
            fault::Fault::ExitAtOnce(3).happen();
            0
        };
        let outcome = pool.apply(ends, ());
        let Err(TaskError::WorkerLost { pid, .. }) = outcome else { panic!("{outcome:?}") };
        *pids.entry(pid).or_default() += 1;
        // a stranger that may have the number of a worker that is gone
        let mut stranger = Command::new("sleep").arg("1000").spawn().unwrap();
        assert_eq!(pool.apply(u64::pow, (number, 1)), Ok(number));
        assert!(stranger.try_wait().unwrap().is_none(), "a stranger was signalled");
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
    println!("{}", pids.values().any(|&times| times > 1));
}

fn executes_another(gate: &str) {
    let pool = pool_tests::plain_pool(2);
    for _ in 0..2 {
        let wait = |gate: String| Gate::wait_at(&gate);
        drop(pool.apply_async(wait, (gate.to_owned(),)).unwrap());
    }
    wait_for_end();
    panic!("{}", Command::new("sleep").arg("1000").exec());
}

/// There is no memory for a result: its task fails, the pool goes on.
fn no_memory_for_a_result() {
    let pool = pool_tests::plain_pool(2);
    let hard = getrlimit(Resource::RLIMIT_AS).unwrap().1;
    let size = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = size.split(' ').next().unwrap().parse().unwrap();
    setrlimit(Resource::RLIMIT_AS, pages * 4096 + (96 << 20), hard).unwrap();
    // the worker has inherited nothing of that: it is older
    let outcome = pool.apply_async(|size: usize| vec![1u8; size], (400 << 20,)).unwrap();
    outcome.wait();
    println!("{}", outcome.successful());
    setrlimit(Resource::RLIMIT_AS, hard, hard).unwrap();
    println!("{:?}", outcome.get().map(|result| result.len()));
    println!("{:?}", pool.apply(u64::pow, (2, 10)));
}

/// Not one more descriptor: replies of all sizes arrive, and a worker that dies is replaced when there are some again.
fn no_descriptors_left() {
    // once in advance: a thread keeps what it waits with, if it has to go to sleep for a result
    let other = pool_tests::plain_pool(1);
    let never = other.apply_async(std::thread::park, ()).unwrap();
    assert!(!never.wait_timeout(Duration::from_millis(20)));
    drop(other);
    let pool = pool_tests::plain_pool(2);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 3, hard).unwrap();
    assert!(std::fs::File::open("/dev/null").is_err());
    for size in [0, 100, 20_000, 300_000, 20 << 20] {
        assert_eq!(pool.apply(|size: usize| vec![7u8; size], (size,)), Ok(vec![7; size]));
        assert_eq!(pool.apply(|bytes: Vec<u8>| bytes.len(), (vec![7u8; size],)), Ok(size));
    }
    for _ in 0..2 {
        assert!(pool.apply(|| fault::Fault::ExitAtOnce(3).happen(), ()).is_err());
    }
    let waits = pool.apply_async(u64::pow, (2, 10)).unwrap();
    println!("{}", waits.wait_timeout(Duration::from_millis(200)));
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    println!("{:?}", waits.get());
}

/// A timer interrupts every system call of this process, a thousand times a second, without SA_RESTART.
#[allow(unsafe_code, reason = "a signal handler is what is tested")]
fn timer_storm() {
    extern "C" fn ignore(_: i32) {}
    let handler = nix::sys::signal::SigHandler::Handler(ignore);
    let action = nix::sys::signal::SigAction::new(
        handler,
        nix::sys::signal::SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: the handler does nothing.
    unsafe { nix::sys::signal::sigaction(Signal::SIGALRM, &action) }.unwrap();
    let millisecond = libc::timeval { tv_sec: 0, tv_usec: 1_000 };
    let timer = libc::itimerval { it_interval: millisecond, it_value: millisecond };
    // SAFETY: both pointers are to what the call expects, or null.
    let set = unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) };
    assert_eq!(set, 0);
    let pool = pool_tests::plain_pool(2);
    let bytes = vec![7u8; 3 << 20];
    for round in 0..20u64 {
        let mapped = pool.map(|x: u64| x + 1, round..round + 500).unwrap();
        assert_eq!(mapped, (round + 1..round + 501).collect::<Vec<_>>());
        assert_eq!(pool.apply(|bytes: Vec<u8>| bytes, (bytes.clone(),)), Ok(bytes.clone()));
        assert!(pool.apply(|| fault::Fault::ExitAtOnce(1).happen(), ()).is_err());
    }
    assert_eq!(pool.stats().workers_lost, 20);
    println!("ok");
}

/// A thread of the program collects every child, whose ever it is.
fn reaps_strangers() {
    std::thread::spawn(|| {
        loop {
            if nix::sys::wait::waitpid(None, None).is_err() {
                std::thread::yield_now();
            }
        }
    });
    let pool = pool_tests::plain_pool(2);
    for round in 0..50u64 {
        let outcome = pool.apply(|| fault::Fault::ExitAtOnce(1).happen(), ());
        assert!(matches!(outcome, Err(TaskError::WorkerLost { .. })), "{outcome:?}");
        assert_eq!(pool.apply(u64::pow, (round, 1)), Ok(round));
    }
    pool.terminate();
    println!("ok");
}

/// SIGTERM is blocked in the whole program: its workers can be ended by it all the same.
fn blocked_signals(gate: &str) {
    let mut all = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        all.add(signal);
    }
    nix::sys::signal::sigprocmask(SigmaskHow::SIG_BLOCK, Some(&all), None).unwrap();
    let pool = pool_tests::plain_builder(2).grace(Duration::from_secs(60)).build().unwrap();
    for _ in 0..2 {
        let wait = |gate: String| Gate::wait_at(&gate);
        drop(pool.apply_async(wait, (gate.to_owned(),)).unwrap());
    }
    wait_for_end();
    pool_tests::within(SOON, "terminate", || pool.terminate());
    println!("ok");
}
