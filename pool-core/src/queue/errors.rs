//! Why nothing was put, got, sent or received.

use std::fmt;

/// Why an item was not put into a queue. Each has the item.
#[derive(PartialEq, Eq)]
#[non_exhaustive]
pub enum PutError<T> {
    /// There was no room within the time.
    Full(T),
    /// The queue is closed.
    Closed(T),
    /// The item can't be encoded.
    Encode {
        /// The item.
        item: T,
        /// Why not.
        reason: String,
    },
    /// The item is larger than the memory of the queue.
    TooLarge {
        /// The item.
        item: T,
        /// Its encoded size in bytes, or the size at which encoding was given up.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// Some process has overwritten the queue's memory.
    Damaged(T),
    /// The operating system refused to keep the descriptors of the item's shared objects.
    Os {
        /// The item.
        item: T,
        /// The system's answer.
        error: String,
    },
}

impl<T> PutError<T> {
    /// The item.
    pub fn into_item(self) -> T {
        match self {
            PutError::Full(item)
            | PutError::Closed(item)
            | PutError::Damaged(item)
            | PutError::Encode { item, .. }
            | PutError::Os { item, .. }
            | PutError::TooLarge { item, .. } => item,
        }
    }
}

impl<T> fmt::Display for PutError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PutError::Full(_) => f.write_str("the queue is full"),
            PutError::Closed(_) => f.write_str("the queue is closed"),
            PutError::Encode { reason, .. } => {
                write!(f, "the item can't be put into a queue: {reason}")
            }
            PutError::TooLarge { size, limit, .. } => write!(
                f,
                "the encoded item would take {size} bytes or more, the queue's memory is {limit}: create it with more"
            ),
            PutError::Damaged(_) => f.write_str("a process has overwritten the queue's memory"),
            PutError::Os { error, .. } => {
                write!(f, "the shared objects in an item can't be put into a queue: {error}")
            }
        }
    }
}

impl<T> fmt::Debug for PutError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PutError({self})")
    }
}

impl<T> std::error::Error for PutError<T> {}

/// Why nothing was got from a queue.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GetError {
    /// There was no item within the time.
    #[error("the queue is empty")]
    Empty,
    /// The queue is closed, and there are no more items.
    #[error("the queue is closed and empty")]
    Closed,
    /// There was an item, and it could not be decoded.
    #[error("an item of a queue can't be decoded: {0}")]
    Decode(String),
    /// Some process has overwritten the queue's memory.
    #[error("a process has overwritten the queue's memory")]
    Damaged,
    /// The operating system refused to hand out the descriptors of the shared objects in the first item, which stays in the queue.
    #[error("the shared objects in an item of a queue can't be had: {0}")]
    Os(String),
}

/// `task_done` was called more often than items were put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("task_done was called more often than items were put into the queue")]
pub struct TooManyDone;

/// Why a message was not sent. The first four have it.
#[derive(PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError<T> {
    /// The other end did not take it within the time.
    Full(T),
    /// The other end is gone.
    Closed(T),
    /// The message can't be encoded.
    Encode {
        /// The message.
        message: T,
        /// Why not.
        reason: String,
    },
    /// The operating system refused.
    Os {
        /// The message.
        message: T,
        /// The system's answer.
        error: String,
    },
}

impl<T> SendError<T> {
    /// The message.
    pub fn into_message(self) -> T {
        match self {
            SendError::Full(message)
            | SendError::Closed(message)
            | SendError::Encode { message, .. }
            | SendError::Os { message, .. } => message,
        }
    }
}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SendError::Full(_) => f.write_str("the other end of the pipe did not take the message"),
            SendError::Closed(_) => f.write_str("the other end of the pipe is gone"),
            SendError::Encode { reason, .. } => write!(f, "the message can't be sent: {reason}"),
            SendError::Os { error, .. } => write!(f, "the message can't be sent: {error}"),
        }
    }
}

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SendError({self})")
    }
}

impl<T> std::error::Error for SendError<T> {}

/// Why nothing was received from a pipe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// There was no message within the time.
    #[error("no message has come through the pipe")]
    Empty,
    /// The other end is gone, and there are no more messages.
    #[error("the other end of the pipe is gone")]
    Closed,
    /// There was a message, and it could not be decoded.
    #[error("a message from a pipe can't be decoded: {0}")]
    Decode(String),
    /// The operating system refused.
    #[error("a message can't be received: {0}")]
    Os(String),
}
