//! How does a router follow a group's blocks and load? By one ordered stream (`FORMATS.md` section 4).

use std::sync::Arc;
use std::time::Duration;

use glint_proto::{status, v1};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Status;
use v1::watch_frame::Frame;

use crate::block_log;
use crate::engine_thread::Command;
use crate::group::GroupError;
use crate::leader::Live;
use glint_core::load::{REPORT_BUSY, REPORT_IDLE};

use crate::load::{INTERVAL_MIN, LoadReport, Watching};

/// Frames that may lie before a slow router; then it is waited for, and finds the log ahead.
pub(crate) const FRAMES_MAX: usize = 16;

pub(crate) type Frames = mpsc::Sender<Result<v1::WatchFrame, Status>>;

/// Why a watch does not go on.
enum Gone {
    /// Nobody listens.
    Router,
    /// The group does not answer any more.
    Group(GroupError),
}

/// Sends frames until the router goes or the epoch ends.
pub(crate) async fn serve(live: Arc<Live>, request: v1::WatchRequest, frames: Frames) {
    let watching = live.routers.watches(&request.router);
    let ended = tokio::select! {
        ended = follow(&live, &request, &watching, &frames) => ended,
        fault = live.bond.over() => Err(Gone::Group(live.failed(fault))),
    };
    if let Err(Gone::Group(error)) = ended {
        // Full: the router is slow, and finds the stream ended without a word.
        let _slow = frames.try_send(Err(status(&error)));
    }
}

async fn follow(
    live: &Live,
    request: &v1::WatchRequest,
    watching: &Watching,
    frames: &Frames,
) -> Result<(), Gone> {
    let epoch = live.bond.epoch().0;
    let mut changes = live.log.subscribe();
    let mut loads = live.load.clone();
    let resumed = request
        .sequence
        .filter(|_| request.epoch == Some(epoch))
        .filter(|sequence| live.log.since(*sequence).is_some());
    let mut told = match resumed {
        Some(sequence) => sequence,
        None => snapshot(live, frames).await?,
    };
    let mut reported: Option<(Arc<LoadReport>, Instant)> = None;
    loop {
        changes.mark_unchanged();
        match live.log.since(told) {
            Some(deltas) => {
                for delta in deltas {
                    told = delta.sequence;
                    send(frames, Frame::Delta(Arc::unwrap_or_clone(delta))).await?;
                }
            }
            // Too slow: what it missed is forgotten.
            None => told = snapshot(live, frames).await?,
        }
        let now = Arc::clone(&loads.borrow_and_update());
        let due = due_in(&now, reported.as_ref());
        if due.is_zero() {
            let load = live.routers.report(&watching.router, epoch, live.limits, &now);
            send(frames, Frame::Load(load)).await?;
            reported = Some((now, Instant::now()));
            continue;
        }
        tokio::select! {
            changed = changes.changed() => changed.map_err(|_| Gone::Group(live.gone()))?,
            changed = loads.changed() => changed.map_err(|_| Gone::Group(live.gone()))?,
            () = tokio::time::sleep(due) => {}
            () = frames.closed() => return Err(Gone::Router),
        }
    }
}

/// Returns how long until the next report.
fn due_in(now: &LoadReport, reported: Option<&(Arc<LoadReport>, Instant)>) -> Duration {
    let Some((told, told_at)) = reported else { return Duration::ZERO };
    let interval = if now.differs_much_from(told) {
        INTERVAL_MIN
    } else if now.is_busy() {
        REPORT_BUSY
    } else {
        REPORT_IDLE
    };
    interval.saturating_sub(told_at.elapsed())
}

/// Sends all cached blocks in chunks and returns the sequence that they stand for.
async fn snapshot(live: &Live, frames: &Frames) -> Result<u64, Gone> {
    let asked = live.ask(None, |reply| Command::Snapshot { reply });
    let (sequence, runs) = asked.await.map_err(Gone::Group)?;
    let mut chunks = block_log::messages(runs);
    if chunks.is_empty() {
        chunks.push(Vec::new());
    }
    let last = chunks.len() - 1;
    for (index, runs) in chunks.into_iter().enumerate() {
        let epoch = live.bond.epoch().0;
        let chunk = v1::Snapshot { epoch, sequence, runs, last: index == last };
        send(frames, Frame::Snapshot(chunk)).await?;
    }
    Ok(sequence)
}

async fn send(frames: &Frames, frame: Frame) -> Result<(), Gone> {
    frames.send(Ok(v1::WatchFrame { frame: Some(frame) })).await.map_err(|_| Gone::Router)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn reports_come_often_while_busy_and_at_once_when_much_changes() {
        let idle = Arc::new(LoadReport::default());
        let mut busy = LoadReport::default();
        busy.snapshot.running_sequences = 4;
        let busy = Arc::new(busy);
        let told = |report: &Arc<LoadReport>| Some((Arc::clone(report), Instant::now()));
        let (told_idle, told_busy) = (told(&idle), told(&busy));
        assert_eq!(due_in(&idle, None), Duration::ZERO);
        assert_eq!(due_in(&idle, told_idle.as_ref()), REPORT_IDLE);
        assert_eq!(due_in(&busy, told_busy.as_ref()), REPORT_BUSY);
        assert_eq!(due_in(&busy, told_idle.as_ref()), INTERVAL_MIN);
        tokio::time::advance(INTERVAL_MIN).await;
        assert_eq!(due_in(&busy, told_idle.as_ref()), Duration::ZERO);
        assert_eq!(due_in(&busy, told_busy.as_ref()), REPORT_BUSY - INTERVAL_MIN);
    }
}
