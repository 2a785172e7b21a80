//! A soak: submitters use a pool in every way while a nemesis kills, stops and starves its workers, and at the end the books must balance.
//!
//! `chaos --seconds 600 --seed 7 --json`. Exit code 1 if any promise was broken. See docs/reliability.md.
#![allow(clippy::unwrap_used, reason = "what fails here is the soak's own failure")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tells what it found")]

mod account;
mod endings;
mod ledger;
mod memory;
mod nemesis;
mod peer;
mod random;
mod work;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use account::Account;
use ledger::Ledger;
use nemesis::Nemesis;
use pool_core::{PoolError, StartMethod};
use pool_tests::{census, eventually};
use random::Random;
use serde_json::json;

/// How long one pool lives.
const ROUND: Duration = Duration::from_secs(6);
const SUBMITTERS: u64 = 4;

struct Options {
    seconds: u64,
    seed: u64,
    processes: usize,
    /// Actions of the nemesis per second, at most.
    rate: u64,
    /// How many pools of each kind are terminated, and parents killed.
    endings: usize,
    json: bool,
    /// Only what scripts/chaos_peers.py does to others, with so many kills.
    peer: Option<u64>,
}

fn options() -> Options {
    let mut options = Options {
        seconds: 20,
        seed: 1,
        processes: 4,
        rate: 200,
        endings: 10,
        json: false,
        peer: None,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number =
            || args.next().and_then(|text| text.parse().ok()).expect("a number follows the option");
        match arg.as_str() {
            "--seconds" => options.seconds = number(),
            "--seed" => options.seed = number(),
            "--processes" => options.processes = number() as usize,
            "--rate" => options.rate = number(),
            "--endings" => options.endings = number() as usize,
            "--json" => options.json = true,
            "--like-peers" => options.peer = Some(number()),
            other => panic!("unknown option {other}"),
        }
    }
    options
}

fn main() -> ExitCode {
    pool_core::init();
    if endings::is_victim() {
        endings::be_victim();
        return ExitCode::SUCCESS;
    }
    let options = options();
    if let Some(kills) = options.peer {
        println!("{}", peer::run(kills, options.seed));
        return ExitCode::SUCCESS;
    }
    // thousands of core dumps help nobody; workers inherit this
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0).unwrap();
    let ledger = Ledger::create();
    let account = Arc::new(Account::new());
    let nemesis = Nemesis::new();
    let start = Instant::now();
    let end = start + Duration::from_secs(options.seconds);
    let mut random = Random::new(options.seed);
    // what a process keeps after its first pool it keeps for good
    drop(round(&options, &ledger, &account, &nemesis, &mut random, Duration::from_secs(1)));
    let before = quiet_holdings();
    let mut checkpoints = Vec::new();
    let mut rounds = 1;
    while Instant::now() < end {
        let time = ROUND.min(end.saturating_duration_since(Instant::now()));
        if let Err(error) = round(&options, &ledger, &account, &nemesis, &mut random, time) {
            account.violation(format!("a pool could not be built: {error}"));
            break;
        }
        rounds += 1;
        checkpoints.push(memory::measure());
    }
    let after = quiet_holdings();
    if (before.descriptors, before.threads, before.children)
        != (after.descriptors, after.threads, after.children)
    {
        account.violation(format!("something was left: {before:?} {after:?}"));
    }
    if let Some(growth) = memory::growth(&checkpoints) {
        account.violation(growth);
    }
    let soaked = start.elapsed();
    account.balance(&ledger);
    let endings = endings::measure(options.endings, &account);
    let report = json!({
        "seed": options.seed,
        "seconds": soaked.as_secs(),
        "processes": options.processes,
        "submitters": SUBMITTERS,
        "fast_lane": pool_tests::fast_lane(),
        "pools": rounds,
        "build": if cfg!(debug_assertions) { "debug" } else { "release" },
        "machine": machine(),
        "nemesis": nemesis.report(),
        "tasks": account.report(),
        "kill_to_settled_ms": account.latencies(),
        "endings_ms": endings,
        "memory_kib": memory::report(&checkpoints),
        "violations": account.violations(),
    });
    println!("{}", if options.json { format!("{report}") } else { format!("{report:#}") });
    if account.violations().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What this process has when no pool is left. The thread that tells a pool's observer what has happened may outlive the pool by the moment that it takes to tell the rest.
fn quiet_holdings() -> census::Holdings {
    let me = std::process::id();
    eventually(account::BOUND, "the threads of the last pool end", || {
        census::holdings(me).threads == 1
    });
    census::holdings(me)
}

/// One pool, used and harassed for a while, then ended in one of the ways.
fn round(
    options: &Options,
    ledger: &Ledger,
    account: &Arc<Account>,
    nemesis: &Nemesis,
    random: &mut Random,
    time: Duration,
) -> Result<(), PoolError> {
    let told = Arc::clone(account);
    let builder = pool_tests::plain_builder(options.processes)
        .on_event(move |event| told.event(event))
        .max_pending(2_000)
        .grace(Duration::from_millis(300))
        .env(ledger::PATH, ledger.path())
        // a backtrace takes longer than most workers live, and nobody reads what they say when they have no memory
        .env("RUST_BACKTRACE", "0")
        .stderr(pool_core::Output::Discard)
        .initializer(ledger::open_in_worker, ());
    let builder = match random.below(3) {
        0 => builder.max_tasks_per_child(std::num::NonZero::new(50).unwrap()),
        _ => builder,
    };
    let builder = match random.below(2) {
        0 => builder.start_method(StartMethod::ForkServer),
        _ => builder,
    };
    let pool = builder.build()?;
    let is_over = AtomicBool::new(false);
    let seeds: Vec<u64> = (0..SUBMITTERS).map(|_| random.next()).collect();
    let mut fury = Random::new(random.next());
    let ending = random.below(3);
    std::thread::scope(|scope| {
        let (pool, is_over) = (&pool, &is_over);
        let submitters: Vec<_> = seeds
            .iter()
            .map(|&seed| {
                scope.spawn(move || work::submit(pool, ledger, account, nemesis, seed, is_over))
            })
            .collect();
        scope.spawn(move || nemesis.rage(pool, options.rate, &mut fury, is_over));
        let calm = Instant::now() + time;
        while Instant::now() < calm {
            std::thread::park_timeout(calm.saturating_duration_since(Instant::now()));
        }
        if ending > 0 {
            pool.terminate();
        }
        is_over.store(true, Ordering::SeqCst);
        let patience = Instant::now() + account::BOUND * 2;
        while submitters.iter().any(|submitter| !submitter.is_finished()) {
            assert!(Instant::now() < patience, "HANG: a submitter does not end; {pool:?}");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    });
    if ending == 0 {
        pool.close();
        if let Err(error) = pool.join_timeout(account::BOUND) {
            account.violation(format!("join: {error}"));
        }
    }
    let stats = pool.stats();
    account.workers(stats.workers_started, stats.workers_lost);
    if stats.submitted != stats.finished {
        account.violation(format!("the pool's own counts do not balance: {stats:?}"));
    }
    drop(pool);
    let children = census::children(std::process::id());
    if !children.is_empty() {
        account.violation(format!("children are left: {children:?}"));
    }
    Ok(())
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("?");
    let kernel = read("/proc/sys/kernel/osrelease");
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cpus} x {}, Linux {}", model.trim_start_matches([' ', '\t', ':']), kernel.trim())
}
