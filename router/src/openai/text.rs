//! `/tokenize`, `/detokenize` and `/v1/models`.

use glint_tokenizer::Specials;
use serde_json::{Value, json};

use super::chat::conversation;
use super::fields::Fields;
use crate::error::{RequestError, short};
use crate::groups::Groups;
use crate::request::{Arrival, check_ids};

/// Text in which special tokens are what they spell, or a conversation for the template.
pub(crate) fn tokenize(
    body: &[u8],
    groups: &Groups,
    arrival: &Arrival,
) -> Result<Value, RequestError> {
    let mut fields = Fields::read(body)?;
    let served = groups.served(&fields.required_string("model")?)?;
    let ids = if let Some(prompt) = fields.string("prompt")? {
        served.text.tokenizer.encode(&prompt)?
    } else if !fields.has("messages") {
        let message = "prompt is missing, send a text as prompt or a conversation as messages";
        return Err(RequestError::parameter("prompt", message));
    } else {
        let chat = conversation(&mut fields)?;
        chat.encode(&served.text, arrival.clock)?
    };
    // As the template or the text has them, and never others: there is nothing to choose.
    fields.let_pass(&["add_special_tokens"]);
    fields.finish()?;
    Ok(json!({"count": ids.len(), "max_model_len": served.context_tokens, "tokens": ids}))
}

/// Token ids back to text, special tokens by their names.
pub(crate) fn detokenize(body: &[u8], groups: &Groups) -> Result<Value, RequestError> {
    let mut fields = Fields::read(body)?;
    let served = groups.served(&fields.required_string("model")?)?;
    let ids = fields.token_ids("tokens")?.ok_or_else(|| fields.missing("tokens"))?;
    fields.finish()?;
    check_ids("tokens", &ids, served.vocab_size)?;
    Ok(json!({"prompt": served.text.tokenizer.decode(&ids, Specials::Keep)}))
}

/// All models that can answer, or that of one name.
pub(crate) fn models(groups: &Groups, name: Option<&str>) -> Result<Value, RequestError> {
    let object = |(name, context_tokens): (String, u32)| {
        json!({
            "id": name,
            "object": "model",
            // Nobody knows; clients want a number.
            "created": 0,
            "owned_by": "glint",
            "max_model_len": context_tokens,
        })
    };
    let names = groups.names();
    match name {
        None => {
            let data: Vec<Value> = names.into_iter().map(object).collect();
            Ok(json!({"object": "list", "data": data}))
        }
        Some(name) => names
            .get_key_value(name)
            .map(|(name, context)| object((name.clone(), *context)))
            .ok_or_else(|| RequestError::UnknownModel { name: short(&name) }),
    }
}
