//! Control groups: a group of its own for each worker, with a limit on the memory of all that is in it, and what the kernel has counted there.
//!
//! A group is a directory. Version 2 has one tree for all controllers; with version 1 the memory controller has a tree of its own, with other files and
//! without a file that kills a whole group. Both may be mounted, and memory is then in one of them only.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::identity::{self, Token};
use super::namespace;
use super::pidfd::PidFd;
use crate::primitives::unpoisoned;

/// What the names of our groups begin with.
const PREFIX: &str = "pool-core-";

/// Whose files a group has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Version {
    One,
    Two,
}

/// The group by which a process's memory is counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    version: Version,
    /// Where the tree is mounted.
    root: PathBuf,
    directory: PathBuf,
}

impl Place {
    /// That of this process; `None` if there is none to be seen.
    ///
    /// It is asked for at each start of a worker, and a process is seldom moved. So the file stays open, is read once in [`FRESH`], and what it means is worked out when it says
    /// something new.
    pub(crate) fn own() -> Option<Place> {
        static KNOWN: Mutex<Option<Own>> = Mutex::new(None);
        let mut known = unpoisoned(KNOWN.lock());
        let pid = std::process::id();
        // a process that was forked has the file of the one that it was
        if known.as_ref().is_none_or(|known| known.pid != pid) {
            let file = File::open("/proc/self/cgroup").ok()?;
            *known = Some(Own { pid, file, read: None, groups: Vec::new(), place: None });
        }
        let known = known.as_mut()?;
        if known.read.is_some_and(|at| at.elapsed() < FRESH) {
            return known.place.clone();
        }
        let mut groups = [0; 4096];
        let len = known.file.read_at(&mut groups, 0).ok()?;
        let Some(groups) = groups.get(..len).filter(|groups| groups.len() < 4096) else {
            return place(&fs::read_to_string("/proc/self/cgroup").ok()?, mounts()?);
        };
        if known.groups != groups {
            known.place = place(std::str::from_utf8(groups).ok()?, mounts()?);
            known.groups = groups.to_vec();
        }
        known.read = Some(Instant::now());
        known.place.clone()
    }

    /// That in which this process, a zombie perhaps, is or was. Version 1 does not tell of zombies, which stay where they were first then.
    pub(crate) fn at_the_end(self, pid: u32) -> Option<Place> {
        if self.version == Version::One {
            return Some(self);
        }
        let pid = namespace::to_proc(pid)?;
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        place(&groups, mounts()?).filter(|place| place.directory.is_dir())
    }

    /// How many processes of this very group the kernel has killed for lack of memory; `None` if it does not tell, as for the uppermost group.
    pub(crate) fn oom_kills(&self) -> Option<u64> {
        let files: &[&str] = match self.version {
            Version::One => &["memory.oom_control"],
            Version::Two => &["memory.events.local", "memory.events"],
        };
        let read = |file: &&str| fs::read_to_string(self.directory.join(file)).ok();
        count(&files.iter().find_map(read)?, "oom_kill")
    }
}

/// How long it may take until it is noticed that this process was moved to another group: the time of a few starts of workers.
const FRESH: Duration = Duration::from_millis(20);

/// What is known of this process's own group.
#[derive(Debug)]
struct Own {
    pid: u32,
    file: File,
    read: Option<Instant>,
    /// What the file has said, and what that means.
    groups: Vec<u8>,
    place: Option<Place>,
}

/// Read once: it is asked for at each start of a worker, and cgroups are not mounted elsewhere while a program runs.
fn mounts() -> Option<&'static str> {
    static MOUNTS: OnceLock<String> = OnceLock::new();
    if MOUNTS.get().is_none() {
        let _ = MOUNTS.set(fs::read_to_string("/proc/self/mountinfo").ok()?);
    }
    MOUNTS.get().map(String::as_str)
}

/// Where in these mounts the memory of a process of these groups is counted.
fn place(groups: &str, mounts: &str) -> Option<Place> {
    let mut lines = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        Some((fields.next()?, fields.next()?, fields.next()?))
    });
    let one =
        lines.clone().find(|(_, controllers, _)| controllers.split(',').any(|c| c == "memory"));
    let (version, path) = match one {
        Some((.., path)) => (Version::One, path),
        None => (Version::Two, lines.find(|(number, ..)| *number == "0")?.2),
    };
    mounts.lines().find_map(|line| {
        // the fields after the separator: kind of file system, source, options
        let (fields, kind) = line.split_once(" - ")?;
        let mut kind = kind.split(' ');
        let is_it = match version {
            Version::One => {
                kind.next() == Some("cgroup")
                    && kind.next_back()?.split(',').any(|option| option == "memory")
            }
            Version::Two => kind.next() == Some("cgroup2"),
        };
        let mut fields = fields.split(' ').skip(3).map(unescape);
        let (top, root) = (fields.next().filter(|_| is_it)?, PathBuf::from(fields.next()?));
        // what is mounted may be a part of the tree
        let below = Path::new(path).strip_prefix(top).ok()?;
        let is_plain = below.components().all(|part| matches!(part, Component::Normal(_)));
        is_plain.then(|| Place { version, directory: root.join(below), root })
    })
}

/// In mountinfo, blanks and backslashes are octal numbers.
fn unescape(text: &str) -> String {
    let codes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    codes.iter().fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

/// The number behind a word at the beginning of a line.
fn count(text: &str, word: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(' ')?.trim().parse().ok())
}

/// A directory in which this process may make groups, and what each of them may use.
#[derive(Debug)]
pub(crate) struct Delegated {
    version: Version,
    directory: PathBuf,
    bytes: u64,
    owner: Token,
    /// The namespace in which the owner's number means something.
    namespace: u64,
    graves: Arc<Graves>,
}

/// Groups that could not be removed yet, because something in them is still ending.
type Graves = Mutex<Vec<PathBuf>>;

impl Delegated {
    /// Looks for one: `parent`, or what fits this process's own group. Each group in it may use so many bytes of memory. The error says why there is none, and what to do.
    pub(crate) fn find(parent: Option<&Path>, bytes: u64) -> Result<Delegated, String> {
        let own =
            Place::own().ok_or("no cgroup of this process is mounted where it can be seen")?;
        let directory = match parent {
            Some(parent) => parent.to_owned(),
            None => own.for_children()?,
        };
        Delegated::at(own.version, directory, bytes)
    }

    fn at(version: Version, directory: PathBuf, bytes: u64) -> Result<Delegated, String> {
        let shown = directory.display().to_string();
        if version == Version::Two {
            enable(&directory).map_err(|error| format!("{shown}: {error}"))?;
        }
        let namespace = fs::metadata("/proc/self/ns/pid").map_or(0, |file| file.ino());
        let (owner, graves) = (identity::me(), Arc::default());
        let delegated = Delegated { version, directory, bytes, owner, namespace, graves };
        delegated.sweep();
        // whether all of it is allowed is tried before any worker is there
        let tried = delegated.create().and_then(|group| group.entrance());
        tried.map_err(|error| {
            format!("{shown}: no group with a limit can be made there: {error}")
        })?;
        Ok(delegated)
    }

    /// Makes a group.
    pub(crate) fn create(&self) -> io::Result<Group> {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{:x}-{:x}-{number:x}", self.namespace, self.owner);
        let group = self.group(self.directory.join(name));
        fs::create_dir(&group.directory)?;
        group.limit(self.bytes)?;
        Ok(group)
    }

    fn group(&self, directory: PathBuf) -> Group {
        Group { version: self.version, directory, graves: Arc::clone(&self.graves) }
    }

    /// Ends and removes what programs have left behind that are gone.
    fn sweep(&self) {
        for directory in below(&self.directory) {
            let name = directory.file_name().and_then(OsStr::to_str);
            let Some(name) = name.and_then(|name| name.strip_prefix(PREFIX)) else { continue };
            let mut parts = name.split('-').map(|part| u64::from_str_radix(part, 16).ok());
            let namespace = parts.next().flatten().filter(|&number| number == self.namespace);
            let owner = parts.next().flatten().filter(|_| namespace.is_some());
            if owner.is_some_and(identity::is_gone) {
                drop(self.group(directory));
            }
        }
    }

    /// Waits until all groups that were dropped are gone, at most so long; what is left then is swept by the next pool.
    pub(crate) fn finish(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            let mut graves = unpoisoned(self.graves.lock());
            graves.retain(|grave| {
                kill_all(grave);
                !remove_all(grave)
            });
            if graves.is_empty() || Instant::now() >= deadline {
                return;
            }
            drop(graves);
            // nothing tells that a killed process has ended which is nobody's child here
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Place {
    /// The directory whose children may have limits. With version 2 that is never one that has processes itself, so it is that above, if it was handed to this program.
    fn for_children(&self) -> Result<PathBuf, String> {
        let own = &self.directory;
        if self.version == Version::One || has(own, "cgroup.subtree_control") {
            return Ok(own.clone());
        }
        let above = own.parent().filter(|_| own != &self.root);
        // slices are the affair of the service manager, which hands out what is below them
        let is_slice = |path: &&Path| path.extension().is_some_and(|kind| kind == "slice");
        match above.filter(|above| !is_slice(above)) {
            Some(above) => Ok(above.to_owned()),
            None => Err(format!(
                "{}: this program is in the uppermost group that it may use, and a group with processes can't have groups with limits below it; start it in \
                 one below a delegated group (systemd: Delegate=yes with DelegateSubgroup=main), or name a group with cgroup_parent",
                own.display()
            )),
        }
    }
}

/// Whether the file lists the memory controller.
fn has(directory: &Path, file: &str) -> bool {
    let text = fs::read_to_string(directory.join(file)).unwrap_or_default();
    text.split_ascii_whitespace().any(|controller| controller == "memory")
}

/// Has the memory controller work in the groups below this one.
fn enable(directory: &Path) -> Result<(), String> {
    const FILE: &str = "cgroup.subtree_control";
    if has(directory, FILE) {
        return Ok(());
    }
    if !has(directory, "cgroup.controllers") {
        return Err("the memory controller is not available there".to_owned());
    }
    let enabled = write(&directory.join(FILE), "+memory");
    enabled.map_err(|error| {
        format!("the memory controller can't be enabled for groups below it: {error}")
    })
}

/// Writes into a file that is there.
fn write(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write;
    OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
}

/// A group. When it is dropped, what is in it is killed, and it is removed: at once if nothing is in it, else when another one ends, or by [`Delegated::finish`].
#[derive(Debug)]
pub(crate) struct Group {
    version: Version,
    directory: PathBuf,
    graves: Arc<Graves>,
}

impl Group {
    fn limit(&self, bytes: u64) -> io::Result<()> {
        let file = |name: &str| self.directory.join(name);
        // without swap, or the limit would be one of the memory that is not swapped out
        let (limit, swap, swapped) = match self.version {
            Version::One => ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", bytes),
            Version::Two => ("memory.max", "memory.swap.max", 0),
        };
        write(&file(limit), &bytes.to_string())?;
        if file(swap).exists() {
            write(&file(swap), &swapped.to_string())?;
        }
        if self.version == Version::Two {
            // a worker and what it has started end together
            write(&file("memory.oom.group"), "1")?;
        }
        Ok(())
    }

    /// The file by which a process enters the group: it writes `0` into it.
    pub(crate) fn entrance(&self) -> io::Result<OwnedFd> {
        Ok(OpenOptions::new().write(true).open(self.directory.join("cgroup.procs"))?.into())
    }

    /// Whether the kernel has killed a process of this group for lack of memory.
    pub(crate) fn had_oom_kill(&self) -> bool {
        let file = match self.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        let text = fs::read_to_string(self.directory.join(file)).unwrap_or_default();
        count(&text, "oom_kill").is_some_and(|kills| kills > 0)
    }

    /// Kills all that is in it, whatever sessions and process groups it has made.
    pub(crate) fn kill(&self) {
        kill_all(&self.directory);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
        let mut graves = unpoisoned(self.graves.lock());
        graves.push(std::mem::take(&mut self.directory));
        graves.retain(|grave| !remove_all(grave));
    }
}

/// Enters a group by its [entrance](Group::entrance).
pub(crate) fn enter(entrance: OwnedFd) -> io::Result<()> {
    use std::io::Write;
    File::from(entrance).write_all(b"0")
}

/// How often a group is listed to be killed at a time: the pool waits for it.
const KILL_ROUNDS: usize = 10;

/// Kills what is in the group and in those below it.
fn kill_all(directory: &Path) {
    if write(&directory.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    // an older kernel, or version 1
    let mut killed = BTreeSet::new();
    // what starts others faster than they can be listed is met again when the group is removed
    for _ in 0..KILL_ROUNDS {
        let new: Vec<u32> = members(directory).difference(&killed).copied().collect();
        if new.is_empty() {
            // those who have the signal start nothing any more
            return;
        }
        let held: Vec<_> = new.iter().map(|&pid| (pid, PidFd::open(pid))).collect();
        // a number that is still listed is a member's, and so is what is held, unless that is gone
        let listed = members(directory);
        for (pid, member) in held {
            if let Ok(member) = member.as_ref()
                && listed.contains(&pid)
            {
                let _ = member.kill();
            }
            killed.insert(pid);
        }
    }
}

fn members(directory: &Path) -> BTreeSet<u32> {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    let own = text.lines().filter_map(|line| line.parse().ok()).filter(|&pid| pid != 0);
    own.chain(below(directory).iter().flat_map(|child| members(child))).collect()
}

fn below(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let is_directory = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    entries.filter(is_directory).map(|entry| entry.path()).collect()
}

/// Removes a group and those below it; `false` if something is still ending there.
fn remove_all(directory: &Path) -> bool {
    for child in below(directory) {
        // if it stays, so does this one
        let _ = remove_all(&child);
    }
    match fs::remove_dir(directory) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests;
