//! What is known about a panic in a task: kept by the panic hook of the worker, told to the parent.

use std::any::Any;
use std::backtrace::Backtrace;
use std::cell::{Cell, RefCell};
use std::io::Write;
use std::panic::PanicHookInfo;
use std::sync::Once;

use serde::{Deserialize, Serialize};

use crate::error::TaskError;
use crate::limits::TEXT_BYTES;

/// A panic, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) message: String,
    pub(crate) location: String,
    pub(crate) backtrace: String,
}

impl From<Report> for TaskError {
    fn from(Report { message, location, backtrace }: Report) -> TaskError {
        TaskError::Panicked { message, location, backtrace }
    }
}

impl Report {
    pub(super) fn cut(self) -> Report {
        let Report { message, location, backtrace } = self;
        Report { message: cut(message), location: cut(location), backtrace: cut(backtrace) }
    }
}

thread_local! {
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
    static LAST: RefCell<Option<Report>> = const { RefCell::new(None) };
}

/// Makes panics of this thread's tasks be kept instead of printed. Other threads print as before: the hook that this process had is called for
/// them. One that is set later replaces this one; the location of a task's panic is then not known.
pub(crate) fn keep() {
    static HOOK: Once = Once::new();
    IN_TASK.set(true);
    HOOK.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            // no longer known in a thread that is ending
            if !IN_TASK.try_with(Cell::get).unwrap_or(false) {
                previous(info);
            } else if cfg!(panic = "abort") {
                // nobody will catch it: it is told by what is printed
                previous(info);
            } else if is_last(info) {
                previous(info);
                print(LAST.take());
            } else {
                LAST.set(Some(describe(info)));
            }
        }));
    });
}

/// The report of the panic that has just been caught. `payload` tells the message if the user's code has set a hook of
/// its own, so that nothing was kept.
pub(crate) fn take(payload: &(dyn Any + Send)) -> Report {
    let kept =
        LAST.take().unwrap_or_else(|| Report { location: "unknown".into(), ..Report::default() });
    if kept.message.is_empty() { Report { message: message(payload), ..kept } } else { kept }
}

/// Whether the process aborts after this panic. std does not say so, but by these messages of its own; should they change, only what is printed before an abort is less.
fn is_last(info: &PanicHookInfo<'_>) -> bool {
    let text = message(info.payload());
    text.starts_with("panic in a function that cannot unwind")
        || text.starts_with("panic in a destructor during cleanup")
}

/// The panic that can't be told to the parent, because the process aborts.
fn print(kept: Option<Report>) {
    if let Some(Report { message, location, .. }) = kept {
        // a standard error that is closed is no reason to panic once more
        let _ = writeln!(std::io::stderr(), "the panic before was at {location}: {message}");
    }
}

fn describe(info: &PanicHookInfo<'_>) -> Report {
    let backtrace = match std::env::var_os("RUST_BACKTRACE") {
        Some(value) if value == "0" => String::new(),
        _ => Backtrace::force_capture().to_string(),
    };
    Report {
        message: message(info.payload()),
        location: info.location().map_or_else(|| "unknown".to_owned(), ToString::to_string),
        backtrace,
    }
}

fn message(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic whose payload is no text".to_owned()
    }
}

/// At most what the parent takes for one text, cut between characters.
pub(super) fn cut(mut text: String) -> String {
    let mut end = text.len().min(TEXT_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}
