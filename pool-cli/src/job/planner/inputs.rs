//! `[inputs]`: exactly one source, and it must be there.

use std::fs::File;
use std::ops::Range;

use serde_json::Value;
use toml::Spanned;

use super::{Planner, unreadable};
use crate::job::file::{InputsSection, RangeTable};
use crate::job::glob::{Glob, PathForm};
use crate::job::inputs::{self, Origin, Source};
use crate::job::placeholders::Shape;
use crate::job::plan::InputsPlan;
use crate::job::source::Problem;
use crate::job::units::OneOrMany;

/// What every message about a missing or a second source says.
const SOURCES: &str = "one of `values`, `range`, `lines`, `glob`, `jsonl`, `csv`";

/// The one source of a section that has exactly one.
enum Given {
    Values(Spanned<Vec<Spanned<toml::Value>>>),
    Range(Spanned<RangeTable>),
    Lines(Spanned<String>),
    Glob(Spanned<OneOrMany>),
    JsonLines(Spanned<String>),
    Csv(Spanned<String>),
}

impl Given {
    fn span(&self) -> Range<usize> {
        match self {
            Given::Values(values) => values.span(),
            Given::Range(range) => range.span(),
            Given::Glob(glob) => glob.span(),
            Given::Lines(path) | Given::JsonLines(path) | Given::Csv(path) => path.span(),
        }
    }
}

impl Planner<'_> {
    /// The inputs, and what their records look like.
    pub(super) fn inputs(
        &mut self,
        section: Option<Spanned<InputsSection>>,
    ) -> Option<(InputsPlan, Shape)> {
        let Some(section) = section else {
            self.missing(
                "",
                Problem::new("the section [inputs] is missing").hint(format!("give it {SOURCES}")),
            );
            return None;
        };
        let at = section.span();
        let InputsSection { values, range, lines, glob, exclude, jsonl, csv } =
            section.into_inner();
        if let (Some(exclude), None) = (&exclude, &glob) {
            self.problem(
                Problem::at(exclude.span(), "`exclude` is for `glob` only").hint("leave it out"),
            );
        }
        let given = [
            values.map(Given::Values),
            range.map(Given::Range),
            lines.map(Given::Lines),
            glob.map(Given::Glob),
            jsonl.map(Given::JsonLines),
            csv.map(Given::Csv),
        ];
        let given = self.only_one(given.into_iter().flatten().collect(), at)?;
        let (source, shape) = self.source(given, exclude.as_ref())?;
        // What is piped in speaks of where the user is.
        let base = if source.is_repeatable() { self.folder.clone() } else { self.cwd.clone() };
        Some((InputsPlan { source, base }, shape))
    }

    fn only_one(&mut self, mut given: Vec<Given>, at: Range<usize>) -> Option<Given> {
        given.sort_by_key(|source| source.span().start);
        if let Some(more) = given.get(1) {
            let hint = format!("keep {SOURCES}; --input replaces all of them");
            self.problem(Problem::at(more.span(), "[inputs] has more than one source").hint(hint));
            return None;
        }
        if given.is_empty() {
            self.missing(
                "inputs",
                Problem::at(at, "[inputs] has no source").hint(format!("give it {SOURCES}")),
            );
        }
        given.pop()
    }

    fn source(
        &mut self,
        given: Given,
        exclude: Option<&Spanned<OneOrMany>>,
    ) -> Option<(Source, Shape)> {
        Some(match given {
            Given::Values(values) => {
                let values = values.into_inner().into_iter();
                let list: Vec<Value> = values
                    .map(|value| self.json(value.get_ref(), value.span()))
                    .collect::<Option<_>>()?;
                let shape =
                    if list.iter().any(Value::is_object) { Shape::Unknown } else { Shape::Text };
                (Source::Values(list), shape)
            }
            Given::Range(range) => {
                if range.get_ref().step == 0 {
                    self.problem(Problem::at(range.span(), "a range can't have a step of 0"));
                }
                (Source::Range(range.into_inner()), Shape::Text)
            }
            Given::Lines(path) => (Source::Lines(self.origin(&path)?), Shape::Text),
            Given::JsonLines(path) => (Source::JsonLines(self.origin(&path)?), Shape::Unknown),
            Given::Csv(path) => self.csv(&path)?,
            Given::Glob(glob) => (Source::Glob(self.glob(&glob, exclude)?), Shape::Text),
        })
    }

    fn origin(&mut self, path: &Spanned<String>) -> Option<Origin> {
        if path.get_ref() == "-" {
            return Some(Origin::Stdin);
        }
        let full = self.base(&path.span()).join(path.get_ref());
        match File::open(&full).and_then(|file| file.metadata()) {
            Ok(meta) if meta.is_dir() => {
                let message = format!("`{}` is a folder", full.display());
                self.problem(
                    Problem::at(path.span(), message).hint("use `glob` for the files in it"),
                );
                None
            }
            Ok(_) => Some(Origin::File(full)),
            Err(error) => {
                self.problem(unreadable(path.span(), &full, &error));
                None
            }
        }
    }

    fn csv(&mut self, path: &Spanned<String>) -> Option<(Source, Shape)> {
        let origin = self.origin(path)?;
        let shape = match &origin {
            Origin::Stdin => Shape::Unknown,
            Origin::File(_) => match inputs::csv_columns(&origin) {
                Ok(columns) => Shape::Columns(columns),
                Err(error) => {
                    self.problem(Problem::at(
                        path.span(),
                        format!("its header can't be read: {error}"),
                    ));
                    return None;
                }
            },
        };
        Some((Source::Csv(origin), shape))
    }

    fn glob(
        &mut self,
        glob: &Spanned<OneOrMany>,
        exclude: Option<&Spanned<OneOrMany>>,
    ) -> Option<Glob> {
        let texts = |list: &Spanned<OneOrMany>| -> Vec<String> {
            list.get_ref().0.iter().map(|text| text.get_ref().clone()).collect()
        };
        let patterns = texts(glob);
        let excluded = exclude.map(texts).unwrap_or_default();
        // Tasks run in the job file's folder, so a path from elsewhere must not depend on where it is read.
        let at = glob.span();
        let from_command_line = self.source.is_from_command_line(&at);
        let form = if from_command_line { PathForm::Absolute } else { PathForm::AsWritten };
        match Glob::new(&patterns, &excluded, self.base(&at).to_owned(), form) {
            Ok(glob) => Some(glob),
            Err((index, error)) => {
                let (list, index) = match exclude {
                    Some(exclude) if index >= patterns.len() => (exclude, index - patterns.len()),
                    _ => (glob, index),
                };
                let inner = list.get_ref().0.get(index).map_or(0..0, Spanned::span);
                let span = if inner.is_empty() { list.span() } else { inner };
                self.problem(Problem::at(span, format!("this pattern is malformed: {error}")));
                None
            }
        }
    }
}
