//! Mooncake: one request a line, its prompt as ids of 512-token blocks.
//!
//! An id names its block and everything before it, so prompts of equal first ids are equal so far. The last block is shorter
//! where the prompt ends within it.

use std::{collections::HashSet, time::Duration};

use serde::Deserialize;

use super::{
    OwnHits, Trace, Units,
    lines::{Clock, Lines, json},
};
use crate::{
    plan::{Begins, Labels, Piece, PlanError, Prompt, Reader, Session, Turn},
    tokens::HitRate,
    workload::seed,
};

const BLOCK_TOKENS: u32 = 512;

#[derive(Deserialize)]
struct Line {
    timestamp: f64,
    input_length: u32,
    output_length: u32,
    hash_ids: Vec<u64>,
}

impl Line {
    fn read(line: &str) -> Result<Self, String> {
        let line: Self = json(line)?;
        let needed = line.input_length.div_ceil(BLOCK_TOKENS) as usize;
        if line.input_length == 0 {
            return Err("`input_length` is 0; a prompt has at least 1 token".into());
        }
        if needed != line.hash_ids.len() {
            return Err(format!(
                "{} tokens are {needed} blocks of {BLOCK_TOKENS}, but `hash_ids` has {}",
                line.input_length,
                line.hash_ids.len()
            ));
        }
        if !(0.0..1e12).contains(&line.timestamp) {
            return Err(format!(
                "`timestamp` is {}; milliseconds from 0 on must stand there",
                line.timestamp
            ));
        }
        Ok(line)
    }

    /// Ids of the blocks with their lengths.
    fn blocks(&self) -> impl Iterator<Item = (u64, u32)> {
        let lengths = (0..).map(|at| (self.input_length - at * BLOCK_TOKENS).min(BLOCK_TOKENS));
        self.hash_ids.iter().copied().zip(lengths)
    }
}

pub(super) fn sessions(trace: &Trace, lines: Lines) -> Units {
    let run_seed = trace.seed;
    let mut clock = Clock::default();
    Box::new(lines.each(move |line| {
        let Some(line) = line else { return Ok(None) };
        let line = Line::read(line)?;
        let start = clock.since_first((line.timestamp * 1e6) as i64)?;
        let piece = |(id, tokens)| Piece { name: seed::name(&[run_seed, seed::BLOCK, id]), tokens };
        let prompt = Prompt::Whole(line.blocks().map(piece).collect());
        Ok(Some(vec![alone(start, prompt, line.output_length)]))
    }))
}

/// A request that is a session of its own.
pub(super) fn alone(start: Duration, prompt: Prompt, output_tokens: u32) -> Session {
    let turn = Turn {
        begins: Begins::At(Duration::ZERO),
        prompt,
        output_tokens: output_tokens.max(1),
        reader: Reader::Whole,
    };
    Session { start, labels: Labels::default(), turns: vec![turn] }
}

pub(super) fn own_hits(trace: &Trace, lines: Lines) -> Result<OwnHits, PlanError> {
    let read = lines.each(|line| line.map(Line::read).transpose());
    let mut seen = HashSet::new();
    let (mut hits, mut whole_blocks) = (HitRate::default(), HitRate::default());
    for line in trace.chosen(read) {
        for (id, tokens) in line?.blocks() {
            let hit = !seen.insert(id);
            hits.count(u64::from(tokens), hit);
            if tokens == BLOCK_TOKENS {
                whole_blocks.count(u64::from(tokens), hit);
            }
        }
    }
    Ok(OwnHits { block_tokens: BLOCK_TOKENS, hits, whole_blocks })
}
