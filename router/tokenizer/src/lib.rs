//! How does a chat become tokens, and how do tokens become text again?
//!
//! The router has no model files of its own: a worker hands it the bytes of `tokenizer.json` (or GLM-4's
//! tiktoken-style `tokenizer.model`), `tokenizer_config.json`, `chat_template.jinja` and `generation_config.json`
//! ([`Assets`]). From them come a [`Tokenizer`] and a [`ChatTemplate`]. Text goes in through
//! [`ChatTemplate::render`] and [`Tokenizer::encode_prompt`]; tokens come back through a [`StreamDecoder`], which never
//! splits a character, and a [`StopMatcher`], which never shows a part of a stop string.
//!
//! **A message cannot forge a role.** A rendered conversation is a [`Prompt`]: text, and the places where it came from a
//! message. A special token's text is a special token only where the template wrote it; in a message it stays
//! text. `template/guard.rs` says how the two are told apart in a template that may do anything.
//!
//! Nothing here waits, reads a file or looks at a clock. Assets and templates are a stranger's: every error is a sentence
//! that names the file, and the work of a template is bounded.
//!
//! Start with [`Tokenizer::load`], then read `template.rs`.

mod assets;
mod config;
mod generation;
mod prompt;
mod ranks;
mod special;
mod stop;
mod stream;
mod template;
mod tokenizer;
mod vocabulary;

pub use assets::{Assets, LoadError};
pub use generation::GenerationConfig;
pub use prompt::Prompt;
pub use stop::{Emitted, StopMatcher, StopText};
pub use stream::{Specials, StreamDecoder};
pub use template::{ChatTemplate, Conversation, TemplateError};
pub use tokenizer::{EncodeError, Tokenizer};
