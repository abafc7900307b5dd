//! How does a conversation become text?
//!
//! Chat templates are Jinja programs that were written for one interpreter: Python's, as Hugging Face sets it up. Here
//! minijinja plays that role, with `trim_blocks`, `lstrip_blocks`, Python's methods, printing and `tojson`. A template is
//! a stranger's program: it gets fuel in proportion to its input and a limit on its output.
//!
//! It runs once, and a second time if a message holds something that could become a special token; see [`guard`].

mod clock;
mod guard;
mod python;
mod value;

use std::time::Duration;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value, escape_formatter};
use serde_json::Value as Json;

use crate::assets::{Assets, CHAT_TEMPLATE, LoadError, TOKENIZER_CONFIG};
use crate::config::TokenizerConfig;
use crate::prompt::Prompt;
use crate::tokenizer::Tokenizer;
use guard::{Guard, Marker};
use value::Input;

/// Fuel of every render: more than any published template needs for a long conversation.
const FUEL: u64 = 1_000_000;
/// Output of every render, before what the input adds.
const OUTPUT_BYTES: usize = 4 << 20;
/// A template may repeat its input, or indent it deeply, this often.
const OUTPUT_PER_INPUT: usize = 8;

/// Why a conversation gives no prompt.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The template refused the conversation, in its own words.
    #[error("the chat template refuses this conversation: {0}")]
    Refused(String),
    /// The template failed: a field that it needs is missing, or it has a bug.
    #[error("the chat template fails on this conversation: {0}")]
    Failed(String),
    /// The template did more work, or wrote more text, than this conversation may cost.
    #[error("the chat template took more than its share: {0}")]
    TooMuch(String),
    /// The conversation leaves no way to tell its text from the template's.
    #[error(
        "the conversation uses up the private-use characters that guard special tokens, remove them"
    )]
    Unguardable,
}

/// What a template is asked to render.
#[derive(Clone, Copy, Debug)]
pub struct Conversation<'a> {
    /// The list of messages, as the client sent them.
    pub messages: &'a Json,
    /// The list of tools, if there is one.
    pub tools: Option<&'a Json>,
    /// Whether the prompt ends where the assistant's answer begins.
    pub add_generation_prompt: bool,
    /// Further variables for the template. They come from the client and are trusted as little as the messages.
    pub extra: &'a serde_json::Map<String, Json>,
    /// Time since the Unix epoch, for `strftime_now`; templates see it in UTC.
    pub now: Duration,
}

/// A model's chat template. Immutable; share it in an `Arc`.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// `bos_token` and its like.
    named: Vec<(&'static str, String)>,
    additional: Vec<String>,
    guard: Guard,
}

impl ChatTemplate {
    /// Compiles the chat template of a model, if it has one. The tokenizer must be of the same model: it knows which
    /// texts are special tokens.
    pub fn load(assets: &Assets<'_>, tokenizer: &Tokenizer) -> Result<Option<Self>, LoadError> {
        let config = TokenizerConfig::parse(assets.tokenizer_config)?;
        let (file, templates) = match assets.chat_template {
            Some(bytes) => {
                let source = std::str::from_utf8(bytes)
                    .map_err(|error| LoadError::invalid(CHAT_TEMPLATE, error))?;
                (CHAT_TEMPLATE, vec![(DEFAULT.to_owned(), source.to_owned())])
            }
            None => (TOKENIZER_CONFIG, config.templates),
        };
        if templates.is_empty() {
            return Ok(None);
        }
        let mut environment = environment();
        for (name, source) in templates {
            environment
                .add_template_owned(name, python::without_generation_blocks(&source))
                .map_err(|error| LoadError::invalid(file, format!("chat template: {error}")))?;
        }
        let guard = Guard::new(tokenizer.added_texts())
            .map_err(|reason| LoadError::invalid(TOKENIZER_CONFIG, reason))?;
        Ok(Some(Self { environment, named: config.named, additional: config.additional, guard }))
    }

    /// Renders a conversation. What messages, tools and extra variables bring in is text, whatever it spells; only the role
    /// of a message may be a part of the template's special tokens.
    pub fn render(&self, conversation: &Conversation<'_>) -> Result<Prompt, TemplateError> {
        let input = Input::new(conversation);
        let template = self.template(conversation.tools.is_some())?;
        let run = |marker: &Marker<'_>| self.run(&template, &input, marker);

        let plain = run(&Marker::none(&self.guard))?;
        let Some(codes) = self.guard.codes(input.strings().chain([template.source(), &plain]))
        else {
            return Err(TemplateError::Unguardable);
        };
        self.guard.render(template.source(), &input, codes, plain, run)
    }

    fn template(&self, has_tools: bool) -> Result<minijinja::Template<'_, '_>, TemplateError> {
        let named = |name| self.environment.get_template(name);
        let with_tools = if has_tools { named(TOOL_USE).ok() } else { None };
        with_tools.map_or_else(|| named(DEFAULT).map_err(failure), Ok)
    }

    fn run(
        &self,
        template: &minijinja::Template<'_, '_>,
        input: &Input<'_>,
        marker: &Marker<'_>,
    ) -> Result<String, TemplateError> {
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(FUEL + input.bytes() as u64));
        let template = environment.get_template(template.name()).map_err(failure)?;
        let own = self.named.iter().map(|(name, text)| (*name, Value::from(text.as_str())));
        let additional = self.additional.iter().map(String::as_str).map(Value::from).collect();
        let context = own
            .chain([("additional_special_tokens", additional)])
            .map(|(name, value)| (Value::from(name), value))
            .chain(input.variables(marker));
        let limit = OUTPUT_BYTES.saturating_add(input.bytes().saturating_mul(OUTPUT_PER_INPUT));
        let mut output = Bounded { bytes: Vec::new(), limit };
        let result = template.render_captured_to(Value::from_pairs(context), &mut output).map(drop);
        if output.limit == 0 {
            return Err(TemplateError::TooMuch(format!("more than {limit} bytes of output")));
        }
        result.map_err(failure)?;
        String::from_utf8(output.bytes).map_err(|error| TemplateError::Failed(error.to_string()))
    }
}

const DEFAULT: &str = "default";
/// The template that Hugging Face prefers when there are tools.
const TOOL_USE: &str = "tool_use";

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()
        .expect("the usual delimiters do not contradict each other");
    environment.set_syntax(syntax);
    environment.set_debug(false);
    environment.set_recursion_limit(RECURSION_LIMIT);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_formatter(|output, state, value| match python::float(value) {
        Some(text) => Ok(output.write_str(&text)?),
        None => escape_formatter(output, state, value),
    });
    environment.add_filter("tojson", python::tojson);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message).with_source(Raised))
    });
    environment
}

/// Deep enough for every macro that was seen, and safe on a thread with 2 MiB of stack.
const RECURSION_LIMIT: usize = 120;

/// Marks an error as the template's own `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("raised by the template")]
struct Raised;

fn failure(error: Error) -> TemplateError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(current) = cause {
        let source = current.source();
        if let Some(raised) = current.downcast_ref::<Error>()
            && source.is_some_and(|source| source.is::<Raised>())
        {
            return TemplateError::Refused(raised.detail().unwrap_or_default().to_owned());
        }
        cause = source;
    }
    match error.kind() {
        ErrorKind::OutOfFuel => TemplateError::TooMuch(error.to_string()),
        _ => TemplateError::Failed(error.to_string()),
    }
}

/// Takes so many bytes and no more. A limit of 0 says that there was more.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
}

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.limit {
            self.limit = 0;
            return Err(std::io::Error::other("the output limit is reached"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
