//! The device: an instruction set and the threads that share one op's work.

use std::cell::Cell;
use std::marker::PhantomData;

use crate::Isa;

/// A CPU as a device: which instructions, how many threads.
///
/// It can be sent to another thread but not shared: one op runs at a time, and an op cannot start another.
pub struct Cpu {
    isa: Isa,
    threads: usize,
    one_op_at_a_time: PhantomData<Cell<()>>,
}

impl Cpu {
    /// Returns a device with `threads` threads (at least one), the caller's among them.
    ///
    /// # Panics
    ///
    /// Panics if this machine does not have `isa`.
    pub fn new(isa: Isa, threads: usize) -> Self {
        assert!(isa.is_available(), "this machine does not have {isa}");
        Self { isa, threads: threads.max(1), one_op_at_a_time: PhantomData }
    }

    /// Returns the instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Returns the number of threads, the caller's among them.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Calls `task` once for every number below `tasks`, on any thread and in any order, and returns when all are done.
    ///
    /// # Panics
    ///
    /// Panics if a task panicked, after the others ended.
    pub fn parallel(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..tasks).for_each(task);
    }
}
