//! What does a request look like on the wire?

use bytes::Bytes;
use glint_proto::v1;
use serde::Serialize;
use serde_json::{Value, value::RawValue};

use super::{Endpoint, PromptForm, Target};
use crate::{
    plan::{Piece, Prompt, Session, Turn},
    tokens,
};

/// A request, ready to be sent.
#[derive(Clone, Debug)]
pub struct Ask {
    pub(super) body: Body,
    output_tokens: u32,
    /// What the conversation grows by.
    said: Said,
}

#[derive(Clone, Debug)]
pub(super) enum Body {
    Http(Bytes),
    Chat(Box<v1::ChatRequest>),
    Generate(Box<v1::TextRequest>),
}

#[derive(Clone, Debug)]
enum Said {
    Nothing,
    Text(String),
    Tokens(Vec<u32>),
}

/// The prompt cannot be sent to this endpoint.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RenderError(&'static str);

/// What was said in a session so far.
#[derive(Clone, Debug, Default)]
pub struct Conversation {
    /// Whether a later turn stands on what was said.
    goes_on: bool,
    /// The user's and the server's texts in turn.
    texts: Vec<String>,
    tokens: Vec<u32>,
}

impl Ask {
    /// Makes the request of a turn.
    ///
    /// # Errors
    ///
    /// The prompt is of a form that this endpoint does not take.
    pub fn new(
        target: &Target,
        turn: &Turn,
        conversation: &Conversation,
    ) -> Result<Self, RenderError> {
        let prompt = Content::of(target, &turn.prompt, conversation)?;
        let said = match (&turn.prompt, &prompt) {
            _ if !conversation.goes_on => Said::Nothing,
            (Prompt::Whole(pieces) | Prompt::Next(pieces), Content::Tokens(_)) => {
                Said::Tokens(target.vocabulary.ids(pieces))
            }
            (Prompt::Whole(pieces) | Prompt::Next(pieces), _) => Said::Text(tokens::text(pieces)),
            (Prompt::Text(text), _) => Said::Text(text.to_string()),
            (Prompt::TokenIds(ids), _) => Said::Tokens(ids.to_vec()),
            (Prompt::Messages(_), _) => {
                return Err(RenderError(
                    "a made-up turn cannot go on after messages: write the messages of every turn out",
                ));
            }
        };
        let body = match target.endpoint {
            Endpoint::Chat | Endpoint::Completions => Body::Http(http(target, turn, &prompt)?),
            Endpoint::Grpc => grpc(target, turn, prompt)?,
        };
        Ok(Self { body, output_tokens: turn.output_tokens, said })
    }

    /// Tokens that the workload wants.
    #[must_use]
    pub fn output_tokens(&self) -> u32 {
        self.output_tokens
    }
}

impl Conversation {
    /// Nothing was said yet.
    #[must_use]
    pub fn of(session: &Session) -> Self {
        let goes_on = session.turns.iter().any(|turn| matches!(turn.prompt, Prompt::Next(_)));
        Self { goes_on, ..Self::default() }
    }

    /// Whether a turn of the session stands on what was said before it.
    pub(crate) fn goes_on(&self) -> bool {
        self.goes_on
    }

    /// Adds what was asked and what was answered, where the next turn needs it. An answer whose token ids the server does not
    /// tell counts as as many made-up ones.
    pub fn grow(&mut self, ask: Ask, answer: &super::Answer, target: &Target) {
        match ask.said {
            Said::Nothing => {}
            Said::Text(text) => {
                self.texts.push(text);
                self.texts.push(answer.pieces.as_deref().unwrap_or_default().concat());
            }
            Said::Tokens(asked) => {
                self.tokens.extend(asked);
                if answer.token_ids.is_empty() {
                    let name = self.tokens.len() as u64 ^ u64::from(u32::MAX);
                    let made_up = Piece { name, tokens: answer.output_tokens() };
                    self.tokens.extend(target.vocabulary.ids(&[made_up]));
                } else {
                    self.tokens.extend(&answer.token_ids);
                }
            }
        }
    }
}

/// A prompt in the form in which it is sent.
enum Content<'a> {
    Tokens(Vec<u32>),
    /// The user's and the server's texts in turn; one that stands alone is the whole prompt.
    Texts(Vec<&'a str>, String),
    Messages(&'a RawValue),
}

impl<'a> Content<'a> {
    fn of(
        target: &Target,
        prompt: &'a Prompt,
        before: &'a Conversation,
    ) -> Result<Self, RenderError> {
        let as_tokens = match (target.form, target.endpoint) {
            (PromptForm::Text, _) => false,
            (PromptForm::Tokens, Endpoint::Completions | Endpoint::Grpc) => true,
            (PromptForm::Tokens, Endpoint::Chat) => {
                return Err(RenderError(
                    "the chat endpoint takes no token ids: use --endpoint completions, or --prompt-form text",
                ));
            }
        };
        Ok(match prompt {
            Prompt::Whole(pieces) if as_tokens => Self::Tokens(target.vocabulary.ids(pieces)),
            Prompt::Whole(pieces) => Self::Texts(Vec::new(), tokens::text(pieces)),
            Prompt::Next(pieces) if as_tokens => {
                let mut ids = before.tokens.clone();
                ids.extend(target.vocabulary.ids(pieces));
                Self::Tokens(ids)
            }
            Prompt::Next(pieces) => {
                Self::Texts(before.texts.iter().map(String::as_str).collect(), tokens::text(pieces))
            }
            Prompt::Text(text) => Self::Texts(Vec::new(), text.to_string()),
            Prompt::TokenIds(ids) => Self::Tokens(ids.to_vec()),
            Prompt::Messages(messages) => Self::Messages(messages),
        })
    }

    fn messages(&self) -> Result<Messages<'_>, RenderError> {
        match self {
            Self::Messages(messages) => Ok(Messages::Given(messages)),
            Self::Texts(before, last) => Ok(Messages::Made(
                roles(before, last).map(|(role, content)| Message { role, content }).collect(),
            )),
            Self::Tokens(_) => Err(RenderError(
                "the chat endpoint takes no token ids: use --endpoint completions or grpc",
            )),
        }
    }
}

/// The body of an HTTP request.
#[derive(Serialize)]
struct HttpBody<'a> {
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<Messages<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<HttpPrompt<'a>>,
    max_tokens: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ignore_eos: Option<bool>,
    #[serde(flatten)]
    extra: &'a serde_json::Map<String, Value>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Messages<'a> {
    Given(&'a RawValue),
    Made(Vec<Message<'a>>),
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum HttpPrompt<'a> {
    Ids(&'a [u32]),
    Text(String),
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

fn roles<'a>(
    before: &'a [&'a str],
    last: &'a str,
) -> impl Iterator<Item = (&'static str, &'a str)> {
    let roles = ["user", "assistant"].into_iter().cycle();
    roles.zip(before.iter().copied().chain([last]))
}

const MESSAGES_ELSEWHERE: RenderError =
    RenderError("messages go to the chat endpoint only: use --endpoint chat");

fn http(target: &Target, turn: &Turn, prompt: &Content<'_>) -> Result<Bytes, RenderError> {
    let (messages, prompt) = match (target.endpoint, prompt) {
        (Endpoint::Chat, prompt) => (Some(prompt.messages()?), None),
        (_, Content::Tokens(ids)) => (None, Some(HttpPrompt::Ids(ids))),
        (_, Content::Texts(before, last)) => {
            (None, Some(HttpPrompt::Text(format!("{}{last}", before.concat()))))
        }
        (_, Content::Messages(_)) => return Err(MESSAGES_ELSEWHERE),
    };
    let body = HttpBody {
        model: &target.model,
        messages,
        prompt,
        max_tokens: turn.output_tokens,
        stream: target.stream.then_some(true),
        stream_options: target.stream.then_some(StreamOptions { include_usage: true }),
        ignore_eos: target.ignore_eos.then_some(true),
        extra: &target.extra,
    };
    serde_json::to_vec(&body)
        .map(Bytes::from)
        .map_err(|_| RenderError("messages are no JSON array of role and content"))
}

fn grpc(target: &Target, turn: &Turn, prompt: Content<'_>) -> Result<Body, RenderError> {
    let of = |name: &str| target.extra.get(name);
    let number = |name: &str| of(name).and_then(Value::as_f64);
    if let Some(name) =
        target.extra.keys().find(|name| !["temperature", "top_p", "seed"].contains(&name.as_str()))
    {
        tracing::debug!(%name, "gRPC knows no such field here");
        return Err(RenderError("over gRPC, --extra-body takes temperature, top_p and seed only"));
    }
    let options = v1::Options {
        max_tokens: Some(turn.output_tokens),
        ignore_eos: target.ignore_eos.then_some(true),
        #[expect(clippy::cast_possible_truncation, reason = "a temperature is no large number")]
        temperature: number("temperature").map(|value| value as f32),
        #[expect(clippy::cast_possible_truncation, reason = "a share is no large number")]
        top_p: number("top_p").map(|value| value as f32),
        seed: of("seed").and_then(Value::as_i64),
        ..v1::Options::default()
    };
    let model = target.model.to_string();
    let text = |prompt| {
        let request = v1::TextRequest {
            model: model.clone(),
            prompt: Some(prompt),
            options: Some(options.clone()),
        };
        Body::Generate(Box::new(request))
    };
    Ok(match prompt {
        Content::Tokens(ids) => text(v1::text_request::Prompt::TokenIds(v1::TokenIds { ids })),
        Content::Texts(before, last)
            if before.is_empty() && !matches!(turn.prompt, Prompt::Next(_)) =>
        {
            text(v1::text_request::Prompt::Text(last))
        }
        Content::Texts(before, last) => {
            let message = |(role, content): (&str, &str)| v1::ChatMessage {
                role: role.to_owned(),
                content: content.to_owned(),
                name: String::new(),
            };
            let messages = roles(&before, &last).map(message).collect();
            Body::Chat(Box::new(v1::ChatRequest { model, messages, options: Some(options) }))
        }
        Content::Messages(_) => return Err(MESSAGES_ELSEWHERE),
    })
}
