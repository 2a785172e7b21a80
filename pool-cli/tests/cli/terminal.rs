//! The command in a real terminal: keys become signals there, for the whole group in front. `script` makes the terminal.

#![expect(clippy::print_stdout, reason = "says what it can't test here")]

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::support::{Job, eventually};

/// A job of two tasks that wait at gates, in a terminal.
struct Terminal {
    job: Job,
    child: Child,
    keys: Option<ChildStdin>,
    gates: Vec<File>,
}

impl Terminal {
    /// Runs a line of shell in which `run` is the command. `None`: there is no `script` here.
    fn start(line: &str) -> Option<Terminal> {
        Terminal::start_job(line, "term_grace = '200ms'", "'cat', 'gate{}'")
    }

    /// With these settings of the pool, and this command.
    fn start_job(line: &str, pool: &str, command: &str) -> Option<Terminal> {
        let mut probe = Command::new("script");
        let probe = probe.args(["-qfec", "bash -c true", "/dev/null"]).stdin(Stdio::null());
        if !probe.output().is_ok_and(|output| output.status.success()) {
            println!("SKIPPED: no script(1) that makes a terminal");
            return None;
        }
        let text = format!(
            "[pool]\nprocs = 2\n{pool}\n[task]\ncommand = [{command}]\n[inputs]\nrange = {{ end = 5 }}\n"
        );
        let job = Job::new(&text).fifo("gate0").fifo("gate1");
        let command = format!("{} run -o results job.toml", env!("CARGO_BIN_EXE_pool-cli"));
        let job = job.script("line", &line.replace("run", &command));
        let mut child = Command::new("script")
            .args(["-qfec", "bash -m ./line", "/dev/null"])
            .current_dir(job.path(""))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let keys = child.stdin.take();
        // opening a gate waits for the task behind it
        let gates = ["gate0", "gate1"].map(|gate| File::create(job.path(gate)).unwrap()).into();
        Some(Terminal { job, child, keys, gates })
    }

    fn press(&mut self, key: &[u8]) {
        self.keys.as_mut().unwrap().write_all(key).unwrap();
    }

    /// Reads what appears on the screen until this does.
    fn sees(&mut self, what: &str) -> String {
        let mut screen = Vec::new();
        while !String::from_utf8_lossy(&screen).contains(what) {
            let mut byte = [0];
            let read = self.child.stdout.as_mut().unwrap().read(&mut byte).unwrap();
            assert_eq!(read, 1, "not seen: {what} in {}", String::from_utf8_lossy(&screen));
            screen.push(byte[0]);
        }
        String::from_utf8_lossy(&screen).into_owned()
    }

    /// The states of the processes that read the gates.
    fn states(&self) -> Vec<char> {
        let folder = std::fs::canonicalize(self.job.path("")).unwrap();
        let processes = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
        let readers = processes.filter(|process| {
            let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
            name == "cat\n"
                && std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == folder)
        });
        let state = |process: std::path::PathBuf| {
            let stat = std::fs::read_to_string(process.join("stat")).ok()?;
            stat.rsplit_once(") ")?.1.chars().next()
        };
        readers.filter_map(state).collect()
    }

    fn outcomes(&self) -> Vec<String> {
        let results = std::fs::read_to_string(self.job.path("results")).unwrap_or_default();
        let outcome = |line: &str| {
            let result: serde_json::Value = serde_json::from_str(line).unwrap();
            result["outcome"].as_str().unwrap().to_owned()
        };
        results.lines().map(outcome).collect()
    }

    fn ends(mut self) -> Vec<String> {
        drop(self.keys.take());
        self.child.stdout.take().unwrap().read_to_end(&mut Vec::new()).unwrap();
        self.child.wait().unwrap();
        // a gate without a reader is what is left of a command that was killed
        eventually("no command outlives the run", || {
            self.gates.iter().all(|mut gate| gate.write_all(b"x").is_err())
        });
        self.outcomes()
    }
}

const CTRL_C: &[u8] = b"\x03";
const CTRL_Z: &[u8] = b"\x1a";
const CTRL_BACKSLASH: &[u8] = b"\x1c";

#[test]
fn row_58_ctrl_c_once_lets_what_runs_finish() {
    let Some(mut terminal) = Terminal::start("run; echo \"ended $?\"") else { return };
    terminal.press(CTRL_C);
    terminal.sees("SIGINT: waiting for 2 tasks that run");
    terminal.gates.clear();
    // a shell that sees its command die by SIGINT ends too: the loop around it does not go on
    assert_eq!(terminal.ends(), ["ok", "ok"]);
}

#[test]
fn row_58_ctrl_c_twice_kills_what_runs() {
    let Some(mut terminal) = Terminal::start("run") else { return };
    terminal.press(CTRL_C);
    terminal.sees("SIGINT: waiting for 2 tasks that run");
    terminal.press(CTRL_C);
    assert_eq!(terminal.ends(), ["cancelled", "cancelled"]);
}

#[test]
fn row_58_ctrl_c_thrice_ends_the_command_on_the_spot() {
    // SIGTERM does not end these, and for SIGKILL the command would wait longer than this test may take
    let deaf = "'sh', '-c', 'trap \"\" TERM; exec cat gate{}'";
    let job = Terminal::start_job("run; echo \"ended $?\"", "grace = '1h'", deaf);
    let Some(mut terminal) = job else { return };
    terminal.press(CTRL_C);
    terminal.sees("SIGINT: waiting for 2 tasks that run");
    terminal.press(CTRL_C);
    terminal.sees("SIGINT: killing what runs");
    terminal.press(CTRL_C);
    assert!(terminal.ends().is_empty(), "what ran is not even reported");
}

#[test]
fn row_59_ctrl_backslash_ends_the_command_and_its_tasks() {
    let Some(mut terminal) = Terminal::start("ulimit -c 0; run; echo \"ended $?\"") else { return };
    terminal.press(CTRL_BACKSLASH);
    terminal.sees("ended 131");
    terminal.ends();
}

#[test]
fn row_59_sigterm_in_a_terminal() {
    let Some(mut terminal) =
        Terminal::start("run & pid=$!; read key; kill -TERM $pid; wait $pid; echo \"ended $?\"")
    else {
        return;
    };
    terminal.press(b"go on\n");
    terminal.sees("ended 143");
    assert_eq!(terminal.ends(), ["cancelled", "cancelled"]);
}

#[test]
fn row_60_ctrl_z_stops_the_command_and_fg_continues_it() {
    let Some(mut terminal) =
        Terminal::start("run; echo \"stopped $?\"; read key; fg; echo \"ended $?\"")
    else {
        return;
    };
    terminal.press(CTRL_Z);
    // 128 and SIGSTOP: SIGTSTP was caught, to stop the workers first
    terminal.sees("stopped 147");
    eventually("what runs is stopped too", || terminal.states() == ['T', 'T']);
    terminal.gates.clear();
    assert_eq!(terminal.states(), ['T', 'T'], "it does not see that its gate is open");
    assert!(terminal.outcomes().is_empty());
    terminal.press(b"go on\n");
    terminal.sees("ended ");
    // one of the two may go on first, and have its successor's result written before the other's
    let mut outcomes = terminal.ends();
    outcomes.sort();
    assert_eq!(outcomes, ["failed", "failed", "failed", "ok", "ok"], "three have no gate to read");
}
