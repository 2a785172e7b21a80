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
            } else if let Some(last) = is_last(info) {
                previous(info);
                // behind the backtrace, so that it is among the last lines
                match last {
                    Last::AfterAnother => print("the panic before was", LAST.take()),
                    Last::Itself => print("the panic was", Some(describe_briefly(info))),
                }
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

/// A panic after which the process aborts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    /// Because of a panic that was told before.
    AfterAnother,
    /// Because of what this one tells.
    Itself,
}

/// Whether the process aborts after this panic. std does not say so, but by these messages of its own; should they change, only what is printed before an abort is less.
fn is_last(info: &PanicHookInfo<'_>) -> Option<Last> {
    const AFTER_ANOTHER: [&str; 2] =
        ["panic in a function that cannot unwind", "panic in a destructor during cleanup"];
    const ITSELF: [&str; 3] = [
        "misaligned pointer dereference",
        "null pointer dereference",
        "unsafe precondition(s) violated",
    ];
    let text = message(info.payload());
    let is_one_of = |beginnings: &[&str]| beginnings.iter().any(|begin| text.starts_with(begin));
    if is_one_of(&AFTER_ANOTHER) {
        Some(Last::AfterAnother)
    } else {
        is_one_of(&ITSELF).then_some(Last::Itself)
    }
}

/// The panic that can't be told to the parent, because the process aborts.
fn print(what: &str, kept: Option<Report>) {
    if let Some(Report { message, location, .. }) = kept {
        let first = message.lines().next().unwrap_or_default();
        // a standard error that is closed is no reason to panic once more
        let _ = writeln!(std::io::stderr(), "{what} at {location}: {first}");
    }
}

fn describe(info: &PanicHookInfo<'_>) -> Report {
    let backtrace = match std::env::var_os("RUST_BACKTRACE") {
        Some(value) if value == "0" => String::new(),
        _ => Backtrace::force_capture().to_string(),
    };
    Report { backtrace, ..describe_briefly(info) }
}

/// Without a backtrace.
fn describe_briefly(info: &PanicHookInfo<'_>) -> Report {
    Report {
        message: message(info.payload()),
        location: info.location().map_or_else(|| "unknown".to_owned(), ToString::to_string),
        backtrace: String::new(),
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
