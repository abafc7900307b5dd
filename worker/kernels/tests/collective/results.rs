//! Does everybody get the same, right values, bit by bit?

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{LONG, WAYS, WORLD_SIZES, bits, form, on_each, rank_order_sum, values};

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
