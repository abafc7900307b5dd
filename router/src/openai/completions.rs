//! `/v1/completions`.

use std::sync::Arc;

use glint_core::TokenLogprobs;
use glint_core::sampling::TOP_LOGPROBS_MAX;
use glint_tokenizer::Specials;
use serde_json::{Value, json};

use super::chat::not_streamed;
use super::fields::{Fields, token_ids};
use super::logprobs::Columns;
use super::reply::{Head, Shape};
use super::{Asked, logprobs, options};
use crate::answer::{Event, Piece};
use crate::error::RequestError;
use crate::groups::Groups;
use crate::request::{Arrival, Ask, Generation, Input, Prompt};

/// Tokens of an answer whose length nobody chose; OpenAI's own default.
const MAX_TOKENS: u32 = 16;

/// Reads a request.
pub(crate) fn read(body: &[u8], groups: &Groups, arrival: Arrival) -> Result<Asked, RequestError> {
    let mut fields = Fields::read(body)?;
    let model = fields.required_string("model")?;
    let mut options = options::take(&mut fields)?;
    let stream = options::stream(&mut fields)?;
    let echo = fields.flag("echo")?.unwrap_or(false);
    options.logprobs = fields.whole_in("logprobs", 0, TOP_LOGPROBS_MAX)?;
    let wants_prompt = options.prompt_logprobs.is_some();
    if wants_prompt && stream.is_some() {
        return Err(not_streamed());
    }
    if echo && !wants_prompt {
        // What is echoed is described as well.
        options.prompt_logprobs = options.logprobs;
    }
    let least = u32::from(!(echo || wants_prompt));
    let max_tokens = fields.whole_in("max_tokens", least, u32::MAX)?;
    let max_tokens = max_tokens.unwrap_or(MAX_TOKENS.max(options.min_tokens));
    options.max_tokens = Some(max_tokens);
    options.prompt_only = max_tokens == 0 && (echo || wants_prompt);
    let inputs = prompts(&mut fields)?;
    let n = u64::from(options.n.unwrap_or(1));
    fields.refuse("best_of", |value| value.as_u64() == Some(n), "use n")?;
    fields.refuse("suffix", |value| value == "", "this model does not fill gaps")?;
    fields.finish()?;

    let ask = Ask { model, inputs, options };
    let generation = Arc::new(ask.prepare(groups, arrival)?);
    let shape = Completions::new(&generation, echo, wants_prompt);
    Ok(Asked { generation, shape: Box::new(shape), stream })
}

/// A prompt is a text or token ids, or there is a list of them.
fn prompts(fields: &mut Fields) -> Result<Vec<Input>, RequestError> {
    let wrong = |why: &str| {
        let use_instead = "use a string, a list of token ids, or a list of those";
        RequestError::parameter("prompt", format!("prompt {why}, {use_instead}"))
    };
    let list = match fields.take("prompt") {
        None => return Err(fields.missing("prompt")),
        Some(Value::String(text)) => return Ok(vec![Input::Text(text)]),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(wrong("is neither a string nor a list")),
    };
    match list.first() {
        None => Err(wrong("is empty")),
        Some(Value::Number(_)) => Ok(vec![Input::Tokens(token_ids("prompt", &list)?)]),
        Some(_) => list
            .into_iter()
            .map(|prompt| match prompt {
                Value::String(text) => Ok(Input::Text(text)),
                Value::Array(ids) => Ok(Input::Tokens(token_ids("prompt", &ids)?)),
                _ => Err(wrong("has an entry of another kind")),
            })
            .collect(),
    }
}

/// The form of `text_completion`, streamed or whole.
struct Completions {
    head: Head,
    generation: Arc<Generation>,
    echo: bool,
    /// The client asked for `prompt_logprobs` by name.
    wants_prompt: bool,
    /// Log-probabilities of each choice, if asked for.
    columns: Option<Vec<Columns>>,
    /// Choices whose prompt was echoed.
    echoed: Vec<bool>,
}

impl Completions {
    fn new(generation: &Arc<Generation>, echo: bool, wants_prompt: bool) -> Self {
        let count = generation.choices() as usize;
        let columns = generation.sampling().logprobs.map(|top| vec![Columns::new(0, top); count]);
        Self {
            head: Head::new("cmpl", "text_completion", &generation.served.name),
            generation: Arc::clone(generation),
            echo,
            wants_prompt,
            columns,
            echoed: vec![false; count],
        }
    }

    fn prompt_text(&self, prompt: &Prompt) -> String {
        let decode = || self.generation.text().tokenizer.decode(&prompt.ids, Specials::Keep);
        prompt.text.clone().unwrap_or_else(decode)
    }

    /// Returns the prompt's text if it is still to be echoed, and describes its tokens.
    fn echo(&mut self, choice: u32, prompt_logprobs: &[TokenLogprobs]) -> String {
        let at = choice as usize;
        if !self.echo || std::mem::replace(&mut self.echoed[at], true) {
            return String::new();
        }
        let prompt = self.generation.prompt_of(choice);
        if let Some(columns) = &mut self.columns {
            let tokenizer = &self.generation.text().tokenizer;
            let logprobs = std::iter::once(None).chain(prompt_logprobs.iter().map(Some));
            for (id, logprobs) in prompt.ids.iter().zip(logprobs) {
                columns[at].push(tokenizer, *id, logprobs);
            }
        }
        self.prompt_text(prompt)
    }

    fn describe(&mut self, piece: &Piece) {
        if let Some(columns) = &mut self.columns {
            let tokenizer = &self.generation.text().tokenizer;
            for token in &piece.tokens {
                columns[piece.choice as usize].push(tokenizer, token.id, token.logprobs.as_ref());
            }
        }
    }

    fn choice(&mut self, index: u32, text: &str, reason: Option<&str>) -> Value {
        let columns = self.columns.as_mut().map(|columns| columns[index as usize].take());
        json!({"index": index, "text": text, "logprobs": columns, "finish_reason": reason})
    }
}

impl Shape for Completions {
    fn begin(&mut self) -> Vec<Value> {
        Vec::new()
    }

    fn event(&mut self, event: Event) -> Vec<Value> {
        let (choice, text, reason) = match event {
            Event::Prompt { choice, logprobs } => (choice, self.echo(choice, &logprobs), None),
            Event::Piece(piece) => {
                let mut text = self.echo(piece.choice, &[]);
                text.push_str(&piece.text);
                self.describe(&piece);
                (piece.choice, text, piece.end.map(|end| end.reason))
            }
        };
        if text.is_empty() && reason.is_none() {
            return Vec::new();
        }
        let choice = self.choice(choice, &text, reason);
        vec![self.head.with(vec![choice])]
    }

    fn last(&mut self) -> Value {
        self.head.with(Vec::new())
    }

    fn whole(&mut self, events: Vec<Event>) -> Value {
        let count = self.generation.choices();
        let mut texts = vec![String::new(); count as usize];
        let mut reasons = vec![None; count as usize];
        let mut prompts = vec![None; count as usize];
        for event in events {
            match event {
                Event::Prompt { choice, logprobs } => {
                    texts[choice as usize].push_str(&self.echo(choice, &logprobs));
                    prompts[choice as usize] = Some(logprobs);
                }
                Event::Piece(piece) => {
                    let text = self.echo(piece.choice, &[]);
                    let at = piece.choice as usize;
                    texts[at].push_str(&text);
                    texts[at].push_str(&piece.text);
                    self.describe(&piece);
                    reasons[at] = piece.end.map(|end| end.reason);
                }
            }
        }
        let choices = (0..count).map(|index| {
            let at = index as usize;
            let mut choice = self.choice(index, &texts[at], reasons[at]);
            if let Some(logprobs) = prompts[at].as_deref().filter(|_| self.wants_prompt) {
                let ids = &self.generation.prompt_of(index).ids;
                let tokenizer = &self.generation.text().tokenizer;
                choice["prompt_logprobs"] = logprobs::prompt(tokenizer, ids, logprobs);
            }
            choice
        });
        let choices = choices.collect();
        self.head.with(choices)
    }
}
