//! Does the engine, with its scheduler, cache and preemptions, get the reference's tokens out of the ranks?

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::time::Instant;

use glint_core::{FinishReason, ModelDigest, SamplingParams, StepOutcome, StepPlan};
use glint_engine::{
    Engine, EngineConfig, EngineRequest, Event, Executor, ExecutorError, PrefixCache, SequenceId,
};

use crate::fixtures::Expected;
use crate::parity::{PROMPTS, each_model};
use crate::ranks::{GroupOptions, Ranks};

/// Carries out each plan when it comes and keeps the outcome, so that two plans can be in flight.
struct Local {
    ranks: Ranks,
    outcomes: VecDeque<StepOutcome>,
}

impl Executor for Local {
    fn submit(&mut self, plan: StepPlan) -> Result<(), ExecutorError> {
        let outcome = self.ranks.execute(&plan).map_err(|error| ExecutorError::BadPlan {
            step: plan.step,
            message: error.to_string(),
        })?;
        self.outcomes.push_back(outcome);
        Ok(())
    }

    fn settle(&mut self) -> Result<StepOutcome, ExecutorError> {
        Ok(self.outcomes.pop_front().expect("the engine settles what it submitted"))
    }
}

struct Setting {
    world_size: u32,
    kv_blocks: u32,
    chunk_tokens_max: u32,
}

fn engine(folder: &Path, setting: &Setting) -> Engine<Local> {
    let &Setting { world_size, kv_blocks, chunk_tokens_max } = setting;
    let options = GroupOptions { world_size, kv_blocks, ..GroupOptions::default() };
    let ranks = Ranks::load(folder, options);
    let config = EngineConfig {
        kv_blocks,
        step_tokens_max: 96,
        chunk_tokens_max,
        sequences_max: 8,
        waiting_max: 64,
        context_tokens_max: 256,
        vocab_size: ranks.leader().config().vocab_size as u32,
        eos_token_ids: Vec::new(),
        digest: ModelDigest([7; 32]),
        prefix_cache: PrefixCache::On,
    };
    Engine::new(config, Local { ranks, outcomes: VecDeque::new() }).unwrap()
}

/// Runs the prompts to their ends; returns tokens and cached tokens of each.
fn answers(engine: &mut Engine<Local>, prompts: &[Vec<u32>]) -> Vec<(Vec<u32>, u32)> {
    let now = Instant::now();
    let ids: Vec<SequenceId> = prompts
        .iter()
        .map(|tokens| {
            let request = EngineRequest {
                tokens: tokens.clone(),
                prompt_tokens: tokens.len() as u32,
                sampling: SamplingParams::greedy(32),
                adapter: String::new(),
                salt: Vec::new(),
                tag: 0,
            };
            engine.add(request, now).unwrap()
        })
        .collect();
    let mut answers: HashMap<SequenceId, (Vec<u32>, u32)> = HashMap::new();
    while !engine.is_idle() {
        for event in engine.step(&|| now).unwrap() {
            match event {
                Event::Token { id, token, .. } => answers.entry(id).or_default().0.push(token),
                Event::Finished { id, reason, usage } => {
                    assert_eq!(reason, FinishReason::Length);
                    answers.entry(id).or_default().1 = usage.cached_tokens;
                }
                Event::Started { .. } => {}
                Event::PromptLogprobs { .. } | Event::Failed { .. } => panic!("{event:?}"),
            }
        }
    }
    engine.audit().unwrap();
    ids.iter().map(|id| answers.remove(id).unwrap()).collect()
}

/// Asks for all prompts, those of the batch too, twice.
fn assert_reference(model: &str, engine: &mut Engine<Local>, expected: &Expected, hits: bool) {
    let ids = |prompt: &&str| expected.ids(&format!("{prompt}.ids"));
    let greedy = |prompt: &&str| match *prompt {
        "p1" => None,
        prompt => Some(expected.ids(&format!("{prompt}.greedy"))),
    };
    let mut prompts: Vec<Vec<u32>> = PROMPTS.iter().map(ids).collect();
    let mut greedy: Vec<Option<Vec<u32>>> = PROMPTS.iter().map(greedy).collect();
    prompts.extend(expected.batch());
    greedy.extend(expected.ids("batch.greedy").chunks_exact(32).map(|row| Some(row.to_vec())));
    for round in 0..2 {
        let answers = answers(engine, &prompts);
        for (i, ((tokens, cached), greedy)) in answers.iter().zip(&greedy).enumerate() {
            if let Some(greedy) = greedy {
                assert_eq!(tokens, greedy, "{model}, prompt {i} in round {round}");
            }
            if hits && round == 1 {
                let blocks = (prompts[i].len() as u32 - 1) / 16;
                assert_eq!(*cached, blocks * 16, "{model}, prompt {i}");
            }
        }
    }
}

#[test]
fn the_engine_gets_the_reference_tokens_with_and_without_reuse() {
    each_model(|model, folder, expected| {
        let setting = Setting { world_size: 1, kv_blocks: 64, chunk_tokens_max: 48 };
        let mut engine = engine(folder, &setting);
        assert_reference(model, &mut engine, expected, true);
        assert_eq!(engine.load().preemptions, 0);
    });
}

#[test]
fn the_engine_gets_the_reference_tokens_while_it_preempts() {
    each_model(|model, folder, expected| {
        for (world_size, kv_blocks) in [(1, 11), (2, 13)] {
            let setting = Setting { world_size, kv_blocks, chunk_tokens_max: 29 };
            let mut engine = engine(folder, &setting);
            assert_reference(model, &mut engine, expected, false);
            assert!(engine.load().preemptions > 0, "{model}: {kv_blocks} blocks were enough");
        }
    });
}
