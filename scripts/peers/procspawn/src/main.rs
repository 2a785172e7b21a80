//! Kills workers of procspawn's pool, and counts what becomes of their tasks: as `scripts/chaos_peers.py` does to the pools of Python.
//!
//! `chaos-procspawn KILLS SEED`, or `chaos-procspawn --orphaned` to be a parent that is going to be killed. Prints one line of JSON.

use std::time::{Duration, Instant};

use procspawn::Pool;

const WORKERS: usize = 4;
const BATCH: u64 = 200;
const PATIENCE: Duration = Duration::from_secs(10);

fn task(number: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(2));
    number * 3
}

fn main() {
    procspawn::init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [orphaned] if orphaned == "--orphaned" => be_orphaned(),
        [kills, seed] => soak(kills.parse().unwrap(), seed.parse().unwrap()),
        _ => panic!("KILLS SEED, or --orphaned"),
    }
}

/// The processes that this one has started.
fn children() -> Vec<u32> {
    let me = std::process::id();
    let all = std::fs::read_dir("/proc").unwrap();
    let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let is_child = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        fields.next() != Some("Z") && fields.next() == Some(&me.to_string())
    };
    pids.filter(is_child).collect()
}

fn soak(kills: u64, seed: u64) {
    // splitmix64
    let mut state = seed;
    let mut below = |limit: u64| {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    };
    let pool = Pool::new(WORKERS).unwrap();
    let (mut submitted, mut ok, mut wrong, mut lost, mut hangs, mut killed) = (0, 0, 0, 0, 0, 0);
    let mut slowest = Duration::ZERO;
    while killed < kills && hangs <= 20 * BATCH {
        let handles: Vec<_> = (0..BATCH).map(|number| pool.spawn(number, task)).collect();
        submitted += BATCH;
        std::thread::sleep(Duration::from_micros(below(50_000)));
        let pids = children();
        if !pids.is_empty() {
            let pid = pids[below(pids.len() as u64) as usize].to_string();
            let sent = std::process::Command::new("kill").args(["-KILL", &pid]).status();
            killed += u64::from(sent.is_ok_and(|status| status.success()));
        }
        let start = Instant::now();
        for (number, mut handle) in (0..BATCH).zip(handles) {
            let left = PATIENCE.saturating_sub(start.elapsed()).max(Duration::from_millis(1));
            match handle.join_timeout(left) {
                Ok(result) if result == number * 3 => ok += 1,
                Ok(_) => wrong += 1,
                Err(error) if error.is_timeout() => hangs += 1,
                Err(_) => lost += 1,
            }
        }
        slowest = slowest.max(start.elapsed());
    }
    println!(
        "{{\"pool\": \"procspawn\", \"submitted\": {submitted}, \"ok\": {ok}, \"killed\": {killed}, \"pools\": 1, \"lost with its worker\": {lost}, \
         \"failed because the pool broke\": 0, \"hangs\": {hangs}, \"wrong\": {wrong}, \"pools that did not end\": 0, \"slowest batch s\": {:.1}}}",
        slowest.as_secs_f64()
    );
    // whatever still hangs
    std::process::exit(0);
}

fn be_orphaned() {
    let pool = Pool::new(WORKERS).unwrap();
    let sleep = |_: u64| std::thread::sleep(Duration::from_secs(1000));
    let handles: Vec<_> = (0..WORKERS as u64).map(|number| pool.spawn(number, sleep)).collect();
    std::thread::sleep(Duration::from_secs(1));
    println!("{{\"pool\": \"procspawn\", \"pids\": {:?}}}", children());
    std::thread::sleep(Duration::from_secs(1000));
    drop(handles);
}
