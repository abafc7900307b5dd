//! How do ranks that have come become a group that answers?

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use glint_engine::{Engine, EngineConfig, PrefixCache};
use glint_kernels::collective::{self, Transport};
use glint_proto::v1;
use tokio::sync::{mpsc, oneshot, watch};
use v1::leader_message::Message;

use super::executor::{GroupExecutor, Progress};
use super::join::leader_word;
use super::seats::Seat;
use super::{Leader, Live, STEP_TIMEOUT_SLACK};
use crate::block_log::BlockLog;
use crate::bond::{Bond, Fault};
use crate::config::{CollectiveKind, Switch};
use crate::engine_thread::{self, COMMANDS_MAX};
use crate::error::WorkerError;
use crate::load::Limits;
use crate::rank::{Meeting, Order, PLANS_AHEAD_MAX};

impl Leader {
    /// Waits for all ranks, lets them meet, and starts the engine. Returns nothing if the bond ended meanwhile.
    pub(super) async fn form(
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
            answer_timeout: self.flags.step_timeout + 2 * STEP_TIMEOUT_SLACK,
        };
        Ok((Arc::new(live), ended))
    }
}
