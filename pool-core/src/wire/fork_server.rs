//! What a pool and its fork server say to each other: orders and answers on one socket, and on another one the ends of workers. Both keep messages
//! apart.

use serde::{Deserialize, Serialize};

use super::hello::Hello;
use crate::error::ExitCause;

/// Pool → fork server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Call this function, which all workers then have behind them.
    Preload { callee: i64, input: Vec<u8> },
    /// Make a worker. With it come its socket, and its standard output and error as far as it has any.
    Fork { has_stdout: bool, has_stderr: bool },
}

/// Fork server → pool: first a greeting, then one answer to each order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    Greeting(Hello),
    /// The text is why it has failed.
    Preloaded(Result<(), String>),
    Forked {
        pid: u32,
    },
    Refused(String),
}

/// Longest message of both: the arguments of the preload function, or the text of its error.
pub(crate) const MESSAGE_BYTES: usize = 96 << 10;

/// Longest message of both when the preload function has been called: orders to fork, and why that has failed.
pub(crate) const SHORT_MESSAGE_BYTES: usize = 2 << 10;

/// Length of the message that tells of a worker's end: its number, kind, value, flag.
pub(crate) const END_BYTES: usize = 16;

/// Fork server → pool: a worker has ended. It stays a zombie until the pool sends its number back.
pub(crate) fn encode_end(pid: u32, cause: ExitCause) -> [u8; END_BYTES] {
    let (kind, value, flag) = match cause {
        ExitCause::Exited(code) => (1, code, 0),
        ExitCause::Signaled { signal, core_dumped } => (2, signal, i32::from(core_dumped)),
        ExitCause::OutOfMemory | ExitCause::Protocol | ExitCause::Unknown => (0, 0, 0),
    };
    let mut bytes = [0; END_BYTES];
    bytes[..4].copy_from_slice(&pid.to_le_bytes());
    for (at, field) in [(4, kind), (8, value), (12, flag)] {
        bytes[at..at + 4].copy_from_slice(&i32::to_le_bytes(field));
    }
    bytes
}

pub(crate) fn decode_end(bytes: &[u8]) -> Option<(u32, ExitCause)> {
    let (fields, rest) = bytes.as_chunks::<4>();
    let [pid, kind, value, flag] = fields else { return None };
    let [kind, value, flag] = [kind, value, flag].map(|field| i32::from_le_bytes(*field));
    let cause = match kind {
        1 => ExitCause::Exited(value),
        2 => ExitCause::Signaled { signal: value, core_dumped: flag != 0 },
        _ => ExitCause::Unknown,
    };
    rest.is_empty().then_some((u32::from_le_bytes(*pid), cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_survive_the_wire() {
        for cause in [
            ExitCause::Exited(-3),
            ExitCause::Signaled { signal: 11, core_dumped: true },
            ExitCause::Unknown,
        ] {
            assert_eq!(decode_end(&encode_end(7, cause)), Some((7, cause)));
        }
        assert_eq!(decode_end(&[0; 15]), None);
        assert_eq!(decode_end(&[0; 20]), None);
    }
}
