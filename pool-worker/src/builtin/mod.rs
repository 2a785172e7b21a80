//! The task kinds that every `pool-cli` knows without a worker executable of the user's.
//!
//! | name | input | result |
//! |---|---|---|
//! | `command` | [`CommandSpec`] | [`CommandOutput`] |
//! | `checksum` | path of a file | [`Checksum`]: size, blake3, size after gzip |
//! | `echo` | any value | the same value |
//! | `sleep` | seconds, or [`SleepSpec`] | the given value |
//! | `fail` | [`Failure`] | never one, except for `"none"` |

mod checksum;
mod command;
mod trial;

pub use checksum::{Checksum, checksum};
pub use command::{Captured, CommandOutput, CommandSpec, DEFAULT_OUTPUT_CAP_BYTES, command};
pub use trial::{Failure, SleepSpec, echo, fail, sleep};

use crate::Host;

/// The name under which [`command()`] is offered.
pub const COMMAND: &str = "command";

/// A host with the built-in kinds. The `pool-worker` executable is this and nothing else.
pub fn host() -> Host {
    Host::new()
        .task(COMMAND, command)
        .task("checksum", checksum)
        .task("echo", echo)
        .task("sleep", sleep)
        .task("fail", fail)
}
