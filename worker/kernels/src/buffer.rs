//! Where do weights and KV blocks lie? In pages of their own, huge ones where the system has them.
//!
//! A step reads every weight once; with pages of 4 KiB the processor would look up a quarter of a
//! million addresses for each gigabyte. Fresh pages are zero and take no memory until touched.

#![expect(unsafe_code, reason = "pages come from the operating system as a raw pointer")]

use std::marker::PhantomData;
use std::ptr::{NonNull, null_mut};
use std::slice;

use bytemuck::Pod;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// A zeroed array of `T` that begins on a page.
pub(crate) struct Buffer<T> {
    /// Dangling if there is no byte.
    pages: NonNull<T>,
    len: usize,
    element: PhantomData<T>,
}

// SAFETY: a buffer owns its pages as a `Box<[T]>` would, and numbers may be sent and shared.
unsafe impl<T: Pod + Send> Send for Buffer<T> {}
// SAFETY: as above; a shared buffer can only be read.
unsafe impl<T: Pod + Sync> Sync for Buffer<T> {}

impl<T: Pod> Buffer<T> {
    /// Returns `len` zeroes.
    ///
    /// # Panics
    ///
    /// Panics if the system has not so much address space.
    pub(crate) fn zeroed(len: usize) -> Self {
        let bytes = len.checked_mul(size_of::<T>()).filter(|&bytes| bytes <= isize::MAX as usize);
        let Some(bytes) = bytes else { panic!("{len} elements are more than memory can be") };
        if bytes == 0 {
            return Self { pages: NonNull::dangling(), len, element: PhantomData };
        }
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: without `MapFlags::FIXED` the system picks addresses that nobody uses.
        let pages = unsafe { mmap_anonymous(null_mut(), bytes, protection, flags) };
        let pages = pages.unwrap_or_else(|error| panic!("cannot get {bytes} bytes: {error}"));
        // A hint: a system without huge pages refuses, and nothing is lost but speed.
        #[cfg(target_os = "linux")]
        // SAFETY: these are the pages mapped just above, and the advice does not change what they
        // hold.
        let _ = unsafe { madvise(pages, bytes, Advice::LinuxHugepage) };
        let pages = NonNull::new(pages.cast()).expect("a mapping is not at address zero");
        Self { pages, len, element: PhantomData }
    }

    pub(crate) fn as_slice(&self) -> &[T] {
        // SAFETY: `len` elements were mapped readable and zero, which is a value of every `Pod`; a
        // page is aligned for all of them, and who holds `&self` keeps writers away.
        unsafe { slice::from_raw_parts(self.pages.as_ptr(), self.len) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as in `as_slice`, and `&mut self` is the only way to the pages.
        unsafe { slice::from_raw_parts_mut(self.pages.as_ptr(), self.len) }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        let bytes = self.len * size_of::<T>();
        if bytes > 0 {
            // SAFETY: exactly what `zeroed` mapped, and nobody borrows from a value being dropped.
            let unmapped = unsafe { munmap(self.pages.as_ptr().cast(), bytes) };
            debug_assert!(unmapped.is_ok(), "unmapping {bytes} bytes: {unmapped:?}");
        }
    }
}
