//! What is told when a rank of a group is late, gone, or does something else?

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use glint_kernels::collective::CollectiveError;

use crate::support::{LONG, Rank, SHORT, WAYS, form, on_each};

#[test]
fn a_rank_that_does_not_come_is_named_when_the_time_is_over() {
    for way in WAYS {
        for world_size in [2, 3, 4] {
            let late = world_size - 1;
            let mut ranks = form(way, world_size, SHORT);
            let (present, _absent) = ranks.split_at_mut(late);
            let started = Instant::now();
            let errors = on_each(present, |rank| rank.all_reduce_sum(&mut [1.0; 8]).unwrap_err());
            assert!(started.elapsed() >= SHORT);
            let mut timeouts = 0;
            for error in errors {
                match error {
                    CollectiveError::Timeout { rank, op, waited } => {
                        assert_eq!((rank, op), (late, "all_reduce_sum"), "{way:?}");
                        assert!(waited >= SHORT && waited < LONG / 4);
                        timeouts += 1;
                    }
                    // Another rank's time was over first, and it said whose fault it is.
                    CollectiveError::PeerLost { rank, .. } => assert_eq!(rank, late, "{way:?}"),
                    error => panic!("{way:?}: {error}"),
                }
            }
            assert!(timeouts >= 1);
        }
    }
}

#[test]
fn a_rank_that_leaves_is_named_at_once() {
    for way in WAYS {
        let mut ranks = form(way, 3, LONG);
        on_each(&mut ranks, |rank| rank.barrier().unwrap());
        drop(ranks.pop());
        let started = Instant::now();
        for error in on_each(&mut ranks, |rank| rank.barrier().unwrap_err()) {
            assert!(matches!(error, CollectiveError::PeerLost { rank: 2, .. }), "{way:?}: {error}");
        }
        assert!(started.elapsed() < LONG / 4, "{way:?}");
    }
}

#[test]
fn an_abort_ends_a_waiting_operation_at_once_and_the_others_hear_of_it() {
    for way in WAYS {
        let mut ranks = form(way, 3, LONG);
        let handle = ranks[0].abort_handle();
        let (present, _absent) = ranks.split_at_mut(2);
        let waiting = AtomicUsize::new(0);
        let started = thread::scope(|scope| {
            let running = scope.spawn(|| {
                on_each(present, |rank| {
                    waiting.fetch_add(1, Ordering::SeqCst);
                    let mut out = Vec::new();
                    rank.gather(0, &[1.0; 100], &mut out).unwrap_err()
                })
            });
            while waiting.load(Ordering::SeqCst) < 2 {
                thread::yield_now();
            }
            let started = Instant::now();
            handle.abort();
            let errors = running.join().unwrap();
            assert_eq!(errors[0], CollectiveError::Aborted, "{way:?}");
            // Rank 1 waits for rank 2, and hears of it all the same.
            let told = matches!(errors[1], CollectiveError::PeerLost { rank: 0, .. });
            assert!(told, "{way:?}: {}", errors[1]);
            started
        });
        assert!(started.elapsed() < LONG / 4, "{way:?}");
        assert_eq!(ranks[0].barrier(), Err(CollectiveError::Aborted), "errors stay");
    }
}

#[test]
fn ranks_that_call_different_things_are_told_so_and_never_hang() {
    type Act = fn(&mut Rank) -> Result<(), CollectiveError>;
    let sum_5: Act = |rank| rank.all_reduce_sum(&mut [0.0; 5]);
    let sum_6: Act = |rank| rank.all_reduce_sum(&mut [0.0; 6]);
    let sum_long: Act = |rank| rank.all_reduce_sum(&mut vec![0.0; 200_000]);
    let barrier: Act = |rank| rank.barrier();
    let gather_0: Act = |rank| rank.gather(0, &[0.0; 5], &mut Vec::new());
    let gather_1: Act = |rank| rank.gather(1, &[0.0; 5], &mut Vec::new());
    let broadcast_5: Act = |rank| rank.broadcast(0, &mut [0; 5]);
    let broadcast_6: Act = |rank| rank.broadcast(0, &mut [0; 6]);
    for way in WAYS {
        for (odd, even, text) in [
            (sum_5, sum_6, "all_reduce_sum of 6 values"),
            (sum_5, sum_long, "all_reduce_sum of 200000 values"),
            (sum_5, barrier, "barrier"),
            (gather_0, gather_1, "gather of 5 values to rank 1"),
            (broadcast_5, broadcast_6, "broadcast of 6 bytes from rank 0"),
            (barrier, sum_long, "all_reduce_sum of 200000 values"),
        ] {
            let started = Instant::now();
            let mut ranks = form(way, 3, LONG);
            let errors = on_each(&mut ranks, |rank| {
                let act = if rank.rank() == 1 { odd } else { even };
                act(rank).unwrap_err()
            });
            let CollectiveError::Mismatch { theirs, .. } = &errors[1] else {
                panic!("{way:?}: {}", errors[1]);
            };
            assert_eq!(theirs, text, "{way:?}");
            for error in [&errors[0], &errors[2]] {
                let expected = matches!(
                    error,
                    CollectiveError::Mismatch { rank: 1, .. } | CollectiveError::PeerLost { .. }
                );
                assert!(expected, "{way:?}: {error}");
            }
            assert_eq!(ranks[1].barrier(), Err(errors[1].clone()), "errors stay");
            assert!(started.elapsed() < LONG / 4, "{way:?}");
        }
    }
}

#[test]
fn a_root_that_does_not_exist_is_refused() {
    for way in WAYS {
        for world_size in [1, 2] {
            for error in on_each(&mut form(way, world_size, LONG), |rank| {
                rank.broadcast(world_size, &mut [0; 4]).unwrap_err()
            }) {
                assert!(matches!(error, CollectiveError::Invalid(_)), "{error}");
            }
        }
    }
}
