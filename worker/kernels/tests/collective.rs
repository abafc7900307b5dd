//! One contract, every transport: threads, shared memory and TCP, in threads here and in processes of their own
//! where dying is the point.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use glint_kernels::collective::{
    Collective, CollectiveError, Group, Host, Transport, host, join, threads,
};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(200);
const WORLD_SIZES: [usize; 5] = [1, 2, 3, 4, 8];

type Rank = Box<dyn Collective>;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Threads,
    SharedMemory,
    Tcp,
}

const WAYS: [Way; 3] = [Way::Threads, Way::SharedMemory, Way::Tcp];

fn transport(way: Way) -> Transport {
    match way {
        Way::Tcp => Transport::Tcp { listen: (Ipv4Addr::LOCALHOST, 0).into(), advertise: None },
        Way::Threads | Way::SharedMemory => Transport::SharedMemory,
    }
}

/// Forms a group, all ranks in this process.
fn form(way: Way, world_size: usize, timeout: Duration) -> Vec<Rank> {
    if way == Way::Threads {
        return threads(world_size, timeout)
            .into_iter()
            .map(|rank| Box::new(rank) as Rank)
            .collect();
    }
    // Meeting is not what a short timeout tests.
    let group = || Group::new(world_size, 7, timeout.max(Duration::from_secs(10)));
    let host = host(&transport(way), &group()).unwrap();
    let address = host.address().to_owned();
    let mut ranks = thread::scope(|scope| {
        let joins: Vec<_> = (1..world_size)
            .map(|rank| {
                let (address, group) = (&address, group());
                scope.spawn(move || join(address, rank, &group).unwrap())
            })
            .collect();
        let mut ranks = vec![host.accept().unwrap()];
        ranks.extend(joins.into_iter().map(|join| join.join().unwrap()));
        ranks
    });
    if timeout < Duration::from_secs(10) {
        ranks = reform_with(way, world_size, timeout);
    }
    ranks
}

/// As [`form`], with the short timeout itself: retried, for a busy machine may be slower than it.
fn reform_with(way: Way, world_size: usize, timeout: Duration) -> Vec<Rank> {
    loop {
        let host = host(&transport(way), &Group::new(world_size, 7, timeout)).unwrap();
        let address = host.address().to_owned();
        let ranks: Vec<_> = thread::scope(|scope| {
            let joins: Vec<_> = (1..world_size)
                .map(|rank| {
                    let address = &address;
                    scope.spawn(move || join(address, rank, &Group::new(world_size, 7, timeout)))
                })
                .collect();
            let mut ranks = vec![host.accept()];
            ranks.extend(joins.into_iter().map(|join| join.join().unwrap()));
            ranks
        });
        if let Ok(ranks) = ranks.into_iter().collect() {
            return ranks;
        }
    }
}

/// Runs `work` on every rank at once; returns what each returned, by rank.
fn on_each<T: Send>(ranks: &mut [Rank], work: impl Fn(&mut Rank) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> =
            ranks.iter_mut().map(|rank| scope.spawn(move || work(rank))).collect();
        running.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// Values of all magnitudes, so that another order of sums gives other bits.
fn values(rank: usize, len: usize, salt: usize) -> Vec<f32> {
    let mut state = (rank * 7919 + salt * 104_729 + 1) as u64;
    (0..len)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let unit = (state >> 40) as f32 / (1 << 24) as f32 - 0.5;
            unit * 2f32.powi((state >> 33 & 15) as i32 - 8)
        })
        .collect()
}

fn rank_order_sum(world_size: usize, len: usize, salt: usize) -> Vec<u32> {
    let mut sum = values(0, len, salt);
    for rank in 1..world_size {
        for (total, value) in sum.iter_mut().zip(values(rank, len, salt)) {
            *total += value;
        }
    }
    sum.into_iter().map(f32::to_bits).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn sums_have_the_bits_of_the_rank_order_sum_on_every_transport() {
    for way in WAYS {
        for world_size in WORLD_SIZES {
            let mut ranks = form(way, world_size, LONG);
            for len in [0, 1, 2, 5, 576, 8191, 8192, 8193, 65_536, 65_537, 300_001] {
                let expected = rank_order_sum(world_size, len, len);
                let sums = on_each(&mut ranks, |rank| {
                    let mut x = values(rank.rank(), len, len);
                    rank.all_reduce_sum(&mut x).unwrap();
                    bits(&x)
                });
                for (rank, sum) in sums.iter().enumerate() {
                    assert!(*sum == expected, "{way:?}, rank {rank}/{world_size}, {len} values");
                }
            }
        }
    }
}

#[test]
fn a_prefill_sized_sum_passes_through_the_bounded_buffers() {
    let len = 512 * 4096;
    let expected = rank_order_sum(3, len, 1);
    for way in WAYS {
        let sums = on_each(&mut form(way, 3, LONG), |rank| {
            let mut x = values(rank.rank(), len, 1);
            rank.all_reduce_sum(&mut x).unwrap();
            bits(&x)
        });
        assert!(sums.iter().all(|sum| *sum == expected), "{way:?}");
    }
}

#[test]
fn gathering_concatenates_unequal_lengths_in_rank_order() {
    for way in WAYS {
        for world_size in WORLD_SIZES {
            let mut ranks = form(way, world_size, LONG);
            for (salt, lens) in
                [[0; 8], [1; 8], [3, 0, 5, 1, 0, 9, 2, 4], [70_000, 1, 0, 600_000, 65_536, 2, 7, 3]]
                    .into_iter()
                    .enumerate()
            {
                for root in [0, world_size - 1] {
                    let expected: Vec<f32> =
                        (0..world_size).flat_map(|rank| values(rank, lens[rank], salt)).collect();
                    let outs = on_each(&mut ranks, |rank| {
                        let x = values(rank.rank(), lens[rank.rank()], salt);
                        let mut out = vec![f32::NAN; 3];
                        rank.gather(root, &x, &mut out).unwrap();
                        out
                    });
                    for (rank, out) in outs.iter().enumerate() {
                        let expected = if rank == root { bits(&expected) } else { Vec::new() };
                        assert!(bits(out) == expected, "{way:?} {rank}/{world_size} {lens:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_broadcast_gives_everybody_the_roots_bytes() {
    for way in WAYS {
        for world_size in WORLD_SIZES {
            let mut ranks = form(way, world_size, LONG);
            for len in [0, 1, 3, 4, 1021, 262_144, 1_048_577] {
                for root in [0, world_size / 2] {
                    let of = |rank: usize| {
                        (0..len).map(|i| (i * 31 + rank * 7) as u8).collect::<Vec<u8>>()
                    };
                    let got = on_each(&mut ranks, |rank| {
                        let mut bytes = of(rank.rank());
                        rank.broadcast(root, &mut bytes).unwrap();
                        bytes
                    });
                    assert!(got.iter().all(|got| *got == of(root)), "{way:?} {world_size} {len}");
                }
            }
        }
    }
}

#[test]
fn nobody_passes_a_barrier_before_everybody_has_come() {
    for way in WAYS {
        for world_size in WORLD_SIZES {
            let arrived = AtomicUsize::new(0);
            on_each(&mut form(way, world_size, LONG), |rank| {
                for lap in 1..=50 {
                    arrived.fetch_add(1, Ordering::SeqCst);
                    rank.barrier().unwrap();
                    let seen = arrived.load(Ordering::SeqCst);
                    assert!(seen >= lap * world_size, "{way:?}: {seen} in lap {lap}");
                    rank.barrier().unwrap();
                }
            });
        }
    }
}

/// Ranks drift apart by a round and the two slots are used in turn: any mix of operations must survive that.
#[test]
fn any_mix_of_operations_stays_in_step() {
    for way in WAYS {
        for world_size in [2, 3, 4] {
            on_each(&mut form(way, world_size, LONG), |rank| {
                let mut dice = 12345_u64;
                for step in 0..400 {
                    dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
                    let len = [0, 1, 100, 9000, 70_000][(dice >> 40) as usize % 5];
                    match (dice >> 60) % 4 {
                        0 | 1 => {
                            let mut x: Vec<f32> =
                                (0..len).map(|i| (i % 97 + rank.rank() + step) as f32).collect();
                            rank.all_reduce_sum(&mut x).unwrap();
                            let ranks = world_size * (world_size - 1) / 2;
                            for (i, x) in x.into_iter().enumerate() {
                                assert_eq!(x, (world_size * (i % 97 + step) + ranks) as f32);
                            }
                        }
                        2 => {
                            let mut out = Vec::new();
                            let x = vec![rank.rank() as f32; len + rank.rank()];
                            rank.gather(step % world_size, &x, &mut out).unwrap();
                            if rank.rank() == step % world_size {
                                let sent = (0..world_size).flat_map(|r| vec![r as f32; len + r]);
                                assert!(out.into_iter().eq(sent));
                            }
                        }
                        _ => {
                            let mut bytes = vec![rank.rank() as u8; len];
                            rank.broadcast(step % world_size, &mut bytes).unwrap();
                            assert!(bytes.iter().all(|&byte| byte == (step % world_size) as u8));
                        }
                    }
                }
            });
        }
    }
}

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

/// A rank of another epoch, size, group or name must not get in, and must not disturb those who may.
#[test]
fn whoever_does_not_belong_is_refused_with_a_reason_and_the_group_still_forms() {
    for way in [Way::SharedMemory, Way::Tcp] {
        let group = Group::new(2, 7, LONG);
        let host = host(&transport(way), &group).unwrap();
        let address = host.address().to_owned();
        let (place, token) = address.rsplit_once(':').unwrap();
        let other_token = if token.starts_with('0') { "1" } else { "0" }.to_owned() + &token[1..];
        thread::scope(|scope| {
            let accepting = scope.spawn(|| host.accept().unwrap());
            if way == Way::Tcp {
                let socket = place.strip_prefix("tcp:").unwrap();
                TcpStream::connect(socket).unwrap().write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
                TcpStream::connect(socket).unwrap().write_all(&[0xff; 4096]).unwrap();
                scope.spawn(move || drop(TcpStream::connect(socket)));
            }
            for (address, rank, group, reason) in [
                (&address, 1, Group::new(2, 6, LONG), "epoch 7"),
                (&address, 1, Group::new(3, 7, LONG), "a"),
                (&format!("{place}:{other_token}"), 1, group.clone(), "token"),
            ] {
                let Err(error) = join(address, rank, &group) else { panic!("{way:?}: {reason}") };
                let CollectiveError::Refused { why, .. } = error else { panic!("{error}") };
                assert!(why.contains(reason), "{way:?}: {why}");
            }
            let mut first = join(&address, 1, &group).unwrap();
            let mut host = accepting.join().unwrap();
            scope.spawn(move || host.barrier().unwrap());
            first.barrier().unwrap();
            let Err(error) = join(&address, 1, &group) else { panic!("the group is closed") };
            assert!(matches!(error, CollectiveError::Refused { .. }), "{way:?}: {error}");
        });
    }
}

#[test]
fn a_rank_that_does_not_join_is_named_by_rank_0_and_to_the_others() {
    for way in [Way::SharedMemory, Way::Tcp] {
        let host: Host = host(&transport(way), &Group::new(3, 7, SHORT)).unwrap();
        let address = host.address().to_owned();
        thread::scope(|scope| {
            let joining = scope.spawn(|| join(&address, 1, &Group::new(3, 7, LONG)).err().unwrap());
            // Rank 0 begins to wait when rank 1 may be there, which is why only rank 2 can be missing long.
            thread::sleep(SHORT);
            let error = host.accept().err().unwrap();
            assert!(matches!(error, CollectiveError::Timeout { rank: 2, .. }), "{way:?}: {error}");
            let error = joining.join().unwrap();
            assert!(matches!(error, CollectiveError::PeerLost { rank: 2, .. }), "{way:?}: {error}");
        });
    }
}

#[test]
fn an_abort_also_ends_the_forming() {
    for way in [Way::SharedMemory, Way::Tcp] {
        let group = Group::new(2, 7, LONG);
        let host = host(&transport(way), &group).unwrap();
        let started = Instant::now();
        thread::scope(|scope| {
            let accepting = scope.spawn(|| host.accept().err().unwrap());
            group.abort.abort();
            assert_eq!(accepting.join().unwrap(), CollectiveError::Aborted);
        });
        assert!(started.elapsed() < LONG / 4);
    }
}

#[test]
fn no_segment_keeps_its_name() {
    let own = format!("glint-{}-", std::process::id());
    let group = Group::new(2, 7, LONG);
    let waiting = host(&Transport::SharedMemory, &group).unwrap();
    let name = waiting.address().split(':').nth(1).unwrap().trim_start_matches('/').to_owned();
    assert!(name.starts_with(&own));
    let segment = std::path::Path::new("/dev/shm").join(&name);
    assert!(segment.exists());
    let address = waiting.address().to_owned();
    thread::scope(|scope| {
        let joined = scope.spawn(|| join(&address, 1, &group).unwrap());
        let _rank_0 = waiting.accept().unwrap();
        assert!(!segment.exists(), "unlinked when all are there");
        joined.join().unwrap();
    });
    let forgotten = host(&Transport::SharedMemory, &group).unwrap();
    let name = forgotten.address().split(':').nth(1).unwrap().to_owned();
    drop(forgotten);
    assert!(!std::path::Path::new("/dev/shm").join(name.trim_start_matches('/')).exists());
}

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
        .args(["--exact", "child_rank", "--nocapture"])
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
