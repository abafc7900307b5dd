//! What do a group's callers see of it?

use std::sync::Arc;
use std::time::Duration;

use glint_core::GroupId;
use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::block_log::BlockLog;
use crate::bond::{Bond, Fault};
use crate::engine_thread::Command;
use crate::group::GroupError;
use crate::load::{Limits, LoadReport, Routers};

/// A group that answers.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) group: GroupId,
    pub(crate) bond: Arc<Bond>,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) log: Arc<BlockLog>,
    pub(crate) load: watch::Receiver<Arc<LoadReport>>,
    pub(crate) limits: Limits,
    pub(crate) routers: Arc<Routers>,
    pub(crate) context_tokens: u32,
    pub(crate) kv_blocks: u32,
    /// The engine obeys between two steps; a step that takes longer than this would have ended the epoch.
    pub(crate) answer_timeout: Duration,
}

impl Live {
    /// Has the engine obey a command, and returns its answer. A caller that stops waiting takes nothing back.
    ///
    /// # Errors
    ///
    /// The epoch is over, or the engine does not answer by the deadline or within [`Live::answer_timeout`].
    pub(crate) async fn ask<T>(
        &self,
        deadline: Option<Instant>,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, GroupError> {
        let (reply, answer) = oneshot::channel();
        let answered = async {
            self.commands.send(command(reply)).await.ok()?;
            answer.await.ok()
        };
        let stuck_at = Instant::now() + self.answer_timeout;
        let until = deadline.map_or(stuck_at, |deadline| deadline.min(stuck_at));
        let answered = tokio::select! {
            answered = tokio::time::timeout_at(until, answered) => answered,
            fault = self.bond.over() => return Err(self.failed(fault)),
        };
        match answered {
            Ok(answer) => answer.ok_or_else(|| self.gone()),
            Err(_late) if until < stuck_at => Err(GroupError::Deadline),
            Err(_late) => {
                Err(GroupError::Stuck { group: self.group.clone(), waited: self.answer_timeout })
            }
        }
    }

    /// Lets the engine take no new sequences, and returns how many it has.
    ///
    /// # Errors
    ///
    /// As of [`Live::ask`].
    pub(crate) async fn drain(&self) -> Result<u32, GroupError> {
        self.ask(None, |reply| Command::Drain { reply }).await
    }

    /// Returns why an engine that has ended does not answer.
    pub(crate) fn gone(&self) -> GroupError {
        match self.bond.ended() {
            Some(fault) => self.failed(fault.clone()),
            None => GroupError::Over { group: self.group.clone() },
        }
    }

    /// Returns what a request is told that the end of the epoch took.
    pub(crate) fn failed(&self, fault: Fault) -> GroupError {
        GroupError::Failed { group: self.group.clone(), fault }
    }
}

/// What the group is doing, as its callers see it.
///
/// ```text
/// Forming ──all ranks met──▶ Live ──drained──▶ Over
///    ▲                        │
///    └──────── fault ─────────┘
/// ```
#[derive(Clone, Debug)]
enum Phase {
    /// Ranks are missing; the fault is why the epoch before ended.
    Forming(Option<Fault>),
    Live(Arc<Live>),
    Over,
}

/// The group as its callers see it. One per process, over all epochs.
#[derive(Debug)]
pub(crate) struct Front {
    group: GroupId,
    phase: RwLock<Phase>,
    pub(crate) routers: Arc<Routers>,
    /// Cancelled when no new sequences are to be taken any more.
    drain: CancellationToken,
}

impl Front {
    pub(crate) fn new(group: GroupId) -> Self {
        let phase = RwLock::new(Phase::Forming(None));
        Self { group, phase, routers: Arc::default(), drain: CancellationToken::new() }
    }

    /// Returns the living group.
    ///
    /// # Errors
    ///
    /// There is none at the moment.
    pub(crate) fn live(&self) -> Result<Arc<Live>, GroupError> {
        let group = self.group.clone();
        match &*self.phase.read() {
            Phase::Live(live) => match live.bond.ended() {
                None => Ok(Arc::clone(live)),
                Some(fault) => Err(live.failed(fault.clone())),
            },
            Phase::Forming(Some(fault)) => Err(GroupError::Failed { group, fault: fault.clone() }),
            Phase::Forming(None) => Err(GroupError::Forming { group }),
            Phase::Over => Err(GroupError::Over { group }),
        }
    }

    /// Takes no new sequences from now on.
    pub(crate) fn drain(&self) {
        self.drain.cancel();
    }

    /// Waits until no new sequences are to be taken.
    pub(crate) async fn draining(&self) {
        self.drain.cancelled().await;
    }

    // ## Forming => Live
    pub(super) fn lives(&self, live: Arc<Live>) {
        *self.phase.write() = Phase::Live(live);
    }

    // ## Live => Forming
    pub(super) fn failed(&self, fault: Fault) {
        *self.phase.write() = Phase::Forming(Some(fault));
    }

    // ## (Forming | Live) => Over
    pub(super) fn over(&self) {
        *self.phase.write() = Phase::Over;
    }
}

#[cfg(test)]
mod tests {
    use glint_core::Epoch;

    use super::*;

    const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

    /// A group whose engine takes one command, and obeys none.
    fn stuck() -> (Live, mpsc::Receiver<Command>) {
        let (commands, unread) = mpsc::channel(1);
        let group: GroupId = "group-0".parse().unwrap();
        let (_told, load) = watch::channel(Arc::default());
        let live = Live {
            group,
            bond: Arc::new(Bond::new(Epoch(1), 0, Duration::from_secs(5))),
            commands,
            log: Arc::new(BlockLog::new()),
            load,
            limits: Limits { sequences_max: 1, waiting_max: 1 },
            routers: Arc::default(),
            context_tokens: 16,
            kv_blocks: 1,
            answer_timeout: ANSWER_TIMEOUT,
        };
        (live, unread)
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever_for_an_engine_that_stands_still() {
        let (live, _unread) = stuck();
        // The first command waits for its answer, the second for room.
        let both = async { tokio::join!(live.drain(), live.drain()) };
        let (first, second) = tokio::time::timeout(2 * ANSWER_TIMEOUT, both).await.unwrap();
        let late = GroupError::Stuck { group: live.group.clone(), waited: ANSWER_TIMEOUT };
        assert_eq!((first, second), (Err(late.clone()), Err(late)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_ends_the_wait_for_room_and_the_wait_for_an_answer() {
        let (live, _unread) = stuck();
        let deadline = Instant::now() + ANSWER_TIMEOUT / 10;
        let ask = || live.ask(Some(deadline), |reply| Command::Drain { reply });
        let both = async { tokio::join!(ask(), ask()) };
        let late = Err(GroupError::Deadline);
        assert_eq!(both.await, (late.clone(), late));
        assert_eq!(Instant::now(), deadline);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_the_epoch_ends_every_wait_for_its_engine() {
        let (live, _unread) = stuck();
        let fault = Fault::new(1, "is gone");
        let ends = async { live.bond.end(fault.clone()) };
        let (first, second, ()) = tokio::join!(live.drain(), live.drain(), ends);
        assert_eq!((first, second), (Err(live.failed(fault.clone())), Err(live.failed(fault))));
    }

    #[tokio::test]
    async fn an_engine_that_is_gone_is_told_from_one_that_failed() {
        let (live, unread) = stuck();
        drop(unread);
        assert_eq!(live.drain().await, Err(GroupError::Over { group: live.group.clone() }));
    }
}
