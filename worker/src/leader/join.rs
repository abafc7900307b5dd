//! How do followers join an epoch, and what tells the leader that they live?

use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use futures::stream::BoxStream;
use glint_proto::v1::follower_message::Message as FollowerWord;
use glint_proto::v1::leader_message::Message as LeaderWord;
use glint_proto::v1::rank_server::Rank as RankCalls;
use glint_proto::{status, v1};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use tracing::warn;

use super::seats::{JoinError, Seat, Seats};
use crate::bond::{Bond, Fault, HEARTBEAT};

/// For the first message of a call.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// Takes `Join` calls for whatever epoch is open.
#[derive(Clone, Debug, Default)]
pub(crate) struct RankService {
    pub(crate) open: Arc<Mutex<Option<Arc<Seats>>>>,
    pub(crate) tasks: TaskTracker,
}

#[tonic::async_trait]
impl RankCalls for RankService {
    type JoinStream = BoxStream<'static, Result<v1::LeaderMessage, Status>>;

    async fn join(
        &self,
        request: Request<Streaming<v1::FollowerMessage>>,
    ) -> Result<Response<Self::JoinStream>, Status> {
        let is_local = match (request.remote_addr(), request.local_addr()) {
            (Some(remote), Some(local)) => remote.ip() == local.ip() || remote.ip().is_loopback(),
            _ => false,
        };
        let mut words = request.into_inner();
        let first = tokio::time::timeout(HELLO_TIMEOUT, words.message()).await;
        let first = first.map_err(|_| status(&JoinError::NoHello))??;
        let Some(FollowerWord::Hello(hello)) = first.and_then(|first| first.message) else {
            return Err(status(&JoinError::NoHello));
        };
        let open = self.open.lock().clone();
        let asked = hello.epoch;
        let joined = open.ok_or(JoinError::NotOpen { asked }).and_then(|seats| {
            let (seat, messages) = seats.take(&hello, is_local)?;
            Ok((seats, seat, messages))
        });
        let (seats, seat, messages) = joined.map_err(|error| {
            if !matches!(error, JoinError::NotOpen { .. } | JoinError::Taken { .. }) {
                warn!(error = %error, "a rank cannot join");
            }
            status(&error)
        })?;
        let bond = Arc::clone(&seats.bond);
        self.tasks.spawn(listen(words, seats, seat));
        Ok(Response::new(Box::pin(speak(messages, bond))))
    }
}

/// Hears a follower until the epoch ends. Its last word, or a broken connection, ends the epoch, once that has begun.
async fn listen(mut words: Streaming<v1::FollowerMessage>, seats: Arc<Seats>, seat: Arc<Seat>) {
    let bond = &seats.bond;
    let rank = seat.peer.rank;
    let fault = loop {
        let word = tokio::select! {
            word = words.message() => word,
            _over = bond.over() => return,
        };
        match word.map(|word| word.map(|word| word.message)) {
            Ok(Some(Some(FollowerWord::Heartbeat(heartbeat)))) => {
                seat.peer.beat(&heartbeat);
                if heartbeat.draining {
                    seats.leaves(rank);
                }
            }
            Ok(Some(Some(FollowerWord::Fault(fault)))) => break Fault::from(fault),
            Ok(Some(Some(FollowerWord::Hello(_)))) => break Fault::new(rank, "said Hello twice"),
            // A word of a later version.
            Ok(Some(None)) => seat.peer.heard(),
            Ok(None) => break Fault::new(rank, "closed its connection"),
            Err(status) => {
                break Fault::new(rank, broken(&status));
            }
        }
    };
    if !seats.vacate(&seat) {
        bond.end(fault);
    }
}

/// Says how a call broke; a status's own text may be empty.
pub(crate) fn broken(status: &Status) -> String {
    match status.message() {
        "" => format!("is gone, its connection broke: {:?}", status.code()),
        text => format!("is gone, its connection broke: {text}"),
    }
}

/// Returns what a follower hears: Welcome, plans and heartbeats, and with the end of the epoch its reason.
fn speak(
    messages: mpsc::Receiver<v1::LeaderMessage>,
    bond: Arc<Bond>,
) -> impl Stream<Item = Result<v1::LeaderMessage, Status>> + Send + 'static {
    let mut beats = tokio::time::interval(HEARTBEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    futures::stream::unfold(Some((messages, bond, beats)), |speaking| async move {
        let (mut messages, bond, mut beats) = speaking?;
        let word = tokio::select! {
            // The end is told before all else.
            biased;
            fault = bond.over() => {
                return Some((Ok(leader_word(LeaderWord::Fault((&fault).into()))), None));
            }
            Some(message) = messages.recv() => message,
            _ = beats.tick() => leader_word(LeaderWord::Heartbeat(v1::Heartbeat::default())),
        };
        Some((Ok(word), Some((messages, bond, beats))))
    })
}

pub(super) fn leader_word(message: LeaderWord) -> v1::LeaderMessage {
    v1::LeaderMessage { message: Some(message) }
}
