//! Arbitrary text as a job file: a plan, or problems that can be shown. `scripts/fuzz` takes its time; the tests replay the corpus.

#[path = "../../../tests/src/mutate.rs"]
mod mutate;

use super::parse::{self, Settings};
use super::planner::{self, Folders};
use super::source::{Problems, Source};

#[test]
fn any_text_is_a_plan_or_has_problems_that_can_be_shown() {
    let corpus = mutate::corpus(&["../examples/jobs", "fuzz/jobs"]);
    let words: [&[u8]; 24] = [
        b"[pool]\n",
        b"[task]\n",
        b"[inputs]\n",
        b"[output]\n",
        b"procs",
        b"timeout",
        b"command",
        b"range",
        b"end",
        b"glob",
        b"values",
        b"csv",
        b"{}",
        b"{",
        b"}",
        b"\"",
        b"'",
        b"= 1\n",
        b"'1m 30s'",
        b"'4 GiB'",
        b"[",
        b"]",
        b"\xC3\xA4",
        b"1e400",
    ];
    let folder = std::env::temp_dir();
    mutate::fuzz("job.toml", &corpus, &words, |input| {
        let text = String::from_utf8_lossy(input).into_owned();
        let mut source = Source::new("job.toml".to_owned(), text);
        let folders = Folders { job: folder.clone(), user: folder.clone() };
        let plan = parse::parse(&mut source, &Settings::default())
            .and_then(|parsed| planner::plan(parsed, &source, folders));
        if let Err(problems) = plan {
            assert!(!problems.is_empty(), "refused without a reason");
            assert!(!Problems::new(source, problems).to_string().is_empty());
        }
    });
}
