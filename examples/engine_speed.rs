//! How fast does one rank prefill and decode? One JSON object per case and round, as `tools/bench/llama_cpp_speed.py`
//! prints for llama.cpp; the next round begins with a line on standard input.
//!
//! usage: `engine_speed MODEL_FOLDER THREADS ROUNDS f32|bf16`

use std::io::{BufRead, Write};
use std::time::Instant;

use anyhow::{Context, bail};
use glint_core::{Chunk, SamplingParams, SequenceStart, StepPlan};
use glint_kernels::collective::Solo;
use glint_kernels::{Compute, Cpu, Isa};
use glint_model::{Checkpoint, RankModel, RankOptions, RankWeights};

const PROMPT_TOKENS: u32 = 512;
const CONTEXT_TOKENS: u32 = 128;
const DECODE_STEPS: u32 = 24;
const KV_BLOCKS: u32 = 512;
const BLOCK: u32 = 16;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, threads, rounds, compute] = arguments.as_slice() else {
        bail!("usage: engine_speed MODEL_FOLDER THREADS ROUNDS f32|bf16");
    };
    let compute = match compute.as_str() {
        "f32" => Compute::F32,
        "bf16" => Compute::Bf16,
        _ => bail!("use f32 or bf16"),
    };
    let checkpoint = Checkpoint::open(folder)?;
    let vocab_size = checkpoint.config().vocab_size as u32;
    let options = RankOptions { rank: 0, world_size: 1, compute };
    let weights = RankWeights::load(&checkpoint, options, &mut |_| {})?;
    let cpu = Cpu::new(Isa::detect(), threads.parse().context("THREADS is a number")?);
    let model = RankModel::new(weights, cpu, Box::new(Solo::new()), KV_BLOCKS);
    let mut bench = Bench { model, vocab_size, step: 0, seed: 0 };
    bench.prefill(&[0], 32)?;
    bench.release(&[0])?;
    let mut input = std::io::stdin().lock();
    for _ in 0..rounds.parse().context("ROUNDS is a number")? {
        let cases = [
            ("prefill", bench.prefill_speed()?),
            ("decode-1", bench.decode_speed(1)?),
            ("decode-8", bench.decode_speed(8)?),
        ];
        let mut out = std::io::stdout().lock();
        for (case, tokens_per_s) in cases {
            writeln!(out, "{}", serde_json::json!({"case": case, "tokens_per_s": tokens_per_s}))?;
        }
        out.flush()?;
        if input.read_line(&mut String::new())? == 0 {
            break;
        }
    }
    Ok(())
}

struct Bench {
    model: RankModel,
    vocab_size: u32,
    step: u64,
    seed: u64,
}

impl Bench {
    fn run(&mut self, plan: StepPlan) -> anyhow::Result<()> {
        let plan = StepPlan { step: self.step, ..plan };
        self.step += 1;
        self.model.execute(&plan)?;
        Ok(())
    }

    fn release(&mut self, slots: &[u32]) -> anyhow::Result<()> {
        self.run(StepPlan { release: slots.to_vec(), ..StepPlan::default() })
    }

    /// Starts a sequence of random tokens in each slot and computes all of it.
    fn prefill(&mut self, slots: &[u32], tokens: u32) -> anyhow::Result<()> {
        for &slot in slots {
            self.seed += 1;
            let token = |n| (glint_core::draw::word(self.seed, n, 0)) % self.vocab_size;
            let start = SequenceStart {
                slot,
                sampling: SamplingParams { ignore_eos: true, ..SamplingParams::greedy(1_000) },
                end_token_ids: Vec::new(),
                tokens: (0..tokens).map(token).collect(),
                prompt_tokens: tokens,
                blocks: Vec::new(),
            };
            let new_blocks = (0..tokens.div_ceil(BLOCK)).map(|n| block(slot, n)).collect();
            let chunk = Chunk { slot, first_position: 0, len: tokens, new_blocks, sample: true };
            self.run(StepPlan { start: vec![start], chunks: vec![chunk], ..StepPlan::default() })?;
        }
        Ok(())
    }

    fn prefill_speed(&mut self) -> anyhow::Result<f64> {
        let begin = Instant::now();
        self.prefill(&[0], PROMPT_TOKENS)?;
        let took = begin.elapsed();
        self.release(&[0])?;
        Ok(f64::from(PROMPT_TOKENS) / took.as_secs_f64())
    }

    /// Returns tokens per second of all sequences together, from the median step.
    fn decode_speed(&mut self, sequences: u32) -> anyhow::Result<f64> {
        let slots: Vec<u32> = (0..sequences).collect();
        self.prefill(&slots, CONTEXT_TOKENS)?;
        let mut times = Vec::new();
        for step in 0..DECODE_STEPS {
            let position = CONTEXT_TOKENS + step;
            let chunk = |&slot: &u32| {
                let new_blocks = if position.is_multiple_of(BLOCK) {
                    vec![block(slot, position / BLOCK)]
                } else {
                    vec![]
                };
                Chunk { slot, first_position: position, len: 1, new_blocks, sample: true }
            };
            let chunks = slots.iter().map(chunk).collect();
            let begin = Instant::now();
            self.run(StepPlan { chunks, ..StepPlan::default() })?;
            times.push(begin.elapsed().as_secs_f64());
        }
        self.release(&slots)?;
        times.sort_by(f64::total_cmp);
        Ok(f64::from(sequences) / times[times.len() / 2])
    }
}

/// Each slot has blocks of its own.
fn block(slot: u32, n: u32) -> u32 {
    slot * (KV_BLOCKS / 8) + n
}
