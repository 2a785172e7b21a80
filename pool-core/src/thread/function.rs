//! Which functions can be run by a thread.

/// A function that a [`Thread`](crate::Thread) can run: any `fn` item, function pointer or closure, with captures or without, with 0 to 8 arguments.
///
/// There is no need to implement this trait: it is implemented for all such functions. Nothing has to be encoded, so arguments and result may be of any
/// types that can be sent to another thread.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be run by a thread with the arguments `{Args}`",
    note = "the arguments are given as a tuple, e.g. `(1, 2)` or `(x,)`; everything must be `Send` and `'static`"
)]
pub trait ThreadFn<Args>: Send + 'static {
    /// What the function returns.
    type Output: Send + 'static;

    /// Calls the function.
    fn call(self, args: Args) -> Self::Output;
}

macro_rules! implement {
    ($($arg:ident)*) => {
        impl<F, O, $($arg),*> ThreadFn<($($arg,)*)> for F
        where
            F: FnOnce($($arg),*) -> O + Send + 'static,
            O: Send + 'static,
        {
            type Output = O;

            #[allow(non_snake_case, reason = "the type parameters name the variables")]
            #[allow(clippy::unused_unit, reason = "no arguments")]
            fn call(self, ($($arg,)*): ($($arg,)*)) -> O {
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
