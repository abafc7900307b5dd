//! How does rank 0 lead its group, from epoch to epoch?
//!
//! ```text
//! begin ──▶ wait for all ranks ──▶ meet ──▶ live ──fault──────────────────────▶ begin …
//!                                            ├────a follower is to leave: drain──▶ begin …
//!                                            └────drain──────────────────────────▶ over
//! ```
//!
//! One [`Bond`] ties an epoch together. Nothing of an epoch survives it but the weights.

mod executor;
mod form;
mod front;
mod join;
mod seats;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use glint_core::{Epoch, ModelDigest};
use glint_fleet::{Fleet, Registration};
use glint_proto::v1;
use glint_service::{Drain, Readiness};
use tracing::{debug, info, warn};
use v1::worker_server::WorkerServer;

use crate::bond::{Bond, EndOnDrop, Fault, HEARTBEAT, pause_between_epochs};
use crate::config::WorkerConfig;
use crate::engine_thread::Command;
use crate::error::WorkerError;
use crate::group::Identity;
use crate::load::LoadReport;
use crate::metrics::Metrics;
use crate::model::Model;
use crate::rank::Rank;
use crate::service::WorkerService;
use executor::Progress;
pub(crate) use front::{Front, Live};
pub(crate) use join::{RankService, broken};
use seats::{Requirements, Seats};

/// A step that is stuck is found by the ranks that wait for each other first: they know who is missing.
const STEP_TIMEOUT_SLACK: Duration = Duration::from_secs(2);
/// A group that held for so long begins anew without a pause.
const STABLE_AFTER: Duration = Duration::from_secs(10);

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
        self.front.over();
        self.health.set_not_serving::<WorkerServer<WorkerService>>().await;
        registration.close().await;
        led
    }

    async fn epochs(&self, registration: &Registration, drain: &Drain) -> Result<(), WorkerError> {
        let mut last = None;
        let mut pause = pause_between_epochs();
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
                () = tokio::time::sleep(pause.take()) => {}
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
        let watchdog =
            watch_over(Arc::clone(&seats), Arc::clone(&progress), self.flags.step_timeout);
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
        self.front.lives(Arc::clone(&live));
        registration.put(self.identity.group_key(), &self.record(epoch, v1::GroupState::Ready));
        self.readiness.ready("group");
        self.health.set_serving::<WorkerServer<WorkerService>>().await;

        self.live(&live, &seats, registration, drain).await;

        let fault = bond.over().await;
        self.readiness.not_ready("group", format!("{fault}"));
        self.health.set_not_serving::<WorkerServer<WorkerService>>().await;
        self.front.failed(fault);
        self.metrics.epoch.set(0);
        // Full: the engine is awake.
        let _awake = live.commands.try_send(Command::Wake);
        ended.await.map_err(|_| WorkerError::Lost("the engine's thread"))
    }

    /// Waits for the end of the epoch, and drains when that is asked for: of the group by a caller, of this process, or of a
    /// follower's, without which the group cannot go on. Then the group forms anew as soon as another takes its place.
    async fn live(&self, live: &Live, seats: &Seats, registration: &Registration, drain: &Drain) {
        let bond = &live.bond;
        tokio::select! {
            _fault = bond.over() => return,
            () = self.front.draining() => {}
            () = drain.draining() => self.front.drain(),
            rank = seats.leaving() => {
                info!(group = %self.identity.group, rank, "a rank is to leave");
            }
        }
        let epoch = bond.epoch();
        info!(group = %self.identity.group, %epoch, "the group drains");
        registration.put(self.identity.group_key(), &self.record(epoch, v1::GroupState::Draining));
        self.readiness.not_ready("group", "it drains");
        let mut load = live.load.clone();
        let drained = async {
            // An engine that is gone has ended the bond; one that stands still may yet obey, and is waited for below.
            let _gone = live.drain().await;
            let leaver = tokio::select! {
                () = drain.draining() => 0,
                rank = seats.leaving() => rank,
            };
            let is_empty = |report: &Arc<LoadReport>| report.snapshot.draining && !report.is_busy();
            let _gone = load.wait_for(is_empty).await;
            leaver
        };
        tokio::select! {
            _fault = bond.over() => {}
            leaver = drained => bond.end(Fault::new(leaver, "has drained and leaves")),
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
