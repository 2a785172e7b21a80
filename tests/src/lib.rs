//! Support for the tests: a [`Case`] with a watchdog and a census of its processes, a [`Gate`] at which tasks and the test meet, a
//! [`Ledger`] of what was executed, and [faults](fault). Nothing here sleeps to synchronise: [`eventually`] polls a condition.
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]
#![allow(clippy::print_stderr, reason = "the watchdog speaks to the reader of the test's output")]

mod case;
pub mod census;
pub mod fault;
mod freezer;
mod gate;
mod program;
pub mod reply_socket;

pub use case::{
    Case, ENDINGS, Ending, builder, eventually, fast_lane, plain_builder, plain_pool, seats, within,
};
pub use freezer::Freezer;
pub use gate::{Gate, Ledger};
pub use program::{Program, Running};
