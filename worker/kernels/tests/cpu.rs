//! The threads of a device, through the one call that uses them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use glint_kernels::{Cpu, Isa};

#[test]
fn every_task_runs_exactly_once() {
    for threads in 1..=9 {
        let cpu = Cpu::new(Isa::Portable, threads);
        assert_eq!(cpu.threads(), threads);
        for tasks in (0..40).chain([1000]) {
            let counts: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            cpu.parallel(tasks, &|i| {
                counts[i].fetch_add(1, Ordering::Relaxed);
            });
            let once = counts.iter().all(|count| count.load(Ordering::Relaxed) == 1);
            assert!(once, "{tasks} tasks on {threads} threads");
        }
    }
}

/// Ops in quick succession, and helpers that fall asleep in between: no wake-up is lost, none comes
/// to the wrong op.
#[test]
fn helpers_come_to_op_after_op() {
    let cpu = Cpu::new(Isa::Portable, 4);
    let total = AtomicUsize::new(0);
    for round in 0..20_000usize {
        let tasks = 1 + round % 7;
        cpu.parallel(tasks, &|i| {
            total.fetch_add(i + 1, Ordering::Relaxed);
        });
        if round % 1000 == 0 {
            // Long enough for helpers to go to sleep; nothing is wrong if they do not.
            (0..50).for_each(|_| thread::yield_now());
        }
    }
    let expected: usize = (0..20_000).map(|round| (1..=1 + round % 7).sum::<usize>()).sum();
    assert_eq!(total.load(Ordering::Relaxed), expected);
}

#[test]
fn a_panic_in_a_task_reaches_the_caller_and_the_device_lives_on() {
    for threads in [1, 3] {
        let cpu = Cpu::new(Isa::Portable, threads);
        let failed = catch_unwind(AssertUnwindSafe(|| {
            cpu.parallel(8, &|i| assert_ne!(i, 5, "as the test wants"));
        }));
        assert!(failed.is_err());
        let ran = AtomicUsize::new(0);
        cpu.parallel(8, &|_| {
            ran.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(ran.load(Ordering::Relaxed), 8);
    }
}

#[test]
fn a_device_may_move_to_another_thread() {
    let cpu = Cpu::new(Isa::detect(), 2);
    let moved = thread::spawn(move || {
        let ran = AtomicUsize::new(0);
        cpu.parallel(5, &|_| {
            ran.fetch_add(1, Ordering::Relaxed);
        });
        ran.into_inner()
    });
    assert_eq!(moved.join().unwrap(), 5);
}

#[test]
fn an_op_within_an_op_is_refused() {
    thread_local! {
        static CPU: Cpu = Cpu::new(Isa::Portable, 1);
    }
    let nested = catch_unwind(|| {
        CPU.with(|cpu| cpu.parallel(1, &|_| CPU.with(|cpu| cpu.parallel(1, &|_| ()))))
    });
    assert!(nested.is_err());
    CPU.with(|cpu| cpu.parallel(1, &|_| ()));
}
