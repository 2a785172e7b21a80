//! `pool-cli run`: what comes out for what goes in.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use crate::support::{Job, eventually, is_alive};
use insta::assert_snapshot;
use serde_json::{Value, json};

/// A job of one process, so that results have one order.
fn job(task: &str, inputs: &str, more: &str) -> Job {
    Job::new(&format!("[pool]\nprocs = 1\n[task]\n{task}\n[inputs]\n{inputs}\n{more}\n"))
}

#[test]
fn commands_report_how_they_ended_and_what_they_wrote() {
    let script = "case $1 in ok) echo out;; code) echo bad >&2; exit 3;; signal) kill -SEGV $$;; \
                  binary) printf '\\\\377';; long) printf 123456;; esac";
    let ran = job(
        &format!("command = ['sh', '-c', \"{script}\", 'sh', '{{}}']"),
        "values = ['ok', 'code', 'signal', 'binary', 'long']",
        "[limits]\noutput_cap = 5",
    )
    .run(&[]);
    assert_snapshot!(ran.redacted());
}

#[test]
fn a_command_gets_its_arguments_folder_environment_and_input_unharmed() {
    let ran = job(
        "command = ['sh', '-c', 'echo \"$0|$1|$NAME\"; pwd; cat', '{}', '{stem}.{ext}']\n\
         cwd = '{dir}'\nenv = { NAME = '{name}' }\nstdin = '<{index}>'",
        "glob = '**/*.txt'",
        "",
    )
    .file("sub/it's $HOME.txt", "")
    .run(&["--progress", "none"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let expected = "sub/it's $HOME.txt|it's $HOME.txt|it's $HOME.txt\n[folder]/sub\n<0>";
    assert_eq!(ran.all("stdout"), [expected]);
}

#[test]
fn every_failure_has_its_outcome_and_none_harms_the_others() {
    let values = "values = ['none', 'error', 'panic', 'exit', 'abort', 'none', 'nonsense']";
    let ran = job("task = 'fail'\nstderr = 'discard'", values, "").run(&["--keep-order"]);
    assert_snapshot!(ran.redacted());
}

#[test]
fn a_task_beyond_its_time_limit_is_killed_with_all_that_it_started() {
    let script = "sleep 1000 & echo $! > pid; wait";
    let job = job(&format!("command = ['sh', '-c', '{script}']"), "values = [1]", "");
    let ran = job.run(&["--timeout", "300ms"]);
    assert_eq!((ran.code, ran.all("outcome")), (100, vec![json!("timed_out")]));
    let pid = std::fs::read_to_string(job.path("pid")).unwrap();
    eventually("the sleeper is gone", || !is_alive(pid.trim()));
}

/// It is handed to the pool while the one before still runs.
#[test]
fn a_task_that_is_killed_has_run_since_its_own_start() {
    let ran = job("command = ['sleep', '1000']", "values = [1, 2]", "").run(&["--timeout", "1s"]);
    assert_eq!(ran.all("outcome"), ["timed_out", "timed_out"]);
    let starts = ran.all("start");
    let [first, second] =
        [0, 1].map(|at| humantime::parse_rfc3339(starts[at].as_str().unwrap()).unwrap());
    // the first one has had the worker for a second in between
    assert!(second.duration_since(first).unwrap().as_millis() > 500, "{starts:?}");
}

#[test]
fn a_failure_is_tried_again_until_it_succeeds() {
    let script = "test $(echo x >> tries; wc -l < tries) -ge 3";
    let ran = job(&format!("command = ['sh', '-c', '{script}']"), "values = [1]", "")
        .run(&["--retries", "5"]);
    assert_eq!((ran.code, ran.all("attempts")), (0, vec![json!(3)]));
    assert!(ran.stderr.starts_with("1 ok, 2 retries\n"), "{}", ran.stderr);
}

#[test]
fn results_come_as_they_finish_or_in_order() {
    // The first task waits for the last one.
    let script = "if [ $1 = 0 ]; then cat gate; fi; if [ $1 = 3 ]; then echo > gate; fi";
    let text = format!(
        "[pool]\nprocs = 2\n[task]\ncommand = ['sh', '-c', '{script}', 'sh', '{{}}']\n[inputs]\nrange = {{ end = 4 }}\n"
    );
    let job = Job::new(&text).fifo("gate");
    assert_eq!(job.run(&[]).all("index").first(), Some(&json!(1)));
    assert_eq!(job.run(&["--keep-order"]).all("index"), [0, 1, 2, 3]);
}

#[test]
fn a_result_that_is_waited_for_stops_the_rest() {
    let text = "[pool]\nprocs = 2\n[task]\ntask = 'sleep'\nargs = { seconds = 0, value = { n = '{}' } }\n\
                [inputs]\nrange = { end = 1000000000 }\n[stop]\nequals = 7\nfield = 'n'\n";
    let ran = Job::new(text).run(&["--report", "json"]);
    let summary: Value = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!(
        (ran.code, &summary["ending"], &summary["detail"]["index"]),
        (0, &json!("stopped"), &json!(7))
    );
    assert!(summary["not_run"].as_u64() > Some(900_000_000), "{summary}");
    assert!(ran.results().contains(&ran.results()[7]));
}

#[test]
fn the_first_failure_or_success_can_stop_the_rest() {
    let values = "values = ['error', 'none', 'error', 'none']";
    let outcomes = |args: &[&str]| {
        let ran = job("task = 'fail'", values, "[stop]\non = 'first-success'").run(args);
        (
            ran.code,
            ran.all("outcome")
                .iter()
                .map(|it| it.as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
                .join(" "),
        )
    };
    assert_eq!(outcomes(&[]), (0, "failed ok".into()));
    assert_eq!(outcomes(&["--fail-fast"]), (100, "failed".into()));
    assert_eq!(outcomes(&["--keep-going"]), (100, "failed ok failed ok".into()));
}

#[test]
fn records_fill_placeholders_and_bad_ones_are_results() {
    let ran =
        job("task = 'echo'\nargs = { n = '{size}', text = '{city}-{index}' }", "jsonl = 'in'", "")
            .file("in", "{\"city\": \"A\", \"size\": 3}\n{oops\n{\"city\": \"B\"}\n")
            .run(&["-k"]);
    assert_snapshot!(ran.redacted());
}

#[test]
fn inputs_are_read_while_results_are_written() {
    let job = job("task = 'echo'", "lines = '-'", "");
    let mut child = job
        .command(&["run", "--report", "quiet", "job.toml"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut results = BufReader::new(child.stdout.take().unwrap()).lines();
    for word in ["one", "two"] {
        // Each result is there before the next input is.
        writeln!(stdin, "{word}").unwrap();
        let result: Value = serde_json::from_str(&results.next().unwrap().unwrap()).unwrap();
        assert_eq!(result["value"], word);
    }
    drop(stdin);
    assert!(results.next().is_none());
    assert!(child.wait().unwrap().success());
}

#[test]
fn the_command_line_goes_over_the_file_and_knows_where_the_user_is() {
    let job = job(
        "command = ['cat', '{}']",
        "lines = 'none'\nexclude = '**/b.txt'",
        "[output]\nfile = 'never'",
    );
    let job = job.file("elsewhere/a.txt", "A").file("elsewhere/b.txt", "B");
    let args = [
        "run",
        "--input",
        "*.txt",
        "-o",
        "out.jsonl",
        "--set",
        "output.fields=['input', 'stdout']",
    ];
    let mut command = job.command(&[&args[..], &["../job.toml"]].concat());
    let ran = job.ran(command.current_dir(job.path("elsewhere")).output().unwrap());
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{ran:?}");
    let written = std::fs::read_to_string(job.path("elsewhere/out.jsonl")).unwrap();
    let result: Value = serde_json::from_str(&written).unwrap();
    let path = job.path("elsewhere/a.txt");
    assert_eq!(result, json!({"input": path.to_str().unwrap(), "stdout": "A"}));
}

#[test]
fn a_dry_run_prints_the_tasks_and_runs_nothing() {
    let command = job("command = ['touch', 'done {}', '{index}']", "values = ['a', \"it's\"]", "");
    assert_snapshot!(command.run(&["--dry-run"]).redacted());
    assert!(!command.path("done a").exists());
    let named = job("task = 'echo'\nargs = { size = '{size}' }", "jsonl = 'in'", "")
        .file("in", "{\"size\": 3}\n{}\n");
    assert_snapshot!(named.run(&["--dry-run"]).redacted());
}

#[test]
fn a_process_that_a_command_leaves_behind_is_reported_and_killed_at_the_end() {
    let ran = job("command = ['sh', '-c', 'sleep 1000 & echo $!']", "values = [1]", "").run(&[]);
    let result = &ran.results()[0];
    assert_eq!((ran.code, &result["leaked"]), (0, &json!(true)));
    let pid = result["stdout"].as_str().unwrap().trim().to_owned();
    eventually("the process left behind is gone", || !is_alive(&pid));
}

#[test]
fn a_command_beyond_its_memory_fails_by_itself() {
    // It looks for the end of a line that has none.
    let task = "command = ['tail', '-n', '1', '/dev/zero']\nenv = { LC_ALL = 'C' }";
    let ran = job(task, "values = [1]", "[limits]\nmemory = '128 MiB'").run(&[]);
    assert_eq!((ran.code, ran.all("outcome")), (100, vec![json!("failed")]), "{ran:?}");
    assert!(ran.stderr.contains("exit code 1: tail: memory exhausted"), "{}", ran.stderr);
}

#[test]
fn each_kind_of_trouble_has_its_exit_code() {
    let echo = |inputs| job("task = 'echo'", inputs, "");
    assert_eq!(echo("values = []").run(&[]).code, 4);
    assert_eq!(echo("glob = '*.none'").run(&[]).code, 4);
    assert_eq!(echo("values = [1]").run(&["--no-such-option"]).code, 2);
    assert_eq!(echo("values = [1").run(&[]).code, 65);
    assert_eq!(echo("lines = 'none'").run(&[]).code, 66);
    assert_eq!(echo("values = [1]").run(&["-o", &"x".repeat(300)]).code, 73);
    let full = echo("range = { end = 100000 }").run(&["-o", "/dev/full"]);
    assert_eq!(full.code, 74);
    assert!(
        full.stderr.contains("results can't be written: No space left on device"),
        "{}",
        full.stderr
    );
    let endless = echo("lines = '/dev/zero'").run(&[]);
    assert_eq!(endless.code, 74);
    assert!(
        endless.stderr.contains("inputs can't be read any further: a line is longer"),
        "{}",
        endless.stderr
    );
}

#[test]
fn a_worker_that_never_joins_the_pool_is_an_error_within_seconds() {
    let task = "worker = './worker'\ntask = 'a'";
    let script =
        r#"if [ "$1" = --tasks=json ]; then echo '{"pool_worker":"0","tasks":["a"]}'; fi; exit 3"#;
    let ran = job(task, "values = [1]", "").script("worker", script).run(&[]);
    assert_eq!((ran.code, ran.stdout.as_str()), (70, ""), "{ran:?}");
    assert!(ran.stderr.starts_with("error: "), "{}", ran.stderr);
}

#[test]
fn the_jobs_among_the_examples_are_valid() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/jobs");
    let job = Job::new("");
    for name in ["checksums", "compress", "failures", "line-counts", "stop-at-100"] {
        let ran = job.cli(&["check", &format!("{folder}/{name}.toml")]);
        assert_eq!(ran.code, 0, "{name}: {}", ran.stderr);
    }
    let ran = job.cli(&["run", &format!("{folder}/line-counts.toml")]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.results().len() > 20);
}

#[test]
fn results_never_overwrite_what_the_job_reads() {
    let lines = job("task = 'echo'", "lines = 'input.txt'", "").file("input.txt", "one\ntwo\n");
    for (output, read) in [("job.toml", "job.toml"), ("input.txt", "input.txt")] {
        let before = std::fs::read(lines.path(read)).unwrap();
        let ran = lines.run(&["-o", output]);
        assert_eq!(ran.code, 73, "{ran:?}");
        assert!(ran.stderr.contains("is read by this job"), "{}", ran.stderr);
        assert_eq!(std::fs::read(lines.path(read)).unwrap(), before);
    }
    assert_eq!(lines.run(&["-o", "output.jsonl"]).code, 0);
}
