//! How does one life of a group end? Once, for one reason, on every rank.
//!
//! Each process has a [`Bond`] per epoch and rank (the leader's stands for its whole group). Whoever notices first that
//! something is wrong ends it and says which rank is to blame; all others, threads and tasks, stop because of it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use glint_core::{Epoch, Pause};
use glint_kernels::collective::AbortHandle;
use glint_proto::v1;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Between two signs of life, in both directions, and between two looks at them.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(100);

const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_LONGEST: Duration = Duration::from_secs(5);

/// Returns the pauses of one rank between epochs that fail in a row.
pub(crate) fn pause_between_epochs() -> Pause {
    Pause::new(PAUSE_FIRST, PAUSE_LONGEST)
}

/// Which rank is to blame for the end of an epoch, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) rank: u32,
    pub(crate) reason: String,
}

impl Fault {
    pub(crate) fn new(rank: u32, reason: impl Into<String>) -> Self {
        Self { rank, reason: reason.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} {}", self.rank, self.reason)
    }
}

impl From<&Fault> for v1::Fault {
    fn from(fault: &Fault) -> Self {
        Self { rank: fault.rank, reason: fault.reason.clone() }
    }
}

impl From<v1::Fault> for Fault {
    fn from(wire: v1::Fault) -> Self {
        Self { rank: wire.rank, reason: wire.reason }
    }
}

/// What holds a rank in its epoch.
#[derive(Debug)]
pub(crate) struct Bond {
    epoch: Epoch,
    own_rank: u32,
    stall_timeout: Duration,
    end: OnceLock<Fault>,
    over: CancellationToken,
    abort: AbortHandle,
    /// When this process last looked at its peers.
    looked: Mutex<Instant>,
}

impl Bond {
    pub(crate) fn new(epoch: Epoch, own_rank: u32, stall_timeout: Duration) -> Self {
        Self {
            epoch,
            own_rank,
            stall_timeout,
            end: OnceLock::new(),
            over: CancellationToken::new(),
            abort: AbortHandle::new(),
            looked: Mutex::new(Instant::now()),
        }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(crate) fn own_rank(&self) -> u32 {
        self.own_rank
    }

    /// Ends the waits of this rank in its collective; used when the bond ends.
    pub(crate) fn abort_handle(&self) -> AbortHandle {
        self.abort.clone()
    }

    /// Ends the epoch on this side; only the first fault counts. What a process finds broken when it wakes from a long
    /// standstill is its own fault: the others have given it up.
    pub(crate) fn end(&self, fault: Fault) {
        let unseeing = self.looked.lock().elapsed();
        let fault = if unseeing > self.stall_timeout { self.stood_still(unseeing) } else { fault };
        // The reason first: whoever sees the end finds it.
        let _first_counts = self.end.set(fault);
        self.abort.abort();
        self.over.cancel();
    }

    fn stood_still(&self, lasted: Duration) -> Fault {
        Fault::new(self.own_rank, format!("stood still for {} ms", lasted.as_millis()))
    }

    /// Returns why it is over, if it is.
    pub(crate) fn ended(&self) -> Option<&Fault> {
        self.end.get()
    }

    /// Waits for the end.
    pub(crate) async fn over(&self) -> Fault {
        self.over.cancelled().await;
        self.end.get().cloned().expect("the fault is set before the token is cancelled")
    }

    /// Looks at peers, to be called every [`HEARTBEAT`]: one that was silent for too long ends the epoch.
    ///
    /// If this process itself was held up, its peers are not to blame for that time: it does not count as silence. Held up
    /// for longer than they wait for it, it knows that its epoch is over.
    pub(crate) fn look<'a>(&self, now: Instant, peers: impl Iterator<Item = &'a Peer>) {
        let lateness = {
            let mut looked = self.looked.lock();
            let since = now.saturating_duration_since(*looked);
            *looked = now;
            since.saturating_sub(2 * HEARTBEAT)
        };
        for peer in peers {
            if lateness > self.stall_timeout {
                self.end(self.stood_still(lateness));
            }
            let silent = peer.silence(now, lateness);
            if silent > self.stall_timeout {
                let reason = format!("gave no sign of life for {} ms", silent.as_millis());
                self.end(Fault::new(peer.rank, reason));
            }
        }
    }
}

/// Ends a bond when it is dropped, so that a task that is cancelled leaves nobody behind who waits for it.
#[derive(Debug)]
pub(crate) struct EndOnDrop(pub(crate) Arc<Bond>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end(Fault::new(self.0.own_rank, "left its epoch"));
    }
}

/// Another rank's signs of life.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) rank: u32,
    heard: Mutex<Instant>,
    steps_done: AtomicU64,
}

impl Peer {
    pub(crate) fn new(rank: u32) -> Self {
        Self { rank, heard: Mutex::new(Instant::now()), steps_done: AtomicU64::new(0) }
    }

    /// Notes a sign of life.
    pub(crate) fn heard(&self) {
        *self.heard.lock() = Instant::now();
    }

    /// Notes a heartbeat.
    pub(crate) fn beat(&self, heartbeat: &v1::Heartbeat) {
        self.heard();
        self.steps_done.fetch_max(heartbeat.steps_done, Ordering::Relaxed);
    }

    /// Returns how many steps it had done at its last heartbeat.
    pub(crate) fn steps_done(&self) -> u64 {
        self.steps_done.load(Ordering::Relaxed)
    }

    /// Returns for how long it has been silent, without the time in which nobody listened.
    fn silence(&self, now: Instant, unheard: Duration) -> Duration {
        let mut heard = self.heard.lock();
        *heard = (*heard + unheard).min(now.max(*heard));
        now.saturating_duration_since(*heard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);

    fn bond() -> Bond {
        Bond::new(Epoch(7), 0, TIMEOUT)
    }

    #[test]
    fn the_first_fault_counts() {
        let bond = bond();
        assert_eq!(bond.ended(), None);
        bond.end(Fault::new(1, "is gone"));
        bond.end(Fault::new(2, "could not reach rank 1"));
        assert_eq!(bond.ended().unwrap().to_string(), "rank 1 is gone");
        assert!(bond.abort_handle().is_aborted());
    }

    #[test]
    fn a_silent_peer_ends_the_epoch_and_a_held_up_observer_does_not() {
        let start = Instant::now();
        let (bond, peer) = (bond(), Peer::new(1));
        // The observer stood still for a while, so it could not hear anybody.
        let held_up = TIMEOUT - HEARTBEAT;
        let mut now = start + held_up;
        bond.look(now, [&peer].into_iter());
        assert_eq!(bond.ended(), None);
        // From here on it listens, and hears nothing.
        while now < start + held_up + TIMEOUT - 3 * HEARTBEAT {
            now += HEARTBEAT;
            bond.look(now, [&peer].into_iter());
            assert_eq!(bond.ended(), None, "after {:?}", now - start);
        }
        for _ in 0..8 {
            now += HEARTBEAT;
            bond.look(now, [&peer].into_iter());
        }
        let fault = bond.ended().unwrap();
        assert_eq!(fault.rank, 1);
        assert!(fault.reason.starts_with("gave no sign of life for 5"), "{fault}");
    }

    #[test]
    fn whoever_stood_still_is_to_blame_for_what_it_finds() {
        let bond = bond();
        *bond.looked.lock() = Instant::now().checked_sub(2 * TIMEOUT).unwrap();
        bond.end(Fault::new(1, "closed its connection"));
        let fault = bond.ended().unwrap();
        assert_eq!(fault.rank, 0);
        assert!(fault.reason.starts_with("stood still for 10"), "{fault}");

        // Alone, there is nobody who could have given it up.
        let alone = Bond::new(Epoch(7), 0, TIMEOUT);
        alone.look(Instant::now() + 3 * TIMEOUT, std::iter::empty());
        assert_eq!(alone.ended(), None);
        let peer = Peer::new(1);
        alone.look(Instant::now() + 6 * TIMEOUT, [&peer].into_iter());
        assert_eq!(alone.ended().unwrap().rank, 0);
    }
}
