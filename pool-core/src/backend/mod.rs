//! The kinds of workers. Processes for now.

pub(crate) mod process;
