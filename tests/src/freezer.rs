//! Processes that can't be killed for a while, as those in a system call that nothing interrupts.

use std::path::PathBuf;
use std::time::Duration;

use crate::case::eventually;

const SOON: Duration = Duration::from_secs(30);

/// A group of the kernel's first freezer: what is in it can't be killed as long as it is frozen. Dropping it thaws it, and waits until it is empty.
#[derive(Debug)]
pub struct Freezer(PathBuf);

impl Freezer {
    /// `None` if the system has none for this user.
    #[must_use]
    pub fn create() -> Option<Freezer> {
        let name = format!("pool-tests-{}", std::process::id());
        let group = std::path::Path::new("/sys/fs/cgroup/freezer").join(name);
        std::fs::create_dir(&group).ok()?;
        Some(Freezer(group))
    }

    /// Puts a process into it.
    pub fn take(&self, pid: u32) {
        std::fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    /// Freezes what is in it, and waits until that is done.
    pub fn freeze(&self) {
        self.set("FROZEN");
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.set("THAWED");
    }

    fn set(&self, state: &str) {
        std::fs::write(self.0.join("freezer.state"), state).unwrap();
        eventually(SOON, "the group changes", || {
            std::fs::read_to_string(self.0.join("freezer.state")).unwrap().trim() == state
        });
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let _ = std::fs::write(self.0.join("freezer.state"), "THAWED");
        let group = &self.0;
        eventually(SOON, "the group is empty", || {
            std::fs::read_to_string(group.join("cgroup.procs")).is_ok_and(|list| list.is_empty())
        });
        let _ = std::fs::remove_dir(group);
    }
}
