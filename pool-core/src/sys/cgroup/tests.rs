//! On trees of plain files, and on the real ones as far as this user may.

use super::*;
use std::process::{Child, Command};

const HYBRID: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
    35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
    41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";

fn found(groups: &str, mounts: &str) -> Option<(Version, String)> {
    place(groups, mounts).map(|place| (place.version, place.directory.to_str().unwrap().to_owned()))
}

#[test]
fn memory_is_counted_where_its_controller_is() {
    let one = found("4:memory:/job/7\n1:cpu,cpuacct:/\n0::/x\n", HYBRID);
    assert_eq!(one, Some((Version::One, "/sys/fs/cgroup/memory/job/7".to_owned())));
    let two = found("1:name=systemd:/a\n0::/x/y\n", HYBRID);
    assert_eq!(two, Some((Version::Two, "/sys/fs/cgroup/unified/x/y".to_owned())));
    // of a container that sees its own part of the tree, at a place with a blank
    let part = "9 8 0:3 /docker/4f /my\\040groups ro - cgroup2 cgroup2 rw\n";
    let inside = found("0::/docker/4f/sub\n", part);
    assert_eq!(inside, Some((Version::Two, "/my groups/sub".to_owned())));
    // what can't be seen is nowhere
    assert_eq!(found("0::/docker/5a\n", part), None);
    assert_eq!(found("0::/../other\n", HYBRID), None);
    assert_eq!(found("0::/x\n", ""), None);
    assert_eq!(found("", HYBRID), None);
}

/// A tree of plain directories and files.
fn fake(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

fn second(root: &tempfile::TempDir, directory: &str) -> Place {
    let directory = root.path().join(directory);
    Place { version: Version::Two, root: root.path().to_owned(), directory }
}

#[test]
fn groups_are_made_where_limits_can_be() {
    let root = fake(&[
        ("cgroup.subtree_control", "cpu memory\n"),
        ("a.slice/b.service/main/cgroup.procs", "1\n"),
        ("a.slice/c.service/cgroup.procs", "2\n"),
    ]);
    let children = |directory| second(&root, directory).for_children();
    assert_eq!(children(""), Ok(root.path().to_owned()));
    let beside = root.path().join("a.slice/b.service");
    assert_eq!(children("a.slice/b.service/main"), Ok(beside));
    let error = children("a.slice/c.service").unwrap_err();
    assert!(error.contains("c.service: ") && error.contains("cgroup_parent"), "{error}");
    let bare = fake(&[]);
    assert!(second(&bare, "").for_children().is_err(), "nothing is above the mount");
}

#[test]
fn the_controller_is_enabled_or_the_error_says_what_is_missing() {
    let root = fake(&[
        ("on/cgroup.subtree_control", "memory\n"),
        ("off/cgroup.subtree_control", "cpu\n"),
        ("off/cgroup.controllers", "cpu memory\n"),
        ("none/cgroup.controllers", "hugetlb\n"),
    ]);
    let at = |directory: &str| root.path().join(directory);
    assert_eq!(enable(&at("on")), Ok(()));
    assert_eq!(enable(&at("off")), Ok(()));
    let written = fs::read_to_string(at("off/cgroup.subtree_control")).unwrap();
    assert!(written.starts_with("+memory"), "{written}");
    assert!(enable(&at("none")).unwrap_err().contains("not available"));
    let error = Delegated::at(Version::Two, at("none"), 1).unwrap_err();
    assert!(error.contains("none: the memory controller"), "{error}");
}

#[test]
fn a_group_is_limited_and_its_kills_are_counted() {
    let files = ["memory.max", "memory.swap.max", "memory.oom.group", "cgroup.kill"];
    let root = fake(&files.map(|file| (file, "")));
    let directory = root.path().to_owned();
    let group = Group { version: Version::Two, directory, graves: Arc::default() };
    group.limit(4096).unwrap();
    group.kill();
    let texts = files.map(|file| fs::read_to_string(root.path().join(file)).unwrap());
    assert_eq!(texts, ["4096", "0", "1", "1"]);
    assert!(!group.had_oom_kill(), "nothing is counted");
    let events = |file, kills| {
        let text = format!("low 0\noom 7\noom_kill {kills}\noom_group_kill 0\n");
        fs::write(root.path().join(file), text).unwrap();
    };
    events("memory.events", 2);
    assert!(group.had_oom_kill());
    let place = second(&root, "");
    assert_eq!(place.oom_kills(), Some(2));
    // what was killed in groups below is not of this one
    events("memory.events.local", 1);
    assert_eq!(place.oom_kills(), Some(1));
}

/// A group without a limit, in the tree of this version, if that is mounted and this user may.
fn real(version: Version, test: &str) -> Option<Delegated> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
    let is_it = |line: &&str| version == Version::One || line.starts_with("0::");
    let lines: String = groups.lines().filter(is_it).map(|line| format!("{line}\n")).collect();
    let place = place(&lines, mounts()?).filter(|place| place.version == version)?;
    let namespace = fs::metadata("/proc/self/ns/pid").unwrap().ino();
    let directory = place.directory;
    let (bytes, owner, graves) = (1 << 30, identity::me(), Arc::default());
    let all = Delegated { version, directory, bytes, owner, namespace, graves };
    let trial = all.directory.join(format!("{PREFIX}{test}-{}", std::process::id()));
    let made = fs::create_dir(&trial).and_then(|()| fs::remove_dir(&trial));
    // where this user may not, there is nothing to be tried
    made.ok().map(|()| all)
}

fn group(all: &Delegated, owner: Token, number: u32) -> Group {
    let name = format!("{PREFIX}{:x}-{owner:x}-test{number}", all.namespace);
    let group = all.group(all.directory.join(name));
    fs::create_dir(&group.directory).unwrap();
    group
}

/// A shell in the group, with a child that has left its process group.
fn family(group: &Group) -> Child {
    let mut shell = Command::new("sh");
    // it goes on when it has a line, and says when both are there
    shell.args(["-c", "read go; setsid sleep 1000 & echo; sleep 1000"]);
    shell.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut shell = shell.spawn().unwrap();
    write(&group.directory.join("cgroup.procs"), &shell.id().to_string()).unwrap();
    use std::io::{Read, Write};
    shell.stdin.take().unwrap().write_all(b"\n").unwrap();
    shell.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    shell
}

#[test]
fn a_group_ends_with_all_that_is_in_it() {
    for version in [Version::One, Version::Two] {
        let Some(all) = real(version, "ends") else { continue };
        let group = group(&all, identity::me(), 1);
        let directory = group.directory.clone();
        // a group below it is its own
        fs::create_dir(directory.join("below")).unwrap();
        let mut shell = family(&group);
        drop(group);
        assert!(!shell.wait().unwrap().success());
        all.finish(Duration::from_secs(60));
        assert!(!directory.exists(), "{version:?}: what has left the process group is gone too");
    }
}

#[test]
fn what_the_dead_have_left_is_swept_and_the_living_keep_theirs() {
    for version in [Version::One, Version::Two] {
        let Some(all) = real(version, "sweeps") else { continue };
        let mut dead = Command::new("true").spawn().unwrap();
        let owner = identity::token_of(dead.id());
        let left = std::mem::ManuallyDrop::new(group(&all, owner, 2));
        let mut shell = family(&left);
        let kept = group(&all, identity::me(), 3);
        dead.wait().unwrap();
        all.sweep();
        assert!(!shell.wait().unwrap().success());
        all.finish(Duration::from_secs(60));
        assert!(!left.directory.exists() && kept.directory.exists());
        drop(kept);
        all.finish(Duration::from_secs(60));
    }
}
