//! What may be a task of a host: a function of one serde argument.

use anyhow::anyhow;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Marks a function whose return value is the result.
#[derive(Debug)]
pub enum Plain {}

/// Marks a function that returns `anyhow::Result<T>`: `T` is the result, and an `Err` fails the task.
#[derive(Debug)]
pub enum Fallible {}

/// A function that can be a task of a [`Host`](crate::Host): `fn(I) -> O` or `fn(I) -> anyhow::Result<O>`, where `I` can be
/// deserialized and `O` serialized.
///
/// `Kind` ([`Plain`] or [`Fallible`]) tells the two apart and is always inferred. Any other result type, a
/// `Result<T, E>` with a serializable `E` included, is plain data.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be a task of a host",
    note = "a task takes one argument that implements `serde::Deserialize` and owns its data",
    note = "it returns a value that implements `serde::Serialize`, or `anyhow::Result` of one"
)]
pub trait HostFn<I, Kind>: Send + Sync + 'static {
    /// Runs the function over JSON text.
    fn call_json(&self, task: &str, input: &[u8]) -> anyhow::Result<Vec<u8>>;
}

impl<F, I, O> HostFn<I, Plain> for F
where
    F: Fn(I) -> O + Send + Sync + 'static,
    I: DeserializeOwned,
    O: Serialize,
{
    fn call_json(&self, task: &str, input: &[u8]) -> anyhow::Result<Vec<u8>> {
        encode(task, &self(decode(task, input)?))
    }
}

impl<F, I, O> HostFn<I, Fallible> for F
where
    F: Fn(I) -> anyhow::Result<O> + Send + Sync + 'static,
    I: DeserializeOwned,
    O: Serialize,
{
    fn call_json(&self, task: &str, input: &[u8]) -> anyhow::Result<Vec<u8>> {
        encode(task, &self(decode(task, input)?)?)
    }
}

/// How much of a wrong input an error message shows.
const SHOWN_CHARS: usize = 200;

fn decode<I: DeserializeOwned>(task: &str, input: &[u8]) -> anyhow::Result<I> {
    serde_json::from_slice(input).map_err(|error| {
        let text = String::from_utf8_lossy(input);
        let mut shown: String = text.chars().take(SHOWN_CHARS).collect();
        if shown.len() < text.len() {
            shown.push_str("...");
        }
        anyhow!("task `{task}` can't read its input: {error}; the input is {shown}")
    })
}

fn encode<O: Serialize>(task: &str, value: &O) -> anyhow::Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|error| anyhow!("the result of task `{task}` can't be written as JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn call<I, K>(f: impl HostFn<I, K>, input: &str) -> Result<String, String> {
        f.call_json("t", input.as_bytes())
            .map(|bytes| String::from_utf8(bytes).unwrap())
            .map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn plain_and_fallible_functions_are_told_apart() {
        fn double(n: i64) -> i64 {
            2 * n
        }
        fn half(n: i64) -> anyhow::Result<i64> {
            anyhow::ensure!(n % 2 == 0, "{n} is odd");
            Ok(n / 2)
        }
        fn data(n: i64) -> Result<i64, String> {
            Err(format!("{n}"))
        }
        assert_eq!(call(double, "21").unwrap(), "42");
        assert_eq!(call(half, "42").unwrap(), "21");
        assert_eq!(call(half, "3").unwrap_err(), "3 is odd");
        assert_eq!(call(data, "3").unwrap(), r#"{"Err":"3"}"#);
        assert_eq!(
            call(|(a, b): (i64, String)| format!("{a}{b}"), r#"[1,"x"]"#).unwrap(),
            r#""1x""#
        );
    }

    #[test]
    fn a_wrong_input_names_the_task_and_shows_the_json() {
        let error = call(|n: i64| n, r#""three""#).unwrap_err();
        assert_eq!(
            error,
            "task `t` can't read its input: invalid type: string \"three\", expected i64 at line 1 column 7; \
             the input is \"three\""
        );
        let long = format!("\"{}\"", "ä".repeat(1000));
        assert!(call(|n: i64| n, &long).unwrap_err().ends_with("ä..."));
    }

    #[test]
    fn a_result_that_is_no_json_is_an_error() {
        let error = call(|n: i64| BTreeMap::from([((n, n), 1)]), "1").unwrap_err();
        assert_eq!(error, "the result of task `t` can't be written as JSON: key must be a string");
    }
}
