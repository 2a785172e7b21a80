//! A parent program: does what its first argument says, tells the test about it on standard output, and obeys standard input.
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]
#![allow(clippy::print_stdout, reason = "tells the test what it does")]

use std::process::Command;

use pool_core::{Pool, StartMethod};
use pool_tests::{Gate, census, eventually, fault};

fn main() {
    pool_core::init();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["workers", doing, gate] => workers(doing, gate),
        ["runaways", gate] => runaways(gate),
        ["isolated-runaway", gate] => isolated_runaway(gate),
        ["isolated-user", directory] => isolated_user(directory),
        ["cycles", count] => cycles(count.parse().unwrap()),
        ["many-tasks", count] => many_tasks(count.parse().unwrap()),
        ["endless-imap", count] => endless_imap(count.parse().unwrap()),
        ["uninvited-descriptors", count] => uninvited_descriptors(count.parse().unwrap()),
        ["ignores-sigchld"] => ignores_sigchld(),
        ["few-descriptors"] => few_descriptors(),
        ["closed-streams", report] => closed_streams(report),
        ["replaces-workers"] => replaces_workers(),
        ["command", gate] => command(gate),
        ["unclosed", how, gate] => unclosed(how, gate),
        ["respawns", count] => respawns(count.parse().unwrap()),
        ["failed-builds", count] => failed_builds(count.parse().unwrap()),
        ["forked-copy", gate] => forked_copy(gate),
        _ => panic!("unknown arguments: {args:?}"),
    }
}

/// Three workers that do something for ever; tells when they do.
fn workers(doing: &str, gate: &str) {
    let pool = pool_tests::builder(3).build().unwrap();
    let task: fn(&Pool, &str) = match doing {
        "idle" => |_, _| {},
        "asleep" => |pool, gate| {
            drop(pool.apply_async(|gate: String| Gate::wait_at(&gate), (gate.to_owned(),)));
        },
        "spinning" => |pool, gate| {
            let spin = |gate: String| {
                Gate::announce(&gate);
                while std::hint::black_box(true) {
                    std::hint::spin_loop();
                }
            };
            drop(pool.apply_async(spin, (gate.to_owned(),)));
        },
        "deaf" => |pool, gate| {
            let deaf = |gate: String| {
                fault::become_deaf();
                Gate::wait_at(&gate);
            };
            drop(pool.apply_async(deaf, (gate.to_owned(),)));
        },
        "stopped" => |_, _| {},
        _ => panic!("unknown: {doing}"),
    };
    for _ in 0..3 {
        task(&pool, gate);
    }
    let pids: Vec<u32> = pool.workers().iter().map(pool_core::WorkerInfo::pid).collect();
    if doing == "stopped" {
        for &pid in &pids {
            fault::send(pid, nix::sys::signal::Signal::SIGSTOP);
            let limit = std::time::Duration::from_secs(20);
            eventually(limit, "the worker stops", || census::is_stopped(pid));
        }
    }
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    println!("{}", pids.join(" "));
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

/// Two forked workers, and two processes that have left their groups; all of them, and the fork server, are told of.
fn runaways(gate: &str) {
    let pool = pool_tests::plain_builder(2).start_method(StartMethod::ForkServer).build().unwrap();
    let start = |gate: String| {
        let script = "trap '' TERM HUP INT; echo $$ >>\"$0/arrived\"; while :; do sleep 1000; done";
        let child = Command::new("setsid").args(["sh", "-c", script, &gate]).spawn().unwrap();
        std::mem::forget(child);
    };
    for _ in 0..2 {
        pool.apply(start, (gate.to_owned(),)).unwrap();
    }
    eventually(std::time::Duration::from_secs(20), "they run", || {
        Gate::arrived_at(gate).len() == 2
    });
    let mut pids: Vec<u32> = pool.workers().iter().map(pool_core::WorkerInfo::pid).collect();
    pids.extend(census::children(std::process::id()).iter().map(|child| child.pid));
    pids.extend(Gate::arrived_at(gate));
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    println!("{}", pids.join(" "));
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

/// A task that leaves its process group, in a PID namespace: tells when it runs, or why there is none.
fn isolated_runaway(gate: &str) {
    let builder = pool_tests::plain_builder(2).start_method(StartMethod::ForkServer);
    let pool = match builder.pid_namespace(true).build() {
        Ok(pool) => pool,
        Err(error) => return println!("{error}"),
    };
    pool.apply(fault::run_away, (format!("{gate}/arrived"),)).unwrap();
    let runs = || Gate::arrived_at(gate).len() == 1;
    eventually(std::time::Duration::from_secs(20), "it runs", runs);
    println!("runs");
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

/// What a worker in a PID namespace is and may, told by itself and by what it leaves in the directory.
fn isolated_user(directory: &str) {
    let builder = pool_tests::plain_builder(2).start_method(StartMethod::ForkServer);
    let pool = match builder.pid_namespace(true).build() {
        Ok(pool) => pool,
        Err(error) => return println!("{error}"),
    };
    let look = |directory: String| {
        std::fs::write(format!("{directory}/made"), b"x").unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        let capabilities = ["CapInh:", "CapPrm:", "CapEff:"].map(|set| line(set)[0].clone());
        let none = capabilities.iter().all(|set| set.trim_start_matches('0').is_empty());
        let mount = Command::new("mount").args(["-t", "tmpfs", "x", &directory]).output();
        let mounts = mount.is_ok_and(|mount| mount.status.success());
        format!(
            "pid {} of {} uid {} capable {} mounts {mounts}",
            std::process::id() < 20,
            line("NSpid:").len(),
            line("Uid:")[0],
            !none
        )
    };
    println!("{}", pool.apply(look, (directory.to_owned(),)).unwrap());
    // a SIGKILL from outside still reaches them
    let workers = pool.workers();
    for worker in &workers {
        fault::send(worker.pid(), nix::sys::signal::Signal::SIGKILL);
    }
    println!("{}", pool.map(|x: u64| x + 1, 0..100).unwrap().len());
    pool.terminate();
    pool.join().unwrap();
}

fn report(what: &str) {
    let holdings = census::holdings(std::process::id());
    println!(
        "{what} {} {} {} {}",
        holdings.descriptors, holdings.threads, holdings.children, holdings.rss_kib
    );
}

/// Pools come and go in every way; what the process holds is told after the first ten and at the end.
fn cycles(count: usize) {
    for cycle in 0..10 + count {
        if cycle == 10 {
            report("before");
        }
        let pool = pool_tests::plain_pool(2);
        match cycle % 4 {
            0 => drop(pool),
            1 => {
                assert_eq!(pool.map(|x: u64| x + 1, 0..4).unwrap(), [1, 2, 3, 4]);
                pool.close();
                pool.join().unwrap();
            }
            2 => {
                let handles: Vec<_> =
                    (0..8).map(|_| pool.apply_async(std::thread::park, ()).unwrap()).collect();
                pool.terminate();
                assert!(handles.into_iter().all(|handle| handle.get().is_err()));
            }
            _ => {
                drop(pool.apply_async(|| fault::Fault::Abort.happen(), ()).unwrap());
            }
        }
    }
    report("after");
}

/// Workers die and are replaced.
fn respawns(count: u64) {
    let pool = pool_tests::plain_pool(2);
    let report = |what: &str| {
        let limit = std::time::Duration::from_secs(20);
        eventually(limit, "both seats are taken", || {
            let workers = pool.workers();
            workers.len() == 2 && workers.iter().all(|worker| census::is_alive(worker.pid()))
        });
        report(what);
    };
    for number in 0..20 + count {
        if number == 20 {
            report("before");
        }
        assert!(pool.apply(|| fault::Fault::ExitAtOnce(1).happen(), ()).is_err());
    }
    report("after");
}

/// One thread submits, another takes the results.
fn many_tasks(count: u64) {
    let pool = pool_tests::plain_builder(2).max_pending(1_000).build().unwrap();
    let pass = |numbers: std::ops::Range<u64>| {
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let pool = &pool;
            scope.spawn(move || {
                for number in numbers {
                    let handle = pool.apply_async(u64::wrapping_mul, (number, 3)).unwrap();
                    sender.send((number, handle)).unwrap();
                }
            });
            for (number, handle) in receiver {
                assert_eq!(handle.get(), Ok(number.wrapping_mul(3)));
            }
        });
    };
    pass(0..count / 4);
    report("before");
    pass(count / 4..count);
    report("after");
}

/// An endless input; each item is a kilobyte.
fn endless_imap(count: usize) {
    let pool = pool_tests::plain_pool(2);
    let input = (0u64..).map(|number| (number, vec![number; 128]));
    let last = |(number, data): (u64, Vec<u64>)| (number, data[127]);
    let mut results = pool.imap(last, input);
    for number in 0..count as u64 {
        if number == count as u64 / 4 {
            report("before");
        }
        assert_eq!(results.next(), Some(Ok((number, number))));
    }
    report("after");
}

/// A worker attaches descriptors to its replies that nobody has asked for.
fn uninvited_descriptors(count: u64) {
    let pool = pool_tests::plain_pool(2);
    let attach = |x: u64| {
        let files: Vec<_> = (0..10).map(|_| std::fs::File::open("/proc").unwrap()).collect();
        let numbers: Vec<_> = files.iter().map(std::os::fd::AsRawFd::as_raw_fd).collect();
        // a bell: a frame that a worker may send at any time
        let mut bell = [0u8; 24];
        bell[0] = 8;
        nix::sys::socket::sendmsg::<()>(
            pool_tests::reply_socket::find(),
            &[std::io::IoSlice::new(&bell)],
            &[nix::sys::socket::ControlMessage::ScmRights(&numbers)],
            nix::sys::socket::MsgFlags::empty(),
            None,
        )
        .unwrap();
        x
    };
    for number in 0..10 + count {
        if number == 10 {
            report("before");
        }
        assert_eq!(pool.apply(attach, (number,)), Ok(number));
    }
    report("after");
}

/// Pools that can't be built leave nothing.
fn failed_builds(count: usize) {
    for cycle in 0..3 + count {
        if cycle == 3 {
            report("before");
        }
        let fails = || -> anyhow::Result<()> { Err(anyhow::anyhow!("no")) };
        pool_tests::plain_builder(3).initializer(fails, ()).build().unwrap_err();
    }
    report("after");
}

/// The program ends with an open pool.
fn unclosed(how: &str, gate: &str) {
    let pool = pool_tests::plain_pool(2);
    for _ in 0..4 {
        let task = |gate: String| Gate::wait_at(&gate);
        drop(pool.apply_async(task, (gate.to_owned(),)).unwrap());
    }
    match how {
        "dropped" => drop(pool),
        "forgotten" => std::mem::forget(pool),
        "leaked-to-a-thread" => drop(std::thread::spawn(move || {
            let _pool = pool;
            std::thread::park();
        })),
        "exit" => exit(pool),
        "panic" => {
            let _pool = pool;
            panic!("main goes wrong");
        }
        "abort" => std::process::abort(),
        _ => panic!("unknown: {how}"),
    }
}

#[allow(clippy::exit, reason = "exit with an open pool is what is tested")]
fn exit(pool: Pool) {
    std::process::exit(if pool.workers().len() == 2 { 0 } else { 1 })
}

/// A forked copy of this process drops its copy of the pool: that must not touch the workers.
fn forked_copy(gate: &str) {
    let pool = pool_tests::plain_pool(2);
    let task = |gate: String| {
        Gate::wait_at(&gate);
        std::process::id()
    };
    let handle = pool.apply_async(task, (gate.to_owned(),)).unwrap();
    let before: Vec<u32> = pool.workers().iter().map(pool_core::WorkerInfo::pid).collect();
    let mut pool = Some(pool);
    #[allow(unsafe_code, reason = "fork is the point")]
    // SAFETY: the child runs only the pool's drop, which is what is tested, and _exit.
    let child = unsafe { libc::fork() };
    if child == 0 {
        drop(pool.take());
        fault::Fault::ExitAtOnce(0).happen();
    }
    let status = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(child), None).unwrap();
    println!("{status:?}");
    println!("{before:?}");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    println!("{:?}", handle.get().map(|pid| before.contains(&pid)));
    println!("{:?}", Command::new("true").status().unwrap().code());
    let pool = pool.unwrap();
    pool.close();
    pool.join().unwrap();
}

/// The kernel reaps the children of a program that ignores SIGCHLD: only their exit status is lost.
fn ignores_sigchld() {
    #[allow(unsafe_code, reason = "ignoring SIGCHLD is what is tested")]
    // SAFETY: ignoring a signal runs no code.
    unsafe {
        use nix::sys::signal::{SigHandler, Signal, signal};
        signal(Signal::SIGCHLD, SigHandler::SigIgn).unwrap();
    }
    let pool = pool_tests::plain_pool(2);
    assert_eq!(pool.map(|x: u64| x + 1, 0..100).unwrap(), (1..101).collect::<Vec<_>>());
    println!("{:?}", pool.apply(|| fault::Fault::ExitAtOnce(3).happen(), ()));
    assert_eq!(pool.apply(u64::pow, (2, 10)), Ok(1024));
    // a task can wait for what it starts all the same
    let status = || {
        let status = Command::new("false").status();
        status.map(|status| status.code()).map_err(|error| error.to_string())
    };
    println!("{:?}", pool.apply(status, ()));
    pool.terminate();
    report("after");
}

/// Descriptors run out while the pool is built: an error, and nothing is left. Afterwards a smaller pool can be built.
fn few_descriptors() {
    use nix::sys::resource::{Resource, setrlimit};
    // once in advance: a thread keeps what it waits with, if it has to go to sleep for a result
    let pool = pool_tests::plain_pool(1);
    let never = pool.apply_async(std::thread::park, ()).unwrap();
    assert!(!never.wait_timeout(std::time::Duration::from_millis(20)));
    drop(pool);
    report("before");
    for limit in [4, 6, 7, 8, 9, 10, 11, 12, 14, 20, 30] {
        setrlimit(Resource::RLIMIT_NOFILE, limit, limit.max(10_000)).unwrap();
        let built = pool_tests::plain_builder(20)
            .start_timeout(std::time::Duration::from_millis(300))
            .build()
            .map(|pool| pool.apply(u64::pow, (2, 3)).unwrap());
        assert!(matches!(built, Ok(8) | Err(_)));
    }
    setrlimit(Resource::RLIMIT_NOFILE, 10_000, 10_000).unwrap();
    assert_eq!(pool_tests::plain_pool(2).apply(u64::pow, (2, 3)), Ok(8));
    report("after");
}

/// A daemon: none of the three standard streams is open.
fn closed_streams(report: &str) {
    let pool = pool_tests::plain_pool(2);
    let sum: u64 = pool.map(|x: u64| x * 2, 0..100).unwrap().into_iter().sum();
    std::fs::write(report, sum.to_string()).unwrap();
}

/// Workers are replaced when the test says so.
fn replaces_workers() {
    let pool = pool_tests::plain_pool(2);
    println!("ready");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    for _ in 0..4 {
        assert!(pool.apply(|| fault::Fault::ExitAtOnce(3).happen(), ()).is_err());
    }
    println!("{:?}", pool.apply(u64::pow, (2, 10)));
}

/// A task runs a command that leaves its process group, but ends with its worker.
fn command(gate: &str) {
    let pool = pool_tests::plain_pool(1);
    let run = |gate: String| {
        let mut sleep = Command::new("sleep");
        std::os::unix::process::CommandExt::process_group(&mut sleep, 0);
        let mut child = pool_core::die_with_parent(sleep.arg("1000")).spawn().unwrap();
        Gate::announce(&gate);
        child.wait().unwrap().code()
    };
    let handle = pool.apply_async(run, (gate.to_owned(),)).unwrap();
    println!("ready");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    fault::send(handle.pid().unwrap(), nix::sys::signal::Signal::SIGKILL);
    println!("{}", handle.get().is_err());
    std::io::stdin().read_line(&mut String::new()).unwrap();
}
