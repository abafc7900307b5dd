//! Is a process that dies or stands still named, and in time?

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use glint_kernels::collective::{Collective, CollectiveError, Group, host, join};

use crate::support::{Way, bits, rank_order_sum, transport, values};

/// Not a test of its own: the other ranks of [`processes_that_die_or_stop_are_named`].
///
/// Sums until an error, and exits with 100 plus the rank that the error names.
#[test]
fn child_rank() {
    let Ok(spec) = std::env::var("GLINT_TEST_CHILD_RANK") else { return };
    let (rank, address) = spec.split_once(' ').unwrap();
    let rank = rank.parse().unwrap();
    let mut ranks = join(address, rank, &Group::new(3, 7, CHILD_TIMEOUT)).unwrap();
    let code = loop {
        let mut x = values(rank, 576, 3);
        match ranks.all_reduce_sum(&mut x) {
            Ok(()) => assert!(bits(&x) == rank_order_sum(3, 576, 3)),
            Err(CollectiveError::PeerLost { rank, .. } | CollectiveError::Timeout { rank, .. }) => {
                break 100 + rank as i32;
            }
            Err(error) => panic!("{error}"),
        }
    };
    std::process::exit(code);
}

/// Long enough for a busy machine, short enough to wait for.
const CHILD_TIMEOUT: Duration = Duration::from_secs(3);

fn spawn_rank(rank: usize, address: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "processes::child_rank", "--nocapture"])
        .env("GLINT_TEST_CHILD_RANK", format!("{rank} {address}"))
        .spawn()
        .unwrap()
}

#[test]
fn processes_that_die_or_stop_are_named() {
    use rustix::process::{Pid, Signal, kill_process};
    for way in [Way::SharedMemory, Way::Tcp] {
        for signal in [Signal::KILL, Signal::STOP] {
            let host = host(&transport(way), &Group::new(3, 7, CHILD_TIMEOUT)).unwrap();
            let mut first = spawn_rank(1, host.address());
            let mut second = spawn_rank(2, host.address());
            let mut rank_0 = host.accept().unwrap();
            let expected = rank_order_sum(3, 576, 3);
            for _ in 0..200 {
                let mut x = values(0, 576, 3);
                rank_0.all_reduce_sum(&mut x).unwrap();
                assert!(bits(&x) == expected);
            }
            kill_process(Pid::from_child(&second), signal).unwrap();
            let started = Instant::now();
            let error = loop {
                if let Err(error) = rank_0.all_reduce_sum(&mut values(0, 576, 3)) {
                    break error;
                }
            };
            let took = started.elapsed();
            match error {
                CollectiveError::PeerLost { rank: 2, .. } => {}
                CollectiveError::Timeout { rank: 2, .. } if signal == Signal::STOP => {}
                error => panic!("{way:?} {signal:?}: {error}"),
            }
            if signal == Signal::KILL {
                assert!(
                    took < CHILD_TIMEOUT,
                    "{way:?}: the dead are noticed before the time is over"
                );
            }
            assert_eq!(first.wait().unwrap().code(), Some(102), "{way:?} {signal:?}");
            // No error: killed already, perhaps.
            let _ = second.kill();
            second.wait().unwrap();
        }
    }
}
