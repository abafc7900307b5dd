//! How does a client's request become a stream of text?
//!
//! A request comes in by HTTP as OpenAI's clients speak it (`http.rs`, `openai.rs`) or by gRPC (`serve.rs`). Both build
//! one `Generation` (`request.rs`): token ids and sampling parameters; nothing behind them knows which it was.
//! `groups.rs` knows the replica groups of the cluster, each followed by one Watch stream, and sends every sequence to
//! the one that `glint-policy` chooses. `answer.rs` turns the tokens that come back into text, stops at stop strings,
//! and counts.
//!
//! **The router has no model files.** Tokenizer, chat template and generation config come from the workers, named by
//! digest (`groups/texts.rs`). A group takes requests once they are loaded.
//!
//! **Closing a stream aborts.** No task stands between a client's connection and its sequences: when the client goes,
//! the response's body is dropped, with it the gRPC streams, and the workers forget the sequences.
//!
//! Start with [`Router`], then follow a request through `http.rs`, `request.rs`, `groups/dispatch.rs`, `answer.rs`.

mod answer;
mod config;
mod connection;
mod error;
mod front;
mod groups;
mod http;
mod metrics;
mod openai;
mod request;
mod router;
mod serve;
mod stack;

pub use config::RouterConfig;
pub use router::{Router, RouterError, run};
