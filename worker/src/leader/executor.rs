//! How does a plan reach all ranks, and its outcome the engine?

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use glint_core::{StepOutcome, StepPlan};
use glint_engine::{Executor, ExecutorError};
use glint_proto::v1;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use v1::leader_message::Message;

use super::seats::Seat;
use crate::bond::{Bond, Fault};
use crate::rank::PLANS_AHEAD_MAX;

/// Between two looks at the bond while a step runs.
const LOOK: Duration = Duration::from_millis(20);

/// The ranks of one epoch, as the engine sees them.
pub(crate) struct GroupExecutor {
    pub(crate) bond: Arc<Bond>,
    pub(crate) followers: Vec<Arc<Seat>>,
    /// Rank 0's thread in this process.
    pub(crate) own: mpsc::Sender<StepPlan>,
    pub(crate) outcomes: Receiver<StepOutcome>,
    pub(crate) progress: Arc<Progress>,
    /// The plan that is settled next.
    pub(crate) next: u64,
}

impl GroupExecutor {
    /// Ends the epoch if it has not ended yet, and returns why it did.
    fn lost(&self, step: u64, fault: Fault) -> ExecutorError {
        self.bond.end(fault);
        let fault = self.bond.ended().expect("it was ended, here or before");
        ExecutorError::Lost { step, message: fault.to_string() }
    }
}

impl Executor for GroupExecutor {
    fn submit(&mut self, plan: StepPlan) -> Result<(), ExecutorError> {
        let step = plan.step;
        // The others first: their plans have the longer way.
        let wire = (!self.followers.is_empty()).then(|| v1::StepPlan::from(&plan));
        if let Some(wire) = wire {
            for seat in &self.followers {
                let message = v1::LeaderMessage { message: Some(Message::Plan(wire.clone())) };
                if seat.messages.try_send(message).is_err() {
                    let reason = format!("has not taken its last {PLANS_AHEAD_MAX} plans");
                    return Err(self.lost(step, Fault::new(seat.peer.rank, reason)));
                }
            }
        }
        self.progress.submitted();
        self.own.try_send(plan).map_err(|_| self.lost(step, Fault::new(0, "takes no plans")))
    }

    fn settle(&mut self) -> Result<StepOutcome, ExecutorError> {
        use std::sync::mpsc::RecvTimeoutError::{Disconnected, Timeout};
        loop {
            match self.outcomes.recv_timeout(LOOK) {
                Ok(outcome) => {
                    self.progress.settled();
                    self.next = outcome.step + 1;
                    return Ok(outcome);
                }
                Err(Timeout) if self.bond.ended().is_none() => {}
                Err(Timeout | Disconnected) => {
                    return Err(self.lost(self.next, Fault::new(0, "left its epoch")));
                }
            }
        }
    }
}

/// The steps of an epoch: plans sent ahead, and how far their outcomes are.
#[derive(Debug)]
pub(crate) struct Progress(Mutex<Steps>);

#[derive(Clone, Copy, Debug)]
struct Steps {
    submitted: u64,
    settled: u64,
    /// When the oldest plan in flight began to be waited for.
    since: Instant,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Steps { submitted: 0, settled: 0, since: Instant::now() }))
    }

    fn submitted(&self) {
        let mut steps = self.0.lock();
        if steps.submitted == steps.settled {
            steps.since = Instant::now();
        }
        steps.submitted += 1;
    }

    fn settled(&self) {
        let mut steps = self.0.lock();
        steps.settled += 1;
        steps.since = Instant::now();
    }

    /// Returns the step that has been waited for for longer than `timeout`, if there is one.
    pub(crate) fn stuck(&self, now: Instant, timeout: Duration) -> Option<u64> {
        let Steps { submitted, settled, since } = *self.0.lock();
        let waited = now.saturating_duration_since(since);
        (submitted > settled && waited > timeout).then_some(settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_step_in_flight_can_be_stuck() {
        let progress = Progress::new();
        let timeout = Duration::from_secs(60);
        let late = || Instant::now() + 2 * timeout;
        assert_eq!(progress.stuck(late(), timeout), None);
        progress.submitted();
        progress.submitted();
        assert_eq!(progress.stuck(Instant::now(), timeout), None);
        assert_eq!(progress.stuck(late(), timeout), Some(0));
        progress.settled();
        assert_eq!(progress.stuck(late(), timeout), Some(1));
        progress.settled();
        assert_eq!(progress.stuck(late(), timeout), None);
    }
}
