//! How does a test get a group of its own?

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clap::Parser;
use futures::StreamExt;
use glint_core::SamplingParams;
use glint_fleet::{Change, Fleet, Keys, Memory};
use glint_proto::v1;
use glint_proto::v1::generate_response::Event;
use glint_proto::v1::worker_client::WorkerClient;
use glint_service::Drain;
use glint_worker::{Worker, WorkerConfig, WorkerError};
use prost::Message;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// The longest that any wait of these tests lasts; far beyond what is needed on a slow machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A device that takes no time and never ends an answer by itself.
pub(crate) const FAST: &str = "--device=sim:prefill=0,step=0ms,sequence=0us,end=0";
/// A device whose steps take long enough to be met in the middle of an answer.
pub(crate) const SLOW: &str = "--device=sim:prefill=0,step=10ms,sequence=0us,end=0";

/// Waits, but not for ever.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(PATIENCE, future).await;
    waited.unwrap_or_else(|_| panic!("waited {PATIENCE:?} in vain: {what}"))
}

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    config: WorkerConfig,
}

/// Returns the folder of the tiny model, made once for all tests.
pub(crate) fn model() -> PathBuf {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        glint_model::tiny::write(&folder.path().join("tiny")).unwrap();
        folder
    });
    folder.path().join("tiny")
}

pub(crate) fn config(folder: &Path, flags: &[&str]) -> WorkerConfig {
    let model = format!("--model={}", folder.display());
    let always = ["worker", &model, "--fleet=memory:", "--port=0", "--admin-port=0"];
    Flags::parse_from(always.iter().chain(flags)).config
}

/// A registry, and what a test wants to know of it.
#[derive(Clone)]
pub(crate) struct Registry {
    pub(crate) fleet: Arc<dyn Fleet>,
    pub(crate) keys: Keys,
}

impl Registry {
    pub(crate) fn new() -> Self {
        let keys = Keys::new(&"default".parse().unwrap());
        Self { fleet: Arc::new(Memory::new()), keys }
    }

    /// Starts a process of the group.
    pub(crate) async fn start(&self, flags: &[&str]) -> Running {
        let bound = Worker::bind_in(config(&model(), flags), Arc::clone(&self.fleet)).await;
        let worker = bound.unwrap();
        let (address, admin) = (worker.address().unwrap(), worker.admin_address().unwrap());
        let drain = Drain::new();
        let task = tokio::spawn(worker.serve(drain.clone()));
        Running { address, admin, drain, task }
    }

    /// Waits until the group says that it is ready in an epoch above `epoch`.
    pub(crate) async fn ready_after(&self, epoch: u64) -> v1::GroupRecord {
        let is_ready = move |record: &v1::GroupRecord| {
            record.epoch > epoch && record.state() == v1::GroupState::Ready
        };
        self.group(is_ready).await
    }

    /// Waits until the group's record is as wanted.
    pub(crate) async fn group(&self, wanted: impl Fn(&v1::GroupRecord) -> bool) -> v1::GroupRecord {
        let mut changes = self.fleet.watch(self.keys.groups());
        let found = async {
            loop {
                if let Some(Change::Put { value, .. }) = changes.next().await {
                    let record = v1::GroupRecord::decode(value).unwrap();
                    if wanted(&record) {
                        return record;
                    }
                }
            }
        };
        soon("the group's record is as wanted", found).await
    }

    /// Starts a group of one rank and returns it with a client.
    pub(crate) async fn one(&self, flags: &[&str]) -> (Running, WorkerClient<Channel>) {
        let running = self.start(flags).await;
        self.ready_after(0).await;
        let client = running.client().await;
        (running, client)
    }
}

/// A worker that serves. Dropped, it stops at once.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) drain: Drain,
    pub(crate) task: JoinHandle<Result<(), WorkerError>>,
}

impl Running {
    pub(crate) async fn client(&self) -> WorkerClient<Channel> {
        client(&self.address.to_string()).await
    }

    /// Ends it as if its process had been killed: nobody says goodbye.
    pub(crate) async fn kill(mut self) {
        self.task.abort();
        let killed = (&mut self.task).await;
        assert!(killed.unwrap_err().is_cancelled());
    }

    /// Waits for its own end.
    pub(crate) async fn ended(mut self) -> Result<(), WorkerError> {
        soon("the worker ends", &mut self.task).await.unwrap()
    }

    /// Asks the admin port.
    pub(crate) async fn admin(&self, path: &str) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(self.admin).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.drain.stop();
        self.task.abort();
    }
}

pub(crate) async fn client(address: &str) -> WorkerClient<Channel> {
    WorkerClient::connect(format!("http://{address}")).await.unwrap()
}

/// A greedy request.
pub(crate) fn request(
    prompt: impl IntoIterator<Item = u32>,
    max_tokens: u32,
) -> v1::GenerateRequest {
    let mut sampling = SamplingParams::greedy(max_tokens);
    sampling.ignore_eos = true;
    v1::GenerateRequest {
        request_id: "test".into(),
        router: "router".into(),
        dispatch: 1,
        prompt_tokens: prompt.into_iter().collect(),
        sampling: Some((&sampling).into()),
        ..v1::GenerateRequest::default()
    }
}

/// A whole answer.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) started_with: u32,
    pub(crate) tokens: Vec<u32>,
    pub(crate) finished: v1::Finished,
}

/// Reads a stream to its end, and checks the order of its messages.
pub(crate) async fn read(stream: Streaming<v1::GenerateResponse>) -> Result<Answer, Status> {
    read_on(stream, None).await
}

/// Reads on in a stream of [`started`] and returns how many tokens came.
pub(crate) async fn read_rest(stream: Streaming<v1::GenerateResponse>) -> usize {
    read_on(stream, Some(0)).await.unwrap().tokens.len()
}

async fn read_on(
    mut stream: Streaming<v1::GenerateResponse>,
    mut started_with: Option<u32>,
) -> Result<Answer, Status> {
    let (mut tokens, mut finished) = (Vec::new(), None);
    while let Some(message) = soon("the next message", stream.message()).await? {
        assert!(finished.is_none(), "nothing follows Finished");
        match message.event.unwrap() {
            Event::Started(started) => {
                assert_eq!(started_with.replace(started.cached_tokens), None);
            }
            Event::Tokens(more) => {
                assert!(started_with.is_some(), "Started comes first");
                tokens.extend(more.ids);
            }
            Event::Finished(end) => finished = Some(end),
            Event::PromptLogprobs(_) => assert!(tokens.is_empty(), "prompts come first"),
        }
    }
    Ok(Answer { started_with: started_with.unwrap(), tokens, finished: finished.unwrap() })
}

/// Asks and reads the whole answer.
pub(crate) async fn answer(
    client: &mut WorkerClient<Channel>,
    request: v1::GenerateRequest,
) -> Result<Answer, Status> {
    read(soon("the request is taken", client.generate(request)).await?.into_inner()).await
}

/// Asks and returns the stream once the sequence runs.
pub(crate) async fn started(
    client: &mut WorkerClient<Channel>,
    request: v1::GenerateRequest,
) -> Streaming<v1::GenerateResponse> {
    let mut stream =
        soon("the request is taken", client.generate(request)).await.unwrap().into_inner();
    let first = soon("the first message", stream.message()).await.unwrap().unwrap();
    assert!(matches!(first.event, Some(Event::Started(_))), "{first:?}");
    stream
}

/// Reads until the stream breaks and returns why.
pub(crate) async fn broken(mut stream: Streaming<v1::GenerateResponse>) -> Status {
    let broken = async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended as if all were well"),
                Err(status) => return status,
            }
        }
    };
    soon("the stream breaks", broken).await
}
