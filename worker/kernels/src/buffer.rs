//! Where do weights and KV blocks lie? On cache lines, and on huge pages where the system has them.

use std::marker::PhantomData;

use bytemuck::{Pod, Zeroable};

const LINE_BYTES: usize = 64;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; LINE_BYTES]);

/// A zeroed array of `T` that begins on a cache line.
pub(crate) struct Buffer<T> {
    lines: Vec<Line>,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Pod> Buffer<T> {
    /// Returns `len` zeroes.
    pub(crate) fn zeroed(len: usize) -> Self {
        let mut lines = Vec::new();
        lines.resize((len * size_of::<T>()).div_ceil(LINE_BYTES), Line::zeroed());
        Self { lines, len, element: PhantomData }
    }

    pub(crate) fn as_slice(&self) -> &[T] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [T] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }

    pub(crate) fn bytes(&self) -> usize {
        self.lines.len() * LINE_BYTES
    }
}
