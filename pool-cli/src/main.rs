//! The command line.
mod job;
fn main() {}
