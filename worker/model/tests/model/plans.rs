//! Plans made by hand: sequences that run side by side, with whatever chunks and blocks a test wants.

use std::collections::BTreeMap;

use glint_core::{Chunk, SamplingParams, SequenceStart, StepPlan, TokenLogprobs};

use crate::ranks::Ranks;

/// A sequence to run.
#[derive(Clone)]
pub(crate) struct Request {
    /// Prompt, and output if it goes on from some.
    pub(crate) tokens: Vec<u32>,
    pub(crate) prompt_tokens: u32,
    pub(crate) sampling: SamplingParams,
    /// Tokens to draw.
    pub(crate) draws: usize,
    /// Blocks of an earlier sequence with the same beginning.
    pub(crate) reused_blocks: Vec<u32>,
}

impl Request {
    /// Greedy, with the logits of all prompt positions.
    pub(crate) fn greedy(tokens: &[u32], draws: usize) -> Self {
        let sampling =
            SamplingParams { prompt_logprobs: Some(0), ..SamplingParams::greedy(u32::MAX) };
        Self {
            tokens: tokens.to_vec(),
            prompt_tokens: tokens.len() as u32,
            sampling,
            draws,
            reused_blocks: Vec::new(),
        }
    }
}

/// What a sequence yielded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    /// Tokens drawn.
    pub(crate) drawn: Vec<u32>,
    /// Raw logits by position; of reused positions there are none.
    pub(crate) logits: BTreeMap<u32, Vec<f32>>,
    /// By position described.
    pub(crate) prompt_logprobs: BTreeMap<u32, TokenLogprobs>,
    /// Block table.
    pub(crate) blocks: Vec<u32>,
}

impl Answer {
    /// Returns the logits behind the last token given.
    pub(crate) fn last_prompt_logits(&self, tokens: usize) -> &[f32] {
        &self.logits[&(tokens as u32 - 1)]
    }
}

struct Running {
    request: Request,
    slot: u32,
    computed: usize,
    answer: Answer,
}

impl Running {
    fn left(&self) -> usize {
        self.request.draws - self.answer.drawn.len()
    }

    fn tokens(&self) -> usize {
        self.request.tokens.len() + self.answer.drawn.len()
    }
}

/// Runs sequences on one group, step by step.
pub(crate) struct Hand {
    pub(crate) ranks: Ranks,
    next_step: u64,
    free_blocks: Vec<u32>,
}

impl Hand {
    pub(crate) fn new(ranks: Ranks, kv_blocks: u32) -> Self {
        // In no order, so that a mistake in block tables cannot hide.
        let mut free_blocks: Vec<u32> = (0..kv_blocks).collect();
        for i in 0..free_blocks.len() {
            free_blocks.swap(i, (i * 7 + 3) % kv_blocks as usize);
        }
        Self { ranks, next_step: 0, free_blocks }
    }

    /// Runs one sequence in one chunk.
    pub(crate) fn one(&mut self, request: Request) -> Answer {
        self.run(vec![request], usize::MAX).remove(0)
    }

    /// Runs all side by side, prompts in chunks of this size, and takes their blocks back.
    pub(crate) fn run(&mut self, requests: Vec<Request>, chunk_tokens: usize) -> Vec<Answer> {
        let reused: Vec<u32> = requests.iter().flat_map(|r| r.reused_blocks.clone()).collect();
        let answers = self.run_keeping_blocks(requests, chunk_tokens);
        let blocks = answers.iter().flat_map(|answer| answer.blocks.clone());
        self.free_blocks.extend(blocks.filter(|block| !reused.contains(block)));
        answers
    }

    /// Like [`Self::run`], but the blocks stay, for others to reuse.
    pub(crate) fn run_keeping_blocks(
        &mut self,
        requests: Vec<Request>,
        chunk_tokens: usize,
    ) -> Vec<Answer> {
        let mut all: Vec<Running> = (0..)
            .zip(requests)
            .map(|(slot, request)| {
                let blocks = request.reused_blocks.clone();
                let computed = blocks.len() * 16;
                Running { request, slot, computed, answer: Answer { blocks, ..Answer::default() } }
            })
            .collect();
        let start = all.iter().map(|running| SequenceStart {
            slot: running.slot,
            sampling: running.request.sampling.clone(),
            end_token_ids: Vec::new(),
            tokens: running.request.tokens.clone(),
            prompt_tokens: running.request.prompt_tokens,
            blocks: running.request.reused_blocks.clone(),
        });
        let mut plan = StepPlan { start: start.collect(), ..StepPlan::default() };
        loop {
            for running in all.iter_mut().filter(|running| running.left() > 0) {
                let chunk = chunk(running, chunk_tokens, &mut self.free_blocks);
                plan.chunks.push(chunk);
            }
            if plan.chunks.is_empty() {
                break;
            }
            self.step(&mut plan, &mut all);
        }
        plan.release = all.iter().map(|running| running.slot).collect();
        self.step(&mut plan, &mut all);
        all.into_iter().map(|running| running.answer).collect()
    }

    fn step(&mut self, plan: &mut StepPlan, all: &mut [Running]) {
        plan.step = self.next_step;
        self.next_step += 1;
        let (outcome, seen) = self.ranks.observe(plan).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(outcome.step, plan.step);
        for seen in seen {
            all[seen.slot as usize].answer.logits.insert(seen.position, seen.logits);
        }
        let drawing: Vec<u32> =
            plan.chunks.iter().filter(|chunk| chunk.sample).map(|chunk| chunk.slot).collect();
        let drawn: Vec<u32> = outcome.sampled.iter().map(|sampled| sampled.slot).collect();
        assert_eq!(drawn, drawing, "in the order of the chunks");
        for sampled in outcome.sampled {
            all[sampled.slot as usize].answer.drawn.push(sampled.token.unwrap());
        }
        for described in outcome.prompt_logprobs {
            let positions = (described.first_position..).zip(described.tokens);
            all[described.slot as usize].answer.prompt_logprobs.extend(positions);
        }
        *plan = StepPlan::default();
    }
}

fn chunk(running: &mut Running, chunk_tokens: usize, free_blocks: &mut Vec<u32>) -> Chunk {
    let first = running.computed;
    let end = running.tokens().min(first.saturating_add(chunk_tokens));
    let missing = end.div_ceil(16) - running.answer.blocks.len();
    let new_blocks: Vec<u32> =
        (0..missing).map(|_| free_blocks.pop().expect("the test has enough blocks")).collect();
    running.answer.blocks.extend(&new_blocks);
    running.computed = end;
    Chunk {
        slot: running.slot,
        first_position: first as u32,
        len: (end - first) as u32,
        new_blocks,
        sample: end == running.tokens(),
    }
}
