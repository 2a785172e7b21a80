//! `pool-cli` with a worker executable of the user's own: this test's executable is that worker.
//!
//! It has no test harness, because a worker must reach `Host` before anything else.

#![expect(clippy::unwrap_used, reason = "a failure in a helper is the failure of the test")]

#[allow(dead_code, reason = "the other test binary uses more of it")]
#[path = "cli/support.rs"]
mod support;

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;

use pool_worker::{Host, TASKS_JSON_FLAG};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use support::Job;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Area {
    width: f64,
    height: f64,
}

#[derive(Serialize)]
struct Answer {
    area: f64,
    by: u32,
}

fn area(of: Area) -> anyhow::Result<Answer> {
    if of.width < 0.0 || of.height < 0.0 {
        return Err(anyhow::anyhow!("lengths can't be negative").context("no area"));
    }
    Ok(Answer { area: of.width * of.height, by: std::process::id() })
}

fn host() -> Host {
    Host::new().task("area", area).task("greeting", |_: Value| env::var("GREETING").ok())
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    if args.iter().any(|arg| arg == TASKS_JSON_FLAG) {
        return host().run();
    }
    pool_core::init_with(host().into_registry());
    if list() {
        return ExitCode::SUCCESS;
    }
    values_cross_as_json();
    environment_and_errors_reach_the_right_side();
    its_tasks_are_listed();
    ExitCode::SUCCESS
}

/// A runner that asks which tests there are is told of one.
fn list() -> bool {
    let asked = |what: &str| env::args().any(|arg| arg == what);
    if asked("--list") && !asked("--ignored") {
        io::stdout().write_all(b"own_worker: test\n").unwrap();
    }
    asked("--list")
}

fn job(task: &str, inputs: &str) -> Job {
    let worker = env::current_exe().unwrap();
    let worker = worker.display();
    Job::new(&format!(
        "[task]\nworker = '{worker}'\n{task}\n[inputs]\n{inputs}\n[output]\nkeep_order = true\n"
    ))
}

fn values_cross_as_json() {
    let job = job("task = 'area'", "jsonl = 'in'");
    let ran = job
        .file(
            "in",
            "{\"width\": 2, \"height\": 3.5}\n{\"width\": -1, \"height\": 1}\n{\"width\": 1}\n",
        )
        .run(&[]);
    assert_eq!(ran.code, 100, "{ran:?}");
    let results = ran.results();
    assert_eq!(results[0]["value"]["area"], 7.0);
    assert_eq!(results[0]["value"]["by"], results[0]["worker_pid"]);
    assert_eq!(results[1]["error"], "no area: lengths can't be negative");
    let error = results[2]["error"].as_str().unwrap();
    assert!(
        error.starts_with("task `area` can't read its input: missing field `height`"),
        "{error}"
    );
}

fn environment_and_errors_reach_the_right_side() {
    let ran = job("task = 'greeting'\nenv = { GREETING = 'hello' }", "values = [1]").run(&[]);
    assert_eq!(ran.all("value"), [json!("hello")]);
    let ran = job("task = 'greetings'", "values = [1]").run(&[]);
    assert_eq!(ran.code, 65);
    assert!(ran.stderr.contains("this worker has no task `greetings`"), "{}", ran.stderr);
    assert!(ran.stderr.contains("hint: did you mean `greeting`?"), "{}", ran.stderr);
}

fn its_tasks_are_listed() {
    let ran = Job::new("").cli(&["tasks", env::current_exe().unwrap().to_str().unwrap()]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "area\ngreeting\n"));
    let ran = Job::new("").cli(&["tasks", "/bin/true"]);
    assert_eq!(ran.code, 70, "{ran:?}");
}
