//! Hints to the processor.

use std::ptr;

/// Has this fetched, as far as it lies in two cache lines: whoever goes through a large table and knows what comes next needs not wait for memory then. Changes nothing else.
#[inline]
pub(crate) fn prefetch<T>(place: &T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let first: *const i8 = ptr::from_ref(place).cast();
        let last = first.wrapping_add(size_of::<T>().saturating_sub(1));
        // SAFETY: any address may be prefetched
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(first);
            _mm_prefetch::<_MM_HINT_T0>(last);
        }
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = ptr::from_ref(place);
}
