//! `/v1/chat/completions`.

use std::sync::Arc;

use glint_core::sampling::TOP_LOGPROBS_MAX;
use serde_json::{Map, Value, json};

use super::fields::Fields;
use super::reply::{Head, Shape};
use super::{Asked, logprobs, options};
use crate::answer::{Event, Piece, Token};
use crate::error::{RequestError, short};
use crate::groups::Groups;
use crate::request::{Arrival, Ask, Chat, Generation, Input};

/// What a message may say who speaks. A role that a template does not know might vanish without a word.
const ROLES: [&str; 7] =
    ["system", "developer", "user", "assistant", "tool", "observation", "function"];
/// Messages of one conversation.
pub(crate) const MESSAGES_MAX: usize = 16_384;

/// Reads a request.
pub(crate) fn read(body: &[u8], groups: &Groups, arrival: Arrival) -> Result<Asked, RequestError> {
    let mut fields = Fields::read(body)?;
    let model = fields.required_string("model")?;
    let mut options = options::take(&mut fields)?;
    let stream = options::stream(&mut fields)?;
    let limit = fields.whole_in("max_tokens", 1, u32::MAX)?;
    options.max_tokens = fields.whole_in("max_completion_tokens", 1, u32::MAX)?.or(limit);
    let wants_logprobs = fields.flag("logprobs")?.unwrap_or(false);
    let alternatives = fields.whole_in("top_logprobs", 0, TOP_LOGPROBS_MAX)?;
    if alternatives.is_some_and(|top| top > 0) && !wants_logprobs {
        let message = "top_logprobs needs logprobs to be true";
        return Err(RequestError::parameter("top_logprobs", message));
    }
    options.logprobs = wants_logprobs.then_some(alternatives.unwrap_or(0));
    if options.prompt_logprobs.is_some() && stream.is_some() {
        return Err(not_streamed());
    }
    let chat = conversation(&mut fields)?;
    refuse_unsupported(&mut fields)?;
    fields.finish()?;

    let ask = Ask { model, inputs: vec![Input::Chat(chat)], options };
    let generation = Arc::new(ask.prepare(groups, arrival)?);
    let shape = Box::new(ChatShape::new(&generation, stream.is_some()));
    Ok(Asked { generation, shape, stream })
}

pub(super) fn not_streamed() -> RequestError {
    let message = "prompt_logprobs cannot be streamed, set stream to false";
    RequestError::parameter("prompt_logprobs", message)
}

fn refuse_unsupported(fields: &mut Fields) -> Result<(), RequestError> {
    let is_empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
    let is = |text: &'static str| move |value: &Value| value == text;
    let is_choice = |value: &Value| value == "none" || value == "auto";
    let no_tools = "this version does not call tools, describe them in a message";
    fields.refuse("tools", is_empty, no_tools)?;
    fields.refuse("tool_choice", is_choice, no_tools)?;
    fields.refuse("functions", is_empty, no_tools)?;
    fields.refuse("function_call", is_choice, no_tools)?;
    let is_text = |value: &Value| value.get("type").is_some_and(|kind| kind == "text");
    let free = "answers are free text, use {\"type\": \"text\"}";
    fields.refuse("response_format", is_text, free)?;
    let only_text = "answers are text only";
    fields.refuse("modalities", |value| *value == json!(["text"]), only_text)?;
    fields.refuse("audio", |_| false, only_text)?;
    fields.refuse("web_search_options", |_| false, "nothing is searched, leave it out")?;
    fields.refuse("reasoning_effort", is("none"), "the model has no such switch, leave it out")?;
    fields.refuse("verbosity", is("medium"), "the model has no such switch, leave it out")
}

/// Takes the conversation and what the template is to do with it.
pub(super) fn conversation(fields: &mut Fields) -> Result<Chat, RequestError> {
    let messages = match fields.take("messages") {
        None => return Err(fields.missing("messages")),
        Some(Value::Array(messages)) if messages.is_empty() => {
            let message = "messages is empty, send at least one message";
            return Err(RequestError::parameter("messages", message));
        }
        Some(Value::Array(messages)) => messages,
        Some(_) => {
            let message = "messages is no list, use a list of objects with role and content";
            return Err(RequestError::parameter("messages", message));
        }
    };
    check_count(messages.len())?;
    let messages = messages.into_iter().enumerate().map(|(at, message)| self::message(at, message));
    Ok(Chat {
        messages: messages.collect::<Result<_, _>>()?,
        add_generation_prompt: fields.flag("add_generation_prompt")?.unwrap_or(true),
        template_kwargs: fields.object("chat_template_kwargs")?.unwrap_or_default(),
    })
}

/// Refuses a conversation of too many messages.
pub(crate) fn check_count(messages: usize) -> Result<(), RequestError> {
    if messages <= MESSAGES_MAX {
        return Ok(());
    }
    let message = format!("{messages} messages, at most {MESSAGES_MAX} are taken");
    Err(RequestError::parameter("messages", message))
}

/// Returns a message as a template reads it: its content is one text.
fn message(at: usize, message: Value) -> Result<Value, RequestError> {
    let Value::Object(message) = message else {
        let path = format!("messages[{at}]");
        let text = format!("{path} is no object, use one with role and content");
        return Err(RequestError::parameter(path, text));
    };
    let mut fields = Fields::of(format!("messages[{at}]."), message);
    let role = fields.required_string("role")?;
    let role = known_role(&fields.path("role"), role)?;
    let content = fields.take("content");
    let content = content.map(|content| self::content(&fields, content)).transpose()?;
    let calls = fields.take("tool_calls");
    let content = match content {
        Some(content) => content,
        None if role == "assistant" => String::new(),
        None => return Err(fields.missing("content")),
    };
    let mut plain = Map::new();
    plain.insert("role".to_owned(), role.into());
    plain.insert("content".to_owned(), content.into());
    if let Some(calls) = calls {
        plain.insert("tool_calls".to_owned(), calls);
    }
    for name in ["name", "tool_call_id", "metadata", "reasoning_content"] {
        if let Some(value) = fields.take(name) {
            plain.insert(name.to_owned(), value);
        }
    }
    // What OpenAI's own answers have beside the content, so that they can be sent back as they came.
    let is_empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
    fields.refuse("annotations", is_empty, "leave it out")?;
    fields.refuse("refusal", |_| false, "leave it out")?;
    fields.refuse("audio", |_| false, "messages are text only")?;
    fields.refuse("function_call", |_| false, "use tool_calls")?;
    fields.finish()?;
    Ok(plain.into())
}

/// Returns who speaks, as templates know it; `path` names the field.
pub(crate) fn known_role(path: &str, role: String) -> Result<String, RequestError> {
    if role == "developer" {
        // OpenAI's new name for the same thing, which no template of GLM knows.
        return Ok("system".to_owned());
    }
    if ROLES.contains(&role.as_str()) {
        return Ok(role);
    }
    let text = format!("{path} is {:?}, use one of {}", short(&role), ROLES.join(", "));
    Err(RequestError::parameter(path, text))
}

/// Content is a string, or a list of parts of which each is text.
fn content(fields: &Fields, content: Value) -> Result<String, RequestError> {
    let parts = match content {
        Value::String(text) => return Ok(text),
        Value::Array(parts) => parts,
        _ => {
            let path = fields.path("content");
            let text = format!("{path} is neither a string nor a list of parts");
            return Err(RequestError::parameter(path, text));
        }
    };
    let mut whole = String::new();
    for (at, part) in parts.into_iter().enumerate() {
        let path = fields.path(&format!("content[{at}]"));
        let Value::Object(part) = part else {
            let text = format!("{path} is no object, use {{\"type\": \"text\", \"text\": \"…\"}}");
            return Err(RequestError::parameter(path, text));
        };
        let mut part = Fields::of(format!("{path}."), part);
        let kind = part.required_string("type")?;
        if kind != "text" {
            let why = format!("a part of type {:?}; this model reads text only", short(&kind));
            return Err(RequestError::unsupported(path, &why));
        }
        whole.push_str(&part.required_string("text")?);
        part.finish()?;
    }
    Ok(whole)
}

/// The form of `chat.completion` and its chunks.
struct ChatShape {
    head: Head,
    generation: Arc<Generation>,
    has_logprobs: bool,
}

impl ChatShape {
    fn new(generation: &Arc<Generation>, is_streamed: bool) -> Self {
        let object = if is_streamed { "chat.completion.chunk" } else { "chat.completion" };
        Self {
            head: Head::new("chatcmpl", object, &generation.served.name),
            generation: Arc::clone(generation),
            has_logprobs: generation.sampling().logprobs.is_some(),
        }
    }

    fn logprobs(&self, tokens: &[Token]) -> Value {
        if self.has_logprobs {
            logprobs::chat(&self.generation.text().tokenizer, tokens)
        } else {
            Value::Null
        }
    }

    fn chunk(&self, index: u32, delta: &Value, logprobs: &Value, reason: Option<&str>) -> Value {
        self.head.with(vec![json!({
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": reason,
        })])
    }
}

impl Shape for ChatShape {
    fn begin(&mut self) -> Vec<Value> {
        let role = json!({"role": "assistant", "content": ""});
        (0..self.generation.choices())
            .map(|index| self.chunk(index, &role, &Value::Null, None))
            .collect()
    }

    fn event(&mut self, event: Event) -> Vec<Value> {
        let piece = match event {
            Event::Prompt { .. } => return Vec::new(),
            Event::Piece(piece) => piece,
        };
        let Piece { choice, text, tokens, end } = piece;
        let mut chunks = Vec::new();
        if !text.is_empty() || !tokens.is_empty() {
            let logprobs = self.logprobs(&tokens);
            chunks.push(self.chunk(choice, &json!({"content": text}), &logprobs, None));
        }
        if let Some(end) = end {
            chunks.push(self.chunk(choice, &json!({}), &Value::Null, Some(end.reason)));
        }
        chunks
    }

    fn last(&mut self) -> Value {
        self.head.with(Vec::new())
    }

    fn whole(&mut self, events: Vec<Event>) -> Value {
        #[derive(Default)]
        struct Choice {
            text: String,
            tokens: Vec<Token>,
            reason: &'static str,
        }
        let count = self.generation.choices() as usize;
        let mut choices: Vec<Choice> = (0..count).map(|_| Choice::default()).collect();
        let mut prompt = None;
        for event in events {
            match event {
                Event::Prompt { logprobs, .. } => prompt = Some(logprobs),
                Event::Piece(piece) => {
                    let choice = &mut choices[piece.choice as usize];
                    choice.text.push_str(&piece.text);
                    choice.tokens.extend(piece.tokens);
                    choice.reason = piece.end.map_or(choice.reason, |end| end.reason);
                }
            }
        }
        let choices = choices.into_iter().enumerate().map(|(index, choice)| {
            json!({
                "index": index,
                "message": {"role": "assistant", "content": choice.text, "refusal": null},
                "logprobs": self.logprobs(&choice.tokens),
                "finish_reason": choice.reason,
            })
        });
        let mut object = self.head.with(choices.collect());
        if let Some(logprobs) = prompt {
            let tokenizer = &self.generation.text().tokenizer;
            let ids = &self.generation.prompts[0].ids;
            object["prompt_logprobs"] = logprobs::prompt(tokenizer, ids, &logprobs);
        }
        object
    }
}
