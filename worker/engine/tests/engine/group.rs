//! An engine that is watched: every event, every delta, every block.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use glint_core::{FinishReason, ModelDigest, SamplingParams, WireHash};
use glint_engine::sim::{Sim, SimConfig};
use glint_engine::{
    AdmitError, BlockDelta, BlockRun, Engine, EngineConfig, EngineRequest, Event, ExecutorError,
    NameBlock, Parent, PrefixCache, SequenceId,
};

use crate::record::{End, Record};
use crate::spy::Spy;

/// Few, so that outputs are alike too.
pub(crate) const VOCAB_SIZE: u32 = 8;
pub(crate) const EOS: u32 = 7;
pub(crate) const CONTEXT_TOKENS_MAX: u32 = 128;

/// What differs between groups. The default has room for everything.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) kv_blocks: u32,
    pub(crate) step_tokens_max: u32,
    pub(crate) chunk_tokens_max: u32,
    pub(crate) sequences_max: u32,
    pub(crate) waiting_max: u32,
    pub(crate) depth: usize,
    pub(crate) prefix_cache: PrefixCache,
    pub(crate) names: NameBlock,
    pub(crate) end_probability: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            kv_blocks: 64,
            step_tokens_max: 64,
            chunk_tokens_max: 64,
            sequences_max: 8,
            waiting_max: 16,
            depth: 2,
            prefix_cache: PrefixCache::On,
            names: Parent::name,
            end_probability: 0.05,
        }
    }
}

impl Limits {
    pub(crate) fn config(&self) -> EngineConfig {
        EngineConfig {
            kv_blocks: self.kv_blocks,
            step_tokens_max: self.step_tokens_max,
            chunk_tokens_max: self.chunk_tokens_max,
            sequences_max: self.sequences_max,
            waiting_max: self.waiting_max,
            context_tokens_max: CONTEXT_TOKENS_MAX,
            vocab_size: VOCAB_SIZE,
            eos_token_ids: vec![EOS],
            digest: ModelDigest([0; 32]),
            prefix_cache: self.prefix_cache,
        }
    }

    pub(crate) fn sim_config(&self) -> SimConfig {
        SimConfig {
            prefill_tokens_per_s: 1_000.0,
            step: Duration::from_millis(1),
            step_per_sequence: Duration::from_millis(1),
            kv_blocks: self.kv_blocks,
            vocab_size: VOCAB_SIZE,
            end_probability: self.end_probability,
            depth: self.depth,
        }
    }
}

/// Returns a request with nothing special about it.
pub(crate) fn request(tokens: Vec<u32>, max_tokens: u32) -> EngineRequest {
    EngineRequest {
        prompt_tokens: tokens.len() as u32,
        tokens,
        sampling: SamplingParams::greedy(max_tokens),
        adapter: String::new(),
        salt: Vec::new(),
        tag: 0,
    }
}

/// Returns a prompt of so many tokens, which differ from those of another seed.
pub(crate) fn prompt(seed: u32, tokens: u32) -> Vec<u32> {
    (0..tokens).map(|at| (seed * 31 + at * at + at / 7) % 4).collect()
}

/// What a router knows of a cache: each block and its parent.
type View = BTreeMap<WireHash, Option<WireHash>>;

fn store(view: &mut View, runs: &[BlockRun]) {
    for run in runs {
        let mut parent = run.parent;
        for &hash in &run.hashes {
            assert!(parent.is_none_or(|parent| view.contains_key(&parent)), "parents come first");
            assert_eq!(view.insert(hash, parent), None, "{hash} was published twice");
            parent = Some(hash);
        }
    }
}

/// An engine and what is known of it from outside.
pub(crate) struct Group {
    pub(crate) engine: Engine<Spy>,
    pub(crate) records: BTreeMap<SequenceId, Record>,
    view: View,
    began_at: Instant,
    /// Simulated time since then.
    elapsed_ns: Arc<AtomicU64>,
}

impl Group {
    pub(crate) fn new(limits: &Limits) -> Self {
        let elapsed_ns = Arc::new(AtomicU64::new(0));
        let hand = Arc::clone(&elapsed_ns);
        let wait = move |time: Duration| {
            hand.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
        };
        let config = limits.config();
        let spy = Spy::new(Sim::new(limits.sim_config(), Box::new(wait)), config.clone());
        Self {
            engine: Engine::with_names(config, spy, limits.names).unwrap(),
            records: BTreeMap::new(),
            view: View::new(),
            began_at: Instant::now(),
            elapsed_ns,
        }
    }

    pub(crate) fn now(&self) -> Instant {
        self.began_at + Duration::from_nanos(self.elapsed_ns.load(Ordering::Relaxed))
    }

    pub(crate) fn add(&mut self, request: EngineRequest) -> Result<SequenceId, AdmitError> {
        let id = self.engine.add(request.clone(), self.now())?;
        let record = Record {
            request,
            cached_tokens: None,
            waited: Duration::ZERO,
            described: 1,
            tokens: Vec::new(),
            end: None,
        };
        assert!(self.records.insert(id, record).is_none(), "ids are not reused");
        Ok(id)
    }

    /// Aborts and checks what the engine says about it.
    pub(crate) fn abort(&mut self, id: SequenceId) {
        let usage = self.engine.abort(id);
        let record = self.records.get_mut(&id).unwrap();
        if record.end.is_none() {
            let usage = usage.expect("it lived");
            assert_eq!(usage, record.usage());
            record.end = Some(End::Aborted);
        } else {
            assert_eq!(usage, None, "it was over");
        }
        assert_eq!(self.engine.abort(id), None, "twice");
        assert_eq!(self.engine.audit(), Ok(()));
    }

    /// Steps, takes the events down and audits.
    pub(crate) fn try_step(&mut self) -> Result<(), ExecutorError> {
        let (began_at, elapsed_ns) = (self.began_at, Arc::clone(&self.elapsed_ns));
        let clock = move || began_at + Duration::from_nanos(elapsed_ns.load(Ordering::Relaxed));
        for event in self.engine.step(&clock)? {
            let (Event::Started { id, .. }
            | Event::PromptLogprobs { id, .. }
            | Event::Token { id, .. }
            | Event::Finished { id, .. }
            | Event::Failed { id, .. }) = &event;
            self.records.get_mut(id).expect("only known sequences").tell(&event);
        }
        self.audit();
        Ok(())
    }

    pub(crate) fn step(&mut self) {
        self.try_step().unwrap();
    }

    fn audit(&self) {
        assert_eq!(self.engine.audit(), Ok(()));
        let load = self.engine.load();
        let config = self.engine.config();
        assert!(load.running_sequences <= config.sequences_max);
        assert!(load.waiting_sequences <= config.waiting_max + config.sequences_max);
        let living = self.records.values().filter(|record| record.end.is_none()).count();
        assert_eq!(living as u32, load.waiting_sequences + load.running_sequences);
        let by_tag: HashMap<_, _> = self.engine.load_by_tag();
        let sums = by_tag.values().fold((0, 0, 0), |(waiting, running, prefill), load| {
            (
                waiting + load.waiting_sequences,
                running + load.running_sequences,
                prefill + load.queued_prefill_tokens,
            )
        });
        let whole = (load.waiting_sequences, load.running_sequences, load.queued_prefill_tokens);
        assert_eq!(sums, whole);
    }

    /// Takes the delta and checks that the deltas so far add up to the snapshot.
    pub(crate) fn take_delta(&mut self) -> BlockDelta {
        let delta = self.engine.take_delta();
        for hash in &delta.removed {
            assert!(self.view.remove(hash).is_some(), "{hash} was not published");
        }
        store(&mut self.view, &delta.stored);
        let mut there = View::new();
        store(&mut there, &self.engine.snapshot());
        assert_eq!(self.view, there, "deltas add up to the snapshot");
        delta
    }

    /// Steps until nothing lives. Returns the number of steps.
    pub(crate) fn finish(&mut self) -> u64 {
        // Each may be computed again and again, while others that came before go on.
        let tokens: u64 = self
            .records
            .values()
            .filter(|record| record.end.is_none())
            .map(|Record { request, .. }| {
                request.prompt_tokens.saturating_add(request.sampling.max_tokens)
            })
            .map(|tokens| u64::from(tokens.min(CONTEXT_TOKENS_MAX)))
            .sum();
        let bound = 20 + 3 * tokens;
        let mut steps = 0;
        while !self.engine.is_idle() {
            self.step();
            steps += 1;
            assert!(steps <= bound, "{steps} steps for {tokens} tokens: somebody starves");
        }
        self.take_delta();
        let load = self.engine.load();
        assert_eq!((load.waiting_sequences, load.running_sequences), (0, 0));
        assert_eq!((load.kv_blocks_used, load.queued_prefill_tokens), (0, 0));
        assert!(self.records.values().all(|record| record.end.is_some()));
        steps
    }

    /// Runs one request to its end and returns its record.
    pub(crate) fn run(&mut self, request: EngineRequest) -> &Record {
        let id = self.add(request).unwrap();
        self.finish();
        &self.records[&id]
    }
}

/// Returns what a request gets where it is alone, with room for everything and without a cache.
pub(crate) fn alone(request: &EngineRequest, end_probability: f64) -> (Vec<u32>, FinishReason) {
    let limits =
        Limits { prefix_cache: PrefixCache::Off, depth: 1, end_probability, ..Limits::default() };
    let mut group = Group::new(&limits);
    group.engine.executor_mut().may_fail = false;
    let record = group.run(request.clone());
    match &record.end {
        Some(End::Finished(reason, _)) => (record.tokens.clone(), *reason),
        other => panic!("it ended as {other:?}"),
    }
}
