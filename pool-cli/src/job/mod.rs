//! The job: its file as typed, its problems, and the plan made of it.

pub mod file;
pub mod parse;
pub mod source;
pub mod units;
