//! How bytes move between the parent and one worker. Nothing outside knows which way a frame took.

pub(crate) mod agreement;
pub(crate) mod attachments;
pub(crate) mod block;
#[cfg(test)]
mod fuzz;
pub(crate) mod lane;
pub(crate) mod replies;
pub(crate) mod results;
pub(crate) mod status;
pub(crate) mod task_queue;
pub(crate) mod tasks;
