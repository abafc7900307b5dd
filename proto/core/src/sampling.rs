//! How does a request want its tokens drawn?

use crate::{Failure, Kind};

/// The most alternatives per token that a request may ask for.
pub const TOP_LOGPROBS_MAX: u32 = 20;

/// How tokens are drawn and when a sequence ends. The order of operations is `FORMATS.md` section 2's.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits. Below 1e-5: greedy.
    pub temperature: f32,
    /// Keeps the likeliest candidates that together have this probability. 1: all.
    pub top_p: f32,
    /// Keeps this many candidates. 0: all.
    pub top_k: u32,
    /// Keeps candidates with at least this fraction of the likeliest one's probability. 0: all.
    pub min_p: f32,
    /// Subtracted from the logit of every token that the output has.
    pub presence_penalty: f32,
    /// Subtracted from a token's logit once per occurrence in the output.
    pub frequency_penalty: f32,
    /// Divides positive and multiplies negative logits of tokens in prompt or output. 1: none.
    pub repetition_penalty: f32,
    /// Added to the logits of these token ids.
    pub logit_bias: Vec<(u32, f32)>,
    /// The source of all randomness of this sequence.
    pub seed: u64,
    /// Token ids that end the sequence, besides the model's own end tokens.
    pub stop_token_ids: Vec<u32>,
    /// Whether the model's end tokens are tokens like any other.
    pub ignore_eos: bool,
    /// No end or stop token is drawn before the output has this many tokens.
    pub min_tokens: u32,
    /// The sequence ends when its output has this many tokens, counted from the prompt's end.
    pub max_tokens: u32,
    /// Log-probabilities of each output token and of this many likeliest alternatives.
    pub logprobs: Option<u32>,
    /// The same for each prompt token but the first.
    pub prompt_logprobs: Option<u32>,
}

impl SamplingParams {
    /// Returns parameters that take the likeliest token each time.
    #[must_use]
    pub fn greedy(max_tokens: u32) -> Self {
        Self { temperature: 0.0, ..Self::plain(0, max_tokens) }
    }

    /// Returns parameters that draw from the model's own distribution.
    #[must_use]
    pub fn plain(seed: u64, max_tokens: u32) -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Vec::new(),
            seed,
            stop_token_ids: Vec::new(),
            ignore_eos: false,
            min_tokens: 0,
            max_tokens,
            logprobs: None,
            prompt_logprobs: None,
        }
    }

    /// Returns whether the likeliest token is taken each time.
    #[must_use]
    pub fn is_greedy(&self) -> bool {
        self.temperature < 1e-5
    }

    /// Checks every number for its range, and token ids against the vocabulary.
    ///
    /// # Errors
    ///
    /// The first parameter that is out of its range.
    pub fn check(&self, vocab_size: u32) -> Result<(), SamplingError> {
        let range = |name, value: f32, low: f32, high: f32| {
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(SamplingError::OutOfRange { name, value, low, high })
            }
        };
        range("temperature", self.temperature, 0.0, 100.0)?;
        range("top_p", self.top_p, f32::MIN_POSITIVE, 1.0)?;
        range("min_p", self.min_p, 0.0, 1.0)?;
        range("presence_penalty", self.presence_penalty, -2.0, 2.0)?;
        range("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?;
        range("repetition_penalty", self.repetition_penalty, 0.01, 100.0)?;
        for &(id, bias) in &self.logit_bias {
            range("logit_bias", bias, -100.0, 100.0)?;
            if id >= vocab_size {
                return Err(SamplingError::UnknownToken { name: "logit_bias", id, vocab_size });
            }
        }
        if let Some(&id) = self.stop_token_ids.iter().find(|&&id| id >= vocab_size) {
            return Err(SamplingError::UnknownToken { name: "stop_token_ids", id, vocab_size });
        }
        for (name, asked) in
            [("logprobs", self.logprobs), ("prompt_logprobs", self.prompt_logprobs)]
        {
            if let Some(asked) = asked.filter(|&asked| asked > TOP_LOGPROBS_MAX) {
                return Err(SamplingError::TooManyLogprobs { name, asked });
            }
        }
        if self.max_tokens == 0 {
            return Err(SamplingError::NoTokens);
        }
        if self.min_tokens > self.max_tokens {
            let Self { min_tokens, max_tokens, .. } = *self;
            return Err(SamplingError::MinAboveMax { min_tokens, max_tokens });
        }
        Ok(())
    }
}

/// A sampling parameter that cannot be honoured.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SamplingError {
    /// A number outside its range, or not a number.
    #[error("{name} is {value}, use {low} to {high}")]
    OutOfRange {
        /// The parameter.
        name: &'static str,
        /// What was asked for.
        value: f32,
        /// Smallest value taken.
        low: f32,
        /// Largest value taken.
        high: f32,
    },
    /// A token id that the model does not have.
    #[error("{name} has token id {id}, the vocabulary has {vocab_size} tokens")]
    UnknownToken {
        /// The parameter.
        name: &'static str,
        /// The id.
        id: u32,
        /// Ids below this one exist.
        vocab_size: u32,
    },
    /// More alternatives per token than are sent.
    #[error("{name} is {asked}, at most {TOP_LOGPROBS_MAX} are given")]
    TooManyLogprobs {
        /// The parameter.
        name: &'static str,
        /// What was asked for.
        asked: u32,
    },
    /// `max_tokens` is 0.
    #[error("max_tokens is 0, use at least 1")]
    NoTokens,
    /// An output cannot be longer than its maximum.
    #[error("min_tokens is {min_tokens}, above max_tokens {max_tokens}")]
    MinAboveMax {
        /// The least output.
        min_tokens: u32,
        /// The most output.
        max_tokens: u32,
    },
}

impl Failure for SamplingError {
    fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

/// Log-probabilities of one token, of the raw logits (before penalties and temperature).
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// The token's own.
    pub logprob: f32,
    /// The likeliest tokens, best first, as many as were asked for.
    pub top: Vec<(u32, f32)>,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// The model drew an end token or a stop token; it is the last token sent.
    Stop,
    /// The output or the context is full.
    Length,
    /// The client went away or took the request back.
    Aborted,
}

/// What a sequence cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, without those that a resumed request brought along.
    pub prompt_tokens: u32,
    /// Of the tokens given, those whose KV blocks were in the prefix cache.
    pub cached_tokens: u32,
    /// Tokens drawn.
    pub output_tokens: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parameter_is_checked() {
        type Spoil = fn(&mut SamplingParams);
        let good = SamplingParams::plain(1, 10);
        assert_eq!(good.check(100), Ok(()));
        let bad: [(&str, Spoil); 14] = [
            ("temperature", |p| p.temperature = -1.0),
            ("temperature", |p| p.temperature = f32::NAN),
            ("top_p", |p| p.top_p = 0.0),
            ("min_p", |p| p.min_p = 1.5),
            ("presence_penalty", |p| p.presence_penalty = 3.0),
            ("frequency_penalty", |p| p.frequency_penalty = f32::INFINITY),
            ("repetition_penalty", |p| p.repetition_penalty = 0.0),
            ("logit_bias", |p| p.logit_bias = vec![(1, 101.0)]),
            ("logit_bias", |p| p.logit_bias = vec![(100, 1.0)]),
            ("stop_token_ids", |p| p.stop_token_ids = vec![100]),
            ("logprobs", |p| p.logprobs = Some(21)),
            ("prompt_logprobs", |p| p.prompt_logprobs = Some(21)),
            ("max_tokens", |p| p.max_tokens = 0),
            ("min_tokens", |p| p.min_tokens = 11),
        ];
        for (name, spoil) in bad {
            let mut params = good.clone();
            spoil(&mut params);
            let error = params.check(100).unwrap_err().to_string();
            assert!(error.starts_with(name), "{name}: {error}");
        }
    }
}
