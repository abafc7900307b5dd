//! What does a client want?
//!
//! An [`Ask`] is what either front end has read: names and numbers, nothing checked against a model. [`Generation`] is the same
//! with the model's tokenizer, template and advice applied: token ids and complete sampling parameters.

use std::sync::Arc;
use std::time::{Duration, Instant};

use glint_core::SamplingParams;
use glint_tokenizer::{Conversation, GenerationConfig};
use serde_json::{Map, Value};
use tokio::sync::Semaphore;

use crate::error::{RequestError, out_of_range};
use crate::groups::{Groups, Served, Text};

/// Answers of one request, over all its prompts.
pub(crate) const CHOICES_MAX: u32 = 128;
/// Stop strings of one request, and bytes of each.
pub(crate) const STOPS_MAX: usize = 16;
pub(crate) const STOP_BYTES_MAX: usize = 1024;
pub(crate) const STOP_TOKEN_IDS_MAX: usize = 1024;
pub(crate) const LOGIT_BIAS_MAX: usize = 1024;
pub(crate) const CACHE_SALT_BYTES_MAX: usize = 256;

/// A request as its front end has read it.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) model: String,
    pub(crate) inputs: Vec<Input>,
    pub(crate) options: Options,
}

/// What is to be continued.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    Chat(Chat),
    Text(String),
    Tokens(Vec<u32>),
}

/// A conversation, for the model's chat template.
#[derive(Clone, Debug)]
pub(crate) struct Chat {
    /// A list of objects with `role` and `content`, contents being text.
    pub(crate) messages: Value,
    pub(crate) add_generation_prompt: bool,
    pub(crate) template_kwargs: Map<String, Value>,
}

/// How it is to be continued. What is absent is the model's advice, else the API's default.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Options {
    pub(crate) temperature: Option<f32>,
    pub(crate) top_p: Option<f32>,
    pub(crate) top_k: Option<u32>,
    pub(crate) min_p: Option<f32>,
    pub(crate) presence_penalty: Option<f32>,
    pub(crate) frequency_penalty: Option<f32>,
    pub(crate) repetition_penalty: Option<f32>,
    pub(crate) logit_bias: Vec<(u32, f32)>,
    pub(crate) seed: Option<u64>,
    pub(crate) stop: Vec<String>,
    pub(crate) stop_token_ids: Vec<u32>,
    pub(crate) ignore_eos: bool,
    pub(crate) min_tokens: u32,
    pub(crate) max_tokens: Option<u32>,
    pub(crate) n: Option<u32>,
    pub(crate) logprobs: Option<u32>,
    pub(crate) prompt_logprobs: Option<u32>,
    pub(crate) cache_salt: String,
    /// Only the prompt is of interest: `max_tokens` may be 0, and the one token that is drawn is not shown.
    pub(crate) prompt_only: bool,
}

/// A request that can be sent to groups.
#[derive(Debug)]
pub(crate) struct Generation {
    pub(crate) request_id: String,
    pub(crate) arrived: Instant,
    pub(crate) served: Served,
    pub(crate) prompts: Vec<Prompt>,
    /// Answers per prompt.
    pub(crate) n: u32,
    /// Of the first answer; answer i has seed + i.
    sampling: SamplingParams,
    pub(crate) stop: Vec<String>,
    pub(crate) cache_salt: String,
    pub(crate) prompt_only: bool,
    /// Each answer that is being sent to a group has a copy of its prompt, for the wire has no way to share one. One permit
    /// per copy that may be there at a time.
    pub(crate) copies: Semaphore,
}

/// Memory of the copies of one request's prompts.
const COPIES_BYTES_MAX: usize = 8 << 20;
/// Of a prompt's token on its way: the id, and its varint in the message.
const COPIED_TOKEN_BYTES: usize = 8;

/// Returns how many copies of a prompt there may be at a time: all answers', unless it is very long.
fn copies_max(prompt_tokens: usize) -> usize {
    let copies = COPIES_BYTES_MAX / (COPIED_TOKEN_BYTES * prompt_tokens.max(1));
    copies.clamp(1, CHOICES_MAX as usize)
}

/// One prompt.
#[derive(Debug)]
pub(crate) struct Prompt {
    pub(crate) ids: Vec<u32>,
    /// As the client wrote it; nothing if it wrote token ids.
    pub(crate) text: Option<String>,
    /// What the context leaves for the answer, if that is less than was asked for.
    max_tokens: u32,
}

/// Who asks, and since when.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) request_id: String,
    pub(crate) at: Instant,
    /// Since 1970, for templates that print the date.
    pub(crate) clock: Duration,
}

impl Ask {
    /// Checks the request against the model that it names, and tokenizes it. Costs time in proportion to the text.
    pub(crate) fn prepare(
        self,
        groups: &Groups,
        arrival: Arrival,
    ) -> Result<Generation, RequestError> {
        let served = groups.served(&self.model)?;
        let options = self.options;
        let n = options.n.unwrap_or(1);
        let choices = u64::from(n) * self.inputs.len() as u64;
        if n == 0 || choices > u64::from(CHOICES_MAX) {
            let message = match self.inputs.len() {
                1 => out_of_range("n", &n, 1, CHOICES_MAX),
                prompts => format!(
                    "n is {n} for {prompts} prompts, use at most {CHOICES_MAX} answers in all"
                ),
            };
            return Err(RequestError::parameter("n", message));
        }
        let sampling = options.sampling(&served.text.advice, served.context_tokens);
        sampling.check(served.vocab_size)?;
        check_lengths(&options)?;
        let wants = sampling.max_tokens;
        let prompts: Vec<Prompt> = self
            .inputs
            .into_iter()
            .map(|input| input.prompt(&served, arrival.clock, wants))
            .collect::<Result<_, _>>()?;
        let longest = prompts.iter().map(|prompt| prompt.ids.len()).max().unwrap_or(0);
        Ok(Generation {
            request_id: arrival.request_id,
            arrived: arrival.at,
            served,
            prompts,
            n,
            sampling,
            stop: options.stop,
            cache_salt: options.cache_salt,
            prompt_only: options.prompt_only,
            copies: Semaphore::new(copies_max(longest)),
        })
    }
}

fn check_lengths(options: &Options) -> Result<(), RequestError> {
    let too_many = |param: &str, got: usize, max: usize, what: &str| {
        let message = format!("{param} has {got} {what}, at most {max} are taken");
        Err(RequestError::parameter(param, message))
    };
    if options.stop.len() > STOPS_MAX {
        return too_many("stop", options.stop.len(), STOPS_MAX, "strings");
    }
    if options.stop.iter().any(String::is_empty) {
        return Err(RequestError::parameter("stop", "stop has an empty string, leave it out"));
    }
    if let Some(long) = options.stop.iter().find(|stop| stop.len() > STOP_BYTES_MAX) {
        return too_many("stop", long.len(), STOP_BYTES_MAX, "bytes");
    }
    if options.stop_token_ids.len() > STOP_TOKEN_IDS_MAX {
        return too_many("stop_token_ids", options.stop_token_ids.len(), STOP_TOKEN_IDS_MAX, "ids");
    }
    if options.logit_bias.len() > LOGIT_BIAS_MAX {
        return too_many("logit_bias", options.logit_bias.len(), LOGIT_BIAS_MAX, "entries");
    }
    if options.cache_salt.len() > CACHE_SALT_BYTES_MAX {
        return too_many("cache_salt", options.cache_salt.len(), CACHE_SALT_BYTES_MAX, "bytes");
    }
    Ok(())
}

impl Options {
    fn sampling(&self, advice: &GenerationConfig, context_tokens: u32) -> SamplingParams {
        let max_tokens = if self.prompt_only {
            Some(1)
        } else {
            self.max_tokens
                .or(advice.max_new_tokens.map(|tokens| tokens.max(self.min_tokens).max(1)))
        };
        let is_greedy = advice.do_sample == Some(false);
        let temperature = if is_greedy { Some(0.0) } else { advice.temperature };
        SamplingParams {
            temperature: self.temperature.or(temperature).unwrap_or(1.0),
            top_p: self.top_p.or(advice.top_p).unwrap_or(1.0),
            top_k: self.top_k.or(advice.top_k).unwrap_or(0),
            min_p: self.min_p.or(advice.min_p).unwrap_or(0.0),
            presence_penalty: self.presence_penalty.unwrap_or(0.0),
            frequency_penalty: self.frequency_penalty.unwrap_or(0.0),
            repetition_penalty: self
                .repetition_penalty
                .or(advice.repetition_penalty)
                .unwrap_or(1.0),
            logit_bias: self.logit_bias.clone(),
            seed: self.seed.unwrap_or_else(any_seed),
            stop_token_ids: self.stop_token_ids.clone(),
            ignore_eos: self.ignore_eos,
            min_tokens: if self.prompt_only { 0 } else { self.min_tokens },
            max_tokens: max_tokens.unwrap_or(context_tokens),
            logprobs: self.logprobs,
            prompt_logprobs: self.prompt_logprobs,
        }
    }
}

/// A v4 UUID has six bits that are always the same; no bit of this has.
fn any_seed() -> u64 {
    let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
    high ^ low.rotate_left(32)
}

impl Input {
    fn prompt(
        self,
        served: &Served,
        clock: Duration,
        max_tokens: u32,
    ) -> Result<Prompt, RequestError> {
        let (param, ids, text) = match self {
            Self::Chat(chat) => ("messages", chat.encode(&served.text, clock)?, None),
            Self::Text(text) => ("prompt", served.text.tokenizer.encode(&text)?, Some(text)),
            Self::Tokens(ids) => ("prompt", ids, None),
        };
        if ids.is_empty() {
            return Err(RequestError::parameter(param, format!("{param} is empty, say something")));
        }
        check_ids(param, &ids, served.vocab_size)?;
        let left = u64::from(served.context_tokens).saturating_sub(ids.len() as u64);
        let Some(left) = u32::try_from(left).ok().filter(|left| *left > 0) else {
            let (prompt_tokens, context_tokens) = (ids.len(), served.context_tokens);
            return Err(RequestError::TooLong { param, prompt_tokens, context_tokens });
        };
        Ok(Prompt { ids, text, max_tokens: max_tokens.min(left) })
    }
}

/// Checks that the model has these tokens.
pub(crate) fn check_ids(param: &str, ids: &[u32], vocab_size: u32) -> Result<(), RequestError> {
    match ids.iter().find(|&&id| id >= vocab_size) {
        None => Ok(()),
        Some(id) => {
            let message =
                format!("{param} has token id {id}, the vocabulary has {vocab_size} tokens");
            Err(RequestError::parameter(param, message))
        }
    }
}

impl Chat {
    /// Returns the tokens of the conversation.
    pub(crate) fn encode(&self, text: &Text, clock: Duration) -> Result<Vec<u32>, RequestError> {
        let Some(template) = &text.template else {
            let why = "the model has no chat template, use /v1/completions";
            return Err(RequestError::parameter("messages", why));
        };
        let rendered = template.render(&Conversation {
            messages: &self.messages,
            tools: None,
            add_generation_prompt: self.add_generation_prompt,
            extra: &self.template_kwargs,
            now: clock,
        })?;
        Ok(text.tokenizer.encode_prompt(&rendered)?)
    }
}

impl Generation {
    /// Answers in all; answer `choice` is the `choice % n`-th of prompt `choice / n`.
    pub(crate) fn choices(&self) -> u32 {
        self.n * u32::try_from(self.prompts.len()).expect("bounded with n by CHOICES_MAX")
    }

    pub(crate) fn prompt_of(&self, choice: u32) -> &Prompt {
        &self.prompts[(choice / self.n) as usize]
    }

    pub(crate) fn sampling_of(&self, choice: u32) -> SamplingParams {
        let mut sampling = self.sampling.clone();
        sampling.seed = sampling.seed.wrapping_add(u64::from(choice % self.n));
        sampling.max_tokens = self.prompt_of(choice).max_tokens;
        sampling.min_tokens = sampling.min_tokens.min(sampling.max_tokens);
        sampling
    }

    pub(crate) fn sampling(&self) -> &SamplingParams {
        &self.sampling
    }

    pub(crate) fn text(&self) -> &Arc<Text> {
        &self.served.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_wins_over_advice_and_advice_over_defaults() {
        let advice = GenerationConfig {
            temperature: Some(0.8),
            top_p: Some(0.7),
            ..GenerationConfig::default()
        };
        let options = Options { top_p: Some(0.5), seed: Some(3), ..Options::default() };
        let sampling = options.sampling(&advice, 100);
        assert_eq!((sampling.temperature, sampling.top_p), (0.8, 0.5));
        assert_eq!((sampling.top_k, sampling.repetition_penalty), (0, 1.0));
        assert_eq!((sampling.seed, sampling.max_tokens), (3, 100));
        let greedy = GenerationConfig { do_sample: Some(false), ..advice };
        assert_eq!(options.sampling(&greedy, 100).temperature, 0.0);
    }

    #[test]
    fn only_long_prompts_are_sent_in_turns() {
        assert_eq!(copies_max(0), 128);
        assert_eq!(copies_max(8192), 128);
        assert_eq!(copies_max(131_072), 8);
        assert_eq!(copies_max(usize::MAX / 16), 1);
    }

    #[test]
    fn seeds_that_nobody_chose_differ_in_every_bit() {
        let (mut ones, mut zeros) = (0_u64, 0_u64);
        for _ in 0..256 {
            let seed = any_seed();
            ones |= seed;
            zeros |= !seed;
        }
        assert_eq!((ones, zeros), (u64::MAX, u64::MAX));
    }
}
