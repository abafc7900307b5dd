//! Who turns the engine's crank? A thread of its own, which also publishes what changed.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use glint_core::GroupId;
use glint_engine::{
    AdmitError, BlockRun, Engine, EngineRequest, Event, Executor, ExecutorError, Intake, SequenceId,
};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::error;

use crate::block_log::BlockLog;
use crate::bond::{Bond, Fault};
use crate::group::GroupError;
use crate::load::LoadReport;
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use crate::rank::panic_message;

/// Commands that may lie before the engine; callers wait for room.
pub(crate) const COMMANDS_MAX: usize = 1024;

/// What is asked of the engine.
pub(crate) enum Command {
    /// A new sequence.
    Add {
        request: Box<EngineRequest>,
        outbox: Arc<Outbox>,
        reply: oneshot::Sender<Result<(), AdmitError>>,
    },
    /// All cached blocks, and the number of the last change that they contain.
    Snapshot { reply: oneshot::Sender<(u64, Vec<BlockRun>)> },
    /// Take no new sequences; the answer is how many there are.
    Drain { reply: oneshot::Sender<u32> },
    /// Come and see that the epoch is over.
    Wake,
}

/// What the engine's thread shares with the rest of the process.
pub(crate) struct Shared {
    pub(crate) group: GroupId,
    pub(crate) bond: Arc<Bond>,
    pub(crate) log: Arc<BlockLog>,
    pub(crate) load: watch::Sender<Arc<LoadReport>>,
    pub(crate) metrics: Arc<Metrics>,
}

/// Runs the engine until the epoch is over; then all its sequences fail, and the receiver is told.
///
/// # Errors
///
/// The system gives no thread.
pub(crate) fn start<E: Executor + 'static>(
    engine: Engine<E>,
    commands: mpsc::Receiver<Command>,
    shared: Shared,
) -> std::io::Result<oneshot::Receiver<()>> {
    let (tell, ended) = oneshot::channel();
    let work = move || {
        let mut thread = EngineThread { engine, shared, outboxes: HashMap::new() };
        let turned = catch_unwind(AssertUnwindSafe(|| thread.run(commands)));
        if let Err(panic) = turned {
            let message = panic_message(panic.as_ref());
            error!(message, "the engine panicked");
            thread
                .shared
                .bond
                .end(Fault::new(0, format!("has an engine that panicked: {message}")));
        }
        thread.fail_all();
        // Unheard only when the whole process ends.
        let _ending = tell.send(());
    };
    std::thread::Builder::new().name("engine".into()).spawn(work)?;
    Ok(ended)
}

struct EngineThread<E> {
    engine: Engine<E>,
    shared: Shared,
    outboxes: HashMap<SequenceId, Arc<Outbox>>,
}

impl<E: Executor> EngineThread<E> {
    fn run(&mut self, mut commands: mpsc::Receiver<Command>) {
        self.publish();
        while self.shared.bond.ended().is_none() {
            if self.engine.is_idle() {
                match commands.blocking_recv() {
                    Some(command) => self.obey(command),
                    None => break,
                }
            }
            while let Ok(command) = commands.try_recv() {
                self.obey(command);
            }
            self.abort_abandoned();
            let began = Instant::now();
            match self.engine.step(&Instant::now) {
                Ok(events) => {
                    if !events.is_empty() {
                        self.shared.metrics.step.observe(began.elapsed().as_secs_f64());
                    }
                    // Before the events: whoever has an answer finds what it left in the cache.
                    self.publish();
                    events.into_iter().for_each(|event| self.tell(event));
                }
                Err(failure) => {
                    self.lose(&failure);
                    break;
                }
            }
        }
    }

    /// The executor knows which rank is to blame when one is; all else is a bug on this side.
    fn lose(&self, failure: &ExecutorError) {
        match failure {
            ExecutorError::Lost { message, .. } => {
                self.shared.bond.end(Fault::new(0, message.clone()));
            }
            ExecutorError::BadPlan { .. } | ExecutorError::BadOutcome { .. } => {
                error!(error = %failure, "engine and ranks disagree");
                self.shared.bond.end(Fault::new(0, failure.to_string()));
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Add { request, outbox, reply } => {
                let admitted = self.engine.add(*request, Instant::now());
                let metrics = &self.shared.metrics;
                match &admitted {
                    Ok(id) => {
                        metrics.requests.inc();
                        self.outboxes.insert(*id, outbox);
                    }
                    Err(_) => {
                        metrics.refused.inc();
                    }
                }
                // Unheard when the caller has gone meanwhile; its outbox says so as well.
                let _abandoned = reply.send(admitted.map(|_| ()));
            }
            Command::Snapshot { reply } => {
                self.publish_blocks();
                let _abandoned = reply.send((self.shared.log.latest(), self.engine.snapshot()));
            }
            Command::Drain { reply } => {
                self.engine.set_intake(Intake::Draining);
                let load = self.engine.load();
                let _abandoned = reply.send(load.waiting_sequences + load.running_sequences);
            }
            Command::Wake => {}
        }
    }

    /// Ends sequences whose callers have gone: closing a stream is how a caller takes a request back.
    fn abort_abandoned(&mut self) {
        let Self { engine, outboxes, shared } = self;
        outboxes.retain(|id, outbox| {
            let is_abandoned = outbox.is_abandoned();
            if is_abandoned {
                engine.abort(*id);
                shared.metrics.aborted.inc();
            }
            !is_abandoned
        });
    }

    fn tell(&mut self, event: Event) {
        let metrics = &self.shared.metrics;
        let (id, is_last) = match &event {
            Event::Started { id, cached_tokens, waited } => {
                metrics.cached_tokens.inc_by(u64::from(*cached_tokens));
                metrics.queued.observe(waited.as_secs_f64());
                (*id, false)
            }
            Event::PromptLogprobs { id, .. } => (*id, false),
            Event::Token { id, .. } => {
                metrics.output_tokens.inc();
                (*id, false)
            }
            Event::Finished { id, usage, .. } => {
                metrics.prompt_tokens.inc_by(u64::from(usage.prompt_tokens));
                (*id, true)
            }
            Event::Failed { id, message } => {
                error!(group = %self.shared.group, message, "a sequence failed");
                (*id, true)
            }
        };
        let is_read = self.outboxes.get(&id).is_none_or(|outbox| outbox.put(event));
        if !is_read && !is_last {
            self.engine.abort(id);
            metrics.aborted.inc();
        }
        if is_last || !is_read {
            self.outboxes.remove(&id);
        }
    }

    fn publish(&mut self) {
        self.publish_blocks();
        let snapshot = self.engine.load();
        self.shared.metrics.observe(&snapshot);
        let report = LoadReport { snapshot, by_tag: self.engine.load_by_tag() };
        self.shared.load.send_replace(Arc::new(report));
    }

    fn publish_blocks(&mut self) {
        let delta = self.engine.take_delta();
        self.shared.log.push(delta);
    }

    fn fail_all(&mut self) {
        let group = self.shared.group.clone();
        let error = match self.shared.bond.ended() {
            Some(fault) => GroupError::Failed { group, fault: fault.clone() },
            None => GroupError::Over { group },
        };
        for (_, outbox) in self.outboxes.drain() {
            outbox.fail(error.clone());
        }
        self.shared.metrics.idle();
    }
}
