//! Executables whose functions a pool calls **by name**, and the task kinds that are built in.
//!
//! A pool usually runs copies of the program that built it. A [`Host`] is the other way: an executable of its own that offers
//! functions under names, so that `pool-cli` (or any program that calls `Pool::builder().executable(path)`) can use it without
//! being linked with it. Inputs and results cross as JSON.
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! fn shout(text: String) -> String {
//!     text.to_uppercase()
//! }
//!
//! fn line_count(path: std::path::PathBuf) -> anyhow::Result<usize> {
//!     Ok(std::fs::read_to_string(path)?.lines().count())
//! }
//!
//! fn main() -> ExitCode {
//!     pool_worker::Host::new().task("shout", shout).task("line_count", line_count).run()
//! }
//! ```
//!
//! A job file then names the executable and the task: `worker = "./my-tasks"`, `task = "line_count"`.
//!
//! | module | what it holds |
//! |---|---|
//! | [`Host`], [`HostFn`] | the executable and what may be a task |
//! | [`HostInfo`] | what a host answers when it is asked for its tasks |
//! | [`Data`] | text, or bytes that are not text, in JSON |
//! | [`call`] | a call that also tells when and where the task ran |
//! | [`builtin`] | `command`, `checksum`, `echo`, `sleep`, `fail` |

pub mod builtin;
pub mod call;
mod data;
mod function;
mod host;

pub use data::Data;
pub use function::{Fallible, HostFn, Plain};
pub use host::{Host, HostInfo, TASKS_FLAG, TASKS_JSON_FLAG};
