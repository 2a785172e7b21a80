//! Where inputs come from. All sources are read lazily: an endless one costs no more memory than a short one.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use pool_worker::Data;
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::file::RangeTable;
use super::glob::{Glob, Unreadable};

/// A line beyond this is an error: a file without line ends must not fill the memory.
const MAX_LINE_BYTES: u64 = 64 << 20;

/// One input with its number in the order of the source, from 0.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Item {
    pub(crate) index: u64,
    pub(crate) input: Input,
}

/// One input.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Input {
    /// A text: a value, a line, a path.
    Text(Data),
    /// Any other value; an object is a record with fields.
    Json(Value),
}

impl Input {
    /// A field of a record; `a.b` is the field `b` of the field `a`, unless there is a field of that very name.
    pub(crate) fn field(&self, name: &str) -> Option<&Value> {
        match self {
            Input::Text(_) => None,
            Input::Json(value) => field(value, name),
        }
    }

    /// The input as one text: a record or a list as JSON.
    pub(crate) fn into_text(self) -> Data {
        match self {
            Input::Text(text) => text,
            Input::Json(value) => Data::from(value.to_string()),
        }
    }

    /// The input as JSON: a text as a string.
    pub(crate) fn into_json(self) -> Value {
        match self {
            Input::Text(text) => serde_json::to_value(text).unwrap_or_default(),
            Input::Json(value) => value,
        }
    }
}

/// Looks a field up in a JSON value, by its name or along a path of names with dots.
pub(crate) fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let table = value.as_object()?;
    if let Some(found) = table.get(name) {
        return Some(found);
    }
    let (first, rest) = name.split_once('.')?;
    field(table.get(first)?, rest)
}

impl From<Value> for Input {
    fn from(value: Value) -> Self {
        match value {
            Value::String(text) => Input::Text(Data::from(text)),
            value => Input::Json(value),
        }
    }
}

impl Serialize for Input {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Input::Text(text) => text.serialize(serializer),
            Input::Json(value) => value.serialize(serializer),
        }
    }
}

/// A source of inputs.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Values(Vec<Value>),
    Range(RangeTable),
    Glob(Glob),
    Lines(Origin),
    JsonLines(Origin),
    Csv(Origin),
}

/// A file or the standard input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Stdin,
    File(PathBuf),
}

/// What reading a source yields.
#[derive(Debug)]
pub(crate) enum Next {
    /// The next input.
    Input(Input),
    /// A record that is malformed; the ones after it can still be read.
    Malformed { text: Data, error: String },
}

/// An input source that is being read. An `Err` is the end of it.
pub(crate) type Reading = Box<dyn Iterator<Item = io::Result<Next>> + Send>;

impl Source {
    /// The file that is read, if it is one.
    pub(crate) fn file(&self) -> Option<&Path> {
        match self {
            Source::Lines(origin) | Source::JsonLines(origin) | Source::Csv(origin) => match origin
            {
                Origin::File(path) => Some(path),
                Origin::Stdin => None,
            },
            Source::Values(_) | Source::Range(_) | Source::Glob(_) => None,
        }
    }

    /// How many inputs there are, if that is known without reading.
    pub(crate) fn known_len(&self) -> Option<u64> {
        match self {
            Source::Values(values) => Some(values.len() as u64),
            Source::Range(range) => Some(range_len(range)),
            _ => None,
        }
    }

    /// Whether it can be read more than once.
    pub(crate) fn is_repeatable(&self) -> bool {
        !matches!(
            self,
            Source::Lines(Origin::Stdin)
                | Source::JsonLines(Origin::Stdin)
                | Source::Csv(Origin::Stdin)
        )
    }

    /// Whether all inputs are there already, and can be read more than once: no pipe, no device.
    pub(crate) fn is_at_rest(&self) -> bool {
        let is_regular = |path: &Path| path.metadata().is_ok_and(|meta| meta.is_file());
        self.file().map_or(self.is_repeatable(), is_regular)
    }

    /// Starts reading from the beginning.
    pub(crate) fn read(&self) -> io::Result<Reading> {
        Ok(match self {
            Source::Values(values) => {
                Box::new(values.clone().into_iter().map(|value| Ok(input(value))))
            }
            Source::Range(range) => {
                let RangeTable { start, step, .. } = *range;
                let numbers = (0..range_len(range))
                    .map(move |n| i128::from(start) + i128::from(n) * i128::from(step));
                // Every number lies between start and end, which are 64-bit.
                Box::new(numbers.map(|number| Ok(input(Value::from(number as i64)))))
            }
            Source::Glob(glob) => Box::new(glob.walk().map(|found| match found {
                Ok(path) => Ok(Next::Input(Input::Text(path))),
                Err(Unreadable { path, error }) => Ok(Next::Malformed { text: path, error }),
            })),
            Source::Lines(origin) => {
                Box::new(Lines::open(origin)?.map(|line| Ok(Next::Input(Input::Text(line?)))))
            }
            Source::JsonLines(origin) => {
                Box::new(Lines::open(origin)?.map(|line| Ok(parse_json(line?))))
            }
            Source::Csv(origin) => Box::new(csv_records(origin)?),
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Values(values) => write!(f, "{} values", values.len()),
            Source::Range(range) => {
                write!(
                    f,
                    "numbers from {} to before {}, step {}",
                    range.start, range.end, range.step
                )
            }
            Source::Glob(glob) => glob.fmt(f),
            Source::Lines(origin) => write!(f, "lines of {origin}"),
            Source::JsonLines(origin) => write!(f, "JSON lines of {origin}"),
            Source::Csv(origin) => write!(f, "CSV rows of {origin}"),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Stdin => f.write_str("standard input"),
            Origin::File(path) => path.display().fmt(f),
        }
    }
}

fn input(value: Value) -> Next {
    Next::Input(Input::from(value))
}

fn range_len(range: &RangeTable) -> u64 {
    let (start, end, step) =
        (i128::from(range.start), i128::from(range.end), i128::from(range.step));
    let span = if step > 0 { end - start } else { start - end };
    if step == 0 || span <= 0 { 0 } else { (span as u128).div_ceil(step.unsigned_abs()) as u64 }
}

impl Origin {
    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        match self {
            Origin::Stdin => Ok(Box::new(io::stdin())),
            Origin::File(path) => File::open(path).map(|file| Box::new(file) as _),
        }
    }
}

/// The lines of a file without their ends; empty ones are skipped.
struct Lines {
    reader: BufReader<Box<dyn Read + Send>>,
}

impl Lines {
    fn open(origin: &Origin) -> io::Result<Lines> {
        Ok(Lines { reader: BufReader::new(origin.open()?) })
    }
}

impl Iterator for Lines {
    type Item = io::Result<Data>;

    fn next(&mut self) -> Option<io::Result<Data>> {
        loop {
            let mut line = Vec::new();
            match (&mut self.reader).take(MAX_LINE_BYTES).read_until(b'\n', &mut line) {
                Ok(0) => return None,
                Ok(count) if count as u64 == MAX_LINE_BYTES => {
                    let error = format!("a line is longer than {} MiB", MAX_LINE_BYTES >> 20);
                    return Some(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
                }
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
            if line.last() == Some(&b'\n') {
                line.pop();
            }
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            if !line.is_empty() {
                return Some(Ok(Data::from(line)));
            }
        }
    }
}

fn parse_json(line: Data) -> Next {
    match serde_json::from_slice(line.as_bytes()) {
        Ok(value) => input(value),
        Err(error) => {
            Next::Malformed { error: format!("this line is not JSON: {error}"), text: line }
        }
    }
}

/// The rows of a CSV file with a header, each as a record of texts.
fn csv_records(
    origin: &Origin,
) -> io::Result<impl Iterator<Item = io::Result<Next>> + Send + use<>> {
    let mut reader = csv::Reader::from_reader(origin.open()?);
    let headers = reader.headers().map_err(io::Error::from)?.clone();
    Ok(reader.into_records().map(move |row| match row {
        Ok(row) => {
            let texts = row.iter().map(Value::from);
            Ok(input(Value::Object(headers.iter().map(str::to_owned).zip(texts).collect())))
        }
        Err(error) if error.is_io_error() => Err(error.into()),
        Err(error) => Ok(Next::Malformed { text: Data::default(), error: error.to_string() }),
    }))
}

/// The names in the header of a CSV file.
pub(crate) fn csv_columns(origin: &Origin) -> io::Result<Vec<String>> {
    let mut reader = csv::Reader::from_reader(origin.open()?);
    Ok(reader.headers().map_err(io::Error::from)?.iter().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn all(source: &Source) -> Vec<Value> {
        let read = source.read().unwrap().map(|next| match next.unwrap() {
            Next::Input(input) => input.into_json(),
            Next::Malformed { text, error } => json!({"malformed": text, "error": error}),
        });
        read.collect()
    }

    fn file(text: impl AsRef<[u8]>) -> (tempfile::TempDir, Origin) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, text).unwrap();
        (folder, Origin::File(path))
    }

    #[test]
    fn ranges_go_both_ways_and_leave_out_their_end() {
        let range = |start, end, step| Source::Range(RangeTable { start, end, step });
        assert_eq!(all(&range(0, 5, 2)), [0, 2, 4]);
        assert_eq!(all(&range(3, 0, -2)), [3, 1]);
        assert_eq!(all(&range(3, 0, 1)), Vec::<Value>::new());
        assert_eq!(range(i64::MIN, i64::MAX, 1).known_len(), Some(u64::MAX));
        assert_eq!(all(&range(i64::MAX - 1, i64::MAX, 7)), [i64::MAX - 1]);
    }

    #[test]
    fn lines_may_end_in_any_way_and_hold_any_bytes() {
        let (_folder, origin) = file(b"a\r\n\n  b \n\xff\nlast");
        let lines = all(&Source::Lines(origin));
        assert_eq!(lines, [json!("a"), json!("  b "), json!({"base64": "/w=="}), json!("last")]);
    }

    #[test]
    fn a_malformed_json_line_does_not_hide_the_next() {
        let (_folder, origin) = file("{\"a\": 1}\n{oops}\n\"text\"\n");
        let values = all(&Source::JsonLines(origin));
        assert_eq!((&values[0], &values[2]), (&json!({"a": 1}), &json!("text")));
        assert_eq!(values[1]["malformed"], "{oops}");
    }

    #[test]
    fn csv_rows_are_records() {
        let (_folder, origin) = file("city,size\n\"A, b\",3\nshort\nC,4\n");
        assert_eq!(csv_columns(&origin).unwrap(), ["city", "size"]);
        let rows = all(&Source::Csv(origin));
        assert_eq!(
            (&rows[0], &rows[2]),
            (&json!({"city": "A, b", "size": "3"}), &json!({"city": "C", "size": "4"}))
        );
        assert!(
            rows[1]["error"].as_str().unwrap().contains("found record with 1 fields"),
            "{}",
            rows[1]
        );
    }

    #[test]
    fn an_endless_file_without_line_ends_is_an_error() {
        let mut lines = Lines::open(&Origin::File("/dev/zero".into())).unwrap();
        let error = lines.next().unwrap().unwrap_err();
        assert_eq!(error.to_string(), "a line is longer than 64 MiB");
    }
}
