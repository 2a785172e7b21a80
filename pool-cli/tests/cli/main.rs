//! The command from outside: what goes in, what comes out, how it ends.

#![expect(clippy::unwrap_used, reason = "a failure in a helper is the failure of the test")]

mod check;
mod run;
mod signals;
mod support;
mod terminal;
