//! How a thread is set up.

use std::any::type_name;

use super::{Thread, ThreadFn};
use crate::process::ProcessError;

/// Settings of a thread that is to be started. See [`Thread::builder`].
///
/// ```
/// use pool_core::Thread;
/// let thread = Thread::builder().name("adder").spawn(|a: u32, b: u32| a + b, (1, 2))?;
/// assert_eq!(thread.name(), "adder");
/// assert_eq!(thread.join()?, 3);
/// # anyhow::Ok(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "call spawn() or build()"]
pub struct ThreadBuilder {
    pub(super) name: Option<String>,
    pub(super) daemon: Option<bool>,
    pub(super) stack_size: Option<usize>,
}

impl ThreadBuilder {
    /// The name; the system shows its first 15 bytes. Default: `Thread-N (FUNCTION)`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Kept for [`daemon`](super::ThreadHandle::daemon) to tell, and nothing else: all threads end with their process. Default: `true`, which says so.
    pub fn daemon(mut self, daemon: bool) -> Self {
        self.daemon = Some(daemon);
        self
    }

    /// The size of its stack in bytes. Default: that of [`std::thread`], 2 MiB.
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = Some(bytes);
        self
    }

    /// A thread that calls `function` with `args`, created and started.
    ///
    /// # Errors
    /// As [`ThreadHandle::start`](super::ThreadHandle::start).
    pub fn spawn<F, Args>(self, function: F, args: Args) -> Result<Thread<F::Output>, ProcessError>
    where
        F: ThreadFn<Args>,
        Args: Send + 'static,
    {
        let thread = self.build(function, args);
        thread.start().map(|()| thread)
    }

    /// The same, not started yet: call [`start`](super::ThreadHandle::start).
    pub fn build<F, Args>(self, function: F, args: Args) -> Thread<F::Output>
    where
        F: ThreadFn<Args>,
        Args: Send + 'static,
    {
        Thread::of(self, short_name(type_name::<F>()), Box::new(move || function.call(args)))
    }
}

/// The last part of a path: `work` of `my_app::jobs::work`, `main::{{closure}}` of `my_app::main::{{closure}}`.
fn short_name(path: &str) -> &str {
    let path = match path.rsplit_once(">::") {
        // a method of a trait
        Some((_, method)) if path.starts_with('<') => method,
        _ => path.split('<').next().unwrap_or(path),
    };
    let last = path.rfind("::").unwrap_or(0);
    let is_closure = path[last..].contains('{');
    let start = if is_closure { path[..last].rfind("::").map_or(0, |at| at + 2) } else { last };
    path[start..].trim_start_matches("::")
}

#[cfg(test)]
mod tests {
    use super::short_name;

    #[test]
    fn short_names() {
        assert_eq!(short_name("my_app::jobs::work"), "work");
        assert_eq!(short_name("my_app::main::{{closure}}"), "main::{{closure}}");
        assert_eq!(short_name("my_app::work<alloc::vec::Vec<u8>>"), "work");
        assert_eq!(short_name("work"), "work");
        assert_eq!(short_name("<u8 as core::ops::Add>::add"), "add");
    }
}
