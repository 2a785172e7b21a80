//! Results as lines of JSON, and a report for programs.

use std::time::Duration;

use pool_worker::builtin::Captured;
use serde_json::{Map, Value, json};

use super::{Counts, Ending, Outcome, Product, Record, Report, StopCause, Summary};
use crate::exit::say;

/// One result as a line, its end included. With `fields` only those keys are written.
pub(crate) fn line(record: &Record, fields: Option<&[String]>) -> String {
    let mut object = object(record);
    if let Some(fields) = fields {
        object.retain(|key, _| fields.iter().any(|field| field == key));
    }
    let mut line = Value::Object(object).to_string();
    line.push('\n');
    line
}

fn object(record: &Record) -> Map<String, Value> {
    let ended = &record.ended;
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| drop(object.insert(key.to_owned(), value));
    put("index", record.item.index.into());
    put("input", record.item.input.clone().into_json());
    put("outcome", json!(ended.outcome));
    match &ended.product {
        Product::Nothing => {}
        Product::Value(value) => put("value", value.clone()),
        Product::Command(output) => {
            if let Some(code) = output.exit_code {
                put("exit_code", code.into());
            }
            if let Some(signal) = output.signal {
                put("signal", signal.into());
            }
            put_stream(&mut put, "stdout", "stdout_bytes", &output.stdout);
            put_stream(&mut put, "stderr", "stderr_bytes", &output.stderr);
            if output.leaked {
                put("leaked", true.into());
            }
        }
    }
    if let Some(error) = &ended.error {
        put("error", error.as_str().into());
    }
    if let Some(timing) = &ended.timing {
        put("start", humantime::format_rfc3339_millis(timing.start).to_string().into());
        put("duration_s", seconds(timing.duration));
        if let Some(pid) = timing.worker_pid {
            put("worker_pid", pid.into());
        }
    }
    put("attempts", record.attempts.into());
    object
}

fn put_stream(put: &mut impl FnMut(&str, Value), key: &str, key_of_size: &str, stream: &Captured) {
    put(key, serde_json::to_value(&stream.text).unwrap_or_default());
    if stream.truncated() {
        put(key_of_size, stream.total_bytes.into());
    }
}

/// Seconds with microseconds, without the noise of binary fractions.
fn seconds(time: Duration) -> Value {
    Value::from(time.as_micros() as f64 / 1e6)
}

/// A report for programs: one JSON object a line on the standard error.
#[derive(Debug)]
pub(crate) struct Json;

impl Report for Json {
    fn total(&mut self, _total: u64) {}

    fn settled(&mut self, _counts: &Counts) {}

    fn interval(&self) -> Option<Duration> {
        None
    }

    fn tick(&mut self, _counts: &Counts) {}

    fn asked(&mut self, counts: &Counts) {
        say(&format!("{}\n", json!({"event": "progress", "counts": counts_object(counts)})));
    }

    fn notice(&mut self, text: &str) {
        say(&format!("{}\n", json!({"event": "notice", "text": text})));
    }

    fn finished(&mut self, summary: &Summary) {
        say(&format!("{}\n", summary_object(summary)));
    }
}

fn counts_object(counts: &Counts) -> Value {
    let counted = Outcome::ALL.iter().map(|outcome| {
        let key = json!(outcome).as_str().unwrap_or_default().to_owned();
        (key, Value::from(counts.of(*outcome)))
    });
    Value::Object(counted.collect())
}

fn summary_object(summary: &Summary) -> Value {
    let (ending, detail) = match &summary.ending {
        Ending::Completed => ("completed", Value::Null),
        Ending::Stopped { index, why } => {
            let why = match why {
                StopCause::Equals => "equals",
                StopCause::FirstSuccess => "first-success",
                StopCause::FirstFailure => "first-failure",
            };
            ("stopped", json!({"index": index, "rule": why}))
        }
        Ending::Interrupted { signal } => ("interrupted", json!({"signal": signal})),
        Ending::PoolBroken { error } => ("pool_broken", json!({"error": error})),
        Ending::InputFailed { error } => ("input_failed", json!({"error": error})),
        Ending::OutputFailed { error } => ("output_failed", json!({"error": error})),
        Ending::OutputClosed => ("output_closed", Value::Null),
    };
    json!({
        "event": "summary",
        "ending": ending,
        "detail": detail,
        "done": summary.counts.done(),
        "counts": counts_object(&summary.counts),
        "not_run": summary.not_run,
        "retries": summary.counts.retries,
        "elapsed_s": seconds(summary.elapsed),
        "procs": summary.procs,
    })
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use pool_worker::Data;
    use pool_worker::builtin::CommandOutput;

    use super::super::{Ended, FIELDS, Timing};
    use super::*;
    use crate::job::inputs::{Input, Item};

    fn record(product: Product) -> Record {
        let timing = Timing {
            start: UNIX_EPOCH + Duration::from_millis(1_500),
            duration: Duration::from_micros(250_100),
            worker_pid: Some(77),
        };
        let ended = Ended {
            outcome: Outcome::Ok,
            product,
            error: None,
            can_retry: false,
            timing: Some(timing),
        };
        Record {
            item: Item { index: 3, input: Input::Text(Data::from("a.txt")) },
            ended,
            attempts: 1,
        }
    }

    #[test]
    fn a_value_is_a_line() {
        assert_eq!(
            line(&record(Product::Value(json!({"n": 1}))), None),
            concat!(
                r#"{"index":3,"input":"a.txt","outcome":"ok","value":{"n":1},"#,
                r#""start":"1970-01-01T00:00:01.500Z","duration_s":0.2501,"worker_pid":77,"attempts":1}"#,
                "\n"
            )
        );
    }

    #[test]
    fn a_command_says_how_it_ended_and_what_it_wrote() {
        let output = CommandOutput {
            exit_code: None,
            signal: Some(11),
            stdout: Captured { text: Data::from(vec![0xff]), total_bytes: 9 },
            stderr: Captured::default(),
            leaked: true,
            started_unix_ms: 0,
            duration_us: 0,
            worker_pid: 0,
        };
        let mut record = record(Product::Command(Box::new(output)));
        record.ended.timing = None;
        record.ended.error = Some("killed by signal 11".into());
        record.ended.outcome = Outcome::Failed;
        assert_eq!(
            line(&record, None),
            concat!(
                r#"{"index":3,"input":"a.txt","outcome":"failed","signal":11,"stdout":{"base64":"/w=="},"#,
                r#""stdout_bytes":9,"stderr":"","leaked":true,"error":"killed by signal 11","attempts":1}"#,
                "\n"
            )
        );
    }

    #[test]
    fn only_the_wanted_fields_are_written_and_all_are_known() {
        let record = record(Product::Value(Value::Null));
        let fields = ["value".to_owned(), "input".to_owned()];
        assert_eq!(line(&record, Some(&fields)), "{\"input\":\"a.txt\",\"value\":null}\n");
        assert!(object(&record).keys().all(|key| FIELDS.contains(&key.as_str())));
    }
}
