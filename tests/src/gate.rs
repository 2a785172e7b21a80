//! Where a task and the test meet, and where tasks leave a trace that survives their worker.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use nix::sys::stat::Mode;

use crate::case::eventually;
use crate::census;

/// Tasks arrive and wait; the test sees who has arrived and lets them pass. Its path is passed to the tasks.
#[derive(Debug)]
pub struct Gate {
    directory: tempfile::TempDir,
    door: File,
}

impl Default for Gate {
    fn default() -> Self {
        Gate::new()
    }
}

impl Gate {
    /// A closed gate.
    #[must_use]
    pub fn new() -> Gate {
        let directory = tempfile::tempdir().unwrap();
        let door = directory.path().join("door");
        nix::unistd::mkfifo(&door, Mode::S_IRWXU).unwrap();
        // open in both directions: neither this nor the tasks' open() waits
        let door = OpenOptions::new().read(true).write(true).open(door).unwrap();
        Gate { directory, door }
    }

    /// For the arguments of tasks.
    #[must_use]
    pub fn path(&self) -> String {
        self.directory.path().to_str().unwrap().to_owned()
    }

    /// In a task: leaves the process id, then waits until the gate lets one pass.
    pub fn wait_at(path: &str) {
        Gate::announce(path);
        let mut door = File::open(Path::new(path).join("door")).unwrap();
        let _ = door.read(&mut [0]).unwrap();
    }

    /// In a task: leaves the process id and goes on.
    pub fn announce(path: &str) {
        append(&Path::new(path).join("arrived"), &format!("{}\n", census::me()));
    }

    /// The process ids of the tasks that have arrived so far, in their order.
    #[must_use]
    pub fn arrived(&self) -> Vec<u32> {
        Gate::arrived_at(&self.path())
    }

    /// The same, for a gate that is somebody else's.
    #[must_use]
    pub fn arrived_at(path: &str) -> Vec<u32> {
        let text = fs::read_to_string(Path::new(path).join("arrived")).unwrap_or_default();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// Waits until this many tasks have arrived.
    #[track_caller]
    pub fn await_arrivals(&self, count: usize) -> Vec<u32> {
        eventually(Duration::from_secs(30), "the tasks arrive at the gate", || {
            self.arrived().len() >= count
        });
        self.arrived()
    }

    /// Lets this many tasks pass, now or when they arrive.
    pub fn let_pass(&self, count: usize) {
        (&self.door).write_all(&vec![1; count]).unwrap();
    }
}

/// Tasks note that they run, by a number. Each note is one `write` to a file in append mode, so none is lost and none is mixed.
#[derive(Debug)]
pub struct Ledger {
    directory: tempfile::TempDir,
}

impl Default for Ledger {
    fn default() -> Self {
        Ledger::new()
    }
}

impl Ledger {
    /// An empty ledger.
    #[must_use]
    pub fn new() -> Ledger {
        Ledger { directory: tempfile::tempdir().unwrap() }
    }

    /// For the arguments of tasks.
    #[must_use]
    pub fn path(&self) -> String {
        self.directory.path().join("ledger").to_str().unwrap().to_owned()
    }

    /// In a task: notes that it runs.
    pub fn note(path: &str, number: u64) {
        append(Path::new(path), &format!("{number} {}\n", census::me()));
    }

    /// The process ids by which each number was noted.
    #[must_use]
    pub fn notes(&self) -> BTreeMap<u64, Vec<u32>> {
        let text = fs::read_to_string(self.path()).unwrap_or_default();
        let mut notes: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        for line in text.lines() {
            let (number, pid) = line.split_once(' ').unwrap();
            notes.entry(number.parse().unwrap()).or_default().push(pid.parse().unwrap());
        }
        notes
    }

    /// How often a number was noted.
    #[must_use]
    pub fn count(&self, number: u64) -> usize {
        self.notes().get(&number).map_or(0, Vec::len)
    }

    /// Asserts that nothing was noted more than once.
    #[track_caller]
    pub fn assert_at_most_once(&self) {
        let twice: Vec<_> = self.notes().into_iter().filter(|(_, by)| by.len() > 1).collect();
        assert!(twice.is_empty(), "started more than once (task, pids): {twice:?}");
    }
}

fn append(path: &Path, text: &str) {
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}
