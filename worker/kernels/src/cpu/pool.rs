//! Who helps with an op, and when does everyone know that it is done?
//!
//! The caller opens a *gate*, works, closes the gate and waits for whoever is still inside. A
//! helper enters only while the gate is open, so one that the system has not woken in time is not
//! waited for: with more threads than cores the op is then done by those that ran. Work is taken
//! one task at a time from a shared counter, which evens out what a loud neighbour or a slow core
//! upsets.

#![expect(unsafe_code, reason = "helpers outlive the borrow of the task they run")]

use std::cell::UnsafeCell;
use std::hint;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

/// How often a helper looks for the next op before it sleeps: about 50 µs, longer than the gaps
/// within a step.
const SPINS: u32 = 1 << 11;
/// How often the caller looks for the last helper before it lets others run.
const SPINS_BEFORE_YIELD: u32 = 1 << 10;

/// The gate's low bits: how many helpers are inside.
const INSIDE: u64 = 0xffff;
const OPEN: u64 = 1 << 16;
/// The gate's high bits: which op it is open for.
const TICKET: u64 = 1 << 17;

/// One op's work, with the lifetime of the borrow forgotten.
#[derive(Clone, Copy)]
struct Job {
    task: *const (dyn Fn(usize) + Sync),
    tasks: usize,
}

struct Shared {
    gate: AtomicU64,
    next: AtomicUsize,
    /// Written by the caller while the gate is closed and nobody is inside, read only by who is
    /// inside.
    job: UnsafeCell<Option<Job>>,
    failed: AtomicBool,
    stop: AtomicBool,
    asleep: Vec<AtomicBool>,
}

// SAFETY: all is atomic but `job`, which the gate guards: see its field. The task behind it is
// `Sync`.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// Threads that help the caller; dropping the pool ends them.
pub(super) struct Pool {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
}

impl Pool {
    pub(super) fn new(helpers: usize) -> Self {
        let helpers = helpers.min(INSIDE as usize);
        let shared = Arc::new(Shared {
            gate: AtomicU64::new(0),
            next: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            failed: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            asleep: (0..helpers).map(|_| AtomicBool::new(false)).collect(),
        });
        let start = |i: usize| {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name(format!("glint-cpu-{}", i + 1)).spawn(move || {
                let mut ticket = 0;
                while let Some(entered) = shared.enter(i, ticket) {
                    ticket = entered;
                    shared.work();
                    // Release: what the tasks wrote is seen by the caller, who acquires the gate.
                    shared.gate.fetch_sub(1, Ordering::Release);
                }
            })
        };
        let helpers = (0..helpers)
            .map(|i| start(i).unwrap_or_else(|error| panic!("cannot start a thread: {error}")))
            .collect();
        Self { shared, helpers }
    }

    pub(super) fn helpers(&self) -> usize {
        self.helpers.len()
    }

    /// Runs every task and returns whether one panicked. The caller sees to it that there is one
    /// call at a time.
    pub(super) fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) -> bool {
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. The pointer is read by helpers inside the gate alone,
        // and this function does not return, nor unwind (`work` catches), before the gate is closed
        // and the last of them has left.
        let task = unsafe {
            std::mem::transmute::<
                *const (dyn Fn(usize) + Sync + '_),
                *const (dyn Fn(usize) + Sync + 'static),
            >(task)
        };
        // SAFETY: the gate is closed and nobody is inside: the last call left it so, and calls do
        // not overlap.
        unsafe { *shared.job.get() = Some(Job { task, tasks }) };
        shared.next.store(0, Ordering::Relaxed);
        let helpers = self.helpers.len().min(tasks.saturating_sub(1));
        if helpers > 0 {
            let ticket = shared.gate.load(Ordering::Relaxed) & !(OPEN | INSIDE);
            // SeqCst here and in `enter`: either we see that a helper sleeps, or it sees the open
            // gate before it does.
            shared.gate.store(ticket.wrapping_add(TICKET) | OPEN, Ordering::SeqCst);
            for (helper, asleep) in self.helpers.iter().zip(&shared.asleep).take(helpers) {
                if asleep.load(Ordering::SeqCst) {
                    helper.thread().unpark();
                }
            }
        }
        shared.work();
        if helpers > 0 {
            shared.gate.fetch_and(!OPEN, Ordering::SeqCst);
            let mut spins = 0u32;
            while shared.gate.load(Ordering::Acquire) & INSIDE != 0 {
                spins += 1;
                if spins.is_multiple_of(SPINS_BEFORE_YIELD) {
                    thread::yield_now();
                } else {
                    hint::spin_loop();
                }
            }
        }
        shared.failed.swap(false, Ordering::Relaxed)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for helper in self.helpers.drain(..) {
            helper.thread().unpark();
            // A helper cannot have panicked: `work` catches what its tasks do.
            let _ = helper.join();
        }
    }
}

impl Shared {
    /// Waits for a gate that is open with another ticket than `seen`, and returns its ticket;
    /// `None` at the end.
    fn enter(&self, helper: usize, seen: u64) -> Option<u64> {
        let mut spins = 0;
        loop {
            if self.stop.load(Ordering::SeqCst) {
                return None;
            }
            let gate = self.gate.load(Ordering::SeqCst);
            let ticket = gate & !(OPEN | INSIDE);
            if gate & OPEN != 0 && ticket != seen {
                // Acquire: the job was written before the gate opened. The ticket is part of the
                // comparison, so this cannot enter a gate that was closed, or opened again, since
                // it was looked at.
                let entered = self.gate.compare_exchange_weak(
                    gate,
                    gate + 1,
                    Ordering::AcqRel,
                    Ordering::Relaxed,
                );
                if entered.is_ok() {
                    self.asleep[helper].store(false, Ordering::Relaxed);
                    return Some(ticket);
                }
                continue;
            }
            if spins < SPINS {
                spins += 1;
                hint::spin_loop();
                continue;
            }
            // Announce the sleep first, then look once more (the loop), then sleep; a wake-up that
            // comes in between is kept by `park`.
            if !self.asleep[helper].swap(true, Ordering::SeqCst) {
                continue;
            }
            thread::park();
            self.asleep[helper].store(false, Ordering::SeqCst);
            spins = 0;
        }
    }

    /// Takes tasks until there is none left.
    fn work(&self) {
        // SAFETY: who is here is inside the gate, or is the caller itself; see `job`.
        let Some(Job { task, tasks }) = (unsafe { *self.job.get() }) else { return };
        // SAFETY: the caller is in `run` as long as anybody is in here, so the borrow behind the
        // pointer lives.
        let task = unsafe { &*task };
        let all = || {
            loop {
                let i = self.next.fetch_add(1, Ordering::Relaxed);
                if i >= tasks {
                    return;
                }
                task(i);
            }
        };
        if panic::catch_unwind(AssertUnwindSafe(all)).is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
    }
}
