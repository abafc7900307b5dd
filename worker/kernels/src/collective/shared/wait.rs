//! How does a rank wait for another, on few cores, without sleeping through a death?
//!
//! It begins with a spin of a microsecond or two (the others usually come at once), goes on by giving the core away (there
//! may be more ranks than cores), and ends in a futex sleep in short naps, between which the abort flag, the state of the
//! others and the time are looked at.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::thread::futex;

use super::super::CollectiveError;
use super::super::region::State;
use super::SharedCollective;

/// Looks before the core is offered to others: about two microseconds.
const SPIN_LOOKS: u32 = 64;

/// The longest sleep without a look at the abort flag and the clock.
const NAP: Duration = Duration::from_millis(4);

/// How often the process table is asked whether a missing rank is alive.
const LIVENESS_EVERY: Duration = Duration::from_millis(20);

/// How a wait looks at others when it has been long; made once per round, when the first wait is long.
pub(super) struct Patience {
    since: Instant,
    liveness_asked: Instant,
}

impl SharedCollective {
    /// Waits until `came` or something ends the hope that `peer` will come.
    pub(super) fn wait(
        &self,
        peer: usize,
        op: &'static str,
        patience: &mut Option<Patience>,
        came: impl Fn(&Self) -> bool,
    ) -> Result<(), CollectiveError> {
        for _ in 0..SPIN_LOOKS {
            if came(self) {
                return Ok(());
            }
            std::hint::spin_loop();
        }
        let patience = patience.get_or_insert_with(|| {
            let since = Instant::now();
            Patience { since, liveness_asked: since }
        });
        loop {
            std::thread::yield_now();
            if came(self) {
                return Ok(());
            }
            let now = Instant::now();
            let waited = now.duration_since(patience.since);
            if waited < self.yield_for {
                continue;
            }
            self.look_around(peer, op, waited)?;
            if now.duration_since(patience.liveness_asked) >= LIVENESS_EVERY {
                patience.liveness_asked = now;
                let state = self.region.control(peer).state.load(Ordering::Acquire);
                let process = self.region.control(peer).process();
                if state == State::ATTACHED && process.is_gone(self.process) && !came(self) {
                    let why = format!("its process {} ended", process.pid);
                    return Err(CollectiveError::PeerLost { rank: peer, why });
                }
            }
            self.nap(peer, &came, NAP.min(self.timeout.saturating_sub(waited)));
        }
    }

    /// Whatever speaks against waiting on, once `peer` was found missing.
    fn look_around(
        &self,
        peer: usize,
        op: &'static str,
        waited: Duration,
    ) -> Result<(), CollectiveError> {
        if self.abort.is_aborted() {
            return Err(CollectiveError::Aborted);
        }
        // Any rank that failed, not only the missing one: the group is over for all.
        for by in (0..self.world_size).filter(|&by| by != self.rank) {
            let control = self.region.control(by);
            if control.state.load(Ordering::Acquire) == State::FAILED {
                let culprit = control.culprit.load(Ordering::Relaxed) as usize;
                return Err(CollectiveError::told(self.rank, by, culprit, self.world_size));
            }
        }
        if self.region.control(peer).state.load(Ordering::Acquire) == State::LEFT {
            let why = "it left the group".to_owned();
            return Err(CollectiveError::PeerLost { rank: peer, why });
        }
        if waited >= self.timeout {
            return Err(CollectiveError::Timeout { rank: peer, op, waited });
        }
        Ok(())
    }

    /// Sleeps until `peer` publishes, or for `longest`, or for no reason.
    fn nap(&self, peer: usize, came: &impl Fn(&Self) -> bool, longest: Duration) {
        let control = self.region.control(peer);
        let timeout = futex::Timespec { tv_sec: 0, tv_nsec: longest.subsec_nanos().into() };
        control.sleepers.fetch_add(1, Ordering::SeqCst);
        let seen = control.round.load(Ordering::SeqCst);
        if !came(self) {
            // Whatever it returns, the caller looks again.
            let _ = futex::wait(&control.round, futex::Flags::empty(), seen, Some(&timeout));
        }
        control.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}
