//! A pool of worker processes.
mod codec;
mod error;
mod ids;
mod limits;
mod sched;
mod sys;
mod task;
mod transport;
mod wire;
pub use error::*;
pub use ids::*;
pub use task::*;
