//! How do the tasks of one op write into one slice?

#![expect(unsafe_code, reason = "tasks write to interleaved places, which no safe split expresses")]

use std::marker::PhantomData;
use std::slice;

/// A mutable slice whose parts are handed to tasks that run at the same time.
pub(crate) struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: a `Disjoint` gives out nothing but parts by `part`, whose caller promises that they do
// not overlap; so sharing it is handing `&mut [T]` pieces to threads, which `T: Send` allows.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// Returns `len` elements from `start` on.
    ///
    /// # Safety
    ///
    /// While the result lives, nobody asks for a part that overlaps it.
    ///
    /// # Panics
    ///
    /// Panics if the part is not within the slice.
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "the caller promises that parts do not overlap")]
    pub(crate) unsafe fn part(&self, start: usize, len: usize) -> &mut [T] {
        let end = start.checked_add(len);
        assert!(end.is_some_and(|end| end <= self.len), "{start} + {len} in {}", self.len);
        // SAFETY: within the slice that was borrowed mutably for `'a`, and not aliased by the
        // caller's promise.
        unsafe { slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}
