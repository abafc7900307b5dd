//! How does a test get a group, and values to send?

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use glint_kernels::collective::{Collective, Group, Transport, host, join, threads};

pub(crate) const LONG: Duration = Duration::from_secs(60);
pub(crate) const SHORT: Duration = Duration::from_millis(200);
/// Any machine forms a group within this.
const FORMS_WITHIN: Duration = Duration::from_secs(10);
pub(crate) const WORLD_SIZES: [usize; 5] = [1, 2, 3, 4, 8];

pub(crate) type Rank = Box<dyn Collective>;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Way {
    Threads,
    SharedMemory,
    Tcp,
}

pub(crate) const WAYS: [Way; 3] = [Way::Threads, Way::SharedMemory, Way::Tcp];

pub(crate) fn transport(way: Way) -> Transport {
    match way {
        Way::Tcp => Transport::Tcp { listen: (Ipv4Addr::LOCALHOST, 0).into(), advertise: None },
        Way::Threads | Way::SharedMemory => Transport::SharedMemory,
    }
}

/// Forms a group, all ranks in this process.
pub(crate) fn form(way: Way, world_size: usize, timeout: Duration) -> Vec<Rank> {
    if way == Way::Threads {
        return threads(world_size, timeout)
            .into_iter()
            .map(|rank| Box::new(rank) as Rank)
            .collect();
    }
    if timeout < FORMS_WITHIN {
        return form_with_luck(way, world_size, timeout);
    }
    let group = || Group::new(world_size, 7, timeout);
    let host = host(&transport(way), &group()).unwrap();
    let address = host.address().to_owned();
    thread::scope(|scope| {
        let joins: Vec<_> = (1..world_size)
            .map(|rank| {
                let (address, group) = (&address, group());
                scope.spawn(move || join(address, rank, &group).unwrap())
            })
            .collect();
        let mut ranks = vec![host.accept().unwrap()];
        ranks.extend(joins.into_iter().map(|join| join.join().unwrap()));
        ranks
    })
}

/// As [`form`], with a timeout that a busy machine may be too slow for, and again until it is not.
fn form_with_luck(way: Way, world_size: usize, timeout: Duration) -> Vec<Rank> {
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
pub(crate) fn on_each<T: Send>(ranks: &mut [Rank], work: impl Fn(&mut Rank) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> =
            ranks.iter_mut().map(|rank| scope.spawn(move || work(rank))).collect();
        running.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// Values of all magnitudes, so that another order of sums gives other bits.
pub(crate) fn values(rank: usize, len: usize, salt: usize) -> Vec<f32> {
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

pub(crate) fn rank_order_sum(world_size: usize, len: usize, salt: usize) -> Vec<u32> {
    let mut sum = values(0, len, salt);
    for rank in 1..world_size {
        for (total, value) in sum.iter_mut().zip(values(rank, len, salt)) {
            *total += value;
        }
    }
    sum.into_iter().map(f32::to_bits).collect()
}

pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}
