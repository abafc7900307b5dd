//! A trace of one's own: one request a line, as a JSON object.
//!
//! | field | means |
//! |---|---|
//! | `at_s` | when it is sent, seconds after the begin; without it, with the line above |
//! | `prompt` | the prompt as text |
//! | `messages` | the prompt as the chat endpoint takes it |
//! | `prompt_token_ids` | the prompt as token ids |
//! | `input_tokens` | a prompt of so many tokens that nobody shares |
//! | `pieces` | `[["name", tokens], …]`: prompts share what has equal names; `input_tokens` may follow it |
//! | `output_tokens` | tokens of the answer; without it, what `--output-tokens` says |
//! | `tenant`, `class` | who asks |
//! | `session` | text or a number: neighbouring lines of one session are its turns |
//! | `after_s` | for a later turn: so long after the answer before, instead of `at_s` |
//! | `continues` | `true`: what `input_tokens` and `pieces` say comes after all that was said in the session, answers included |
//! | `cancel_after_tokens`, `disconnect_after_tokens`, `slow_tokens_per_s` | how the answer is read |
//!
//! One of `prompt`, `messages`, `prompt_token_ids`, `input_tokens` and `pieces` must be there; other fields are refused, for they
//! are most likely misspelt.

use std::{collections::HashSet, sync::Arc, time::Duration};

use serde::Deserialize;
use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    Trace, Units,
    lines::{Lines, json},
};
use crate::{
    plan::{Begins, Labels, Piece, Prompt, Reader, Session, Turn},
    workload::{Distribution, seed},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    at_s: Option<f64>,
    after_s: Option<f64>,
    prompt: Option<Box<str>>,
    messages: Option<Box<RawValue>>,
    prompt_token_ids: Option<Vec<u32>>,
    input_tokens: Option<u32>,
    pieces: Option<Vec<(Name, u32)>>,
    #[serde(default)]
    continues: bool,
    output_tokens: Option<u32>,
    tenant: Option<Box<str>>,
    class: Option<Box<str>>,
    session: Option<Name>,
    cancel_after_tokens: Option<u32>,
    disconnect_after_tokens: Option<u32>,
    slow_tokens_per_s: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a name must be text or a whole number")]
enum Name {
    Number(u64),
    Text(String),
}

impl Name {
    /// Numbers and texts name different things, even `7` and `"7"`.
    fn number(&self) -> u64 {
        match self {
            Self::Number(number) => seed::name(&[0, *number]),
            Self::Text(text) => seed::name(&[1, xxh3_64(text.as_bytes())]),
        }
    }
}

pub(super) fn sessions(trace: &Trace, lines: Lines) -> Units {
    let mut reading = Reading {
        run_seed: trace.seed,
        output: trace.output.clone(),
        number: 0,
        last_start: Duration::ZERO,
        open: None,
        ended: HashSet::new(),
    };
    Box::new(lines.each(move |line| match line {
        Some(line) => reading.line(json(line)?),
        None => Ok(reading.open.take().map(|open| vec![open.session])),
    }))
}

struct Reading {
    run_seed: u64,
    output: Distribution,
    /// Of the line, from 0.
    number: u64,
    last_start: Duration,
    open: Option<Open>,
    /// Sessions that may not go on. The one thing that grows with the file: 8 bytes and some a named session.
    ended: HashSet<u64>,
}

/// The session of the line above, which this line may go on.
struct Open {
    name: Option<u64>,
    session: Session,
}

impl Reading {
    /// Returns the session that has ended with the line above.
    fn line(&mut self, line: Line) -> Result<Option<Vec<Session>>, String> {
        let name = line.session.as_ref().map(Name::number);
        let at = line.at_s.map(|at_s| seconds("at_s", at_s)).transpose()?;
        let goes_on = name.is_some() && self.open.as_ref().is_some_and(|open| open.name == name);
        let turn = Turn {
            begins: self.begins(&line, at, goes_on)?,
            output_tokens: match line.output_tokens {
                Some(0) => return Err("`output_tokens` is 0; at least 1 must be asked for".into()),
                Some(tokens) => tokens,
                None => {
                    let mut rng = seed::rng(&[self.run_seed, seed::SESSION, self.number]);
                    self.output.tokens(&mut rng)
                }
            },
            reader: reader(&line)?,
            prompt: self.prompt(&line, goes_on)?,
        };
        self.number += 1;
        if let (true, Some(open)) = (goes_on, &mut self.open) {
            open.session.turns.push(turn);
            return Ok(None);
        }
        let start = at.unwrap_or(self.last_start);
        if start < self.last_start {
            let last_s = self.last_start.as_secs_f64();
            return Err(format!(
                "`at_s` is before {last_s}, the start above; sort the sessions by their starts"
            ));
        }
        self.last_start = start;
        if name.is_some_and(|name| self.ended.contains(&name)) {
            return Err(
                "its `session` has ended above; put the lines of a session next to each other"
                    .into(),
            );
        }
        let labels =
            Labels { tenant: line.tenant.map(Arc::from), class: line.class.map(Arc::from) };
        let session = Session { start, labels, turns: vec![turn] };
        let before = self.open.replace(Open { name, session });
        self.ended.extend(before.as_ref().and_then(|before| before.name));
        Ok(before.map(|before| vec![before.session]))
    }

    fn begins(&self, line: &Line, at: Option<Duration>, goes_on: bool) -> Result<Begins, String> {
        let after = line.after_s.map(|after_s| seconds("after_s", after_s)).transpose()?;
        let start = self.open.as_ref().map_or(Duration::ZERO, |open| open.session.start);
        match (at, after) {
            (Some(_), Some(_)) => Err("`at_s` and `after_s` cannot both be".into()),
            (None, Some(_)) if !goes_on => {
                Err("`after_s` needs an answer before it: a line above of the same `session`"
                    .into())
            }
            (Some(at), None) if goes_on => at.checked_sub(start).map(Begins::At).ok_or_else(|| {
                format!("`at_s` is before {}, its session's start", start.as_secs_f64())
            }),
            (None, None) if goes_on => Ok(Begins::After(Duration::ZERO)),
            (None, Some(after)) => Ok(Begins::After(after)),
            (_, None) => Ok(Begins::At(Duration::ZERO)),
        }
    }

    fn prompt(&self, line: &Line, goes_on: bool) -> Result<Prompt, String> {
        let pieced = line.input_tokens.is_some() || line.pieces.is_some();
        let kinds = [
            line.prompt.is_some(),
            line.messages.is_some(),
            line.prompt_token_ids.is_some(),
            pieced,
        ];
        match kinds.iter().filter(|is_there| **is_there).count() {
            1 => {}
            0 => return Err("one of `prompt`, `messages`, `prompt_token_ids`, `input_tokens` and `pieces` must be there".into()),
            _ => return Err("only one of `prompt`, `messages`, `prompt_token_ids` and `input_tokens` can be".into()),
        }
        if line.continues && !(pieced && goes_on) {
            return Err("`continues` needs `input_tokens` or `pieces`, and a line above of the same `session`".into());
        }
        if let Some(text) = &line.prompt {
            return filled("prompt", text.len()).map(|()| Prompt::Text(Arc::from(&**text)));
        }
        if let Some(ids) = &line.prompt_token_ids {
            return filled("prompt_token_ids", ids.len())
                .map(|()| Prompt::TokenIds(Arc::from(&**ids)));
        }
        if let Some(messages) = &line.messages {
            if !messages.get().starts_with('[') {
                return Err("`messages` must be an array".into());
            }
            return Ok(Prompt::Messages(Arc::from(messages.clone())));
        }
        let named = line.pieces.iter().flatten().map(|(name, tokens)| Piece {
            name: seed::name(&[self.run_seed, seed::NAMED, name.number()]),
            tokens: *tokens,
        });
        let own = line.input_tokens.map(|tokens| Piece {
            name: seed::name(&[self.run_seed, seed::TURN, self.number]),
            tokens,
        });
        let pieces: Vec<Piece> = named.chain(own).filter(|piece| piece.tokens > 0).collect();
        filled("input_tokens", pieces.len())?;
        Ok(if line.continues { Prompt::Next(pieces) } else { Prompt::Whole(pieces) })
    }
}

fn filled(field: &str, length: usize) -> Result<(), String> {
    if length > 0 {
        Ok(())
    } else {
        Err(format!("`{field}` is empty; a prompt has at least 1 token"))
    }
}

fn seconds(field: &str, value: f64) -> Result<Duration, String> {
    Duration::try_from_secs_f64(value)
        .map_err(|_| format!("`{field}` is {value}; seconds from 0 on must stand there"))
}

fn reader(line: &Line) -> Result<Reader, String> {
    match (line.cancel_after_tokens, line.disconnect_after_tokens, line.slow_tokens_per_s) {
        (None, None, None) => Ok(Reader::Whole),
        (Some(after_tokens), None, None) => Ok(Reader::Cancel { after_tokens }),
        (None, Some(after_tokens), None) => Ok(Reader::Disconnect { after_tokens }),
        (None, None, Some(tokens_per_s)) if tokens_per_s > 0.0 => Ok(Reader::Slow { tokens_per_s }),
        (None, None, Some(wrong)) => {
            Err(format!("`slow_tokens_per_s` is {wrong}; it must be above 0"))
        }
        _ => {
            Err("an answer can be cancelled, broken off or read slowly, but only one of them"
                .into())
        }
    }
}
