//! A worker executable of one's own: three functions about text files, offered by name.
//!
//! Build it, ask it for its tasks, and run a job that uses it (see `examples/jobs/word-count.toml`):
//!
//! ```text
//! cargo build --release -p pool-worker --example text_host
//! pool-cli tasks target/release/examples/text_host
//! pool-cli run examples/jobs/word-count.toml
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use pool_worker::Host;
use serde::{Deserialize, Serialize};

/// What `word_count` finds in a file.
#[derive(Serialize)]
struct Counts {
    lines: usize,
    words: usize,
    bytes: usize,
}

/// Counts lines, words and bytes. An `Err` fails this one task and says why.
fn word_count(path: PathBuf) -> anyhow::Result<Counts> {
    let text = read(&path)?;
    Ok(Counts {
        lines: text.lines().count(),
        words: text.split_whitespace().count(),
        bytes: text.len(),
    })
}

/// What `top_words` takes: a task with several arguments takes them as one struct, and the job file fills it with `args`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TopWords {
    path: PathBuf,
    count: usize,
    #[serde(default = "one")]
    min_length: usize,
}

fn one() -> usize {
    1
}

/// The most frequent words of a file, most frequent first.
fn top_words(args: TopWords) -> anyhow::Result<Vec<(String, usize)>> {
    let text = read(&args.path)?;
    let mut counts = BTreeMap::new();
    for word in
        text.split(|c: char| !c.is_alphanumeric()).filter(|word| word.len() >= args.min_length)
    {
        *counts.entry(word.to_lowercase()).or_insert(0) += 1;
    }
    let mut top: Vec<_> = counts.into_iter().collect();
    top.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    top.truncate(args.count);
    Ok(top)
}

/// The length of a text: a task that can't fail returns its result as it is.
fn length(text: String) -> usize {
    text.chars().count()
}

fn read(path: &PathBuf) -> anyhow::Result<String> {
    let bytes = fs::read(path).with_context(|| format!("can't read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn main() -> ExitCode {
    Host::new()
        .task("word_count", word_count)
        .task("top_words", top_words)
        .task("length", length)
        .run()
}
