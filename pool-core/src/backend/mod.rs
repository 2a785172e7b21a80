//! The two kinds of workers, processes and threads, as the shell sees them.

pub(crate) mod process;
pub(crate) mod thread;

use process::link::ProcessLink;
use thread::ThreadLink;

use crate::transport::status::StatusPage;

/// The pool's end of one worker.
#[derive(Debug)]
pub(crate) enum Link {
    Process(Box<ProcessLink>),
    Thread(ThreadLink),
}

impl Link {
    /// How far its tasks have come.
    pub(crate) fn page(&self) -> &StatusPage {
        match self {
            Link::Process(link) => &link.page,
            Link::Thread(link) => &link.port.page,
        }
    }

    pub(crate) fn seat(&self) -> u32 {
        match self {
            Link::Process(link) => link.seat,
            Link::Thread(link) => link.seat,
        }
    }

    /// The process that it is, or in which it is.
    pub(crate) fn pid(&self) -> u32 {
        match self {
            Link::Process(link) => link.pid,
            Link::Thread(_) => std::process::id(),
        }
    }

    pub(crate) fn as_process(&self) -> Option<&ProcessLink> {
        match self {
            Link::Process(link) => Some(link),
            Link::Thread(_) => None,
        }
    }

    pub(crate) fn as_process_mut(&mut self) -> Option<&mut ProcessLink> {
        match self {
            Link::Process(link) => Some(link),
            Link::Thread(_) => None,
        }
    }
}
