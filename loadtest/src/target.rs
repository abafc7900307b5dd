//! How is a server asked, and how is its answer read?
//!
//! A [`Client`] lives on one thread and speaks OpenAI-style HTTP (`/v1/chat/completions`, `/v1/completions`, streamed as
//! server-sent events) or Glint's gRPC. It keeps connections alive, opens one more whenever none is free, and never waits for one:
//! a generator that queues requests hides the latency it was built to show.

mod answer;
mod body;
mod connect;
mod grpc;
mod http;
mod sse;

use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

pub use answer::Answer;
use answer::message_of;
pub use body::{Ask, Conversation, RenderError};
pub(crate) use grpc::grpc_address;
pub(crate) use http::{get, success};
use tokio_util::sync::CancellationToken;

use crate::{
    plan::{Labels, Reader},
    record::{ErrorKind, Outcome},
    tokens::Vocabulary,
};

/// What is loaded, and how it is asked.
#[derive(Clone, Debug)]
pub struct Target {
    /// `http://…`, `https://…`, or `grpc://…` for Glint's gRPC; no path.
    pub url: ::http::Uri,
    /// Which API.
    pub endpoint: Endpoint,
    /// The model asked.
    pub model: Arc<str>,
    /// Sent with requests of no tenant that has its own.
    pub api_key: Option<Arc<str>>,
    /// Sent with requests of a tenant.
    pub tenant_keys: BTreeMap<Arc<str>, Arc<str>>,
    /// Header that carries the class of a request.
    pub class_header: Option<::http::HeaderName>,
    /// Longest time from sending a request to the end of its answer.
    pub request_timeout: Duration,
    /// How prompts that are made up are sent.
    pub form: PromptForm,
    /// Ids that made-up tokens are drawn from.
    pub vocabulary: Vocabulary,
    /// Ask for exactly the tokens that the workload says (`ignore_eos`, which not every server knows).
    pub ignore_eos: bool,
    /// Read answers as they are generated.
    pub stream: bool,
    /// Keep what answers say.
    pub keep_text: bool,
    /// Further fields of every request's body.
    pub extra: serde_json::Map<String, serde_json::Value>,
    /// Certificates to trust besides the public ones, PEM.
    pub ca: Option<Arc<[u8]>>,
}

/// Which API of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Endpoint {
    /// `POST /v1/chat/completions`.
    Chat,
    /// `POST /v1/completions`.
    Completions,
    /// `glint.v1.Inference/Generate`, or `Chat` for messages.
    Grpc,
}

/// How prompts that are made up are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum PromptForm {
    /// As words, about one token each; every server takes them.
    Text,
    /// As token ids: exact lengths and exact shared prefixes, not for the chat endpoint.
    Tokens,
}

impl Endpoint {
    /// As it is written in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completions => "completions",
            Self::Grpc => "grpc",
        }
    }
}

/// What came of asking once.
#[derive(Debug)]
pub struct Asked {
    /// When the request was handed to a connection.
    pub sent: Instant,
    /// When it was over.
    pub end: Instant,
    /// How it ended.
    pub outcome: Outcome,
    /// What came.
    pub answer: Answer,
}

/// A connection to a server cannot be prepared at all.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TargetError(String);

/// Asks one server, from one thread.
pub struct Client {
    target: Arc<Target>,
    transport: Transport,
    connections: Cell<u64>,
}

enum Transport {
    Http(http::Http),
    Grpc(Box<grpc::Grpc>),
}

impl Client {
    /// Prepares; connections are made when they are needed.
    ///
    /// # Errors
    ///
    /// The URL or the certificates cannot be used.
    pub fn new(target: Arc<Target>) -> Result<Self, TargetError> {
        let transport = match target.endpoint {
            Endpoint::Chat | Endpoint::Completions => Transport::Http(http::Http::new(&target)?),
            Endpoint::Grpc => Transport::Grpc(Box::new(grpc::Grpc::new(&target)?)),
        };
        Ok(Self { target, transport, connections: Cell::new(0) })
    }

    /// Sends one request and reads its answer as `reader` does. It must run in a `LocalSet`.
    /// When `cut` is cancelled it ends unfinished.
    pub async fn ask(
        &self,
        ask: &Ask,
        labels: &Labels,
        reader: Reader,
        cut: &CancellationToken,
    ) -> Asked {
        let mut asked = Asked {
            sent: Instant::now(),
            end: Instant::now(),
            outcome: Outcome::Unfinished,
            answer: Answer::new(ask.output_tokens(), self.target.keep_text),
        };
        let exchange = async {
            match &self.transport {
                Transport::Http(http) => http.ask(self, ask, labels, reader, &mut asked).await,
                Transport::Grpc(grpc) => grpc.ask(self, ask, labels, reader, &mut asked).await,
            }
        };
        let bounded = tokio::time::timeout(self.target.request_timeout, exchange);
        let ended = tokio::select! {
            ended = bounded => ended.map_err(|_| self.timed_out()),
            () = cut.cancelled() => Err(Outcome::Unfinished),
        };
        if let Err(outcome) = ended {
            asked.end = Instant::now();
            asked.outcome = outcome;
        }
        asked
    }

    fn timed_out(&self) -> Outcome {
        let limit_s = self.target.request_timeout.as_secs_f64();
        Outcome::Failed(ErrorKind::Timeout, format!("no whole answer within {limit_s} s").into())
    }

    /// Connections opened so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.connections.get()
    }

    fn count_connection(&self) {
        self.connections.set(self.connections.get() + 1);
    }

    fn key(&self, labels: &Labels) -> Option<&Arc<str>> {
        let own = labels.tenant.as_ref().and_then(|tenant| self.target.tenant_keys.get(tenant));
        own.or(self.target.api_key.as_ref())
    }
}

/// How far a reader has come, and what it does next.
enum Reading {
    On,
    Pause(Duration),
    Stop,
}

fn reading(reader: Reader, arrivals_before: u32, arrivals: u32) -> Reading {
    match reader {
        Reader::Whole => Reading::On,
        Reader::Cancel { after_tokens } | Reader::Disconnect { after_tokens } => {
            if arrivals >= after_tokens { Reading::Stop } else { Reading::On }
        }
        Reader::Slow { tokens_per_s } => Reading::Pause(Duration::from_secs_f64(
            f64::from(arrivals - arrivals_before) / tokens_per_s.max(0.001),
        )),
    }
}
