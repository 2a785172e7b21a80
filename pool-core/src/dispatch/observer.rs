//! Tells the user what happens, in order, on a thread of its own.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::courier::Courier;
use crate::events::PoolEvent;
use crate::limits::MAX_EVENTS;

/// The user's function.
pub(crate) type OnEvent = Arc<dyn Fn(&PoolEvent) + Send + Sync>;

pub(super) struct Observer {
    courier: Arc<Courier>,
    tell: OnEvent,
    waiting: Arc<AtomicUsize>,
    missed: u64,
}

impl Observer {
    pub(super) fn new(courier: Arc<Courier>, tell: OnEvent) -> Observer {
        Observer { courier, tell, waiting: Arc::default(), missed: 0 }
    }

    /// Never blocks: an observer that is too slow misses events, and is told how many.
    pub(super) fn tell(&mut self, event: PoolEvent) {
        if self.waiting.load(Ordering::Relaxed) >= MAX_EVENTS {
            self.missed += 1;
            return;
        }
        if self.missed > 0 {
            let events = std::mem::take(&mut self.missed);
            self.send(PoolEvent::Missed { events });
        }
        self.send(event);
    }

    fn send(&self, event: PoolEvent) {
        let (tell, waiting) = (Arc::clone(&self.tell), Arc::clone(&self.waiting));
        waiting.fetch_add(1, Ordering::Relaxed);
        self.courier.send(move || {
            waiting.fetch_sub(1, Ordering::Relaxed);
            tell(&event);
        });
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer").field("missed", &self.missed).finish_non_exhaustive()
    }
}
