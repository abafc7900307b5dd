//! Ranks of several hosts: a full mesh of TCP connections.
//!
//! A mesh, not a star through rank 0: an all-reduce of a decode step is a few KiB, its cost is latency, and in
//! a mesh every value travels one hop instead of two. Short vectors go whole to everybody and everybody adds them
//! in rank order. Long ones are cut into one part per rank: each rank receives its part of everybody, adds it in
//! rank order, and sends the sum to all, so that a link carries `2/t` of the vector instead of all of it.
//!
//! Again everything is made of rounds: in each round every rank sends every other rank one frame, a header that
//! says what it calls and perhaps a payload, and takes one from each. Sockets do not block; both directions
//! of all links advance together, so two ranks that send more than a socket holds cannot wait for each other.
//! Headers also go where no payload does: a rank that calls something else is noticed in the same round.
//!
//! On the wire all numbers are little-endian, as they are in the memory of every machine that Glint runs on.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::address::Token;
use super::shared::resize;
use super::{AbortHandle, Call, Collective, CollectiveError, Group, Kind};
use link::{GAVE_UP, Header, Incoming, Link, Outgoing};

mod handshake;
mod hello;
mod link;

const _: () = assert!(cfg!(target_endian = "little"), "f32 values are sent as they lie in memory");

/// Values in one round of a sum or gather: 1 MiB.
const CHUNK_VALUES: usize = 256 << 10;

/// Up to here a vector goes whole to every rank: 32 KiB.
const WHOLE_UP_TO_VALUES: usize = 8192;

/// Looks at the sockets before the first sleep, the core being offered to others after each.
const LOOKS: u32 = 32;

/// The longest sleep without a look at the abort flag and the clock.
const NAP: Duration = Duration::from_millis(4);

/// One rank of a group that is connected by TCP.
pub struct TcpCollective {
    rank: usize,
    timeout: Duration,
    abort: AbortHandle,
    /// By rank; `None` for this rank.
    links: Vec<Option<Link>>,
    /// The payloads received in the last round, by rank.
    inbox: Vec<Vec<f32>>,
    /// What each rank brings to the operation under way, in its own units.
    lens: Vec<usize>,
    round: u32,
    failure: Option<CollectiveError>,
}

/// Forms the group as rank 0.
pub(super) fn accept(
    listener: &TcpListener,
    token: Token,
    group: &Group,
) -> Result<TcpCollective, CollectiveError> {
    Ok(TcpCollective::new(0, group, handshake::accept(listener, token, group)?))
}

/// Joins the group whose rank 0 listens on `address`.
pub(super) fn join(
    address: &str,
    token: Token,
    rank: usize,
    group: &Group,
) -> Result<TcpCollective, CollectiveError> {
    Ok(TcpCollective::new(rank, group, handshake::join(address, token, rank, group)?))
}

impl TcpCollective {
    fn new(rank: usize, group: &Group, links: Vec<Option<Link>>) -> Self {
        Self {
            rank,
            timeout: group.timeout,
            abort: group.abort.clone(),
            inbox: vec![Vec::new(); links.len()],
            lens: vec![0; links.len()],
            links,
            round: 0,
            failure: None,
        }
    }

    fn ranks(&self) -> usize {
        self.links.len()
    }

    /// Runs one operation, and makes an error this rank's last word.
    fn run(
        &mut self,
        kind: Kind,
        root: usize,
        len: usize,
        operation: impl FnOnce(&mut Self, Call) -> Result<(), CollectiveError>,
    ) -> Result<(), CollectiveError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let call = Call::new(kind, root, len, self.ranks())?;
        let ended = if self.abort.is_aborted() {
            Err(CollectiveError::Aborted)
        } else {
            operation(self, call)
        };
        ended.inspect_err(|error| {
            self.failure = Some(error.clone());
            let culprit = error.culprit(self.rank);
            for link in self.links.iter_mut().flatten() {
                link.give_up(self.round, culprit);
            }
        })
    }

    /// Sends every rank the payload `outgoing(rank)` and takes one of `incoming(rank, its length)` values from each.
    ///
    /// Payloads are whole numbers of values, at most [`CHUNK_VALUES`]; those received are in the inbox afterwards.
    fn exchange<'a>(
        &mut self,
        call: Call,
        outgoing: impl Fn(usize) -> &'a [f32],
        incoming: impl Fn(usize, usize) -> usize,
    ) -> Result<(), CollectiveError> {
        self.round = self.round.wrapping_add(1);
        let round = self.round;
        let (own, ranks) = (self.rank, self.ranks());
        self.lens[own] = call.len as usize;
        let mut sending: Vec<Outgoing<'a>> =
            (0..ranks).map(|peer| Outgoing::new(round, call, outgoing(peer))).collect();
        let mut taking: Vec<Incoming> = (0..ranks).map(|_| Incoming::default()).collect();
        let since = Instant::now();
        let mut looks = 0;
        loop {
            let (mut missing, mut moved) = (None, false);
            for (peer, link) in self.links.iter_mut().enumerate() {
                let Some(link) = link else { continue };
                moved |= link.send(peer, &mut sending[peer])?;
                let check = |header: Header| {
                    if header.call.kind == GAVE_UP {
                        let culprit = header.call.root as usize;
                        return Err(CollectiveError::told(own, peer, culprit, ranks));
                    }
                    let len = call.agree(peer, header.call)?;
                    self.lens[peer] = len;
                    let values = incoming(peer, len);
                    if header.round != round || header.payload_values as usize != values {
                        return Err(CollectiveError::Mismatch {
                            rank: peer,
                            ours: format!("{call} and expects {values} values in round {round}"),
                            theirs: format!(
                                "the same and sends {} values in round {}",
                                header.payload_values, header.round
                            ),
                        });
                    }
                    Ok(values)
                };
                moved |= link.take(peer, &mut taking[peer], &mut self.inbox[peer], check)?;
                if !taking[peer].is_complete() || !sending[peer].is_complete() {
                    missing.get_or_insert(peer);
                }
            }
            let Some(missing) = missing else { return Ok(()) };
            if moved {
                looks = 0;
                continue;
            }
            looks += 1;
            if looks < LOOKS {
                std::thread::yield_now();
                continue;
            }
            if self.abort.is_aborted() {
                return Err(CollectiveError::Aborted);
            }
            // Those that owe us nothing any more in this round may have given up on it, and then it is over.
            for (peer, link) in self.links.iter_mut().enumerate() {
                let Some(link) = link.as_mut().filter(|_| taking[peer].is_complete()) else {
                    continue;
                };
                if let Some(culprit) = link.gave_up() {
                    return Err(CollectiveError::told(own, peer, culprit, ranks));
                }
            }
            let waited = since.elapsed();
            if waited >= self.timeout {
                return Err(CollectiveError::Timeout {
                    rank: missing,
                    op: call.kind.name(),
                    waited,
                });
            }
            self.nap(&sending, &taking, NAP.min(self.timeout - waited));
        }
    }

    /// Sleeps until a socket can go on, or for `longest`.
    fn nap(&self, sending: &[Outgoing<'_>], taking: &[Incoming], longest: Duration) {
        let mut sockets = Vec::with_capacity(self.ranks());
        for ((link, sending), taking) in self.links.iter().zip(sending).zip(taking) {
            let Some(link) = link else { continue };
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, !taking.is_complete() || link.may_say_more());
            flags.set(PollFlags::OUT, !sending.is_complete());
            if !flags.is_empty() {
                sockets.push(PollFd::new(link.socket(), flags));
            }
        }
        let timeout = Timespec { tv_sec: 0, tv_nsec: longest.subsec_nanos().into() };
        // Whatever it returns, the caller looks again.
        let _ = poll(&mut sockets, Some(&timeout));
    }

    /// Adds `own` and what the others sent, in rank order.
    fn add_inbox(&self, own: &mut [f32]) {
        // In pieces that stay in the first-level cache while all ranks are added to them.
        for (piece, start) in own.chunks_mut(2048).zip((0..).step_by(2048)) {
            let end = start + piece.len();
            if self.rank == 0 {
                for inbox in &self.inbox[1..] {
                    add(piece, &inbox[start..end]);
                }
                continue;
            }
            let mut sum = [0.0; 2048];
            let sum = &mut sum[..piece.len()];
            sum.copy_from_slice(&self.inbox[0][start..end]);
            for (rank, inbox) in self.inbox.iter().enumerate().skip(1) {
                add(sum, if rank == self.rank { piece } else { &inbox[start..end] });
            }
            piece.copy_from_slice(sum);
        }
    }

    fn sum_whole(&mut self, call: Call, x: &mut [f32]) -> Result<(), CollectiveError> {
        let len = x.len();
        let own: &[f32] = x;
        self.exchange(call, |_| own, |_, _| len)?;
        self.add_inbox(x);
        Ok(())
    }

    fn sum_in_parts(&mut self, call: Call, x: &mut [f32]) -> Result<(), CollectiveError> {
        let (len, ranks, own) = (x.len(), self.ranks(), self.rank);
        let part = |rank: usize| rank * len / ranks..(rank + 1) * len / ranks;
        let all: &[f32] = x;
        self.exchange(call, |peer| &all[part(peer)], |_, _| part(own).len())?;
        self.add_inbox(&mut x[part(own)]);
        let sum: &[f32] = &x[part(own)];
        self.exchange(call, |_| sum, |peer, _| part(peer).len())?;
        for (rank, inbox) in self.inbox.iter().enumerate().filter(|&(rank, _)| rank != own) {
            x[part(rank)].copy_from_slice(&inbox[..part(rank).len()]);
        }
        Ok(())
    }

    fn gather_chunks(
        &mut self,
        call: Call,
        x: &[f32],
        out: &mut Vec<f32>,
    ) -> Result<(), CollectiveError> {
        let (root, own) = (call.root as usize, self.rank);
        let mut start = 0;
        loop {
            let chunk = |len: usize| start.min(len)..(start + CHUNK_VALUES).min(len);
            let mine = &x[chunk(x.len())];
            let outgoing = |peer| if peer == root { mine } else { &[] };
            let incoming = |_, len| if own == root { chunk(len).len() } else { 0 };
            self.exchange(call, outgoing, incoming)?;
            if own == root {
                if start == 0 {
                    resize(out, self.lens.iter().sum())?;
                }
                let mut offset = 0;
                for (rank, &len) in self.lens.iter().enumerate() {
                    let range = chunk(len);
                    let values = if rank == own { mine } else { &self.inbox[rank][..range.len()] };
                    out[offset + range.start..offset + range.end].copy_from_slice(values);
                    offset += len;
                }
            }
            start += CHUNK_VALUES;
            // Known to all ranks, for headers go to all: they do equally many rounds.
            if self.lens.iter().all(|&len| len <= start) {
                return Ok(());
            }
        }
    }

    fn broadcast_chunks(&mut self, call: Call, bytes: &mut [u8]) -> Result<(), CollectiveError> {
        let root = call.root as usize;
        let sends = root == self.rank;
        let mut values = Vec::new();
        let mut rest = bytes;
        loop {
            // Payloads are whole values: the last one is filled up with zeros.
            let (chunk, after) = rest.split_at_mut(rest.len().min(CHUNK_VALUES * size_of::<f32>()));
            let payload_values = chunk.len().div_ceil(size_of::<f32>());
            if sends {
                values.clear();
                values.resize(payload_values, 0.0);
                bytemuck::cast_slice_mut(&mut values)[..chunk.len()].copy_from_slice(chunk);
            }
            let outgoing = |_| &values[..];
            let incoming = |peer, _| if peer == root { payload_values } else { 0 };
            self.exchange(call, outgoing, incoming)?;
            if !sends {
                let received: &[u8] = bytemuck::cast_slice(&self.inbox[root]);
                chunk.copy_from_slice(&received[..chunk.len()]);
            }
            if after.is_empty() {
                return Ok(());
            }
            rest = after;
        }
    }
}

fn add(sum: &mut [f32], values: &[f32]) {
    for (total, &value) in sum.iter_mut().zip(values) {
        *total += value;
    }
}

impl Collective for TcpCollective {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.ranks()
    }

    fn abort_handle(&self) -> AbortHandle {
        self.abort.clone()
    }

    fn all_reduce_sum(&mut self, x: &mut [f32]) -> Result<(), CollectiveError> {
        self.run(Kind::AllReduce, 0, x.len(), |this, call| {
            let in_parts = this.ranks() > 2 && x.len() > WHOLE_UP_TO_VALUES;
            if in_parts {
                x.chunks_mut(CHUNK_VALUES).try_for_each(|chunk| this.sum_in_parts(call, chunk))
            } else if x.is_empty() {
                this.sum_whole(call, x)
            } else {
                x.chunks_mut(CHUNK_VALUES).try_for_each(|chunk| this.sum_whole(call, chunk))
            }
        })
    }

    fn gather(
        &mut self,
        root: usize,
        x: &[f32],
        out: &mut Vec<f32>,
    ) -> Result<(), CollectiveError> {
        out.clear();
        self.run(Kind::Gather, root, x.len(), |this, call| this.gather_chunks(call, x, out))
    }

    fn broadcast(&mut self, root: usize, bytes: &mut [u8]) -> Result<(), CollectiveError> {
        self.run(Kind::Broadcast, root, bytes.len(), |this, call| {
            this.broadcast_chunks(call, bytes)
        })
    }

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        self.run(Kind::Barrier, 0, 0, |this, call| this.exchange(call, |_| &[], |_, _| 0))
    }
}
