//! How does rank 0 lead its group, from epoch to epoch?
//!
//! ```text
//! begin ──▶ wait for all ranks ──▶ meet ──▶ live ──fault──▶ begin …
//!                                            └────drain──▶ over
//! ```
//!
//! One [`Bond`] ties an epoch together. Nothing of an epoch survives it but the weights.

mod executor;
mod join;
mod seats;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use glint_core::{Epoch, GroupId, ModelDigest};
use glint_engine::{Engine, EngineConfig, PrefixCache};
use glint_fleet::{Fleet, Registration};
use glint_kernels::collective::{self, Transport};
use glint_proto::v1;
use glint_service::{Drain, Readiness};
use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use v1::leader_message::Message;
use v1::worker_server::WorkerServer;

use crate::block_log::BlockLog;
use crate::bond::{Bond, EndOnDrop, Fault, HEARTBEAT};
use crate::config::{CollectiveKind, Switch, WorkerConfig};
use crate::engine_thread::{self, COMMANDS_MAX, Command};
use crate::error::WorkerError;
use crate::group::{GroupError, Identity};
use crate::load::{Limits, LoadReport, Routers};
use crate::metrics::Metrics;
use crate::model::Model;
use crate::pause::Pause;
use crate::rank::{Meeting, Order, PLANS_AHEAD_MAX, Rank};
use crate::service::WorkerService;
use executor::{GroupExecutor, Progress};
pub(crate) use join::{RankService, leader_word, reason};
use seats::{Requirements, Seat, Seats};

/// A step that is stuck is found by the ranks that wait for each other first: they know who is missing.
const STEP_TIMEOUT_SLACK: Duration = Duration::from_secs(2);
/// A group that held for so long begins anew without a pause.
const STABLE_AFTER: Duration = Duration::from_secs(10);

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
}

impl Live {
    /// Lets the engine take no new sequences, and returns how many it has; 0 if it is gone.
    pub(crate) async fn drain(&self) -> u32 {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(Command::Drain { reply }).await;
        if sent.is_ok() { answer.await.unwrap_or(0) } else { 0 }
    }

    /// Returns what a request is told that the end of the epoch took.
    pub(crate) fn failed(&self, fault: Fault) -> GroupError {
        GroupError::Failed { group: self.group.clone(), fault }
    }
}

/// What the group is doing, as its callers see it.
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
}

/// Rank 0's side of a group.
pub(crate) struct Leader {
    pub(crate) flags: Arc<WorkerConfig>,
    pub(crate) model: Arc<Model>,
    pub(crate) identity: Identity,
    pub(crate) rank: Rank,
    pub(crate) fleet: Arc<dyn Fleet>,
    /// Where routers and ranks reach this process, `host:port`.
    pub(crate) address: String,
    pub(crate) front: Arc<Front>,
    pub(crate) joins: RankService,
    pub(crate) readiness: Readiness,
    pub(crate) health: tonic_health::server::HealthReporter,
    pub(crate) metrics: Arc<Metrics>,
}

impl Leader {
    /// Leads epoch after epoch until the drain.
    ///
    /// # Errors
    ///
    /// What another epoch would not cure.
    pub(crate) async fn lead(self, drain: Drain) -> Result<(), WorkerError> {
        let registration = Registration::start(Arc::clone(&self.fleet), self.flags.lease_ttl);
        let led = self.epochs(&registration, &drain).await;
        *self.front.phase.write() = Phase::Over;
        self.health.set_not_serving::<WorkerServer<WorkerService>>().await;
        registration.close().await;
        led
    }

    async fn epochs(&self, registration: &Registration, drain: &Drain) -> Result<(), WorkerError> {
        let mut last = None;
        let mut pause = Pause::new();
        while !drain.is_draining() {
            let epoch = self.next_epoch(last).await;
            last = Some(epoch);
            let began = Instant::now();
            let bond = Arc::new(Bond::new(epoch, 0, self.flags.stall_timeout));
            let tied = EndOnDrop(Arc::clone(&bond));
            let led = self.epoch(&bond, registration, drain).await;
            // Whatever the end was, it is one for all.
            drop(tied);
            self.joins.open.lock().take();
            registration.remove(self.identity.group_key());
            registration.remove(self.identity.rendezvous_key(epoch, 0));
            led?;
            if drain.is_draining() {
                break;
            }
            let fault = bond.over().await;
            self.metrics.faults.inc();
            warn!(
                group = %self.identity.group, %epoch, rank = fault.rank, reason = fault.reason,
                "the epoch ended, the group forms anew"
            );
            if began.elapsed() > STABLE_AFTER {
                pause.reset();
            }
            tokio::select! {
                () = tokio::time::sleep(pause.next()) => {}
                () = drain.draining() => {}
            }
        }
        Ok(())
    }

    /// Chooses an epoch above all that were ever seen.
    async fn next_epoch(&self, last: Option<Epoch>) -> Epoch {
        let listed = self.fleet.list(self.identity.rendezvous_prefix()).await;
        let listed = listed.unwrap_or_else(|error| {
            // Said once already, by the registration.
            debug!(error = %error, "cannot look for earlier epochs");
            Vec::new()
        });
        let seen = listed
            .iter()
            .filter_map(|(key, _)| self.identity.keys.parse_rendezvous(key))
            .map(|(epoch, _)| epoch)
            .chain(last)
            .max();
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Epoch::after(seen, u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// Leads one epoch until its bond ends.
    async fn epoch(
        &self,
        bond: &Arc<Bond>,
        registration: &Registration,
        drain: &Drain,
    ) -> Result<(), WorkerError> {
        let requirements = Requirements {
            world_size: self.identity.world_size,
            digest: self.model.digest,
            numerics: self.rank.numerics.clone(),
        };
        let seats = Arc::new(Seats::new(Arc::clone(bond), requirements));
        *self.joins.open.lock() = Some(Arc::clone(&seats));
        let record = v1::RendezvousRecord { address: self.address.clone() };
        registration.put(self.identity.rendezvous_key(bond.epoch(), 0), &record);

        let progress = Arc::new(Progress::new());
        let watchdog = watch_over(seats, Arc::clone(&progress), self.flags.step_timeout);
        self.joins.tasks.spawn(watchdog);
        let formed = tokio::select! {
            formed = self.form(bond, progress) => formed?,
            _fault = bond.over() => None,
            () = drain.draining() => None,
        };
        let Some((live, ended)) = formed else { return Ok(()) };
        let epoch = bond.epoch();
        info!(group = %self.identity.group, %epoch, kv_blocks = live.kv_blocks, "the group is live");
        self.metrics.epochs.inc();
        self.metrics.epoch.set(i64::try_from(epoch.0).unwrap_or(i64::MAX));
        *self.front.phase.write() = Phase::Live(Arc::clone(&live));
        registration.put(self.identity.group_key(), &self.record(epoch, v1::GroupState::Ready));
        self.readiness.ready("group");
        self.health.set_serving::<WorkerServer<WorkerService>>().await;

        self.live(&live, registration, drain).await;

        let fault = bond.over().await;
        self.readiness.not_ready("group", format!("{fault}"));
        self.health.set_not_serving::<WorkerServer<WorkerService>>().await;
        *self.front.phase.write() = Phase::Forming(Some(fault));
        self.metrics.epoch.set(0);
        // Full: the engine is awake.
        let _awake = live.commands.try_send(Command::Wake);
        ended.await.map_err(|_| WorkerError::Lost("the engine's thread"))
    }

    /// Waits for all ranks, lets them meet, and starts the engine. Returns nothing if the bond ended meanwhile.
    async fn form(
        &self,
        bond: &Arc<Bond>,
        progress: Arc<Progress>,
    ) -> Result<Option<(Arc<Live>, oneshot::Receiver<()>)>, WorkerError> {
        let seats = self.joins.open.lock().clone();
        let Some(seats) = seats else { return Ok(None) };
        let followers = seats
            .all(|missing| {
                let ranks: Vec<String> = missing.iter().map(u32::to_string).collect();
                let why = format!("rank {} has not joined", ranks.join(", "));
                self.readiness.not_ready("group", why);
            })
            .await;
        self.readiness.not_ready("group", "the ranks meet");
        let least = followers.iter().map(|seat| seat.kv_blocks_max).min();
        let kv_blocks = least.unwrap_or(u32::MAX).min(self.rank.kv_blocks_max);

        let group = collective::Group {
            world_size: self.identity.world_size as usize,
            epoch: bond.epoch().0,
            timeout: self.flags.step_timeout,
            abort: bond.abort_handle(),
        };
        let transport = self.transport(&followers);
        let hosted = {
            let group = group.clone();
            tokio::task::spawn_blocking(move || collective::host(&transport, &group)).await
        };
        let host = match hosted.map_err(|_| WorkerError::Lost("a collective"))? {
            Ok(host) => host,
            Err(error) => {
                bond.end(Fault::new(0, format!("cannot host the others: {error}")));
                return Ok(None);
            }
        };
        for seat in &followers {
            let collective = host.address().to_owned();
            let welcome = Message::Welcome(v1::Welcome { collective, kv_blocks });
            // Nothing was sent before, so there is room.
            let _gone = seat.messages.try_send(leader_word(welcome));
        }

        let (own, plans) = mpsc::channel(PLANS_AHEAD_MAX);
        let (tell_outcome, outcomes) = std::sync::mpsc::sync_channel(PLANS_AHEAD_MAX);
        let (met, has_met) = oneshot::channel();
        let ordered = self.rank.order(Order {
            bond: Arc::clone(bond),
            meeting: Meeting::Host(Box::new(host)),
            group,
            kv_blocks,
            plans,
            outcomes: Some(tell_outcome),
            steps_done: Arc::new(AtomicU64::new(0)),
            met,
        });
        if let Err(fault) = ordered {
            bond.end(fault);
            return Ok(None);
        }
        if has_met.await.is_err() {
            // The rank's thread says why, by the bond.
            return Ok(None);
        }
        let executor =
            GroupExecutor { bond: Arc::clone(bond), followers, own, outcomes, progress, next: 0 };
        self.start_engine(bond, kv_blocks, executor).map(Some)
    }

    fn transport(&self, followers: &[Arc<Seat>]) -> Transport {
        let all_local = followers.iter().all(|seat| seat.is_local);
        let chosen = self.flags.collective.unwrap_or(match all_local {
            true => CollectiveKind::SharedMemory,
            false => CollectiveKind::Tcp,
        });
        match chosen {
            CollectiveKind::SharedMemory => Transport::SharedMemory,
            CollectiveKind::Tcp => Transport::Tcp {
                listen: (self.flags.host, 0).into(),
                advertise: self.flags.advertise.clone(),
            },
        }
    }

    fn start_engine(
        &self,
        bond: &Arc<Bond>,
        kv_blocks: u32,
        executor: GroupExecutor,
    ) -> Result<(Arc<Live>, oneshot::Receiver<()>), WorkerError> {
        let context_tokens = self.model.context_tokens(self.flags.context, kv_blocks);
        let config = EngineConfig {
            kv_blocks,
            step_tokens_max: self.flags.step_tokens,
            chunk_tokens_max: self.flags.chunk_tokens,
            sequences_max: self.flags.max_sequences,
            waiting_max: self.flags.waiting_max,
            context_tokens_max: context_tokens,
            vocab_size: self.model.vocab_size(),
            eos_token_ids: self.model.eos_token_ids.clone(),
            digest: self.model.digest,
            prefix_cache: match self.flags.prefix_cache {
                Switch::On => PrefixCache::On,
                Switch::Off => PrefixCache::Off,
            },
        };
        let engine =
            Engine::new(config, executor).map_err(|e| WorkerError::Config(e.to_string()))?;
        let (commands, received) = mpsc::channel(COMMANDS_MAX);
        let (tell_load, load) = watch::channel(Arc::default());
        let log = Arc::new(BlockLog::new());
        let ended = engine_thread::start(
            engine,
            received,
            engine_thread::Shared {
                group: self.identity.group.clone(),
                bond: Arc::clone(bond),
                log: Arc::clone(&log),
                load: tell_load,
                metrics: Arc::clone(&self.metrics),
            },
        )?;
        let limits =
            Limits { sequences_max: self.flags.max_sequences, waiting_max: self.flags.waiting_max };
        let live = Live {
            group: self.identity.group.clone(),
            bond: Arc::clone(bond),
            commands,
            log,
            load,
            limits,
            routers: Arc::clone(&self.front.routers),
            context_tokens,
            kv_blocks,
        };
        Ok((Arc::new(live), ended))
    }

    /// Waits for the end of the epoch, and drains when that is asked for.
    async fn live(&self, live: &Live, registration: &Registration, drain: &Drain) {
        let bond = &live.bond;
        tokio::select! {
            _fault = bond.over() => return,
            () = self.front.drain.cancelled() => {}
            () = drain.draining() => self.front.drain(),
        }
        let epoch = bond.epoch();
        info!(group = %self.identity.group, %epoch, "the group drains");
        registration.put(self.identity.group_key(), &self.record(epoch, v1::GroupState::Draining));
        self.readiness.not_ready("group", "it drains");
        // An engine that is gone has ended the bond.
        let _gone = live.drain().await;
        let mut load = live.load.clone();
        let drained = async {
            drain.draining().await;
            let is_empty = |report: &Arc<LoadReport>| report.snapshot.draining && !report.is_busy();
            let _gone = load.wait_for(is_empty).await;
        };
        tokio::select! {
            _fault = bond.over() => {}
            () = drained => bond.end(Fault::new(0, "has drained and leaves")),
            () = drain.stopped() => bond.end(Fault::new(0, "was stopped")),
        }
    }

    fn record(&self, epoch: Epoch, state: v1::GroupState) -> v1::GroupRecord {
        let ModelDigest(digest) = self.model.digest;
        v1::GroupRecord {
            address: self.address.clone(),
            revision: self.model.revision.clone(),
            model_digest: digest.into(),
            numerics: Some((&self.rank.numerics).into()),
            epoch: epoch.0,
            state: state.into(),
            world_size: self.identity.world_size,
        }
    }
}

/// Ends the epoch when a follower is silent, or a step stands still, for too long. Returns with the epoch.
async fn watch_over(seats: Arc<Seats>, progress: Arc<Progress>, step_timeout: Duration) {
    let bond = &seats.bond;
    loop {
        tokio::select! {
            _over = bond.over() => return,
            () = tokio::time::sleep(HEARTBEAT) => {}
        }
        let now = Instant::now();
        let present = seats.present();
        bond.look(now, present.iter().map(|seat| &seat.peer));
        if let Some(step) = progress.stuck(now, step_timeout + STEP_TIMEOUT_SLACK) {
            let slowest = present.iter().min_by_key(|seat| seat.peer.steps_done());
            let behind = slowest.filter(|seat| seat.peer.steps_done() < step);
            let rank = behind.map_or(0, |seat| seat.peer.rank);
            let reason = format!("holds up step {step}, for longer than {step_timeout:?}");
            bond.end(Fault::new(rank, reason));
        }
    }
}
