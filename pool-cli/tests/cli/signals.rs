//! How a run is interrupted. Tasks wait at named pipes, so each test knows what runs when it sends a signal.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStderr, Command, Stdio};

use crate::support::{Job, Ran, eventually, is_alive};
use serde_json::json;

/// A run of two tasks at a time that have both begun.
struct Running {
    job: Job,
    child: Child,
    stderr: BufReader<ChildStderr>,
    gates: Vec<File>,
}

impl Running {
    fn start(more: &str) -> Running {
        let text = format!(
            "[pool]\nprocs = 2\n{more}\n[task]\ncommand = ['cat', 'gate{{}}']\n[inputs]\nrange = {{ end = 5 }}\n"
        );
        Running::of(&text, &["gate0", "gate1"])
    }

    /// A job whose tasks read these gates.
    fn of(text: &str, gates: &[&str]) -> Running {
        let job = Job::new(text).fifo("gate0").fifo("gate1");
        let mut child = job
            .command(&["run", "job.toml"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        // Opening a gate waits for the task behind it.
        let gates = gates.iter().map(|gate| File::create(job.path(gate)).unwrap()).collect();
        Running { job, child, stderr, gates }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// The next line that the command says.
    fn hears(&mut self) -> String {
        let mut line = String::new();
        self.stderr.read_line(&mut line).unwrap();
        line
    }

    fn open_gates(&mut self) {
        self.gates.clear();
    }

    /// Waits until nobody waits at a gate any more: what was killed together with its worker takes a moment to be gone, and is nobody's child here.
    fn assert_nobody_waits(&self) {
        let is_open = |mut gate: &File| gate.write_all(b"x").is_ok();
        eventually("no command outlives the run", || !self.gates.iter().any(is_open));
    }

    fn ends(&mut self) -> Ran {
        let mut output = Vec::new();
        self.child.stdout.take().unwrap().read_to_end(&mut output).unwrap();
        let mut rest = Vec::new();
        self.stderr.read_to_end(&mut rest).unwrap();
        let status = self.child.wait().unwrap();
        self.job.ran(std::process::Output { status, stdout: output, stderr: rest })
    }
}

#[test]
fn one_interrupt_lets_what_runs_finish() {
    let mut run = Running::start("");
    run.signal("INT");
    assert_eq!(run.hears(), "SIGINT: waiting for 2 tasks that run; press Ctrl-C again to kill\n");
    run.open_gates();
    let ran = run.ends();
    assert_eq!((ran.code, ran.all("outcome")), (130, vec![json!("ok"), json!("ok")]));
    assert!(ran.stderr.starts_with("2 ok, 3 not run\ninterrupted by SIGINT\n"), "{}", ran.stderr);
}

/// The worker died of the SIGTERM that was meant for both, and its command was killed with it, before it could tidy up.
#[test]
fn a_command_that_is_stopped_may_tidy_up_within_the_grace() {
    let trap = "trap 'cat gate1 > tidied; exit 3' TERM; cat gate0";
    let text = format!(
        "[pool]\nprocs = 1\ngrace = '1h'\n[task]\ncommand = ['sh', '-c', \"{trap}\"]\n[inputs]\nrange = {{ end = 1 }}\n"
    );
    let mut run = Running::of(&text, &["gate0"]);
    run.signal("INT");
    run.hears();
    run.signal("INT");
    // opening it waits for the trap
    let mut gate = File::create(run.job.path("gate1")).unwrap();
    gate.write_all(b"done").unwrap();
    drop(gate);
    let ran = run.ends();
    assert_eq!((ran.code, ran.all("outcome")), (130, vec![json!("cancelled")]));
    assert_eq!(std::fs::read_to_string(run.job.path("tidied")).unwrap(), "done");
}

#[test]
fn a_second_interrupt_kills_what_runs() {
    let mut run = Running::start("");
    run.signal("INT");
    run.hears();
    run.signal("INT");
    let ran = run.ends();
    assert_eq!((ran.code, ran.all("outcome")), (130, vec![json!("cancelled"), json!("cancelled")]));
    run.assert_nobody_waits();
}

#[test]
fn after_a_term_what_runs_has_its_grace_and_is_killed() {
    let mut run = Running::start("term_grace = '100ms'");
    run.signal("TERM");
    assert_eq!(run.hears(), "SIGTERM: waiting 100ms for 2 tasks that run\n");
    let ran = run.ends();
    assert_eq!((ran.code, ran.all("outcome")), (143, vec![json!("cancelled"), json!("cancelled")]));
    run.assert_nobody_waits();
}

#[test]
fn a_hangup_that_was_ignored_at_the_start_stays_ignored() {
    let mut run = Running::start("");
    run.signal("HUP");
    assert_eq!(run.hears(), "SIGHUP: waiting 8s for 2 tasks that run\n");
    run.open_gates();
    assert_eq!(run.ends().code, 129);

    let job = Job::new("[task]\ncommand = ['cat', 'gate']\n[inputs]\nvalues = [1]\n").fifo("gate");
    let command = format!("trap '' HUP; exec {} run job.toml", env!("CARGO_BIN_EXE_pool-cli"));
    let mut child = Command::new("sh")
        .args(["-c", &command])
        .current_dir(job.path(""))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let gate = File::create(job.path("gate")).unwrap();
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-s", "HUP", &pid]).status().unwrap().success());
    drop(gate);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn progress_is_printed_on_request() {
    let mut run = Running::start("");
    run.signal("USR1");
    assert!(run.hears().starts_with("0/5 done, 0.0/s"));
    run.signal("INT");
    // two of the same signal that nobody has taken are one
    run.hears();
    run.signal("INT");
    run.ends();
}

#[test]
fn when_nobody_reads_the_results_the_run_ends_quietly() {
    let job = Job::new("[task]\ntask = 'echo'\n[inputs]\nrange = { end = 1000000000 }\n");
    let mut child = job
        .command(&["run", "--report", "quiet", "job.toml"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut results = BufReader::new(child.stdout.take().unwrap());
    results.read_line(&mut String::new()).unwrap();
    drop(results);
    let ran = job.ran(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.stderr.as_str()), (141, ""));
}

#[test]
fn killed_outright_it_takes_its_workers_and_their_commands_along() {
    let mut run = Running::start("");
    let workers = children(&run.child.id().to_string());
    let commands: Vec<String> = workers.iter().flat_map(|pid| children(pid)).collect();
    assert_eq!((workers.len(), commands.len()), (2, 2));
    run.child.kill().unwrap();
    run.child.wait().unwrap();
    let all = [workers, commands].concat();
    eventually("all are gone", || !all.iter().any(|pid| is_alive(pid)));
}

/// The processes that a process has started, whichever of its threads did.
fn children(pid: &str) -> Vec<String> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let lists = threads.map(|thread| {
        std::fs::read_to_string(thread.unwrap().path().join("children")).unwrap_or_default()
    });
    lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}
