//! How a function is named to a copy of the same executable: by the distance of its entry point from an anchor. Both move
//! together under address randomisation; the handshake makes sure that both sides run the same image.
#![expect(
    unsafe_code,
    reason = "a function pointer is made from a checked offset; see the SAFETY lines"
)]

use std::ptr::NonNull;

use super::entry::Entry;

/// The name of a function for a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Callee(pub(crate) i64);

impl Callee {
    /// A function of another executable: its registered name is the first part of the input.
    pub(crate) const BY_NAME: Callee = Callee(i64::MIN);

    pub(crate) fn of(entry: Entry) -> Callee {
        Callee((entry as usize as i64).wrapping_sub(anchor as fn() as usize as i64))
    }

    /// The entry point in this process.
    ///
    /// Must be called only with what a process of the same image has made by [`Callee::of`]; the handshake has compared
    /// the image ids, in the parent before the first task is sent or in the worker before it is run.
    pub(crate) fn entry(self) -> Entry {
        let address = (anchor as fn() as usize as i64).wrapping_add(self.0) as usize;
        // SAFETY: the offset was made from an `Entry` of the same image (see above), so it leads to that function here.
        unsafe { std::mem::transmute::<usize, Entry>(address) }
    }
}

#[inline(never)]
fn anchor() {
    std::hint::black_box(());
}

/// The only value of a function type that captures nothing.
///
/// Compiles only for such types, so the message of the assertion is what a user sees who captures a variable.
#[inline]
pub(crate) fn instance<F: Copy + 'static>() -> F {
    const {
        assert!(
            size_of::<F>() == 0,
            "a task must be a fn item or a closure that captures nothing: pass captured variables as arguments"
        );
    }
    // SAFETY: F has no bytes, so nothing is read; it is inhabited, because the caller of the pool's verb has passed a value of it, and
    // Copy, so another one may exist.
    unsafe { NonNull::<F>::dangling().read() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::entry::{Fault, Output};

    fn one(_: &[u8], out: &mut Output<'_>) -> Result<(), Fault> {
        out.bytes.push(1);
        Ok(())
    }

    #[test]
    fn an_entry_is_found_again() {
        let mut bytes = Vec::new();
        let mut out = Output::new(&mut bytes, 10);
        Callee::of(one).entry()(&[], &mut out).unwrap();
        assert_eq!(bytes, [1]);
    }

    #[test]
    fn instances_can_be_called() {
        fn make<F: Fn(u32) -> u32 + Copy + 'static>(_: F) -> u32 {
            instance::<F>()(20)
        }
        assert_eq!(make(|x| x + 1), 21);
        assert_eq!(make(u32::to_be), 20u32.to_be());
    }
}
