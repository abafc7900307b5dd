//! Coding agents: one session a line, its requests with their place in the session's tree of prefixes.
//!
//! A request names an earlier one, its parent, and how many blocks both begin with; the rest is its own. So a prompt is its
//! parent's pieces, cut off there, and one piece more: nothing is kept per block, and the tree stays exact.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;

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
#[derive(Deserialize)]
struct Request(u32, u64, u64, u64, u32, u32, i64, u32, u32, u32);

impl Line {
    fn read(line: &str) -> Result<Self, String> {
        let line: Self = json(line)?;
        if line.bs == 0 || line.r.is_empty() {
            return Err("`bs` must be above 0 and `r` have a request".into());
        }
        let mut before_ms = 0;
        for (at, request) in line.r.iter().enumerate() {
            let wrong = |reason: String| Err(format!("request {at} of `r`: {reason}"));
            let Request(_, t_ms, _, _, input, _, parent, common, blocks, _) = *request;
            if t_ms < before_ms {
                return wrong(format!(
                    "its time {t_ms} ms is before {before_ms} ms; sort them by time"
                ));
            }
            before_ms = t_ms;
            if blocks != input / line.bs {
                return wrong(format!(
                    "{input} tokens are {} blocks, not {blocks}",
                    input / line.bs
                ));
            }
            let parent_blocks = match usize::try_from(parent) {
                Err(_) => 0,
                Ok(parent) if parent < at => line.r[parent].8,
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
            let Request(_, _, _, _, input, _, parent, common, _, _) = *request;
            let mut left = common * self.bs;
            let own = input.max(1) - left;
            let mut pieces = Vec::new();
            // The parent was checked to be an earlier request; without one nothing is in common.
            for piece in usize::try_from(parent).map_or(&[][..], |parent| &prompts[parent]) {
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
    let mut first_ms = None;
    let turns = requests.map(|(request, pieces)| {
        let after_ms = request.1 - *first_ms.get_or_insert(request.1);
        turn(request, pieces, Begins::At(Duration::from_millis(after_ms)))
    });
    Session { start: Duration::ZERO, labels: Labels::default(), turns: turns.collect() }
}

/// A session for each agent, which begins when its first request was sent and then waits for its answers.
fn answered<'a>(requests: impl Iterator<Item = (&'a Request, Vec<Piece>)>) -> Vec<Session> {
    let mut agents: BTreeMap<u32, Session> = BTreeMap::new();
    for (request, pieces) in requests {
        let Request(agent, t_ms, think_ms, ..) = *request;
        let begins = match agents.contains_key(&agent) {
            true => Begins::After(Duration::from_millis(think_ms)),
            false => Begins::At(Duration::ZERO),
        };
        let start = Duration::from_millis(t_ms);
        let session = || Session { start, labels: Labels::default(), turns: Vec::new() };
        agents.entry(agent).or_insert_with(session).turns.push(turn(request, pieces, begins));
    }
    let mut sessions: Vec<Session> = agents.into_values().collect();
    sessions.sort_by_key(|session| session.start);
    sessions
}

fn turn(request: &Request, pieces: Vec<Piece>, begins: Begins) -> Turn {
    let prompt = Prompt::Whole(pieces);
    Turn { begins, prompt, output_tokens: request.5.max(1), reader: Reader::Whole }
}

pub(super) fn own_hits(trace: &Trace, lines: Lines) -> Result<OwnHits, PlanError> {
    let mut block_tokens = 0;
    let mut blocks = HitRate::default();
    for line in trace.chosen(lines.each(|line| line.map(Line::read).transpose())) {
        let line = line?;
        block_tokens = line.bs;
        for Request(.., common, all, _) in &line.r {
            for block in 0..*all {
                blocks.count(u64::from(line.bs), block < *common);
            }
        }
    }
    // The trace names whole blocks only.
    Ok(OwnHits { block_tokens, hits: blocks, whole_blocks: blocks })
}
