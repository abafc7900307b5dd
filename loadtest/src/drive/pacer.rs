//! When is the next session due?

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;

use super::{DriveError, LOOK, Load, Pace, Watch};
use crate::{
    plan::{Begins, Schedule, Session},
    target::{Ask, Conversation, Target},
};

/// A session whose first request is made.
pub(super) struct Prepared {
    pub(super) number: u64,
    pub(super) session: Session,
    pub(super) first: Ask,
    /// Its start after the run's begin.
    pub(super) start: Duration,
}

/// Hands every session over when it is due, until the schedule ends or is ended.
pub(super) fn pace(
    target: &Arc<Target>,
    schedule: Schedule,
    load: &Load,
    watch: &Watch,
    handovers: Vec<mpsc::Sender<Prepared>>,
) -> Result<(), DriveError> {
    for (number, session) in (0..).zip(schedule) {
        if load.sessions_max.is_some_and(|max| number >= max) {
            break;
        }
        let session = session?;
        if load.pace == Pace::Open && load.duration.is_some_and(|end| session.start >= end) {
            break;
        }
        let Some(first) = session.turns.first() else { continue };
        let first = Ask::new(target, first, &Conversation::of(&session))?;
        let start = session.start;
        let prepared = Prepared { number, session, first, start };
        if load.pace == Pace::Open && !due(watch, start + offset(&prepared.session)) {
            return Ok(());
        }
        let handover = &handovers[usize::try_from(number).unwrap_or(0) % handovers.len()];
        // It waits for a generator that does not keep up, whose records will say so, and ends with one that has ended.
        if handover.blocking_send(prepared).is_err() {
            return Ok(());
        }
    }
    // The cool-down belongs to the test, and so does the silence after the last session.
    if let (Pace::Open, Some(end)) = (load.pace, load.duration) {
        due(watch, end);
    }
    Ok(())
}

/// The first turn's own time.
fn offset(session: &Session) -> Duration {
    match session.turns.first().map(|turn| turn.begins) {
        Some(Begins::At(offset) | Begins::After(offset)) => offset,
        None => Duration::ZERO,
    }
}

/// Sleeps until then; false when the test is to end.
fn due(watch: &Watch, at: Duration) -> bool {
    loop {
        if watch.stopped() {
            return false;
        }
        let left = at.saturating_sub(watch.elapsed());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(LOOK));
    }
}
