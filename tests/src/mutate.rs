//! Mutations of a corpus, for fuzzing without a compiler of its own. Included by path where it is needed, so it uses only std.

use std::path::Path;
use std::time::{Duration, Instant};

/// splitmix64
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// The files of a corpus, in the order of their names.
pub(crate) fn corpus(directories: &[&str]) -> Vec<Vec<u8>> {
    let mut paths = Vec::new();
    for directory in directories {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
        paths.extend(std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()));
    }
    paths.sort();
    assert!(!paths.is_empty(), "no corpus in {directories:?}");
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Changes an input at one to eight places.
fn mutate(input: &mut Vec<u8>, others: &[Vec<u8>], words: &[&[u8]], random: &mut Random) {
    for _ in 0..1 + random.below(8) {
        let at = random.below(input.len() + 1);
        let end = at + random.below(input.len() - at + 1).min(64);
        match random.below(9) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.next() as u8,
            2 => drop(input.drain(at..end)),
            3 => input.truncate(at),
            4 => drop(input.splice(at..at, input[at..end].to_vec())),
            5 => {
                let interesting = [0, 1, 0x7F, 0x80, 0xFF, 1 << 16, u64::MAX >> 1, u64::MAX];
                let number = interesting[random.below(8)].to_le_bytes();
                let len = 1 << random.below(4);
                drop(input.splice(at..end.min(at + len), number[..len].iter().copied()));
            }
            6 if !words.is_empty() => {
                let word = words[random.below(words.len())];
                drop(input.splice(at..end, word.iter().copied()));
            }
            7 => {
                let other = &others[random.below(others.len())];
                let from = random.below(other.len() + 1);
                let to = from + random.below(other.len() - from + 1);
                drop(input.splice(at..end, other[from..to].iter().copied()));
            }
            _ => input.insert(at, random.next() as u8),
        }
    }
    input.truncate(64 << 10);
}

/// Gives the corpus to `target`, then mutations of it: some, or as many as fit into POOL_FUZZ_SECONDS. An input at which the target panics is printed as a
/// Rust byte string and as a number: `POOL_FUZZ_SEED=number` tries that one alone.
pub(crate) fn fuzz(name: &str, corpus: &[Vec<u8>], words: &[&[u8]], target: impl Fn(&[u8])) {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let only = number("POOL_FUZZ_SEED");
    let budget = number("POOL_FUZZ_SECONDS").map(Duration::from_secs);
    let attempt = |input: &[u8], what: &str| {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| target(input)));
        if let Err(panic) = outcome {
            println!("{name}: {what} fails: b\"{}\"", input.escape_ascii());
            std::panic::resume_unwind(panic);
        }
    };
    for (index, input) in corpus.iter().enumerate().filter(|_| only.is_none()) {
        attempt(input, &format!("file {index} of the corpus"));
    }
    let start = Instant::now();
    let first = only.or(number("POOL_FUZZ_FIRST_SEED")).unwrap_or(0);
    let mut tried = 0;
    for seed in first.. {
        let mut random = Random(seed);
        let mut input = corpus[random.below(corpus.len())].clone();
        mutate(&mut input, corpus, words, &mut random);
        attempt(&input, &format!("POOL_FUZZ_SEED={seed}"));
        tried += 1;
        let is_over = budget.map_or(tried == 2_000, |budget| start.elapsed() >= budget);
        if is_over || only.is_some() {
            break;
        }
    }
    println!("{name}: {} files, {tried} mutations in {:?}", corpus.len(), start.elapsed());
}
