//! What passes between a follower and its leader in one epoch?

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use glint_core::StepPlan;
use glint_kernels::collective;
use glint_proto::v1::follower_message::Message as Word;
use glint_proto::v1::leader_message::Message as LeaderWord;
use glint_proto::v1::rank_client::RankClient;
use glint_proto::{KindOf, v1};
use glint_service::Drain;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;
use tracing::info;

use super::{Follower, Rendezvous, newer_than};
use crate::bond::{Bond, EndOnDrop, Fault, HEARTBEAT, Peer};
use crate::leader::broken;
use crate::rank::{Meeting, Order, PLANS_AHEAD_MAX};

/// For a connection, and for the answer to Hello.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);
/// For the leader to take note of our last word.
const FAREWELL_TIMEOUT: Duration = Duration::from_millis(500);
/// Words that may lie before the connection: some heartbeats, and the last word.
const WORDS_MAX: usize = 16;
/// The largest plan: a million prompt tokens of up to five bytes, some times over.
const PLAN_BYTES_MAX: usize = 64 << 20;

/// The leader did not take us, or not yet.
pub(super) struct Refused(pub(super) String);

impl Follower {
    /// Joins an epoch and stays until it ends; returns why it did.
    pub(super) async fn take_part(
        &self,
        open: &Rendezvous,
        drain: &Drain,
    ) -> Result<Fault, Refused> {
        let (words, to_leader) = mpsc::channel(WORDS_MAX);
        let hello = v1::Hello {
            epoch: open.epoch.0,
            rank: self.rank.rank,
            world_size: self.identity.world_size,
            model_digest: self.digest.0.into(),
            numerics: Some((&self.rank.numerics).into()),
            kv_blocks_max: self.rank.kv_blocks_max,
        };
        let _first_has_room = words.try_send(word(Word::Hello(hello)));
        let joined = join(&open.address, ReceiverStream::new(to_leader));
        let heard = tokio::select! {
            joined = tokio::time::timeout(JOIN_TIMEOUT, joined) => joined.unwrap_or_else(|_| {
                Err(Refused(format!("rank 0 at {} does not answer", open.address)))
            })?,
            () = drain.draining() => return Err(Refused("the process ends".to_owned())),
        };
        let bond = Arc::new(Bond::new(open.epoch, self.rank.rank, self.flags.stall_timeout));
        let call = Call { follower: self, bond: Arc::clone(&bond), words, heard };
        Ok(call.stay(drain).await)
    }
}

async fn join(
    address: &str,
    words: ReceiverStream<v1::FollowerMessage>,
) -> Result<Streaming<v1::LeaderMessage>, Refused> {
    let refused =
        |error: &dyn std::fmt::Display| Refused(format!("rank 0 at {address} is away: {error}"));
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|e| refused(&e))?;
    let channel = endpoint
        .connect_timeout(JOIN_TIMEOUT)
        .tcp_nodelay(true)
        .connect()
        .await
        .map_err(|error| refused(&error))?;
    let mut client = RankClient::new(channel).max_decoding_message_size(PLAN_BYTES_MAX);
    match client.join(words).await {
        Ok(response) => Ok(response.into_inner()),
        Err(status) => {
            let kind = status.kind_of();
            Err(Refused(format!("rank 0 refuses: {} ({kind:?})", status.message())))
        }
    }
}

/// A joined epoch.
struct Call<'a> {
    follower: &'a Follower,
    bond: Arc<Bond>,
    words: mpsc::Sender<v1::FollowerMessage>,
    heard: Streaming<v1::LeaderMessage>,
}

/// What Welcome begins.
struct Work {
    plans: mpsc::Sender<StepPlan>,
    met: oneshot::Receiver<()>,
    has_met: bool,
}

impl Call<'_> {
    /// Stays until the epoch ends.
    async fn stay(mut self, drain: &Drain) -> Fault {
        let bond = Arc::clone(&self.bond);
        let _tied = EndOnDrop(Arc::clone(&bond));
        let own = bond.own_rank();
        let leader = Peer::new(0);
        let steps_done = Arc::new(AtomicU64::new(0));
        let mut beats = tokio::time::interval(HEARTBEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let newer = newer_than(self.follower.rendezvous.clone(), Some(bond.epoch()));
        let mut newer = std::pin::pin!(newer);
        let mut work: Option<Work> = None;
        self.follower.not_ready("waits for the other ranks");
        let fault = loop {
            let is_waiting = work.is_none();
            let meeting = work.as_mut().filter(|work| !work.has_met);
            tokio::select! {
                fault = bond.over() => break fault,
                word = self.heard.message() => {
                    leader.heard();
                    match word {
                        Ok(Some(word)) => self.obey(word, &mut work, &steps_done),
                        Ok(None) => bond.end(Fault::new(0, "closed its connection")),
                        Err(status) => {
                            bond.end(Fault::new(0, broken(&status)));
                        }
                    }
                }
                _tick = beats.tick() => {
                    bond.look(Instant::now(), [&leader].into_iter());
                    let steps_done = steps_done.load(Ordering::Relaxed);
                    let draining = drain.is_draining();
                    let beat = v1::Heartbeat { steps_done, loaded_bytes: 0, draining };
                    // Full: the connection is stuck, and the leader will say so.
                    let _stuck = self.words.try_send(word(Word::Heartbeat(beat)));
                }
                met = has_met(meeting) => {
                    if met {
                        info!(group = %self.follower.identity.group, epoch = %bond.epoch(), own_rank = own, "the rank is in its group");
                        self.follower.ready();
                    }
                    if let Some(work) = &mut work {
                        work.has_met = true;
                    }
                }
                Some(open) = &mut newer => {
                    bond.end(Fault::new(0, format!("began epoch {}", open.epoch)));
                }
                () = drain.draining(), if is_waiting => {
                    bond.end(Fault::new(own, "leaves before the group has formed"));
                }
                () = drain.stopped() => bond.end(Fault::new(own, "was stopped")),
            }
        };
        self.follower.not_ready(&fault.to_string());
        // No more plans: the rank's thread comes to rest.
        drop(work);
        self.farewell(&fault).await;
        fault
    }

    /// Does what the leader says.
    fn obey(
        &self,
        message: v1::LeaderMessage,
        work: &mut Option<Work>,
        steps_done: &Arc<AtomicU64>,
    ) {
        let (bond, own) = (&self.bond, self.bond.own_rank());
        match (message.message, work) {
            (Some(LeaderWord::Fault(fault)), _) => bond.end(fault.into()),
            // Heard; `None` is a word of a later version.
            (Some(LeaderWord::Heartbeat(_)) | None, _) => {}
            (Some(LeaderWord::Welcome(welcome)), work @ None) => {
                match self.begin(welcome, steps_done) {
                    Ok(begun) => *work = Some(begun),
                    Err(fault) => bond.end(fault),
                }
            }
            (Some(LeaderWord::Welcome(_)), Some(_)) => {
                bond.end(Fault::new(0, "said Welcome twice"))
            }
            (Some(LeaderWord::Plan(_)), None) => bond.end(Fault::new(0, "sent a plan too early")),
            (Some(LeaderWord::Plan(plan)), Some(work)) => match StepPlan::try_from(plan) {
                Ok(plan) => {
                    if work.plans.try_send(plan).is_err() {
                        let reason = format!("is more than {PLANS_AHEAD_MAX} plans behind");
                        bond.end(Fault::new(own, reason));
                    }
                }
                Err(error) => bond.end(Fault::new(0, format!("sent a senseless plan: {error}"))),
            },
        }
    }

    /// Lets the rank's thread meet the others.
    fn begin(&self, welcome: v1::Welcome, steps_done: &Arc<AtomicU64>) -> Result<Work, Fault> {
        let Follower { flags, identity, rank, .. } = self.follower;
        let (plans, planned) = mpsc::channel(PLANS_AHEAD_MAX);
        let (tell_met, met) = oneshot::channel();
        rank.order(Order {
            bond: Arc::clone(&self.bond),
            meeting: Meeting::Address(welcome.collective),
            group: collective::Group {
                world_size: identity.world_size as usize,
                epoch: self.bond.epoch().0,
                timeout: flags.step_timeout,
                abort: self.bond.abort_handle(),
            },
            kv_blocks: welcome.kv_blocks,
            plans: planned,
            outcomes: None,
            steps_done: Arc::clone(steps_done),
            met: tell_met,
        })?;
        Ok(Work { plans, met, has_met: false })
    }

    /// Tells the leader why, and gives it a moment to hear it: a broken call would put the blame on this rank.
    async fn farewell(self, fault: &Fault) {
        let Self { words, mut heard, .. } = self;
        let _stuck = words.try_send(word(Word::Fault(fault.into())));
        drop(words);
        let until_closed = async { while let Ok(Some(_)) = heard.message().await {} };
        let _late = tokio::time::timeout(FAREWELL_TIMEOUT, until_closed).await;
    }
}

/// Waits until the ranks have met; false if they will not.
async fn has_met(meeting: Option<&mut Work>) -> bool {
    match meeting {
        Some(work) => (&mut work.met).await.is_ok(),
        None => std::future::pending().await,
    }
}

fn word(message: Word) -> v1::FollowerMessage {
    v1::FollowerMessage { message: Some(message) }
}
