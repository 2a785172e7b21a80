//! The rules of the design that a program can check, checked by reading the sources.
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]
#![allow(clippy::print_stdout, reason = "says what it can not test here")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One source file of the workspace.
struct Source {
    /// Relative to the workspace, with forward slashes.
    path: String,
    text: String,
}

impl Source {
    /// The lines that are no comments, with their numbers, and without the unit tests at the end of the file.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let end = self.text.find("\n#[cfg(test)]\nmod tests {").unwrap_or(self.text.len());
        numbered(&self.text[..end])
    }

    fn all_code(&self) -> impl Iterator<Item = (usize, &str)> {
        numbered(&self.text)
    }

    fn is_below(&self, directories: &[&str]) -> bool {
        directories.iter().any(|directory| self.path.starts_with(directory))
    }
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(number, line)| (number + 1, line));
    lines.map(|(number, line)| (number, without_comment(line)))
}

fn without_comment(line: &str) -> &str {
    let trimmed = line.trim_start();
    if trimmed.starts_with("//") {
        return "";
    }
    line.find(" // ").map_or(line, |comment| &line[..comment])
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// All Rust sources below these directories of the workspace.
fn sources(directories: &[&str]) -> Vec<Source> {
    let mut sources = Vec::new();
    for directory in directories {
        read(&workspace().join(directory), &mut sources);
    }
    assert!(!sources.is_empty(), "no sources in {directories:?}");
    sources
}

fn read(directory: &Path, sources: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            read(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let relative = path.strip_prefix(workspace()).unwrap().to_str().unwrap().to_owned();
            sources.push(Source { path: relative, text: fs::read_to_string(&path).unwrap() });
        }
    }
}

/// Whether `word` stands in the line as a word of its own.
fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].ends_with(is_part) && !line[at + word.len()..].starts_with(is_part)
    })
}

/// Fails with all places at once.
#[track_caller]
fn assert_none(rule: &str, places: Vec<String>) {
    assert!(places.is_empty(), "{rule}:\n  {}", places.join("\n  "));
}

fn place(source: &Source, number: usize, line: &str) -> String {
    format!("{}:{number}: {}", source.path, line.trim())
}

/// A name may be used only in some files.
#[track_caller]
fn only_in(word: &str, all: &[&str], allowed: &[&str]) {
    let mut places = Vec::new();
    for source in sources(all).iter().filter(|source| !source.is_below(allowed)) {
        let uses = source.all_code().filter(|(_, line)| has_word(line, word));
        places.extend(uses.map(|(number, line)| place(source, number, line)));
    }
    assert_none(&format!("`{word}` may be named only in {allowed:?}"), places);
    let is_used = |source: &Source| source.all_code().any(|(_, line)| has_word(line, word));
    assert!(
        sources(allowed_directories(allowed).as_slice()).iter().any(is_used),
        "`{word}` is used nowhere: this rule checks nothing"
    );
}

/// The directories that contain these prefixes of paths.
fn allowed_directories<'a>(allowed: &[&'a str]) -> Vec<&'a str> {
    allowed.iter().map(|path| path.rsplit_once('/').unwrap().0).collect()
}

const LIBRARIES: [&str; 2] = ["pool-core/src", "pool-worker/src"];

#[test]
fn rule_2_each_foreign_crate_is_named_in_one_place() {
    only_in("ipc_channel", &["pool-core/src"], &["pool-core/src/transport/tasks.rs"]);
    only_in("bincode", &["pool-core/src"], &["pool-core/src/codec/"]);
    only_in("libc", &["pool-core/src"], &["pool-core/src/sys/"]);
    only_in("nix", &["pool-core/src"], &["pool-core/src/sys/"]);
}

#[test]
fn rule_2_pool_worker_and_pool_cli_leave_the_system_to_pool_core() {
    let mut places = Vec::new();
    for source in sources(&["pool-worker/src", "pool-cli/src"]) {
        for word in ["ipc_channel", "bincode", "libc", "unsafe"] {
            let uses = source.code().filter(|(_, line)| has_word(line, word));
            places.extend(uses.map(|(number, line)| place(&source, number, line)));
        }
    }
    assert_none("these belong to pool-core", places);
}

/// Paths that a file uses of its own crate, `crate::` and `super::` alike, by the name of the module.
fn modules_used(source: &Source) -> Vec<(usize, String)> {
    let mut used = Vec::new();
    for (number, line) in source.code() {
        for (at, _) in line.match_indices("crate::") {
            let rest = &line[at + "crate::".len()..];
            let names = if let Some(list) = rest.strip_prefix('{') {
                list.split([',', '}']).map(str::trim).filter(|name| !name.is_empty()).collect()
            } else {
                vec![rest]
            };
            let module = |name: &str| {
                name.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap().to_owned()
            };
            used.extend(names.into_iter().map(|name| (number, module(name))));
        }
    }
    used
}

#[test]
fn rule_1_the_scheduler_is_pure() {
    let allowed = ["ids", "error", "limits", "sched", "PoolError", "TaskError", "ExitCause"];
    let mut places = Vec::new();
    for source in sources(&["pool-core/src/sched"]) {
        let tests = ["/tests.rs", "_tests.rs", "/sim.rs", "/simulate.rs"];
        if tests.iter().any(|name| source.path.ends_with(name)) {
            continue;
        }
        for (number, module) in modules_used(&source) {
            if !allowed.contains(&module.as_str()) {
                places.push(format!("{}:{number}: uses {module}", source.path));
            }
        }
        for word in ["Instant", "SystemTime", "thread", "Mutex", "unsafe", "fs", "net", "process"] {
            let uses = source.code().filter(|(_, line)| {
                has_word(line, word) && (line.contains("std::") || line.contains("::now("))
            });
            places.extend(uses.map(|(number, line)| place(&source, number, line)));
        }
    }
    assert_none("sched uses only ids, error, limits and plain std", places);
}

#[test]
fn rule_1_the_worker_knows_nothing_of_the_parents_side() {
    let forbidden = ["pool", "handle", "dispatch", "sched", "backend", "slot"];
    let mut places = Vec::new();
    for source in sources(&["pool-core/src/worker"]) {
        for (number, module) in modules_used(&source) {
            if forbidden.contains(&module.as_str()) {
                places.push(format!("{}:{number}: uses {module}", source.path));
            }
        }
    }
    assert_none("worker never uses the parent's side", places);
}

#[test]
fn rule_3_unsafe_code_stands_in_few_files_and_says_why_it_is_sound() {
    let allowed = [
        "pool-core/src/task/callee.rs",
        "pool-core/src/sys/",
        "pool-core/src/shm/",
        "pool-core/src/sync/",
        "pool-core/src/transport/status.rs",
        // not part of the libraries: a C function that crashes on purpose, measuring
        "pool-core/benches/",
        "pool-core/examples/crashing_c.rs",
        "tests/src/fault.rs",
        "tests/src/reply_socket.rs",
        "tests/src/bin/",
        "tests/tests/",
    ];
    let mut places = Vec::new();
    for source in sources(&["pool-core", "pool-worker", "pool-cli", "tests"]) {
        let lines: Vec<&str> = source.text.lines().collect();
        for (number, line) in source.all_code() {
            // code, not a text that speaks of it
            let is_code = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]
                .iter()
                .any(|form| line.contains(form))
                && !line.contains('"');
            if !is_code {
                continue;
            }
            if !source.is_below(&allowed) {
                places.push(place(&source, number, line));
            }
            let above = &lines[number.saturating_sub(8)..number];
            if !above.iter().any(|line| line.contains("SAFETY") || line.contains("# Safety")) {
                places.push(format!("without SAFETY: {}", place(&source, number, line)));
            }
        }
    }
    assert_none("unsafe", places);
}

#[test]
fn rule_9_libraries_do_not_print_and_install_no_handlers() {
    let mut places = Vec::new();
    // these are tests as a whole
    let is_test = |source: &Source| source.path.ends_with("/simulate.rs");
    for source in sources(&LIBRARIES).into_iter().filter(|source| !is_test(source)) {
        for (number, line) in source.code() {
            let is_forbidden = ["println!", "eprintln!", "print!", "eprint!", "dbg!"]
                .iter()
                .any(|name| has_word(line, name.trim_end_matches('!')) && line.contains(name))
                || [
                    "sigaction(",
                    "SigHandler::Handler",
                    "waitpid(-1",
                    "waitpid(None",
                    "static mut",
                ]
                .iter()
                .any(|name| line.contains(name));
            if is_forbidden {
                places.push(place(&source, number, line));
            }
        }
    }
    assert_none(
        "libraries do not print, install no signal handlers, wait for no strangers",
        places,
    );
}

#[test]
fn rule_10_files_stay_below_500_lines() {
    let mut places = Vec::new();
    for source in sources(&["pool-core", "pool-worker", "pool-cli", "tests/src"]) {
        let lines = source.text.lines().count();
        if lines >= 500 {
            places.push(format!("{} has {lines} lines", source.path));
        }
    }
    assert_none("a file has one reason to change and stays below 500 lines", places);
}

#[test]
fn every_module_says_what_it_is_for() {
    let mut places = Vec::new();
    for source in sources(&["pool-core/src", "pool-worker/src", "pool-cli/src", "tests"]) {
        if !source.text.starts_with("//! ") {
            places.push(source.path);
        }
    }
    assert_none("each file begins with a //! line", places);
}

#[test]
fn nothing_is_unfinished() {
    // in two parts, so that this file does not find itself
    let marks = [
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
        concat!("#[ig", "nore"),
        concat!("FIX", "ME"),
        concat!("TO", "DO"),
        concat!("X", "XX"),
    ];
    let mut places = Vec::new();
    for source in sources(&["pool-core", "pool-worker", "pool-cli", "tests"]) {
        for (number, line) in source.text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark)) {
                places.push(place(&source, number + 1, line));
            }
        }
    }
    assert_none("unfinished", places);
}

#[test]
fn tests_do_not_sleep_to_synchronise() {
    let sleeps = concat!("thread::sl", "eep");
    let mut places = Vec::new();
    for source in sources(&["tests/tests", "tests/src/bin"]) {
        for (number, line) in source.all_code() {
            if line.contains(sleeps) {
                places.push(place(&source, number, line));
            }
        }
    }
    // one polling helper, and nothing else, pauses in the support library
    for source in sources(&["tests/src"]) {
        for (number, line) in source.all_code() {
            if line.contains(sleeps) && source.path != "tests/src/case.rs" {
                places.push(place(&source, number, line));
            }
        }
    }
    assert_none("use pool_tests::eventually or a Gate", places);
}

#[test]
fn dependencies_point_one_way() {
    let manifest =
        |package: &str| fs::read_to_string(workspace().join(package).join("Cargo.toml")).unwrap();
    let depends = |package: &str, on: &str| {
        manifest(package).lines().any(|line| line.starts_with(on) && line.contains('='))
    };
    assert!(!depends("pool-core", "pool-worker") && !depends("pool-core", "pool-cli"));
    assert!(depends("pool-worker", "pool-core") && !depends("pool-worker", "pool-cli"));
    assert!(depends("pool-cli", "pool-worker"));
    // one dependency table: members name no versions
    for package in ["pool-core", "pool-worker", "pool-cli", "tests"] {
        let text = manifest(package);
        let mut in_dependencies = false;
        for line in text.lines() {
            if line.starts_with('[') {
                in_dependencies = line.contains("dependencies");
            } else if in_dependencies && line.contains('=') {
                assert!(line.contains("workspace = true"), "{package}: {line}");
            }
        }
    }
}

#[test]
fn the_lints_hold_for_every_package() {
    for package in ["pool-core", "pool-worker", "pool-cli", "tests"] {
        let text = fs::read_to_string(workspace().join(package).join("Cargo.toml")).unwrap();
        assert!(text.contains("[lints]\nworkspace = true"), "{package}");
    }
    let root = fs::read_to_string(workspace().join("Cargo.toml")).unwrap();
    for lint in ["unsafe_code = \"deny\"", "undocumented_unsafe_blocks = \"deny\""] {
        assert!(root.contains(lint), "{lint}");
    }
}

/// The functions of all tests, as `file::function`; those of the command are all in `cli`. What a file lists as `with_both!` is run with both kinds of
/// workers.
fn test_names() -> Vec<String> {
    let mut names = Vec::new();
    for source in sources(&["tests/tests", "pool-cli/tests", "pool-core/src"]) {
        let file = if source.path.starts_with("pool-cli/") {
            "cli".to_owned()
        } else if let Some(module) = source.path.strip_prefix("pool-core/src/") {
            let module = module.trim_end_matches(".rs").trim_end_matches("/mod").replace('/', "::");
            if module.ends_with("tests") { module } else { format!("{module}::tests") }
        } else {
            source.path["tests/tests/".len()..].trim_end_matches(".rs").replace('/', "::")
        };
        let lines: Vec<&str> = source.text.lines().map(str::trim).collect();
        for (number, line) in lines.iter().enumerate() {
            let is_test = (1..4).any(|back| number >= back && lines[number - back] == "#[test]");
            if let Some(rest) = line.strip_prefix("fn ").filter(|_| is_test) {
                names.push(format!("{file}::{}", rest.split('(').next().unwrap()));
            }
        }
        // in two parts, so that this file does not find itself
        let listed = source
            .text
            .split_once(concat!("with_", "both!["))
            .and_then(|(_, rest)| rest.split_once(']'));
        let listed = listed.map_or("", |(listed, _)| listed).split(',').map(str::trim);
        names.extend(listed.filter(|name| !name.is_empty()).map(|name| format!("{file}::{name}")));
    }
    names
}

/// What stands between backticks in a page, has the form of a test's name, and is none.
fn wrong_names(page: &str, known: &[String]) -> Vec<String> {
    let text = fs::read_to_string(workspace().join("docs").join(page)).unwrap();
    let is_name = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let is_test = |quoted: &&str| quoted.contains("::") && quoted.split("::").all(is_name);
    let quoted = text.split('`').skip(1).step_by(2).filter(is_test);
    let wrong = quoted.filter(|name| !known.iter().any(|test| test == name));
    wrong.map(|name| format!("{page}: there is no test {name}")).collect()
}

/// What stands first in the rows of the tables of a page.
fn rows(page: &str) -> Vec<String> {
    let text = fs::read_to_string(workspace().join("docs").join(page)).unwrap();
    let cells = text.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    cells.map(str::to_owned).collect()
}

fn missing(expected: impl Iterator<Item = String>, rows: &[String]) -> Vec<String> {
    let missing = expected.filter(|row| !rows.contains(row));
    missing.map(|row| format!("row {row} is missing")).collect()
}

#[test]
fn the_page_on_reliability_names_tests_that_exist() {
    let known = test_names();
    let (mut wrong, mut found) = (Vec::new(), Vec::new());
    for page in ["reliability.md", "security.md"] {
        wrong.extend(wrong_names(page, &known));
        found.extend(rows(page));
    }
    let expected = (1..=80).map(|row| row.to_string()).chain((1..=10).map(|row| format!("H{row}")));
    wrong.extend(missing(expected, &found));
    assert_none("docs", wrong);
}

#[test]
fn the_page_on_conformance_names_tests_that_exist_and_all_rows() {
    let known = test_names();
    let page = "conformance.md";
    let mut wrong = wrong_names(page, &known);
    let found = rows(page);
    wrong.extend(missing((1..=195).map(|row| row.to_string()), &found));
    // and each test that claims a row is named there
    let text = fs::read_to_string(workspace().join("docs").join(page)).unwrap();
    let claims = |name: &&String| {
        let function = name.rsplit("::").next().unwrap();
        let mut parts = function.split('_');
        let list = parts.next().unwrap();
        let row = parts.next().unwrap_or_default();
        matches!(list, "c1" | "c2" | "c3" | "c4" | "c5" | "c6") && row.parse::<u32>().is_ok()
    };
    let unnamed = known.iter().filter(claims).filter(|name| !text.contains(&format!("`{name}`")));
    wrong.extend(unnamed.map(|name| format!("{page} does not name {name}")));
    assert_none("docs", wrong);
}

#[test]
fn nothing_that_was_built_is_part_of_the_tree() {
    let listed = Command::new("git").arg("ls-files").current_dir(workspace()).output();
    let Some(listed) = listed.ok().filter(|listed| listed.status.success()) else {
        println!("SKIPPED: this is no git checkout");
        return;
    };
    let listed = String::from_utf8(listed.stdout).unwrap();
    let is_built = |path: &&str| path.split('/').any(|part| part == "target");
    assert_eq!(listed.lines().find(is_built), None);
    assert!(listed.lines().any(|path| path == "Cargo.toml"), "the list is of this tree");
}
