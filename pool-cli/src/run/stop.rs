//! Whether a result is the one that makes the rest unnecessary.

use serde_json::Value;

use crate::job::inputs::field;
use crate::job::plan::{StopRule, Wanted};
use crate::report::{Outcome, Product, Record, StopCause};

impl StopRule {
    /// Which rule a result fulfils.
    pub(crate) fn applies_to(&self, record: &Record) -> Option<StopCause> {
        let outcome = record.ended.outcome;
        let succeeded = outcome == Outcome::Ok;
        if succeeded && self.equals.as_ref().is_some_and(|wanted| wanted.is(&record.ended.product))
        {
            Some(StopCause::Equals)
        } else if succeeded && self.first_success {
            Some(StopCause::FirstSuccess)
        } else if outcome.is_failure() && self.first_failure {
            Some(StopCause::FirstFailure)
        } else {
            None
        }
    }
}

impl Wanted {
    fn is(&self, product: &Product) -> bool {
        match product {
            Product::Nothing => false,
            Product::Value(value) => match &self.field {
                None => equal(value, &self.value),
                Some(name) => field(value, name).is_some_and(|value| equal(value, &self.value)),
            },
            Product::Command(output) => {
                let printed = output.stdout.text.to_text();
                let wanted = match &self.value {
                    Value::String(text) => text.trim().to_owned(),
                    other => other.to_string(),
                };
                printed.trim() == wanted
            }
        }
    }
}

/// Numbers are equal if they have the same value: a function that returns 100.0 answers a wait for 100.
fn equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| equal(a, b)))
        }
        (left, right) => left == right,
    }
}

#[cfg(test)]
mod tests {
    use pool_worker::Data;
    use pool_worker::builtin::{Captured, CommandOutput};
    use serde_json::json;

    use super::*;
    use crate::job::inputs::{Input, Item};
    use crate::report::Ended;

    fn record(outcome: Outcome, product: Product) -> Record {
        let ended = Ended { outcome, product, error: None, can_retry: false, timing: None };
        Record { item: Item { index: 0, input: Input::Json(Value::Null) }, ended, attempts: 1 }
    }

    fn waits_for(value: Value, field: Option<&str>) -> StopRule {
        StopRule {
            equals: Some(Wanted { field: field.map(Into::into), value }),
            ..StopRule::default()
        }
    }

    #[test]
    fn a_value_or_its_field_is_compared() {
        let found =
            |rule: &StopRule, value| rule.applies_to(&record(Outcome::Ok, Product::Value(value)));
        let rule = waits_for(json!(100), None);
        assert_eq!(found(&rule, json!(100)), Some(StopCause::Equals));
        assert_eq!(found(&rule, json!(100.0)), Some(StopCause::Equals));
        assert_eq!(found(&rule, json!("100")), None);
        let rule = waits_for(json!({"x": [1]}), Some("a.b"));
        assert_eq!(found(&rule, json!({"a": {"b": {"x": [1.0]}}})), Some(StopCause::Equals));
        assert_eq!(found(&rule, json!({"x": [1]})), None);
    }

    #[test]
    fn what_a_command_printed_is_compared_without_the_space_around_it() {
        let stdout = Captured { text: Data::from("100\n"), total_bytes: 4 };
        let output = CommandOutput {
            exit_code: Some(0),
            signal: None,
            stdout,
            stderr: Captured::default(),
            leaked: false,
            started_unix_ms: 0,
            duration_us: 0,
            worker_pid: 0,
        };
        let record = |outcome| record(outcome, Product::Command(Box::new(output.clone())));
        for wanted in [json!(100), json!("100")] {
            assert_eq!(
                waits_for(wanted, None).applies_to(&record(Outcome::Ok)),
                Some(StopCause::Equals)
            );
        }
        assert_eq!(waits_for(json!(100), None).applies_to(&record(Outcome::Failed)), None);
        assert_eq!(waits_for(json!(10), None).applies_to(&record(Outcome::Ok)), None);
    }

    #[test]
    fn the_first_success_or_failure_stops() {
        let success = StopRule { first_success: true, ..StopRule::default() };
        let failure = StopRule { first_failure: true, ..StopRule::default() };
        let record = |outcome| record(outcome, Product::Nothing);
        assert_eq!(success.applies_to(&record(Outcome::Ok)), Some(StopCause::FirstSuccess));
        assert_eq!(success.applies_to(&record(Outcome::Lost)), None);
        assert_eq!(failure.applies_to(&record(Outcome::Invalid)), Some(StopCause::FirstFailure));
        assert_eq!(failure.applies_to(&record(Outcome::Cancelled)), None);
    }
}
