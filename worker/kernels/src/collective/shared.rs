//! Ranks of one host: threads of a process, or processes with a shared memory segment.
//!
//! Everything is made of *rounds*. In round `k` each rank fills its slot of parity `k % 2` (with at most
//! 256 KiB, or nothing), publishes `k`, waits until all others have published `k`, and reads what it likes of all
//! slots. That two slots per rank are enough is the one thing to be sure of:
//!
//! > A rank fills a slot for round `k + 2` only after it saw every rank publish `k + 1`, and a rank publishes `k + 1`
//! > only after it has read all it wants of round `k`. So nobody still reads what is filled, and the acquire loads
//! > of the published rounds order the one before the other.
//!
//! A sum is then: fill, one round, add all slots in rank order. With three or more ranks and a long vector every
//! rank would read everything, so it adds only its own part and a second round exchanges the parts; the bits are the
//! same. How a rank waits for the others is in `wait.rs`.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::thread::futex;

use super::liveness::ProcessId;
use super::region::{Region, SLOT_BYTES, State};
use super::{AbortHandle, Call, Collective, CollectiveError, Group, Kind, RawCall, WORLD_SIZE_MAX};

mod wait;

/// f32 values that one rank can bring to one round.
const SLOT_VALUES: usize = SLOT_BYTES / size_of::<f32>();

/// From here on two rounds with a part each are cheaper than one round in which everybody adds everything.
const PARTS_FROM_VALUES: usize = 8192;

/// How long the core is offered to others before the first sleep, if each rank can have a core of its own.
const YIELD_FOR: Duration = Duration::from_micros(100);

/// Makes a group of `world_size` ranks in this process, one to be moved to each thread.
///
/// # Panics
/// If `world_size` is not in `1..=WORLD_SIZE_MAX`.
pub fn threads(world_size: usize, timeout: Duration) -> Vec<SharedCollective> {
    assert!((1..=WORLD_SIZE_MAX).contains(&world_size), "a group of {world_size} threads");
    let region = Region::heap(world_size);
    let ranks = (0..world_size).map(|rank| {
        // Each its own handle: aborting one rank must not hide how the others learn of it.
        let group = Group::new(world_size, 0, timeout);
        SharedCollective::attach(region.clone(), rank, &group)
            .expect("the region is new, so nobody has taken the rank")
    });
    ranks.collect()
}

/// One rank of a group that shares memory.
pub struct SharedCollective {
    region: Arc<Region>,
    rank: usize,
    world_size: usize,
    timeout: Duration,
    abort: AbortHandle,
    process: ProcessId,
    /// The last round published.
    round: u32,
    /// What each rank brings to the operation under way, in its own units.
    lens: Vec<usize>,
    yield_for: Duration,
    failure: Option<CollectiveError>,
}

impl SharedCollective {
    /// Takes a rank's place in a region. `None` if the place is taken.
    pub(super) fn attach(region: Arc<Region>, rank: usize, group: &Group) -> Option<Self> {
        let process = ProcessId::own();
        if !region.control(rank).attach(process) {
            return None;
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Some(Self {
            region,
            rank,
            world_size: group.world_size,
            timeout: group.timeout,
            abort: group.abort.clone(),
            process,
            round: 0,
            lens: vec![0; group.world_size],
            yield_for: if group.world_size <= cores { YIELD_FOR } else { YIELD_FOR / 10 },
            failure: None,
        })
    }

    /// Waits until all ranks have taken their places.
    pub(super) fn meet(&mut self) -> Result<(), CollectiveError> {
        self.begin()?;
        let mut patience = None;
        let met = (0..self.world_size).try_for_each(|peer| {
            self.wait(peer, "join the group", &mut patience, |this| {
                let state = this.region.control(peer).state.load(Ordering::Acquire);
                !matches!(state, State::CLAIMED) && state >= State::ATTACHED
            })
        });
        met.map_err(|error| self.fail(error))
    }

    fn begin(&mut self) -> Result<(), CollectiveError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        if self.abort.is_aborted() {
            return Err(self.fail(CollectiveError::Aborted));
        }
        Ok(())
    }

    /// Makes `error` this rank's last word, and tells the others whose fault it is.
    fn fail(&mut self, error: CollectiveError) -> CollectiveError {
        let culprit = error.culprit(self.rank);
        let control = self.region.control(self.rank);
        control.culprit.store(culprit as u32, Ordering::Relaxed);
        control.state.store(State::FAILED, Ordering::Release);
        self.wake();
        self.failure = Some(error.clone());
        error
    }

    fn wake(&self) {
        let control = self.region.control(self.rank);
        if control.sleepers.load(Ordering::SeqCst) > 0 {
            // Fails only for addresses that are not mapped.
            let _ = futex::wake(&control.round, futex::Flags::empty(), i32::MAX as u32);
        }
    }

    /// Fills this rank's slot, publishes the round, waits for all others and compares what they call.
    ///
    /// Returns the parity under which the slots can be read until the next round.
    fn exchange(&mut self, call: Call, bytes: &[u8]) -> Result<usize, CollectiveError> {
        let round = self.round.wrapping_add(1);
        let parity = (round & 1) as usize;
        let control = self.region.control(self.rank);
        let shared = &control.calls[parity];
        let raw = RawCall::from(call);
        shared.kind.store(raw.kind, Ordering::Relaxed);
        shared.root.store(raw.root, Ordering::Relaxed);
        shared.len.store(raw.len, Ordering::Relaxed);
        fill(&self.region, self.rank, parity, bytes);
        self.round = round;
        // Also orders it before the look at `sleepers`: one who goes to sleep counts itself first and looks at
        // the round last, so either we see the sleeper or it sees the round.
        control.round.store(round, Ordering::SeqCst);
        self.wake();

        let mut patience = None;
        for peer in 0..self.world_size {
            if peer != self.rank {
                self.wait(peer, call.kind.name(), &mut patience, |this| {
                    let published = this.region.control(peer).round.load(Ordering::Acquire);
                    published.wrapping_sub(round) as i32 >= 0
                })?;
            }
            let shared = &self.region.control(peer).calls[parity];
            let theirs = RawCall {
                kind: shared.kind.load(Ordering::Relaxed),
                root: shared.root.load(Ordering::Relaxed),
                len: shared.len.load(Ordering::Relaxed),
            };
            self.lens[peer] = call.agree(peer, theirs)?;
        }
        Ok(parity)
    }

    /// One slot's worth of [`Collective::all_reduce_sum`].
    fn sum_chunk(&mut self, call: Call, x: &mut [f32]) -> Result<(), CollectiveError> {
        let (own, ranks) = (self.rank, self.world_size);
        let parity = self.exchange(call, bytemuck::cast_slice(x))?;
        if ranks == 2 || x.len() < PARTS_FROM_VALUES {
            add_slots(&self.region, parity, 0..x.len(), x);
            return Ok(());
        }
        let part = |rank: usize| rank * x.len() / ranks..(rank + 1) * x.len() / ranks;
        let (parts, mine) = ((0..ranks).map(part).collect::<Vec<_>>(), part(own));
        add_slots(&self.region, parity, mine.clone(), &mut x[mine.clone()]);
        let parity = self.exchange(call, bytemuck::cast_slice(&x[mine]))?;
        for (rank, part) in parts.into_iter().enumerate().filter(|&(rank, _)| rank != own) {
            let len = part.len();
            x[part].copy_from_slice(values(&self.region, rank, parity, len));
        }
        Ok(())
    }

    fn try_gather(
        &mut self,
        call: Call,
        x: &[f32],
        out: &mut Vec<f32>,
    ) -> Result<(), CollectiveError> {
        let receives = call.root as usize == self.rank;
        let mut rounds = 1;
        let mut done = 0;
        while done < rounds {
            let chunk =
                |len: usize| (done * SLOT_VALUES).min(len)..((done + 1) * SLOT_VALUES).min(len);
            let parity = self.exchange(call, bytemuck::cast_slice(&x[chunk(x.len())]))?;
            if done == 0 {
                let longest = self.lens.iter().max().copied().unwrap_or(0);
                rounds = longest.div_ceil(SLOT_VALUES).max(1);
                if receives {
                    resize(out, self.lens.iter().sum())?;
                }
            }
            if receives {
                let mut start = 0;
                for (rank, &len) in self.lens.iter().enumerate() {
                    let Range { start: from, end: to } = chunk(len);
                    out[start + from..start + to].copy_from_slice(values(
                        &self.region,
                        rank,
                        parity,
                        to - from,
                    ));
                    start += len;
                }
            }
            done += 1;
        }
        Ok(())
    }

    fn try_broadcast(&mut self, call: Call, bytes: &mut [u8]) -> Result<(), CollectiveError> {
        let root = call.root as usize;
        if bytes.is_empty() {
            return self.exchange(call, &[]).map(drop);
        }
        for chunk in bytes.chunks_mut(SLOT_BYTES) {
            if root == self.rank {
                self.exchange(call, chunk)?;
            } else {
                let parity = self.exchange(call, &[])?;
                chunk.copy_from_slice(slot(&self.region, root, parity, chunk.len()));
            }
        }
        Ok(())
    }
}

/// Makes room for what will be gathered, without ending the process where there is none.
pub(super) fn resize(out: &mut Vec<f32>, len: usize) -> Result<(), CollectiveError> {
    out.clear();
    out.try_reserve_exact(len).map_err(|error| {
        CollectiveError::system(format!("allocate {len} values to gather"), error)
    })?;
    out.resize(len, 0.0);
    Ok(())
}

impl Collective for SharedCollective {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.world_size
    }

    fn abort_handle(&self) -> AbortHandle {
        self.abort.clone()
    }

    fn all_reduce_sum(&mut self, x: &mut [f32]) -> Result<(), CollectiveError> {
        self.begin()?;
        let call = Call::new(Kind::AllReduce, 0, x.len(), self.world_size)?;
        let summed = if x.is_empty() {
            self.exchange(call, &[]).map(drop)
        } else {
            x.chunks_mut(SLOT_VALUES).try_for_each(|chunk| self.sum_chunk(call, chunk))
        };
        summed.map_err(|error| self.fail(error))
    }

    fn gather(
        &mut self,
        root: usize,
        x: &[f32],
        out: &mut Vec<f32>,
    ) -> Result<(), CollectiveError> {
        self.begin()?;
        out.clear();
        let call = Call::new(Kind::Gather, root, x.len(), self.world_size)?;
        self.try_gather(call, x, out).map_err(|error| self.fail(error))
    }

    fn broadcast(&mut self, root: usize, bytes: &mut [u8]) -> Result<(), CollectiveError> {
        self.begin()?;
        let call = Call::new(Kind::Broadcast, root, bytes.len(), self.world_size)?;
        self.try_broadcast(call, bytes).map_err(|error| self.fail(error))
    }

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        self.begin()?;
        let call = Call::new(Kind::Barrier, 0, 0, self.world_size)?;
        self.exchange(call, &[]).map(drop).map_err(|error| self.fail(error))
    }
}

impl Drop for SharedCollective {
    fn drop(&mut self) {
        if self.failure.is_none() {
            self.region.control(self.rank).state.store(State::LEFT, Ordering::Release);
            self.wake();
        }
    }
}

#[expect(unsafe_code, reason = "the rounds say who may touch a slot, and the compiler cannot know")]
fn fill(region: &Region, rank: usize, parity: usize, bytes: &[u8]) {
    // SAFETY: called by `exchange` alone, for its own rank, before it publishes round k with this parity. The
    // exchange before saw all others publish k - 1, so they are done with round k - 2, which had this slot.
    unsafe { region.fill(rank, parity, bytes) }
}

#[expect(unsafe_code, reason = "the rounds say who may touch a slot, and the compiler cannot know")]
fn slot(region: &Region, rank: usize, parity: usize, len: usize) -> &[u8] {
    // SAFETY: called with the parity that `exchange` just returned: it saw `rank` publish that round, and `rank`
    // fills this slot again only after we publish the next one, which takes another `exchange`. All callers
    // use the slice up before that.
    unsafe { region.read(rank, parity, len) }
}

fn values(region: &Region, rank: usize, parity: usize, len: usize) -> &[f32] {
    bytemuck::cast_slice(slot(region, rank, parity, len * size_of::<f32>()))
}

/// Writes into `sum` the rank-order sum over all slots' values in `range`.
fn add_slots(region: &Region, parity: usize, range: Range<usize>, sum: &mut [f32]) {
    let of = |rank| &values(region, rank, parity, range.end)[range.start..];
    // In pieces that stay in the first-level cache while all ranks are added to them.
    for (piece, start) in sum.chunks_mut(2048).zip((0..).step_by(2048)) {
        let end = start + piece.len();
        piece.copy_from_slice(&of(0)[start..end]);
        for rank in 1..region.world_size() {
            for (total, &value) in piece.iter_mut().zip(&of(rank)[start..end]) {
                *total += value;
            }
        }
    }
}
