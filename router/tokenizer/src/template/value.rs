//! What does a template see of a request?

use minijinja::Value;
use serde_json::Value as Json;

use super::guard::{Marker, Origin};
use super::{Conversation, clock};

/// The roles that templates print between `<|` and `|>`. Only these may become a part of a special token.
const ROLES: [&str; 7] =
    ["system", "user", "assistant", "observation", "tool", "developer", "function"];

/// A request, measured.
pub(super) struct Input<'a> {
    conversation: &'a Conversation<'a>,
    strings: Vec<&'a str>,
    bytes: usize,
}

impl<'a> Input<'a> {
    pub(super) fn new(conversation: &'a Conversation<'a>) -> Self {
        let mut strings = Vec::new();
        let parts = [Some(conversation.messages), conversation.tools];
        for part in parts.into_iter().flatten() {
            collect(part, &mut strings);
        }
        for (name, value) in conversation.extra {
            strings.push(name.as_str());
            collect(value, &mut strings);
        }
        // A value costs something even without text.
        let bytes = strings.iter().map(|string| string.len() + 16).sum();
        Self { conversation, strings, bytes }
    }

    /// Every string that a client wrote.
    pub(super) fn strings(&self) -> impl Iterator<Item = &str> {
        self.strings.iter().copied()
    }

    /// Roughly the size of the request.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The variables of the template, the client's text marked.
    pub(super) fn variables(&self, marker: &Marker<'_>) -> Vec<(Value, Value)> {
        let Conversation { messages, tools, add_generation_prompt, extra, now } =
            *self.conversation;
        let fixed = [
            ("messages", self::messages(messages, marker)),
            ("tools", tools.map_or(Value::from(()), |tools| value(tools, marker))),
            ("documents", Value::from(())),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
            (
                "strftime_now",
                Value::from_function(move |format: &str| clock::strftime(now, format)),
            ),
        ];
        // Later pairs win: a client cannot replace what we set.
        extra
            .iter()
            .map(|(name, json)| (Value::from(name.as_str()), value(json, marker)))
            .chain(fixed.map(|(name, value)| (Value::from(name), value)))
            .collect()
    }
}

fn collect<'a>(json: &'a Json, strings: &mut Vec<&'a str>) {
    match json {
        Json::Null | Json::Bool(_) | Json::Number(_) => strings.push(""),
        Json::String(text) => strings.push(text),
        Json::Array(items) => items.iter().for_each(|item| collect(item, strings)),
        Json::Object(fields) => {
            for (name, field) in fields {
                strings.push(name);
                collect(field, strings);
            }
        }
    }
}

/// Like [`value`], but the role of a message is the template's business, if it is one.
fn messages(json: &Json, marker: &Marker<'_>) -> Value {
    let Json::Array(messages) = json else { return value(json, marker) };
    let message = |json: &Json| {
        let Json::Object(fields) = json else { return value(json, marker) };
        let role = fields.get("role").and_then(Json::as_str);
        let origin = if role == Some("assistant") { Origin::Assistant } else { Origin::Client };
        let marker = marker.of(origin);
        Value::from_pairs(fields.iter().map(|(name, field)| match (name.as_str(), field) {
            ("role", Json::String(role)) if ROLES.contains(&role.as_str()) => {
                (Value::from("role"), Value::from(role.as_str()))
            }
            ("role", Json::String(role)) => (Value::from("role"), marker.role(role)),
            (name, field) => (marker.key(name), value(field, &marker)),
        }))
    };
    messages.iter().map(message).collect()
}

fn value(json: &Json, marker: &Marker<'_>) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(bool) => Value::from(*bool),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::from(number),
            (None, Some(number)) => Value::from(number),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => marker.text(text),
        Json::Array(items) => items.iter().map(|item| value(item, marker)).collect(),
        Json::Object(fields) => Value::from_pairs(
            fields.iter().map(|(name, field)| (marker.key(name), value(field, marker))),
        ),
    }
}
