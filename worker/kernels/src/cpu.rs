//! The device: an instruction set and the threads that share one op's work.

mod disjoint;
mod pool;

use std::cell::{Cell, RefCell};
use std::ops::Range;

pub(crate) use disjoint::Disjoint;

use crate::Isa;
use crate::simd::Level;
use pool::Pool;

/// Elements below which an elementwise op is not worth a second thread: a few microseconds of work.
const GRAIN: usize = 16 << 10;

/// A CPU as a device: which instructions, how many threads.
///
/// It can be sent to another thread but not shared: one op runs at a time, and an op cannot start
/// another.
pub struct Cpu {
    level: Level,
    pool: Pool,
    busy: Cell<bool>,
    /// The activations of a product, as the instructions want them; kept, so that no op allocates.
    pub(crate) packed: RefCell<Vec<u32>>,
}

impl Cpu {
    /// Returns a device with `threads` threads (at least one), the caller's among them.
    ///
    /// The others wait a few microseconds for the next op by spinning, then sleep until there is
    /// one.
    ///
    /// # Panics
    ///
    /// Panics if this machine does not have `isa`, or the system gives no more threads.
    pub fn new(isa: Isa, threads: usize) -> Self {
        let level = Level::new(isa);
        let level = level.unwrap_or_else(|| panic!("this machine does not have {isa}"));
        let pool = Pool::new(threads.saturating_sub(1));
        Self { level, pool, busy: Cell::new(false), packed: RefCell::default() }
    }

    /// Returns the instruction set.
    pub fn isa(&self) -> Isa {
        self.level.isa()
    }

    /// Returns the number of threads, the caller's among them.
    pub fn threads(&self) -> usize {
        self.pool.helpers() + 1
    }

    /// Returns the proof that the instructions are there.
    pub(crate) fn level(&self) -> Level {
        self.level
    }

    /// Calls `task` once for every number below `tasks`, on any thread and in any order, and
    /// returns when all are done.
    ///
    /// # Panics
    ///
    /// Panics if a task panicked, after the others ended, or if a task calls this again.
    pub fn parallel(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        assert!(!self.busy.replace(true), "an op started another op on the same device");
        let failed = self.pool.run(tasks, task);
        self.busy.set(false);
        assert!(!failed, "a task of an op panicked");
    }

    /// Calls `task` with ranges that make up `0..rows`, as many as `row_elements` per row are
    /// worth.
    pub(crate) fn parallel_rows(
        &self,
        rows: usize,
        row_elements: usize,
        task: &(dyn Fn(Range<usize>) + Sync),
    ) {
        let pieces = (rows * row_elements / GRAIN).clamp(1, rows.clamp(1, 4 * self.threads()));
        self.parallel(pieces, &|i| task(rows * i / pieces..rows * (i + 1) / pieces));
    }
}
