//! Work as data: which functions can be tasks, how a function is named to a worker, and what is run there.

pub(crate) mod callee;
pub(crate) mod chunk;
pub(crate) mod entry;
mod function;
pub(crate) mod job;
pub(crate) mod panics;
pub(crate) mod registry;

pub use function::{Fallible, Plain, TaskFn};
pub use registry::Registry;
