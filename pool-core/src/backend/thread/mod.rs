//! Worker threads: the same links, leases and states as processes have, in ordinary memory. A thread can be asked to end and can be given up, but not
//! killed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::ids::Lease;
use crate::primitives::unpoisoned;
use crate::task::job::{JobCell, Outcome};
use crate::transport::status::StatusPage;

/// What both the pool and the thread have.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) page: StatusPage,
    /// Finished, and not told to the scheduler yet.
    done: Mutex<Vec<Done>>,
    abandoned: AtomicBool,
}

/// A task that has run.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) lease: Lease,
    pub(crate) elapsed_ns: u64,
    pub(crate) outcome: Outcome,
}

/// What a thread is told.
#[derive(Debug)]
pub(crate) enum ToThread {
    Tasks(Vec<(Lease, Arc<JobCell>)>),
    /// Leave when everything before this is done.
    Stop,
}

impl Port {
    pub(crate) fn put_done(&self, done: Done) {
        unpoisoned(self.done.lock()).push(done);
    }

    pub(crate) fn take_done(&self) -> Vec<Done> {
        std::mem::take(&mut *unpoisoned(self.done.lock()))
    }

    /// Whether the pool does not want anything of this thread any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }
}

/// The pool's end.
#[derive(Debug)]
pub(crate) struct ThreadLink {
    pub(crate) seat: u32,
    pub(crate) port: Arc<Port>,
    mailbox: Sender<ToThread>,
    batch: Vec<(Lease, Arc<JobCell>)>,
    pub(crate) thread: Option<JoinHandle<()>>,
}

impl ThreadLink {
    /// Both ends. The thread is added when it has been started.
    pub(crate) fn new(seat: u32) -> (ThreadLink, Arc<Port>, Receiver<ToThread>) {
        let page = StatusPage::local();
        let port = Arc::new(Port {
            page,
            done: Mutex::new(Vec::new()),
            abandoned: AtomicBool::new(false),
        });
        let (mailbox, messages) = channel();
        let link =
            ThreadLink { seat, port: Arc::clone(&port), mailbox, batch: Vec::new(), thread: None };
        (link, port, messages)
    }

    /// Adds a task, which has been announced, to the next message.
    pub(crate) fn push_task(&mut self, lease: Lease, job: Arc<JobCell>) {
        self.batch.push((lease, job));
    }

    /// Sends the message. A thread that has ended is told by its end.
    pub(crate) fn flush(&mut self) {
        if !self.batch.is_empty() {
            let batch = std::mem::take(&mut self.batch);
            let _ = self.mailbox.send(ToThread::Tasks(batch));
        }
    }

    pub(crate) fn stop(&mut self) {
        let _ = self.mailbox.send(ToThread::Stop);
    }

    /// It begins no further task, and leaves as soon as the one that it runs is done.
    pub(crate) fn abandon(&mut self) {
        self.port.abandoned.store(true, Ordering::Relaxed);
        self.stop();
    }
}
