//! What was told about one sequence, and was it in order?

use std::time::Duration;

use glint_core::{FinishReason, Usage};
use glint_engine::{EngineRequest, Event};

use crate::group::{CONTEXT_TOKENS_MAX, EOS, VOCAB_SIZE};

/// How a sequence ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum End {
    Finished(FinishReason, Usage),
    Failed(String),
    Aborted,
}

/// All that was heard of a sequence.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) request: EngineRequest,
    pub(crate) cached_tokens: Option<u32>,
    pub(crate) waited: Duration,
    /// Prompt positions described so far, the first one included, which never is.
    pub(crate) described: u32,
    pub(crate) tokens: Vec<u32>,
    pub(crate) end: Option<End>,
}

impl Record {
    /// Returns the tokens that end this sequence.
    fn end_token_ids(&self) -> Vec<u32> {
        let mut ids = self.request.sampling.stop_token_ids.clone();
        if !self.request.sampling.ignore_eos {
            ids.push(EOS);
        }
        ids
    }

    fn is_resumed(&self) -> bool {
        self.request.tokens.len() > self.request.prompt_tokens as usize
    }

    /// Returns how much output there is, with what came along.
    fn output_tokens(&self) -> u32 {
        (self.request.tokens.len() + self.tokens.len()) as u32 - self.request.prompt_tokens
    }

    pub(crate) fn tell(&mut self, event: &Event) {
        assert_eq!(self.end, None, "{event:?} after the end");
        assert_eq!(
            matches!(event, Event::Started { .. }),
            self.cached_tokens.is_none(),
            "a sequence starts once, and first of all: {event:?}"
        );
        match event {
            Event::Started { cached_tokens, waited, .. } => {
                assert_eq!(cached_tokens % 16, 0);
                assert!((*cached_tokens as usize) < self.request.tokens.len());
                (self.cached_tokens, self.waited) = (Some(*cached_tokens), *waited);
            }
            Event::PromptLogprobs { first_position, tokens, .. } => {
                let wanted = self.request.sampling.prompt_logprobs.expect("asked for");
                assert!(!self.is_resumed() && self.tokens.is_empty() && !tokens.is_empty());
                assert_eq!(*first_position, self.described, "each position comes once, in order");
                for logprobs in tokens {
                    let token = self.request.tokens[self.described as usize];
                    assert_eq!(logprobs.top.len() as u32, wanted.min(VOCAB_SIZE));
                    assert!(logprobs.top.first().is_none_or(|&(top, _)| top == token));
                    self.described += 1;
                }
            }
            Event::Token { token, logprobs, .. } => {
                let sampling = &self.request.sampling;
                if sampling.prompt_logprobs.is_some() && !self.is_resumed() {
                    assert_eq!(self.described, self.request.prompt_tokens, "all come first");
                }
                let tops = logprobs.as_ref().map(|logprobs| logprobs.top.len() as u32);
                assert_eq!(tops, sampling.logprobs.map(|wanted| wanted.min(VOCAB_SIZE)));
                if self.output_tokens() < sampling.min_tokens {
                    assert!(!self.end_token_ids().contains(token), "ended before min_tokens");
                }
                let ended = self.tokens.last().is_some_and(|t| self.end_token_ids().contains(t));
                assert!(!ended, "{token} follows an end token");
                self.tokens.push(*token);
                assert!(self.output_tokens() <= sampling.max_tokens);
            }
            Event::Finished { reason, usage, .. } => {
                let last = self.request.tokens.iter().chain(&self.tokens).last();
                let stopped = self.output_tokens() > 0
                    && last.is_some_and(|last| self.end_token_ids().contains(last));
                let expected = if stopped { FinishReason::Stop } else { FinishReason::Length };
                assert_eq!(*reason, expected);
                if !stopped {
                    let total = self.request.prompt_tokens + self.output_tokens();
                    let is_full = total == CONTEXT_TOKENS_MAX;
                    assert!(is_full || self.output_tokens() >= self.request.sampling.max_tokens);
                }
                assert_eq!(*usage, self.usage());
                self.end = Some(End::Finished(*reason, *usage));
            }
            Event::Failed { message, .. } => self.end = Some(End::Failed(message.clone())),
        }
    }

    pub(crate) fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.request.prompt_tokens,
            cached_tokens: self.cached_tokens.unwrap_or(0),
            output_tokens: self.tokens.len() as u32,
        }
    }
}
