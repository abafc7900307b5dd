//! Coding agents: one session a line, its requests with their place in the session's tree of prefixes.
//!
//! A request names an earlier one, its parent, and how many blocks both begin with; the rest is its own. So a prompt is its
//! parent's pieces, cut off there, and one piece more: nothing is kept per block, and the tree stays exact.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, de::IgnoredAny};

use super::{
    OwnHits, Pace, Trace, Units,
    lines::{Lines, json},
};
use crate::{
    plan::{Begins, Labels, Piece, PlanError, Prompt, Reader, Session, Turn},
    tokens::HitRate,
    workload::seed,
};

#[derive(Deserialize)]
struct Line {
    /// Tokens of a block.
    bs: u32,
    r: Vec<Request>,
}

/// `[agent, t_ms, think_ms, api_ms, in, out, parent, lcp, nblk, model]`
type Columns = (u32, u64, u64, IgnoredAny, u32, u32, i64, u32, u32, IgnoredAny);

#[derive(Clone, Copy, Deserialize)]
#[serde(from = "Columns")]
struct Request {
    agent: u32,
    time: Duration,
    think: Duration,
    input_tokens: u32,
    output_tokens: u32,
    /// Below 0 without one.
    parent: i64,
    /// Blocks that it has in common with its parent.
    common: u32,
    blocks: u32,
}

impl From<Columns> for Request {
    fn from(columns: Columns) -> Self {
        let (agent, t_ms, think_ms, _, input_tokens, output_tokens, parent, common, blocks, _) =
            columns;
        let (time, think) = (Duration::from_millis(t_ms), Duration::from_millis(think_ms));
        Self { agent, time, think, input_tokens, output_tokens, parent, common, blocks }
    }
}

impl Line {
    fn read(line: &str) -> Result<Self, String> {
        let line: Self = json(line)?;
        if line.bs == 0 || line.r.is_empty() {
            return Err("`bs` must be above 0 and `r` have a request".into());
        }
        let mut before = Duration::ZERO;
        for (at, request) in line.r.iter().enumerate() {
            let wrong = |reason: String| Err(format!("request {at} of `r`: {reason}"));
            let Request { time, input_tokens, parent, common, blocks, .. } = *request;
            if time < before {
                return wrong(format!("its time {time:?} is before {before:?}; sort them by time"));
            }
            before = time;
            let whole_blocks = input_tokens / line.bs;
            if blocks != whole_blocks {
                return wrong(format!(
                    "{input_tokens} tokens are {whole_blocks} blocks, not {blocks}"
                ));
            }
            let parent_blocks = match usize::try_from(parent) {
                Err(_) => 0,
                Ok(parent) if parent < at => line.r[parent].blocks,
                Ok(parent) => return wrong(format!("its parent {parent} does not come before it")),
            };
            if common > blocks.min(parent_blocks) {
                return wrong(format!(
                    "{common} blocks in common, of {blocks} and the parent's {parent_blocks}"
                ));
            }
        }
        Ok(line)
    }

    /// The prompts in order; `name` names what a request has of its own.
    fn prompts(&self, name: impl Fn(u64) -> u64) -> Vec<Vec<Piece>> {
        let mut prompts: Vec<Vec<Piece>> = Vec::with_capacity(self.r.len());
        for (at, request) in self.r.iter().enumerate() {
            let mut left = request.common * self.bs;
            let own = request.input_tokens.max(1) - left;
            let mut pieces = Vec::new();
            // The parent was checked to be an earlier request; without one nothing is in common.
            for piece in usize::try_from(request.parent).map_or(&[][..], |parent| &prompts[parent])
            {
                if left == 0 {
                    break;
                }
                let tokens = piece.tokens.min(left);
                pieces.push(Piece { tokens, ..*piece });
                left -= tokens;
            }
            if own > 0 {
                pieces.push(Piece { name: name(at as u64), tokens: own });
            }
            prompts.push(pieces);
        }
        prompts
    }
}

pub(super) fn sessions(trace: &Trace, lines: Lines) -> Units {
    let (run_seed, pace) = (trace.seed, trace.pace);
    let mut number = 0;
    Box::new(lines.each(move |line| {
        let Some(line) = line else { return Ok(None) };
        let line = Line::read(line)?;
        let prompts = line.prompts(|at| seed::name(&[run_seed, seed::BLOCK, number, at]));
        number += 1;
        let requests = line.r.iter().zip(prompts);
        Ok(Some(match pace {
            Pace::Recorded => vec![recorded(requests)],
            Pace::Answered => answered(requests),
        }))
    }))
}

/// One session, each request at its time after the first.
fn recorded<'a>(requests: impl Iterator<Item = (&'a Request, Vec<Piece>)>) -> Session {
    let mut first = None;
    let turns = requests.map(|(request, pieces)| {
        let after = request.time - *first.get_or_insert(request.time);
        turn(request, pieces, Begins::At(after))
    });
    Session { start: Duration::ZERO, labels: Labels::default(), turns: turns.collect() }
}

/// A session for each agent, which begins when its first request was sent and then waits for its answers.
fn answered<'a>(requests: impl Iterator<Item = (&'a Request, Vec<Piece>)>) -> Vec<Session> {
    let mut agents: BTreeMap<u32, Session> = BTreeMap::new();
    for (request, pieces) in requests {
        let begins = match agents.contains_key(&request.agent) {
            true => Begins::After(request.think),
            false => Begins::At(Duration::ZERO),
        };
        let session =
            || Session { start: request.time, labels: Labels::default(), turns: Vec::new() };
        let session = agents.entry(request.agent).or_insert_with(session);
        session.turns.push(turn(request, pieces, begins));
    }
    let mut sessions: Vec<Session> = agents.into_values().collect();
    sessions.sort_by_key(|session| session.start);
    sessions
}

fn turn(request: &Request, pieces: Vec<Piece>, begins: Begins) -> Turn {
    let prompt = Prompt::Whole(pieces);
    Turn { begins, prompt, output_tokens: request.output_tokens.max(1), reader: Reader::Whole }
}

pub(super) fn own_hits(trace: &Trace, lines: Lines) -> Result<OwnHits, PlanError> {
    let mut block_tokens = 0;
    let mut blocks = HitRate::default();
    for line in trace.chosen(lines.each(|line| line.map(Line::read).transpose())) {
        let line = line?;
        block_tokens = line.bs;
        for request in &line.r {
            for block in 0..request.blocks {
                blocks.count(u64::from(line.bs), block < request.common);
            }
        }
    }
    // The trace names whole blocks only.
    Ok(OwnHits { block_tokens, hits: blocks, whole_blocks: blocks })
}
