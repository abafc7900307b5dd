//! Which parameters do chat and completions share?

use glint_core::sampling::TOP_LOGPROBS_MAX;
use serde_json::Value;

use super::fields::Fields;
use crate::error::{RequestError, short};
use crate::request::{CHOICES_MAX, Options};

/// How a streamed answer is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stream {
    /// A last event with the usage.
    pub(crate) include_usage: bool,
}

/// They say who asks and where to keep it, not what to answer.
const HARMLESS: [&str; 9] = [
    "user",
    "store",
    "metadata",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "parallel_tool_calls",
    "prediction",
];

/// Takes what both endpoints know; `max_tokens` and log-probabilities differ and are not among it.
pub(super) fn take(fields: &mut Fields) -> Result<Options, RequestError> {
    fields.let_pass(&HARMLESS);
    Ok(Options {
        temperature: fields.float("temperature")?,
        top_p: fields.float("top_p")?,
        top_k: top_k(fields)?,
        min_p: fields.float("min_p")?,
        presence_penalty: fields.float("presence_penalty")?,
        frequency_penalty: fields.float("frequency_penalty")?,
        repetition_penalty: fields.float("repetition_penalty")?,
        logit_bias: logit_bias(fields)?,
        seed: seed(fields)?,
        stop: fields.strings("stop")?,
        stop_token_ids: fields.token_ids("stop_token_ids")?.unwrap_or_default(),
        ignore_eos: fields.flag("ignore_eos")?.unwrap_or(false),
        min_tokens: fields.whole("min_tokens")?.unwrap_or(0),
        n: fields.whole_in("n", 1, CHOICES_MAX)?,
        prompt_logprobs: fields.whole_in("prompt_logprobs", 0, TOP_LOGPROBS_MAX)?,
        cache_salt: fields.string("cache_salt")?.unwrap_or_default(),
        ..Options::default()
    })
}

/// Takes `stream` and its options.
pub(super) fn stream(fields: &mut Fields) -> Result<Option<Stream>, RequestError> {
    let is_streamed = fields.flag("stream")?.unwrap_or(false);
    let options = fields.object("stream_options")?;
    if options.is_some() && !is_streamed {
        let message = "stream_options needs stream to be true";
        return Err(RequestError::parameter("stream_options", message));
    }
    let mut options = Fields::of("stream_options.".to_owned(), options.unwrap_or_default());
    let include_usage = options.flag("include_usage")?.unwrap_or(false);
    // Padding against eavesdroppers who measure packets; it changes no answer.
    options.let_pass(&["include_obfuscation"]);
    options.finish()?;
    Ok(is_streamed.then_some(Stream { include_usage }))
}

/// -1 means all, as vLLM has it.
fn top_k(fields: &mut Fields) -> Result<Option<u32>, RequestError> {
    match fields.take("top_k") {
        None => Ok(None),
        Some(value) if value.as_i64() == Some(-1) => Ok(Some(0)),
        Some(value) => {
            let whole = value.as_u64().and_then(|whole| u32::try_from(whole).ok());
            whole.map(Some).ok_or_else(|| {
                let message =
                    format!("top_k is {}, use a whole number; 0 or -1 keeps all", short(&value));
                RequestError::parameter("top_k", message)
            })
        }
    }
}

/// Negative seeds are two's complement.
fn seed(fields: &mut Fields) -> Result<Option<u64>, RequestError> {
    let Some(value) = fields.take("seed") else { return Ok(None) };
    let seed = value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned));
    seed.map(Some).ok_or_else(|| {
        let message = format!("seed is {}, use a whole number of 64 bits", short(&value));
        RequestError::parameter("seed", message)
    })
}

fn logit_bias(fields: &mut Fields) -> Result<Vec<(u32, f32)>, RequestError> {
    let entry = |(id, bias): (String, Value)| {
        let pair = id.parse::<u32>().ok().zip(bias.as_f64().map(|bias| bias as f32));
        pair.ok_or_else(|| {
            let message = format!(
                "logit_bias has {}: {}, use token ids and numbers from -100 to 100",
                short(&id),
                short(&bias)
            );
            RequestError::parameter("logit_bias", message)
        })
    };
    fields.object("logit_bias")?.unwrap_or_default().into_iter().map(entry).collect()
}
