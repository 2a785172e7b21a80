//! `{}`, `{stem}`, `{column}` and their like in commands and arguments.
//!
//! | placeholder | filled with |
//! |---|---|
//! | `{}` | the input as it was given; a record as JSON |
//! | `{path}` | the input as an absolute path |
//! | `{name}`, `{stem}`, `{ext}`, `{dir}` | its file name, that without the extension, the extension, its folder |
//! | `{index}` | the input's number, from 0 |
//! | `{field}` | that field of a record; `{a.b}` for the field `b` of the field `a` |
//! | `{{`, `}}` | a brace |
//!
//! In a record (a row of CSV, an object of JSON lines) the fields come first: `{name}` is then the field `name`.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use pool_worker::Data;
use serde_json::Value;

use super::inputs::{Input, Item};
use super::source::suggest;

/// The placeholders that any input has.
const ALWAYS: [&str; 2] = ["", "index"];

/// The placeholders that a text has.
const OF_TEXT: [&str; 7] = ["", "path", "name", "stem", "ext", "dir", "index"];

/// A text with placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Hole(String),
}

/// What is known about the inputs before they are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Texts, numbers: no fields.
    Text,
    /// Records with these fields.
    Columns(Vec<String>),
    /// Records whose fields nobody knows yet.
    Unknown,
}

/// What is wrong with a template, and what to do about it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

/// Why a template can't be filled for one input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unfilled(String);

impl fmt::Display for Unfilled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Template {
    /// Reads a template and checks its placeholders against what is known about the inputs.
    pub(crate) fn parse(text: &str, shape: &Shape) -> Result<Template, Malformed> {
        let template = Template { parts: split(text)? };
        for part in &template.parts {
            if let Part::Hole(word) = part {
                check(word, shape)?;
            }
        }
        Ok(template)
    }

    /// The text, if it has no placeholders.
    pub(crate) fn constant(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// Fills in one input.
    pub(crate) fn fill(&self, item: &Item, base: &Path) -> Result<Data, Unfilled> {
        let mut filled = Data::default();
        for part in &self.parts {
            match part {
                Part::Literal(text) => filled.extend(text.as_bytes()),
                Part::Hole(word) => filled.extend(lookup(word, item, base)?.into_text().as_bytes()),
            }
        }
        Ok(filled)
    }

    /// Fills in one input. A template that is one placeholder and nothing else keeps the type of what it stands for.
    pub(crate) fn fill_json(&self, item: &Item, base: &Path) -> Result<Value, Unfilled> {
        match self.parts.as_slice() {
            [Part::Hole(word)] => Ok(lookup(word, item, base)?.into_json()),
            _ => Ok(Input::Text(self.fill(item, base)?).into_json()),
        }
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.parts {
            match part {
                Part::Literal(text) => f.write_str(&text.replace('{', "{{").replace('}', "}}"))?,
                Part::Hole(word) => write!(f, "{{{word}}}")?,
            }
        }
        Ok(())
    }
}

/// A JSON value whose texts are templates: the arguments of a named task.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum JsonTemplate {
    Constant(Value),
    Text(Template),
    List(Vec<JsonTemplate>),
    Table(Vec<(String, JsonTemplate)>),
}

impl JsonTemplate {
    /// Reads a value.
    pub(crate) fn parse(value: Value, shape: &Shape) -> Result<JsonTemplate, Malformed> {
        Ok(match value {
            Value::String(text) => JsonTemplate::Text(Template::parse(&text, shape)?),
            Value::Array(list) => {
                let list = list.into_iter().map(|value| JsonTemplate::parse(value, shape));
                JsonTemplate::List(list.collect::<Result<_, _>>()?)
            }
            Value::Object(table) => {
                let entries = table.into_iter();
                let entries =
                    entries.map(|(key, value)| Ok((key, JsonTemplate::parse(value, shape)?)));
                JsonTemplate::Table(entries.collect::<Result<_, _>>()?)
            }
            constant => JsonTemplate::Constant(constant),
        })
    }

    /// Fills in one input.
    pub(crate) fn fill(&self, item: &Item, base: &Path) -> Result<Value, Unfilled> {
        Ok(match self {
            JsonTemplate::Constant(value) => value.clone(),
            JsonTemplate::Text(template) => template.fill_json(item, base)?,
            JsonTemplate::List(list) => Value::Array(
                list.iter().map(|value| value.fill(item, base)).collect::<Result<_, _>>()?,
            ),
            JsonTemplate::Table(entries) => {
                let entries =
                    entries.iter().map(|(key, value)| Ok((key.clone(), value.fill(item, base)?)));
                Value::Object(entries.collect::<Result<_, _>>()?)
            }
        })
    }
}

fn split(text: &str) -> Result<Vec<Part>, Malformed> {
    let stray = |brace: char| Malformed {
        message: format!("a `{brace}` that belongs to no placeholder"),
        hint: Some(format!("write `{brace}{brace}` for a brace")),
    };
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        literal.push_str(&rest[..at]);
        let tail = &rest[at..];
        if tail.starts_with("{{") || tail.starts_with("}}") {
            literal.push_str(&tail[..1]);
            rest = &tail[2..];
            continue;
        }
        let Some(word) = tail.strip_prefix('{') else { return Err(stray('}')) };
        let end = word
            .find(['{', '}'])
            .filter(|end| word[*end..].starts_with('}'))
            .ok_or_else(|| stray('{'))?;
        if !literal.is_empty() {
            parts.push(Part::Literal(std::mem::take(&mut literal)));
        }
        parts.push(Part::Hole(word[..end].to_owned()));
        rest = &word[end + 1..];
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        parts.push(Part::Literal(literal));
    }
    Ok(parts)
}

fn check(word: &str, shape: &Shape) -> Result<(), Malformed> {
    let known: Vec<&str> = match shape {
        Shape::Text => OF_TEXT.to_vec(),
        Shape::Columns(columns) => columns.iter().map(String::as_str).chain(ALWAYS).collect(),
        Shape::Unknown => return Ok(()),
    };
    if known.contains(&word) {
        return Ok(());
    }
    let in_braces = |word: &str| format!("{{{word}}}");
    let known: Vec<String> = known.into_iter().map(in_braces).collect();
    let word = in_braces(word);
    let suggestion = suggest(&word, known.iter().map(String::as_str)).unwrap_or_default();
    let hint = format!("{suggestion} (a brace itself is written `{{{{` or `}}}}`)");
    Err(Malformed { message: format!("unknown placeholder `{word}`"), hint: Some(hint) })
}

/// What a placeholder stands for, as an input of its own so that its type is kept.
fn lookup(word: &str, item: &Item, base: &Path) -> Result<Input, Unfilled> {
    if let Some(value) = item.input.field(word) {
        return Ok(Input::from(value.clone()));
    }
    match word {
        "" => return Ok(item.input.clone()),
        "index" => return Ok(Input::Json(item.index.into())),
        _ => {}
    }
    let Input::Text(text) = &item.input else {
        return Err(Unfilled(format!("this input has no field `{word}`")));
    };
    let path = base.join(text.as_path());
    let part = match word {
        "path" => Some(path.as_os_str()),
        "name" => path.file_name(),
        "stem" => path.file_stem(),
        "ext" => Some(path.extension().unwrap_or_default()),
        "dir" => path.parent().map(Path::as_os_str),
        _ => return Err(Unfilled(format!("this input has no field `{word}`; it is no record"))),
    };
    let part = part.ok_or_else(|| Unfilled(format!("`{}` has no {{{word}}}", text.to_text())))?;
    Ok(Input::Text(Data::from(part.as_bytes().to_vec())))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fill(text: &str, input: impl Into<Input>) -> Result<String, Unfilled> {
        let item = Item { index: 7, input: input.into() };
        let template = Template::parse(text, &Shape::Unknown).unwrap();
        template.fill(&item, Path::new("/base")).map(|data| data.to_text().into_owned())
    }

    #[test]
    fn a_text_has_the_parts_of_a_path() {
        let parts = "{} {path} {name} {stem} {ext} {dir} {index}";
        let filled = fill(parts, json!("a b/c.tar.gz")).unwrap();
        assert_eq!(filled, "a b/c.tar.gz /base/a b/c.tar.gz c.tar.gz c.tar gz /base/a b 7");
        assert_eq!(fill("{dir}|{ext}", json!("/x")).unwrap(), "/|");
        assert_eq!(fill("{name}", json!("/")).unwrap_err().to_string(), "`/` has no {name}");
    }

    #[test]
    fn bytes_that_are_no_text_pass_unchanged() {
        let item = Item { index: 0, input: Input::Text(Data::from(b"d/\xff.txt".to_vec())) };
        let template = Template::parse("<{stem}>", &Shape::Text).unwrap();
        assert_eq!(template.fill(&item, Path::new("/")).unwrap().as_bytes(), b"<\xff>");
    }

    #[test]
    fn a_record_has_fields_and_they_come_first() {
        let record = json!({"name": "n", "size": 3, "deep": {"er": [1, true]}, "a.b": "dot"});
        assert_eq!(
            fill("{name}-{size}-{deep.er}-{a.b}-{index}", record.clone()).unwrap(),
            "n-3-[1,true]-dot-7"
        );
        assert_eq!(fill("{}", json!({"a": 1})).unwrap(), r#"{"a":1}"#);
        assert_eq!(
            fill("{path}", record).unwrap_err().to_string(),
            "this input has no field `path`"
        );
        assert_eq!(
            fill("{x}", json!("t")).unwrap_err().to_string(),
            "this input has no field `x`; it is no record"
        );
    }

    #[test]
    fn braces_are_doubled() {
        assert_eq!(fill("{{{}}} }}{{", json!(1)).unwrap(), "{1} }{");
        assert_eq!(
            Template::parse("{{{}}} }}{{", &Shape::Text).unwrap().to_string(),
            "{{{}}} }}{{"
        );
        for wrong in ["{", "a } b", "{a{b}", "{{}"] {
            let error = Template::parse(wrong, &Shape::Text).unwrap_err();
            assert!(error.message.contains("belongs to no placeholder"), "{wrong}: {error:?}");
        }
    }

    #[test]
    fn unknown_words_are_found_before_anything_runs() {
        let error = Template::parse("{steam}", &Shape::Text).unwrap_err();
        assert_eq!(error.message, "unknown placeholder `{steam}`");
        assert_eq!(
            error.hint.unwrap(),
            "did you mean `{stem}`? (a brace itself is written `{{` or `}}`)"
        );
        let columns = Shape::Columns(vec!["city".into()]);
        assert!(Template::parse("{city} {} {index}", &columns).is_ok());
        let error = Template::parse("{print $1}", &columns).unwrap_err();
        assert_eq!(
            error.hint.unwrap(),
            "known here: `{city}`, `{}`, `{index}` (a brace itself is written `{{` or `}}`)"
        );
    }

    #[test]
    fn arguments_keep_their_types() {
        let args =
            json!({"n": "{size}", "text": "no {size}", "fixed": [1.5, null, "{{x}}"], "all": "{}"});
        let template = JsonTemplate::parse(args, &Shape::Unknown).unwrap();
        let item = Item { index: 0, input: json!({"size": 3}).into() };
        assert_eq!(
            template.fill(&item, Path::new("/")).unwrap(),
            json!({"n": 3, "text": "no 3", "fixed": [1.5, null, "{x}"], "all": {"size": 3}})
        );
    }
}
