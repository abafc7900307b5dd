//! How does a request become tokens?

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use glint_core::{LoadSnapshot, Namespace, Usage};

use crate::config::{ConfigError, EngineConfig, Intake};
use crate::executor::{Executor, ExecutorError};
use crate::pool::{BlockDelta, BlockRun, NameBlock, Parent, Pool};
use crate::rates::Rates;
use crate::request::{AdmitError, EngineRequest, Event, SequenceId};
use crate::scheduler::Scheduler;
use crate::sequence::{NewSequence, Phase, Sequence, blocks_for};

/// One group's engine: a loop for a thread of its own.
///
/// ```no_run
/// # use glint_engine::{Engine, EngineRequest, Executor};
/// # fn one(mut engine: Engine<impl Executor>, request: EngineRequest) -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Instant;
/// let id = engine.add(request, Instant::now())?;
/// while !engine.is_idle() {
///     for event in engine.step(&Instant::now)? {
///         println!("{event:?}");
///     }
/// }
/// # Ok(()) }
/// ```
pub struct Engine<E> {
    config: EngineConfig,
    executor: E,
    scheduler: Scheduler,
    /// When the plans in flight were submitted.
    submitted_at: VecDeque<Instant>,
    /// What happened outside of steps.
    events: Vec<Event>,
    rates: Rates,
    intake: Intake,
    next_id: u64,
    steps: u64,
}

/// What the requests of one tag amount to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TagLoad {
    /// Sequences that wait.
    pub waiting_sequences: u32,
    /// Sequences in prefill or decode.
    pub running_sequences: u32,
    /// Prompt tokens, beyond those in the cache, that are still to be computed.
    pub queued_prefill_tokens: u64,
}

impl<E: Executor> Engine<E> {
    /// Returns an engine without sequences and with an empty cache.
    ///
    /// # Errors
    ///
    /// The configuration allows nothing to run.
    pub fn new(config: EngineConfig, executor: E) -> Result<Self, ConfigError> {
        Self::with_names(config, executor, Parent::name)
    }

    /// Returns an engine that names blocks its own way, for tests with forged collisions.
    ///
    /// # Errors
    ///
    /// The configuration allows nothing to run.
    pub fn with_names(
        config: EngineConfig,
        executor: E,
        names: NameBlock,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        let pool = Pool::with_names(config.kv_blocks, config.prefix_cache, names);
        Ok(Self {
            scheduler: Scheduler::new(&config, pool),
            config,
            executor,
            submitted_at: VecDeque::new(),
            events: Vec::new(),
            rates: Rates::default(),
            intake: Intake::Open,
            next_id: 0,
            steps: 0,
        })
    }

    /// Takes a request into the queue. `now` begins its wait.
    ///
    /// A resumed request whose output is already complete is taken as well, and finishes in the next step.
    ///
    /// # Errors
    ///
    /// The request can never be served, or not here, or not now.
    pub fn add(&mut self, request: EngineRequest, now: Instant) -> Result<SequenceId, AdmitError> {
        if self.intake == Intake::Draining {
            return Err(AdmitError::Draining);
        }
        let tokens_max = self.check(&request)?;
        // Each that was complete when it came has two events here until the next step, and counts as waiting.
        let waiting = (self.scheduler.waiting.len() + self.events.len() / 2) as u32;
        let waiting_max = self.config.waiting_max;
        if waiting >= waiting_max {
            return Err(AdmitError::QueueFull { waiting, waiting_max });
        }
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        let EngineRequest { tokens, prompt_tokens, sampling, adapter, salt, tag } = request;
        let mut end_token_ids = sampling.stop_token_ids.clone();
        if !sampling.ignore_eos {
            end_token_ids.extend(&self.config.eos_token_ids);
        }
        end_token_ids.sort_unstable();
        end_token_ids.dedup();
        let namespace = Namespace::new(&self.config.digest, adapter.as_bytes(), &salt);
        let sequence = Sequence::new(NewSequence {
            id,
            tag,
            tokens,
            prompt_tokens,
            tokens_max,
            sampling,
            end_token_ids,
            namespace,
            now,
        });
        if let Some(reason) = sequence.end() {
            self.events.push(Event::Started { id, cached_tokens: 0, waited: Duration::ZERO });
            self.events.push(Event::Finished { id, reason, usage: sequence.usage() });
        } else {
            self.scheduler.add(sequence);
        }
        Ok(id)
    }

    /// Checks a request and returns how many tokens its sequence may have.
    fn check(&self, request: &EngineRequest) -> Result<u32, AdmitError> {
        let EngineConfig { vocab_size, context_tokens_max, kv_blocks, .. } = self.config;
        let EngineRequest { tokens, prompt_tokens, sampling, adapter, .. } = request;
        if tokens.is_empty() {
            return Err(AdmitError::EmptyPrompt);
        }
        let given = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
        let prompt_tokens = *prompt_tokens;
        if prompt_tokens >= context_tokens_max || given > context_tokens_max {
            let limit_tokens = context_tokens_max - 1;
            let prompt_tokens = prompt_tokens.max(given);
            return Err(AdmitError::PromptTooLong { prompt_tokens, limit_tokens });
        }
        if prompt_tokens == 0 || prompt_tokens > given {
            return Err(AdmitError::BadResume { prompt_tokens, tokens: given });
        }
        if let Some(at) = tokens.iter().position(|&id| id >= vocab_size) {
            let (id, position) = (tokens[at], at as u32);
            return Err(AdmitError::UnknownToken { id, position, vocab_size });
        }
        if !adapter.is_empty() {
            return Err(AdmitError::UnknownAdapter { adapter: adapter.clone() });
        }
        sampling.check(vocab_size)?;
        let tokens_max = prompt_tokens.saturating_add(sampling.max_tokens).min(context_tokens_max);
        // The last token is drawn and not computed.
        let needed_blocks = blocks_for(tokens_max.max(given + 1) - 1);
        if needed_blocks > kv_blocks {
            return Err(AdmitError::OutOfBlocks { needed_blocks, total_blocks: kv_blocks });
        }
        Ok(tokens_max)
    }

    /// Ends a sequence at once, without an event, and returns what it cost; nothing if it is unknown or already over.
    /// Its blocks go when no plan in flight writes them any more.
    pub fn abort(&mut self, id: SequenceId) -> Option<Usage> {
        let ended = |event: &Event| matches!(event, Event::Finished { id: of, .. } if *of == id);
        if self.events.iter().any(ended) {
            // Resumed and already complete: its events were still to be told.
            let mut usage = None;
            self.events.retain(|event| match event {
                Event::Finished { id: of, usage: cost, .. } if *of == id => {
                    usage = Some(*cost);
                    false
                }
                Event::Started { id: of, .. } => *of != id,
                Event::PromptLogprobs { .. }
                | Event::Token { .. }
                | Event::Finished { .. }
                | Event::Failed { .. } => true,
            });
            return usage;
        }
        self.scheduler.abort(id)
    }

    /// Plans and submits as far ahead as the executor allows, then waits for the oldest plan and returns what happened.
    ///
    /// Returns at once and without events when there is nothing to do. `clock` tells the time; it is asked before and
    /// after waiting.
    ///
    /// # Errors
    ///
    /// The group failed; this engine is of no use any more, and all its sequences are lost.
    pub fn step(&mut self, clock: &dyn Fn() -> Instant) -> Result<Vec<Event>, ExecutorError> {
        let mut events = std::mem::take(&mut self.events);
        while self.scheduler.in_flight.len() < self.executor.depth().max(1) {
            let now = clock();
            let Some(plan) = self.scheduler.plan(now, &mut events) else { break };
            self.executor.submit(plan)?;
            self.submitted_at.push_back(now);
        }
        if let Some(submitted_at) = self.submitted_at.pop_front() {
            let outcome = self.executor.settle()?;
            let flight = self.scheduler.settle(outcome, &mut events)?;
            self.rates.record(submitted_at, clock(), flight.prefill_tokens);
            self.steps += 1;
        }
        Ok(events)
    }

    /// Returns whether no sequence lives, no plan is in flight and no event is untold.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.scheduler.sequences.is_empty()
            && self.scheduler.in_flight.is_empty()
            && self.events.is_empty()
    }

    /// Opens or closes the door for new requests.
    pub fn set_intake(&mut self, intake: Intake) {
        self.intake = intake;
    }

    /// Returns the cached blocks that came and went since the last call.
    pub fn take_delta(&mut self) -> BlockDelta {
        self.scheduler.pool.take_delta()
    }

    /// Returns all cached blocks, also those that the next delta will tell: take the delta first.
    #[must_use]
    pub fn snapshot(&self) -> Vec<BlockRun> {
        self.scheduler.pool.snapshot()
    }

    /// Returns how busy the group is. Takes time in proportion to the sequences.
    #[must_use]
    pub fn load(&self) -> LoadSnapshot {
        let Scheduler { pool, sequences, waiting, running, preemptions, .. } = &self.scheduler;
        LoadSnapshot {
            steps: self.steps,
            waiting_sequences: waiting.len() as u32,
            running_sequences: running.len() as u32,
            queued_prefill_tokens: sequences.values().map(|s| u64::from(s.prefill_tokens())).sum(),
            kv_blocks_total: pool.total(),
            kv_blocks_used: pool.total() - pool.available(),
            prefill_tokens_per_s: self.rates.prefill_tokens_per_s(),
            decode_step: self.rates.decode_step(),
            preemptions: *preemptions,
            draining: self.intake == Intake::Draining,
        }
    }

    /// Returns the load by the requests' tags; tags without a living sequence are absent.
    #[must_use]
    pub fn load_by_tag(&self) -> HashMap<u64, TagLoad> {
        let mut loads: HashMap<u64, TagLoad> = HashMap::new();
        for sequence in self.scheduler.sequences.values().filter(|sequence| !sequence.is_over()) {
            let load = loads.entry(sequence.tag).or_default();
            load.queued_prefill_tokens += u64::from(sequence.prefill_tokens());
            if sequence.phase == Phase::Waiting {
                load.waiting_sequences += 1;
            } else {
                load.running_sequences += 1;
            }
        }
        loads
    }

    /// Returns the configuration.
    #[must_use]
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Returns the executor, for what is not a plan, like its health.
    pub fn executor_mut(&mut self) -> &mut E {
        &mut self.executor
    }

    /// Checks that every block is free, cached or owned exactly once, and that owners and tables agree.
    ///
    /// # Errors
    ///
    /// A sentence about the first contradiction.
    pub fn audit(&self) -> Result<(), String> {
        self.scheduler.audit()
    }
}
