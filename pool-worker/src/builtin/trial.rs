//! `echo`, `sleep`, `fail`: for trying out a job file, and what happens when tasks go wrong.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::de::{self, Deserializer, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Returns its input.
pub fn echo(value: Value) -> Value {
    value
}

/// How long to sleep and what to return: `2.5`, or `{"seconds": 2.5, "value": ...}`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SleepSpec {
    /// How long, in seconds.
    pub seconds: f64,
    /// What is returned afterwards.
    pub value: Value,
}

/// Sleeps and returns the given value, or null.
pub fn sleep(spec: SleepSpec) -> anyhow::Result<Value> {
    let time = Duration::try_from_secs_f64(spec.seconds)
        .with_context(|| format!("can't sleep for {} seconds", spec.seconds))?;
    std::thread::sleep(time);
    Ok(spec.value)
}

impl<'de> Deserialize<'de> for SleepSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SleepVisitor)
    }
}

struct SleepVisitor;

impl<'de> Visitor<'de> for SleepVisitor {
    type Value = SleepSpec;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#"a number of seconds, or {"seconds": ..., "value": ...}"#)
    }

    fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<SleepSpec, E> {
        Ok(SleepSpec { seconds, value: Value::Null })
    }

    fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<SleepSpec, E> {
        self.visit_f64(seconds as f64)
    }

    fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<SleepSpec, E> {
        self.visit_f64(seconds as f64)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<SleepSpec, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Full {
            seconds: f64,
            #[serde(default)]
            value: Value,
        }
        let Full { seconds, value } = Full::deserialize(MapAccessDeserializer::new(map))?;
        Ok(SleepSpec { seconds, value })
    }
}

/// A way to go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// Nothing goes wrong; the result is null.
    None,
    /// The task returns an error.
    Error,
    /// The task panics.
    Panic,
    /// The worker exits with code 3.
    Exit,
    /// The worker aborts.
    Abort,
    /// The task never ends.
    Hang,
}

/// Goes wrong as asked.
pub fn fail(how: Failure) -> anyhow::Result<()> {
    match how {
        Failure::None => Ok(()),
        Failure::Error => bail!("the task failed, as it was asked to"),
        Failure::Panic => panic!("the task panicked, as it was asked to"),
        #[expect(clippy::exit, reason = "a task that ends its worker is what is being tried out")]
        Failure::Exit => std::process::exit(3),
        Failure::Abort => std::process::abort(),
        Failure::Hang => loop {
            std::thread::park();
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sleep_takes_a_number_or_a_table() {
        let parse = |json: Value| serde_json::from_value::<SleepSpec>(json);
        assert_eq!(parse(json!(2)).unwrap(), SleepSpec { seconds: 2.0, value: Value::Null });
        assert_eq!(parse(json!(0.5)).unwrap().seconds, 0.5);
        assert_eq!(parse(json!({"seconds": 1, "value": [7]})).unwrap().value, json!([7]));
        assert!(parse(json!({"second": 1})).is_err());
        assert_eq!(sleep(parse(json!({"seconds": 0, "value": 7})).unwrap()).unwrap(), json!(7));
        let error = sleep(parse(json!(-1)).unwrap()).unwrap_err();
        assert!(error.to_string().contains("can't sleep for -1 seconds"), "{error}");
    }

    #[test]
    fn fail_goes_wrong_as_asked() {
        assert!(fail(Failure::None).is_ok());
        assert!(fail(Failure::Error).is_err());
        assert!(std::panic::catch_unwind(|| fail(Failure::Panic)).is_err());
        assert_eq!(serde_json::from_str::<Failure>("\"abort\"").unwrap(), Failure::Abort);
    }
}
