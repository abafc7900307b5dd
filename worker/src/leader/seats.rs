//! Who has come to this epoch?

use std::sync::Arc;

use glint_core::{Epoch, Failure, Kind, ModelDigest, Numerics};
use glint_proto::{WireError, convert, v1};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};

use crate::bond::{Bond, Peer};
use crate::rank::PLANS_AHEAD_MAX;

/// A follower that has said who it is.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) peer: Peer,
    pub(crate) kv_blocks_max: u32,
    /// Whether it came from this host.
    pub(crate) is_local: bool,
    pub(crate) messages: mpsc::Sender<v1::LeaderMessage>,
}

/// One epoch's places, one per rank but 0.
#[derive(Debug)]
pub(crate) struct Seats {
    pub(crate) bond: Arc<Bond>,
    pub(crate) requirements: Requirements,
    taken: Mutex<Taken>,
    changed: Notify,
    /// The first rank that said that it is to leave.
    leaving: watch::Sender<Option<u32>>,
}

/// What a follower must be to take part.
#[derive(Clone, Debug)]
pub(crate) struct Requirements {
    pub(crate) world_size: u32,
    pub(crate) digest: ModelDigest,
    pub(crate) numerics: Numerics,
}

#[derive(Debug)]
struct Taken {
    /// By rank; rank 0's stays empty.
    seats: Vec<Option<Arc<Seat>>>,
    /// All were there: from now on, whoever leaves ends the epoch.
    is_closed: bool,
}

/// Why a follower may not take a seat.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JoinError {
    /// The call does not begin as it should.
    #[error("a call begins with Hello")]
    NoHello,
    /// A field that no peer of ours sends.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// It comes to an epoch that is not open: too early, or too late.
    #[error("epoch {asked} is not open, ask again soon")]
    NotOpen { asked: u64 },
    /// Its seat is taken.
    #[error("rank {rank} is here already")]
    Taken { rank: u32 },
    /// It was started for a group of another size.
    #[error(
        "rank {rank} of {theirs} comes to a group of {world_size} ranks, give all the same --world-size"
    )]
    WorldSize { rank: u32, theirs: u32, world_size: u32 },
    /// It has other weights.
    #[error(
        "rank {rank} has model {theirs}, the group {digest}: give all ranks the same checkpoint"
    )]
    Digest { rank: u32, theirs: ModelDigest, digest: ModelDigest },
    /// It would compute other bits.
    #[error(
        "rank {rank} computes as {theirs}, the group as {numerics}: give all ranks the same --compute and alike processors"
    )]
    Numerics { rank: u32, theirs: Box<Numerics>, numerics: Box<Numerics> },
}

impl Failure for JoinError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotOpen { .. } | Self::Taken { .. } => Kind::Unavailable,
            Self::NoHello
            | Self::Wire(_)
            | Self::WorldSize { .. }
            | Self::Digest { .. }
            | Self::Numerics { .. } => Kind::Invalid,
        }
    }
}

impl Requirements {
    fn check(&self, hello: &v1::Hello) -> Result<(), JoinError> {
        let Self { world_size, digest, ref numerics } = *self;
        let rank = hello.rank;
        if hello.world_size != world_size || !(1..world_size).contains(&rank) {
            return Err(JoinError::WorldSize { rank, theirs: hello.world_size, world_size });
        }
        let theirs = convert::digest("Hello", &hello.model_digest)?;
        if theirs != digest {
            return Err(JoinError::Digest { rank, theirs, digest });
        }
        let theirs = Numerics::from(hello.numerics.clone().unwrap_or_default());
        if theirs != *numerics {
            let (theirs, numerics) = (Box::new(theirs), Box::new(numerics.clone()));
            return Err(JoinError::Numerics { rank, theirs, numerics });
        }
        Ok(())
    }
}

impl Seats {
    pub(crate) fn new(bond: Arc<Bond>, requirements: Requirements) -> Self {
        let seats = vec![None; requirements.world_size as usize];
        let taken = Mutex::new(Taken { seats, is_closed: false });
        let leaving = watch::Sender::new(None);
        Self { bond, requirements, taken, changed: Notify::new(), leaving }
    }

    /// Gives a follower its seat, and what it is to be told.
    pub(crate) fn take(
        &self,
        hello: &v1::Hello,
        is_local: bool,
    ) -> Result<(Arc<Seat>, mpsc::Receiver<v1::LeaderMessage>), JoinError> {
        let asked = hello.epoch;
        if Epoch(asked) != self.bond.epoch() || self.bond.ended().is_some() {
            return Err(JoinError::NotOpen { asked });
        }
        self.requirements.check(hello)?;
        let rank = hello.rank;
        let (messages, to_follower) = mpsc::channel(PLANS_AHEAD_MAX);
        let kv_blocks_max = hello.kv_blocks_max;
        let seat = Arc::new(Seat { peer: Peer::new(rank), kv_blocks_max, is_local, messages });
        let mut taken = self.taken.lock();
        let place = &mut taken.seats[rank as usize];
        if place.is_some() {
            return Err(JoinError::Taken { rank });
        }
        *place = Some(Arc::clone(&seat));
        drop(taken);
        self.changed.notify_waiters();
        Ok((seat, to_follower))
    }

    /// Takes a seat back, if the group has not formed yet. Returns whether nothing is lost by that.
    pub(crate) fn vacate(&self, seat: &Arc<Seat>) -> bool {
        let mut taken = self.taken.lock();
        if !taken.is_closed {
            let place = &mut taken.seats[seat.peer.rank as usize];
            if place.as_ref().is_some_and(|held| Arc::ptr_eq(held, seat)) {
                *place = None;
            }
        }
        let is_harmless = !taken.is_closed;
        drop(taken);
        self.changed.notify_waiters();
        is_harmless
    }

    /// Notes that a rank is to leave, and stays until the group has drained. Before all are here there is nothing to drain:
    /// it gives its seat back.
    pub(crate) fn leaves(&self, rank: u32) {
        if !self.taken.lock().is_closed {
            return;
        }
        self.leaving.send_if_modified(|leaving| {
            let is_first = leaving.is_none();
            leaving.get_or_insert(rank);
            is_first
        });
    }

    /// Waits until a rank is to leave, and returns the first that is.
    pub(crate) async fn leaving(&self) -> u32 {
        let mut leaving = self.leaving.subscribe();
        let first = leaving.wait_for(Option::is_some).await.expect("the sender is ours");
        (*first).expect("it was waited for")
    }

    /// Returns those who are here.
    pub(crate) fn present(&self) -> Vec<Arc<Seat>> {
        self.taken.lock().seats.iter().flatten().cloned().collect()
    }

    /// Waits until all are here, telling `missing` who is not, and returns them in order of ranks. From then on nobody
    /// can leave without ending the epoch.
    pub(crate) async fn all(&self, missing: impl Fn(&[u32])) -> Vec<Arc<Seat>> {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Registered before the look, so that no change falls between the two.
            changed.as_mut().enable();
            let absent: Vec<u32> = {
                let mut taken = self.taken.lock();
                let absent: Vec<u32> = (1..self.requirements.world_size)
                    .filter(|&rank| taken.seats[rank as usize].is_none())
                    .collect();
                taken.is_closed = absent.is_empty();
                absent
            };
            if absent.is_empty() {
                return self.present();
            }
            missing(&absent);
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn numerics() -> Numerics {
        v1::Numerics { device: "sim".into(), world_size: 3, ..v1::Numerics::default() }.into()
    }

    fn seats() -> Seats {
        let bond = Arc::new(Bond::new(Epoch(9), 0, Duration::from_secs(5)));
        let digest = ModelDigest([7; 32]);
        Seats::new(bond, Requirements { world_size: 3, digest, numerics: numerics() })
    }

    fn hello(rank: u32) -> v1::Hello {
        v1::Hello {
            epoch: 9,
            rank,
            world_size: 3,
            model_digest: vec![7; 32],
            numerics: Some((&numerics()).into()),
            kv_blocks_max: 100 + rank,
        }
    }

    #[test]
    fn a_follower_that_does_not_fit_is_told_why() {
        let seats = seats();
        let refused = |spoil: &dyn Fn(&mut v1::Hello)| {
            let mut hello = hello(1);
            spoil(&mut hello);
            seats.take(&hello, true).unwrap_err()
        };
        assert_eq!(refused(&|hello| hello.epoch = 8), JoinError::NotOpen { asked: 8 });
        assert!(matches!(refused(&|hello| hello.rank = 0), JoinError::WorldSize { .. }));
        assert!(matches!(refused(&|hello| hello.rank = 3), JoinError::WorldSize { .. }));
        assert!(matches!(refused(&|hello| hello.world_size = 2), JoinError::WorldSize { .. }));
        assert!(matches!(refused(&|hello| hello.model_digest[0] = 1), JoinError::Digest { .. }));
        assert!(matches!(refused(&|hello| hello.model_digest.clear()), JoinError::Wire(_)));
        assert!(matches!(refused(&|hello| hello.numerics = None), JoinError::Numerics { .. }));
        assert!(seats.take(&hello(1), true).is_ok());
        assert_eq!(seats.take(&hello(1), true).unwrap_err(), JoinError::Taken { rank: 1 });
    }

    #[tokio::test]
    async fn a_rank_may_leave_and_come_back_until_all_are_here() {
        let seats = seats();
        let (first, _messages) = seats.take(&hello(2), true).unwrap();
        assert!(seats.vacate(&first), "nothing has begun yet");
        let (again, _messages) = seats.take(&hello(2), true).unwrap();
        assert!(seats.vacate(&first), "an old call takes nothing from a new one");
        assert_eq!(seats.present().len(), 1);
        let (_, _messages) = seats.take(&hello(1), true).unwrap();
        let all = seats.all(|absent| panic!("{absent:?} are absent")).await;
        let ranks: Vec<u32> = all.iter().map(|seat| seat.peer.rank).collect();
        assert_eq!(ranks, [1, 2]);
        assert!(!seats.vacate(&again), "now everybody is needed");
    }

    #[tokio::test]
    async fn only_a_rank_that_the_others_wait_for_drains_the_group() {
        let seats = seats();
        let (_, _messages) = seats.take(&hello(1), true).unwrap();
        seats.leaves(1);
        let (_, _messages) = seats.take(&hello(2), true).unwrap();
        seats.all(|absent| panic!("{absent:?} are absent")).await;
        seats.leaves(2);
        seats.leaves(1);
        assert_eq!(seats.leaving().await, 2, "what rank 1 said before is forgotten");
    }
}
