//! A call that also tells when, how long and in which process the task ran.
//!
//! Every [`Host`](crate::Host) has one task more than its user gave it, [`CALL`], which runs any of the others. `pool-cli` uses
//! it, because its results say where and when they were made; a program that only wants values calls the tasks themselves.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// The name of the task that runs another one and reports on it. Its input is made by [`request`], its answer read by
/// [`Reply::parse`].
pub const CALL: &str = "pool_worker::call";

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The task's value as JSON, or the text of its error.
    pub result: Result<Vec<u8>, String>,
    /// When it started, in milliseconds since 1970.
    pub started_unix_ms: u64,
    /// How long it ran, in microseconds.
    pub duration_us: u64,
    /// The process id of the worker that ran it.
    pub worker_pid: u32,
}

/// The first line of an answer; what follows is the value or the error.
#[derive(Serialize, Deserialize)]
struct Head {
    ok: bool,
    started_unix_ms: u64,
    duration_us: u64,
    worker_pid: u32,
}

/// The input of [`CALL`]: the name, a line end, the task's input as JSON. A name can't have a line end.
pub fn request(task: &str, input: &[u8]) -> Vec<u8> {
    [task.as_bytes(), b"\n", input].concat()
}

/// Reads a [`request`].
pub(crate) fn parse_request(request: &[u8]) -> Option<(&str, &[u8])> {
    let (task, input) = split_line(request)?;
    Some((std::str::from_utf8(task).ok()?, input))
}

impl Reply {
    /// Runs a task and measures it.
    pub(crate) fn measure(run: impl FnOnce() -> anyhow::Result<Vec<u8>>) -> Reply {
        let started_unix_ms = unix_ms(SystemTime::now());
        let clock = Instant::now();
        let result = run().map_err(|error| format!("{error:#}"));
        let duration_us = u64::try_from(clock.elapsed().as_micros()).unwrap_or(u64::MAX);
        Reply { result, started_unix_ms, duration_us, worker_pid: std::process::id() }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let Reply { result, started_unix_ms, duration_us, worker_pid } = self;
        let head = Head {
            ok: result.is_ok(),
            started_unix_ms: *started_unix_ms,
            duration_us: *duration_us,
            worker_pid: *worker_pid,
        };
        let mut bytes = serde_json::to_vec(&head).expect("numbers can be written as JSON");
        bytes.push(b'\n');
        match result {
            Ok(value) => bytes.extend_from_slice(value),
            Err(error) => bytes.extend_from_slice(error.as_bytes()),
        }
        bytes
    }

    /// Reads an answer of [`CALL`]. `None` if it is none.
    pub fn parse(answer: &[u8]) -> Option<Reply> {
        let (head, body) = split_line(answer)?;
        let Head { ok, started_unix_ms, duration_us, worker_pid } =
            serde_json::from_slice(head).ok()?;
        let result =
            if ok { Ok(body.to_vec()) } else { Err(String::from_utf8_lossy(body).into_owned()) };
        Some(Reply { result, started_unix_ms, duration_us, worker_pid })
    }
}

/// A time of day as the wire has it.
pub(crate) fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_as_it_was_made() {
        assert_eq!(parse_request(&request("a b", b"[1,\n2]")), Some(("a b", &b"[1,\n2]"[..])));
        assert_eq!(parse_request(b"no line end"), None);
    }

    #[test]
    fn a_reply_has_the_value_or_the_error_and_where_it_was_made() {
        for result in [Ok(b"{\"n\":\n1}".to_vec()), Err(anyhow::anyhow!("why").context("what"))] {
            let expected = result.as_ref().ok().cloned();
            let reply = Reply::measure(|| result);
            let back = Reply::parse(&reply.to_bytes()).unwrap();
            assert_eq!(back, reply);
            assert_eq!(back.worker_pid, std::process::id());
            match expected {
                Some(value) => assert_eq!(back.result, Ok(value)),
                None => assert_eq!(back.result, Err("what: why".into())),
            }
        }
        assert_eq!(Reply::parse(b"17\n"), None);
    }
}
