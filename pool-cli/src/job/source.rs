//! Where a job's text comes from, and how its problems are shown: file, line, column, the line with a caret, a hint.

use std::fmt;
use std::ops::Range;

use crate::exit::Exit;

/// The job file and what the command line sets over it, as one text, so that every problem has a place to point at.
#[derive(Debug)]
pub(crate) struct Source {
    segments: Vec<Segment>,
}

/// One part of the text. Spans count from the start of the whole, so a span tells which part it is in.
#[derive(Debug)]
struct Segment {
    name: String,
    text: String,
    start: usize,
}

impl Source {
    /// A source that is a file and nothing else yet.
    pub(crate) fn new(name: String, text: String) -> Self {
        Source { segments: vec![Segment { name, text, start: 0 }] }
    }

    /// Adds what an option of the command line sets and returns where its spans start.
    pub(crate) fn push(&mut self, option: &str, text: String) -> usize {
        let start = self.segments.last().map_or(0, |last| last.start + last.text.len() + 1);
        self.segments.push(Segment { name: option.into(), text, start });
        start
    }

    /// The file's name as it was given.
    pub(crate) fn file_name(&self) -> &str {
        &self.segments[0].name
    }

    /// The file's text.
    pub(crate) fn file_text(&self) -> &str {
        &self.segments[0].text
    }

    /// Whether a span lies in what the command line set.
    pub(crate) fn is_from_command_line(&self, span: &Range<usize>) -> bool {
        span.start > self.segments[0].text.len()
    }

    fn locate(&self, span: &Range<usize>) -> Place<'_> {
        let found = self.segments.iter().rfind(|segment| segment.start <= span.start);
        let segment = found.unwrap_or(&self.segments[0]);
        let text = &segment.text;
        let floor = |at: usize| {
            let at = at.saturating_sub(segment.start).min(text.len());
            (0..=at).rfind(|at| text.is_char_boundary(*at)).unwrap_or(0)
        };
        let (from, to) = (floor(span.start), floor(span.end));
        let line_start = text[..from].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[from..].find('\n').map_or(text.len(), |newline| from + newline);
        Place {
            name: &segment.name,
            number: text[..from].matches('\n').count() + 1,
            column: text[line_start..from].chars().count() + 1,
            line: text[line_start..line_end].trim_end_matches('\r'),
            width: text[from..to.clamp(from, line_end)].chars().count().max(1),
        }
    }
}

/// A span as a person counts: lines and columns from 1, in characters.
struct Place<'a> {
    name: &'a str,
    number: usize,
    column: usize,
    line: &'a str,
    width: usize,
}

/// One thing that is wrong with a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Where, if it is somewhere.
    pub(crate) span: Option<Range<usize>>,
    /// What is wrong.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) hint: Option<String>,
    /// Which exit code it calls for.
    pub(crate) kind: Kind,
}

/// What a problem is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The job file says something that makes no sense.
    Invalid,
    /// It names a file that is not there.
    Missing,
    /// It names an output file that can't be made.
    Uncreatable,
}

impl Problem {
    /// A problem at a place.
    pub(crate) fn at(span: Range<usize>, message: impl Into<String>) -> Self {
        Problem { span: Some(span), ..Problem::new(message) }
    }

    /// A problem of the whole file.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Problem { span: None, message: message.into(), hint: None, kind: Kind::Invalid }
    }

    /// Adds what to do about it.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Problem { hint: Some(hint.into()), ..self }
    }

    /// Adds what to do about it, if that is known.
    pub(crate) fn maybe_hint(self, hint: Option<String>) -> Self {
        Problem { hint, ..self }
    }

    /// Says that it is about an output file that can't be made.
    pub(crate) fn uncreatable(self) -> Self {
        Problem { kind: Kind::Uncreatable, ..self }
    }

    /// Says that it is about a file that is not there.
    pub(crate) fn missing(self) -> Self {
        Problem { kind: Kind::Missing, ..self }
    }
}

/// All that is wrong with a job, ready to be shown.
#[derive(Debug)]
pub(crate) struct Problems {
    source: Source,
    list: Vec<Problem>,
}

impl Problems {
    /// Puts the problems in the order of the text.
    pub(crate) fn new(source: Source, mut list: Vec<Problem>) -> Self {
        list.sort_by_key(|problem| problem.span.as_ref().map_or(usize::MAX, |span| span.start));
        Problems { source, list }
    }

    /// The exit code that the worst of them calls for.
    pub(crate) fn exit(&self) -> Exit {
        let any = |kind| self.list.iter().any(|problem| problem.kind == kind);
        if any(Kind::Invalid) {
            Exit::InvalidJob
        } else if any(Kind::Missing) {
            Exit::MissingFile
        } else {
            Exit::CannotCreate
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.list.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            show(f, &self.source, problem)?;
        }
        if self.list.len() > 1 {
            writeln!(f, "\nerror: {} has {} problems", self.source.file_name(), self.list.len())?;
        }
        Ok(())
    }
}

fn show(f: &mut fmt::Formatter<'_>, source: &Source, problem: &Problem) -> fmt::Result {
    writeln!(f, "error: {}", problem.message)?;
    let mut margin = 0;
    if let Some(span) = &problem.span {
        let place = source.locate(span);
        let number = place.number.to_string();
        margin = number.len();
        writeln!(f, "{:margin$}--> {}:{}:{}", "", place.name, place.number, place.column)?;
        writeln!(f, "{:margin$} |", "")?;
        writeln!(f, "{number} | {}", place.line.replace('\t', " "))?;
        writeln!(
            f,
            "{:margin$} | {:indent$}{}",
            "",
            "",
            "^".repeat(place.width),
            indent = place.column - 1
        )?;
    } else {
        writeln!(f, "--> {}", source.file_name())?;
    }
    match &problem.hint {
        Some(hint) => writeln!(f, "{:margin$} = hint: {hint}", ""),
        None => Ok(()),
    }
}

/// `did you mean ..?` for a word that is not among the known ones, or else the known ones.
pub(crate) fn suggest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let known: Vec<&str> = known.into_iter().collect();
    let near = |name: &&str| strsim::damerau_levenshtein(&word.to_lowercase(), name);
    let best = known.iter().map(|name| (near(name), *name)).min()?;
    // A third of the letters may be wrong; beyond that a guess is more irritating than helpful.
    if best.0 <= (best.1.chars().count() / 3).max(1) {
        return Some(format!("did you mean `{}`?", best.1));
    }
    let list: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
    Some(format!("known here: {}", list.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_shows_its_line_with_a_caret() {
        let text = "[task]\n\tname = \"grün\" # x\n".to_owned();
        let at = text.find("\"grün\"").unwrap();
        let problem = Problem::at(at..at + "\"grün\"".len(), "no such thing").hint("leave it out");
        let shown = Problems::new(Source::new("job.toml".into(), text), vec![problem]).to_string();
        assert_eq!(
            shown,
            "error: no such thing\n --> job.toml:2:9\n  |\n2 |  name = \"grün\" # x\n  |         ^^^^^^\n  = hint: leave it out\n"
        );
    }

    #[test]
    fn spans_of_the_command_line_point_there() {
        let mut source = Source::new("job.toml".into(), "a = 1\n".into());
        let start = source.push("--set", "b = 2".into());
        let span = start + 4..start + 5;
        assert!(source.is_from_command_line(&span));
        assert!(!source.is_from_command_line(&(4..5)));
        let shown = Problems::new(source, vec![Problem::at(span, "two")]).to_string();
        assert_eq!(shown, "error: two\n --> --set:1:5\n  |\n1 | b = 2\n  |     ^\n");
    }

    #[test]
    fn a_span_beyond_the_text_or_over_lines_is_cut() {
        let source = Source::new("j".into(), "ab\ncd".into());
        let list = vec![Problem::at(1..5, "lines"), Problem::at(5..9, "end")];
        let shown = Problems::new(source, list).to_string();
        assert!(shown.contains("1 | ab\n  |  ^\n"), "{shown}");
        assert!(shown.contains("2 | cd\n  |   ^\n"), "{shown}");
        assert!(shown.ends_with("\nerror: j has 2 problems\n"), "{shown}");
    }

    #[test]
    fn near_words_are_suggested_and_far_ones_listed() {
        assert_eq!(suggest("comand", ["command", "cwd"]).unwrap(), "did you mean `command`?");
        assert_eq!(suggest("Procs", ["procs"]).unwrap(), "did you mean `procs`?");
        assert_eq!(suggest("zebra", ["command", "cwd"]).unwrap(), "known here: `command`, `cwd`");
        assert_eq!(suggest("x", []), None);
    }
}
