//! From text to [`JobFile`], with every problem found at once.
//!
//! Serde stops at the first error. So the entry that caused it is taken out of the parsed document and the rest is tried again,
//! until nothing is wrong with what is left. The shape in [`file`](super::file) stays the only place that knows keys and types.

use std::collections::BTreeSet;
use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer, Error};

use super::file::{JobFile, SECTIONS};
use super::source::{Problem, Source, suggest};

/// What the command line sets over the file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// In the order in which they are applied.
    pub(crate) list: Vec<Setting>,
    /// `--input GLOB`, in order; replaces the file's inputs.
    pub(crate) input: Vec<String>,
}

/// One key and its value, as TOML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    option: &'static str,
    text: String,
    /// How many names the key has: `pool.procs` has two.
    depth: usize,
}

impl Setting {
    /// What an option such as `--procs` sets.
    pub(crate) fn new(option: &'static str, key: &str, value: impl Into<toml::Value>) -> Self {
        let depth = key_depth(key).unwrap_or(1);
        Setting { option, text: format!("{key} = {}", value.into()), depth }
    }

    /// `--set KEY=VALUE`. A value that is not TOML is taken as text, so that `--set task.cwd=/tmp` works.
    pub(crate) fn parse(setting: &str) -> Result<Self, String> {
        let parts = setting.split_once('=');
        let Some((key, value, depth)) =
            parts.and_then(|(key, value)| Some((key, value, key_depth(key)?)))
        else {
            return Err("a setting has the form KEY=VALUE, for example pool.procs=4".into());
        };
        let text = format!("{key} = {value}");
        match toml::from_str::<toml::Table>(&text) {
            Ok(_) => Ok(Setting { option: "--set", text, depth }),
            Err(_) => Ok(Setting::new("--set", key, value)),
        }
    }
}

/// How many names a key has; `None` if it is no key.
fn key_depth(key: &str) -> Option<usize> {
    let mut depth = 1;
    let mut table = toml::from_str::<toml::Table>(&format!("{key} = 0")).ok()?;
    while let Some(toml::Value::Table(inner)) = table.into_iter().next().map(|(_, value)| value) {
        table = inner;
        depth += 1;
    }
    Some(depth)
}

/// What could be read of a job.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    pub(crate) file: JobFile,
    pub(crate) problems: Vec<Problem>,
    /// The sections that lack what was wrong in them (`""` for the file itself): what is missing there is no second problem.
    pub(crate) incomplete: BTreeSet<String>,
}

/// One mistake of syntax often looks like several, so no more than these are shown.
const MAX_SYNTAX_PROBLEMS: usize = 3;

/// Reads the file's text and applies the settings, which become part of the source.
///
/// With problems of syntax there is no job file to speak of, and nothing else is looked at.
pub(crate) fn parse(source: &mut Source, settings: &Settings) -> Result<Parsed, Vec<Problem>> {
    let inputs = inputs_setting(&settings.input);
    let settings = inputs.iter().chain(&settings.list);
    let over: Vec<(String, usize)> = settings
        .map(|Setting { option, text, depth }| (place(source, option, text), *depth))
        .collect();

    let (mut document, errors) = DeTable::parse_recoverable(source.file_text());
    let mut problems: Vec<Problem> =
        errors.iter().take(MAX_SYNTAX_PROBLEMS).map(|error| problem(error, None)).collect();
    if inputs.is_some()
        && let Some(DeValue::Table(section)) =
            document.get_mut().get_mut("inputs").map(Spanned::get_mut)
    {
        let exclude = section.remove_entry("exclude");
        *section = exclude.into_iter().collect();
    }
    for (text, depth) in &over {
        match DeTable::parse(text) {
            Ok(table) => merge(document.get_mut(), table.into_inner(), *depth),
            Err(error) => problems.push(problem(&error, None)),
        }
    }
    if problems.is_empty() { Ok(read(document)) } else { Err(problems) }
}

/// Adds a text to the source and returns it moved to where its spans continue those of the source.
fn place(source: &mut Source, option: &str, text: &str) -> String {
    let start = source.push(option, text.to_owned());
    " ".repeat(start) + text
}

fn inputs_setting(patterns: &[String]) -> Option<Setting> {
    let list: Vec<toml::Value> =
        patterns.iter().map(|text| toml::Value::String(text.clone())).collect();
    (!list.is_empty()).then(|| Setting::new("--input", "inputs.glob", list))
}

/// Tries, takes out what is wrong, and tries again.
fn read(mut document: Spanned<DeTable<'_>>) -> Parsed {
    let mut parsed = Parsed::default();
    take_out_what_is_no_table(document.get_mut(), &mut parsed);
    loop {
        match JobFile::deserialize(Deserializer::from(document.clone())) {
            Ok(file) => return Parsed { file, ..parsed },
            Err(error) => {
                let found = error.span().and_then(|span| remove(document.get_mut(), &span));
                parsed.problems.push(problem(&error, found.as_deref()));
                let Some(table) = found else { return parsed };
                let section = table.split('.').next().unwrap_or_default();
                parsed.incomplete.insert(section.to_owned());
            }
        }
    }
}

/// Serde would take a list for a section whose keys are left out.
fn take_out_what_is_no_table(document: &mut DeTable<'_>, parsed: &mut Parsed) {
    for name in SECTIONS {
        let Some(value) = document.get(name).filter(|value| !value.get_ref().is_table()) else {
            continue;
        };
        let message = format!("[{name}] is a table of keys and their values");
        let hint = match name {
            "inputs" => {
                "a list of inputs is `inputs.values = [..]`; other keys: `range`, `lines`, `glob`, `jsonl`, `csv`"
            }
            "task" => {
                "a command is `task.command = [\"program\", \"{path}\"]`, a function `task.task = \"name\"`"
            }
            _ => "see docs/job-file.md for its keys",
        };
        parsed.problems.push(Problem::at(value.span(), message).hint(hint));
        parsed.incomplete.extend([String::new(), name.to_owned()]);
        document.remove(name);
    }
}

/// The section that has such a key, if it is not the one in which it was found.
fn section_with(key: &str, found_in: &str) -> Option<&'static str> {
    SECTIONS.into_iter().filter(|section| *section != found_in).find(|section| {
        let value = toml::Table::from_iter([(key.to_owned(), toml::Value::from(true))]);
        let file = toml::Table::from_iter([((*section).to_owned(), value.into())]);
        // what it is asked with has another type than most keys
        let error = toml::from_str::<JobFile>(&file.to_string()).err();
        error.is_none_or(|error| !error.message().starts_with("unknown field"))
    })
}

/// Takes out the innermost entry whose key or value an error points at, and returns the name of the table it was in.
fn remove(table: &mut DeTable<'_>, span: &Range<usize>) -> Option<String> {
    let holds = |outer: Range<usize>| outer.start <= span.start && span.end <= outer.end;
    for (key, value) in table.iter_mut() {
        if let DeValue::Table(inner) = value.get_mut()
            && let Some(name) = remove(inner, span)
        {
            let key = key.get_ref();
            return Some(if name.is_empty() { key.to_string() } else { format!("{key}.{name}") });
        }
    }
    let wrong =
        table.iter().find(|(key, value)| holds(key.span()) || holds(value.span()))?.0.clone();
    table.remove(&wrong);
    Some(String::new())
}

/// An error of the parser or of serde in the words of this project.
fn problem(error: &Error, table: Option<&str>) -> Problem {
    let span = error.span().unwrap_or(0..0);
    let words: Vec<&str> = error.message().split('`').skip(1).step_by(2).collect();
    let within = match table {
        None | Some("") => "the job file".to_owned(),
        Some(name) => format!("[{name}]"),
    };
    match words.as_slice() {
        [word, known @ ..] if error.message().starts_with("unknown field") => {
            let elsewhere = section_with(word, table.unwrap_or_default());
            let hint = match elsewhere {
                Some(section) => Some(format!("it is a key of [{section}]: `{section}.{word}`")),
                None => suggest(word, known.iter().copied()),
            };
            Problem::at(span, format!("unknown key `{word}` in {within}")).maybe_hint(hint)
        }
        [word, known @ ..] if error.message().starts_with("unknown variant") => {
            Problem::at(span, format!("unknown value `{word}`"))
                .maybe_hint(suggest(word, known.iter().copied()))
        }
        [word, ..] if error.message().starts_with("missing field") => {
            Problem::at(span, format!("the key `{word}` is missing here"))
        }
        _ => {
            let message = plain_words(error.message());
            let hint = if message.starts_with("expected a list") {
                Some("put it into brackets, each word on its own".to_owned())
            } else if message.starts_with("expected a table") && table == Some("inputs") {
                Some("a range is `range = { end = 500 }`".to_owned())
            } else {
                None
            };
            Problem::at(span, message).maybe_hint(hint)
        }
    }
}

/// Serde's names of types as people know them.
fn plain_words(message: &str) -> String {
    let found = message.strip_prefix("invalid type: ").or(message.strip_prefix("invalid value: "));
    let Some((found, expected)) = found.and_then(|found| found.rsplit_once(", expected ")) else {
        return message.replace('\n', ", ");
    };
    let expected = match expected {
        "a nonzero usize" => "a whole number of at least 1",
        "u32" | "u64" | "usize" => "a whole number of at least 0",
        "i64" => "a whole number",
        "a sequence" => "a list in brackets",
        "a map" => "a table",
        "a boolean" => "true or false",
        table if table.starts_with("struct ") => "a table",
        other => other,
    };
    let found = match found {
        "sequence" => "a list",
        "map" => "a table",
        other => other,
    };
    format!("expected {expected}, found {found}")
}

/// Puts a setting over a table: the tables that its key names are kept, what the key leads to is replaced.
fn merge<'i>(into: &mut DeTable<'i>, setting: DeTable<'i>, depth: usize) {
    for (key, mut value) in setting {
        if depth > 1
            && let Some(DeValue::Table(old)) = into.get_mut(&key).map(Spanned::get_mut)
            && let DeValue::Table(new) = value.get_mut()
        {
            merge(old, std::mem::take(new), depth - 1);
            continue;
        }
        // The old key goes too: its place is in the file, and a problem must point at the option.
        into.remove(&key);
        into.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::source::Problems;

    fn try_parse(text: &str, settings: &Settings) -> (Source, Result<Parsed, Vec<Problem>>) {
        let mut source = Source::new("job.toml".into(), text.into());
        let parsed = parse(&mut source, settings);
        (source, parsed)
    }

    fn shown(text: &str, settings: &Settings) -> String {
        let (source, parsed) = try_parse(text, settings);
        let list = match parsed {
            Ok(parsed) => parsed.problems,
            Err(problems) => problems,
        };
        Problems::new(source, list).to_string()
    }

    fn set(list: &[&str]) -> Settings {
        Settings {
            list: list.iter().map(|text| Setting::parse(text).unwrap()).collect(),
            input: Vec::new(),
        }
    }

    #[test]
    fn all_problems_are_found_at_once() {
        let text = "[pol]\nx = 1\n[pool]\nproc = 4\ngrace = 3\n[task]\ncommand = \"wc\"\n[limits]\nretries = -1\n\
                    [stop]\non = \"first-sucess\"\n[task.env]\nA = 1\n";
        let shown = shown(text, &Settings::default());
        for part in [
            "error: unknown key `pol` in the job file\n --> job.toml:1:2\n",
            "hint: did you mean `pool`?",
            "error: unknown key `proc` in [pool]\n --> job.toml:4:1\n",
            "error: expected a time with its unit, such as \"30s\" or \"1m 30s\", found integer `3`\n --> job.toml:5:9\n",
            "error: expected a list in brackets, found string \"wc\"\n --> job.toml:7:11\n",
            "error: expected a whole number of at least 0, found integer `-1`\n",
            "error: unknown value `first-sucess`\n",
            "hint: did you mean `first-success`?",
            "error: expected a string, found integer `1`\n  --> job.toml:13:5\n",
            "error: job.toml has 7 problems\n",
        ] {
            assert!(shown.contains(part), "{part}\nis missing in\n{shown}");
        }
    }

    #[test]
    fn problems_of_syntax_are_found_at_once_too() {
        let shown = shown("a = [1\nb = \"x\n[c\n", &Settings::default());
        assert!(shown.matches("error: ").count() >= 2, "{shown}");
    }

    #[test]
    fn settings_go_over_the_file_and_problems_point_at_them() {
        let text = "[pool]\nprocs = 1\n[task]\ncwd = \"a\"\n";
        let (source, parsed) =
            try_parse(text, &set(&["pool.procs=3", "task.cwd=/tmp", "limits.timeout=\"3s\""]));
        let Parsed { file, problems, .. } = parsed.unwrap();
        assert_eq!(problems, []);
        assert_eq!(file.pool.procs.unwrap().get(), 3);
        assert!(file.limits.timeout.is_some());
        let cwd = file.task.unwrap().into_inner().cwd.unwrap();
        assert_eq!(cwd.get_ref(), "/tmp");
        assert!(source.is_from_command_line(&cwd.span()));

        assert!(Setting::parse("nothing").unwrap_err().contains("KEY=VALUE"));
        let elsewhere = shown(text, &set(&["procs=3", "pool.timeout=\"3s\"", "task=wc"]));
        assert!(elsewhere.contains("it is a key of [pool]: `pool.procs`"), "{elsewhere}");
        assert!(elsewhere.contains("it is a key of [limits]: `limits.timeout`"), "{elsewhere}");
        assert!(elsewhere.contains("[task] is a table"), "{elsewhere}");
        let shown = shown(text, &set(&["pool.procs=x", "pools=1"]));
        assert!(
            shown.contains("found string \"x\"\n --> --set:1:14\n  |\n1 | pool.procs = \"x\"\n"),
            "{shown}"
        );
        assert!(shown.contains("unknown key `pools` in the job file\n --> --set:1:1\n"), "{shown}");
    }

    #[test]
    fn input_patterns_replace_the_files_inputs_but_not_what_it_excludes() {
        let text = "[inputs]\nlines = \"x\"\nexclude = \"**/target/**\"\n";
        let settings = Settings { input: vec!["a*".into(), "b\"".into()], ..Settings::default() };
        let (_, parsed) = try_parse(text, &settings);
        let inputs = parsed.unwrap().file.inputs.unwrap().into_inner();
        let glob: Vec<String> =
            inputs.glob.unwrap().into_inner().0.into_iter().map(Spanned::into_inner).collect();
        assert_eq!(glob, ["a*", "b\""]);
        assert!(inputs.lines.is_none() && inputs.exclude.is_some());
    }
}
