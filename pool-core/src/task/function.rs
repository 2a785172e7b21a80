//! Which functions can be tasks.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Marks functions whose return value is a plain value.
#[derive(Clone, Copy, Debug)]
pub enum Plain {}

/// Marks functions that return `anyhow::Result<T>`: their handle gives `T`, an `Err` becomes
/// [`TaskError::Failed`](crate::TaskError::Failed).
#[derive(Clone, Copy, Debug)]
pub enum Fallible {}

/// A function that can be called in a worker: any `fn` item, or closure that captures nothing, with 0 to 8 arguments.
///
/// Arguments (as a tuple) and result are serde types. `Kind` is [`Plain`] or [`Fallible`] and is inferred. There is no need
/// to implement this trait: it is implemented for all such functions.
///
/// Arguments and results must be owned (`String`, not `&str`), and their encoding is not self-describing: both sides go by the types alone. So
/// serde attributes that leave fields out or guess types don't work in them: `skip_serializing_if`, `untagged`, `tag`, `flatten`, and with them
/// `serde_json::Value`. A value with such attributes fails to decode or, worse, is decoded to something else; pass it as text, e.g. with `serde_json`.
/// A function that can fail returns `anyhow::Result<T>`; a `std::io::Result` is no data. A function pointer is no task: the worker would not
/// know to which function it points.
///
/// A closure that captures does not compile, because its captured variables would not be in the worker:
///
/// ```compile_fail
/// let pool = pool_core::Pool::new(1).unwrap();
/// let offset = 3;
/// let result = pool.apply(move |x: u64| x + offset, (1,)); // pass `offset` as an argument
/// ```
///
/// This is checked when the program is built, not by `cargo check`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be a task with the arguments `{Args}`",
    note = "a task is a `fn` item or a closure without captures; the arguments are given as a tuple, e.g. `(1, 2)` or `(x,)`",
    note = "arguments are owned serde types; so is the result, or it is `anyhow::Result` of one: convert other errors with `?`",
    note = "a closure that never returns needs a type for what it would return: `|| -> () {{ .. }}`"
)]
pub trait TaskFn<Args, Kind>: Copy + Send + 'static {
    /// What the handle gives.
    type Output: Serialize + DeserializeOwned + Send + 'static;

    /// Calls the function.
    ///
    /// # Errors
    /// The function's own error, if it is fallible.
    fn call(self, args: Args) -> anyhow::Result<Self::Output>;
}

macro_rules! implement {
    ($($arg:ident)*) => {
        impl<F, O, $($arg),*> TaskFn<($($arg,)*), Plain> for F
        where
            F: Fn($($arg),*) -> O + Copy + Send + 'static,
            O: Serialize + DeserializeOwned + Send + 'static,
        {
            type Output = O;

            #[allow(non_snake_case, reason = "the type parameters name the variables")]
            #[allow(clippy::unused_unit, reason = "no arguments")]
            #[inline]
            fn call(self, ($($arg,)*): ($($arg,)*)) -> anyhow::Result<O> {
                Ok(self($($arg),*))
            }
        }

        impl<F, O, $($arg),*> TaskFn<($($arg,)*), Fallible> for F
        where
            F: Fn($($arg),*) -> anyhow::Result<O> + Copy + Send + 'static,
            O: Serialize + DeserializeOwned + Send + 'static,
        {
            type Output = O;

            #[allow(non_snake_case, reason = "the type parameters name the variables")]
            #[inline]
            fn call(self, ($($arg,)*): ($($arg,)*)) -> anyhow::Result<O> {
                self($($arg),*)
            }
        }
    };
}

implement!();
implement!(A);
implement!(A B);
implement!(A B C);
implement!(A B C D);
implement!(A B C D E);
implement!(A B C D E G);
implement!(A B C D E G H);
implement!(A B C D E G H I);
