//! What happens in pools reaches the subscriber of `tracing`: with the feature of that name.
#![cfg(feature = "tracing")]
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

pool_core::test_support!();

/// Keeps the messages of events, and the names of spans with an `!` before them.
#[derive(Default)]
struct Keeper {
    seen: Arc<Mutex<Vec<String>>>,
    spans: AtomicU64,
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

impl Subscriber for Keeper {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "pool_core"
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        self.seen.lock().unwrap().push(format!("!{}", span.metadata().name()));
        Id::from_u64(1 + self.spans.fetch_add(1, Ordering::Relaxed))
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        self.seen.lock().unwrap().push(message.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn events_and_spans_reach_the_subscriber() {
    let keeper = Keeper::default();
    let seen = Arc::clone(&keeper.seen);
    tracing::subscriber::set_global_default(keeper).unwrap();
    let pool = pool_core::Pool::builder().threads(1).build().unwrap();
    assert_eq!(pool.apply(u64::pow, (2, 3)), Ok(8));
    pool.apply(|| -> anyhow::Result<()> { anyhow::bail!("no") }, ()).unwrap_err();
    pool.close();
    pool.join().unwrap();
    let seen = seen.lock().unwrap();
    let count = |what: &str| seen.iter().filter(|message| *message == what).count();
    for (what, times) in [
        ("worker started", 1),
        ("worker ready", 1),
        ("task submitted", 2),
        ("task started", 2),
        ("!task", 2),
        ("task finished", 1),
        ("task failed", 1),
        ("worker left", 1),
    ] {
        assert_eq!(count(what), times, "{what}: {seen:?}");
    }
}
