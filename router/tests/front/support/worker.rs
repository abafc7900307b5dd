//! A group that has no model.
//!
//! It says the same text to every request that is greedy, and one that begins with a letter of the seed to the others; it
//! fails where its script says so.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use async_stream::stream;
use futures::Stream;
use futures::stream::BoxStream;
use glint_core::load::REPORT_IDLE;
use glint_proto::v1::generate_response::Event;
use glint_proto::v1::watch_frame::Frame;
use glint_proto::v1::worker_server::{Worker, WorkerServer};
use glint_proto::v1::{
    Asset, AssetChunk, Delta, DescribeRequest, DescribeResponse, DrainRequest, DrainResponse,
    FinishReason, Finished, GenerateRequest, GenerateResponse, GetAssetRequest, Load, Logprobs,
    PromptLogprobs, Run, Snapshot, Started, Tokens, WatchFrame, WatchRequest,
};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, broadcast, watch};
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status};

use super::assets::{END, VOCAB_SIZE, files};
use super::{MODEL, wait_until};

/// What every greedy answer says.
pub(crate) const TEXT: &str = "The sea is blue. Waves 🌊 sing; the sea is wide.";
pub(crate) const CONTEXT_TOKENS: u32 = 2048;

/// How the next answers go.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script {
    /// Say this instead of Started.
    pub(crate) refuse: Option<Code>,
    /// Break off after so many tokens.
    pub(crate) cut_after: Option<usize>,
    /// Wait for [`FakeWorker::go`] before each token from this one on.
    pub(crate) wait_before: Option<usize>,
    pub(crate) cached_tokens: u32,
    /// Tokens per message; 0: one.
    pub(crate) together: usize,
}

struct Shared {
    epoch: u64,
    script: Mutex<Script>,
    requests: Mutex<Vec<GenerateRequest>>,
    watches: Mutex<Vec<WatchRequest>>,
    assets_sent: Mutex<u32>,
    spoil_assets: Mutex<bool>,
    draining: Mutex<bool>,
    running: Mutex<u32>,
    aborted: watch::Sender<usize>,
    finished: watch::Sender<usize>,
    permits: Semaphore,
    /// To all Watch streams; nothing ends them.
    frames: broadcast::Sender<Option<WatchFrame>>,
    snapshot: Mutex<Vec<u64>>,
}

/// A fake worker on a runtime of its own, so that it can vanish in a moment.
pub(crate) struct FakeWorker {
    address: String,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

impl Drop for FakeWorker {
    fn drop(&mut self) {
        self.kill();
    }
}

impl FakeWorker {
    pub(crate) async fn start(epoch: u64) -> Self {
        let shared = Arc::new(Shared {
            epoch,
            script: Mutex::default(),
            requests: Mutex::default(),
            watches: Mutex::default(),
            assets_sent: Mutex::default(),
            spoil_assets: Mutex::default(),
            draining: Mutex::default(),
            running: Mutex::default(),
            aborted: watch::Sender::new(0),
            finished: watch::Sender::new(0),
            permits: Semaphore::new(0),
            frames: broadcast::Sender::new(64),
            snapshot: Mutex::default(),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let service = WorkerServer::new(Service(Arc::clone(&shared)));
        let (send, bound) = tokio::sync::oneshot::channel();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            send.send(listener.local_addr().unwrap()).unwrap();
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            let server = tonic::transport::Server::builder().add_service(service);
            server.serve_with_incoming(incoming).await.unwrap();
        });
        let address = bound.await.unwrap().to_string();
        Self { address, shared, runtime: Some(runtime) }
    }

    pub(crate) fn address(&self) -> String {
        self.address.clone()
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.shared.epoch
    }

    /// Ends the process, as it were: all its connections break.
    pub(crate) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    pub(crate) fn script(&self, script: Script) {
        *self.shared.script.lock() = script;
    }

    /// Lets so many tokens pass that wait.
    pub(crate) fn go(&self, tokens: usize) {
        self.shared.permits.add_permits(tokens);
    }

    pub(crate) fn requests(&self) -> Vec<GenerateRequest> {
        self.shared.requests.lock().clone()
    }

    pub(crate) fn last_request(&self) -> GenerateRequest {
        self.requests().pop().expect("no request came")
    }

    pub(crate) fn watches(&self) -> Vec<WatchRequest> {
        self.shared.watches.lock().clone()
    }

    pub(crate) fn assets_sent(&self) -> u32 {
        *self.shared.assets_sent.lock()
    }

    /// Sends assets that are not what their digests say.
    pub(crate) fn spoil_assets(&self, spoil: bool) {
        *self.shared.spoil_assets.lock() = spoil;
    }

    pub(crate) async fn wait_requests(&self, count: usize) {
        wait_until("requests come", || async { self.requests().len() >= count }).await;
    }

    pub(crate) async fn wait_aborted(&self, count: usize) {
        let mut aborted = self.shared.aborted.subscribe();
        super::soon("the sequence is aborted", aborted.wait_for(|done| *done >= count))
            .await
            .unwrap();
    }

    pub(crate) fn aborted(&self) -> usize {
        *self.shared.aborted.borrow()
    }

    /// Ends all Watch streams.
    pub(crate) fn end_watches(&self) {
        let _nobody = self.shared.frames.send(None);
    }

    /// What a router that comes anew is told first.
    pub(crate) fn holds(&self, blocks: &[u64]) {
        *self.shared.snapshot.lock() = blocks.to_vec();
    }

    pub(crate) fn tell_delta(&self, sequence: u64, removed: &[u64], stored: &[u64]) {
        let stored = vec![Run { parent: None, hashes: stored.to_vec() }];
        self.tell(Frame::Delta(Delta { sequence, removed: removed.to_vec(), stored }));
    }

    pub(crate) fn tell_running(&self, running_sequences: u32) {
        *self.shared.running.lock() = running_sequences;
        self.tell(Frame::Load(self.shared.load()));
    }

    pub(crate) fn tell_draining(&self, draining: bool) {
        *self.shared.draining.lock() = draining;
        self.tell(Frame::Load(self.shared.load()));
    }

    fn tell(&self, frame: Frame) {
        let _nobody = self.shared.frames.send(Some(WatchFrame { frame: Some(frame) }));
    }
}

impl Shared {
    fn load(&self) -> Load {
        let dispatches_seen = self.requests.lock().iter().map(|r| r.dispatch).max().unwrap_or(0);
        let draining = *self.draining.lock();
        let running_sequences = *self.running.lock();
        Load { epoch: self.epoch, dispatches_seen, draining, running_sequences, ..Load::default() }
    }

    fn assets(&self) -> HashMap<String, (&'static str, Vec<u8>)> {
        let digest = |bytes: &[u8]| {
            Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        files().into_iter().map(|(name, bytes)| (digest(&bytes), (name, bytes))).collect()
    }
}

struct Service(Arc<Shared>);

/// Counts how an answer ended, when its stream is dropped.
struct Ending {
    shared: Arc<Shared>,
    is_finished: bool,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let ended = if self.is_finished { &self.shared.finished } else { &self.shared.aborted };
        ended.send_modify(|count| *count += 1);
    }
}

fn logprobs(id: u32, alternatives: u32) -> Logprobs {
    let ids = (0..alternatives).map(|rank| (id + rank) % VOCAB_SIZE);
    let values = (0..alternatives).map(|rank| -0.5 - rank as f32);
    Logprobs { logprob: -0.5, top_ids: ids.collect(), top_logprobs: values.collect() }
}

/// The whole answer, without its end.
fn made_up(request: &GenerateRequest) -> Vec<u32> {
    let sampling = request.sampling.as_ref().unwrap();
    let mut text = Vec::new();
    if sampling.temperature() > 0.0 {
        text.push(b'a' + (sampling.seed() % 26) as u8);
    }
    text.extend_from_slice(TEXT.as_bytes());
    text.into_iter().map(u32::from).collect()
}

fn say(event: Event) -> Result<GenerateResponse, Status> {
    Ok(GenerateResponse { event: Some(event) })
}

#[tonic::async_trait]
impl Worker for Service {
    type GenerateStream = Pin<Box<dyn Stream<Item = Result<GenerateResponse, Status>> + Send>>;
    type WatchStream = BoxStream<'static, Result<WatchFrame, Status>>;
    type GetAssetStream = BoxStream<'static, Result<AssetChunk, Status>>;

    async fn generate(
        &self,
        request: Request<GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let shared = Arc::clone(&self.0);
        let request = request.into_inner();
        shared.requests.lock().push(request.clone());
        let script = shared.script.lock().clone();
        if let Some(code) = script.refuse {
            return Err(Status::new(code, "the script says no"));
        }
        let sampling = request.sampling.clone().unwrap();
        let mut answer = made_up(&request);
        let mut reason = FinishReason::Stop;
        if sampling.ignore_eos {
            answer = answer.iter().copied().cycle().take(CONTEXT_TOKENS as usize).collect();
        } else {
            answer.push(END);
        }
        if answer.len() > sampling.max_tokens as usize {
            answer.truncate(sampling.max_tokens as usize);
            reason = FinishReason::Length;
        }
        let ending = Ending { shared: Arc::clone(&shared), is_finished: false };
        let stream = stream! {
            let mut ending = ending;
            yield say(Event::Started(Started { cached_tokens: script.cached_tokens }));
            if let Some(top) = sampling.prompt_logprobs {
                let tokens: Vec<_> =
                    request.prompt_tokens.iter().skip(1).map(|&id| logprobs(id, top)).collect();
                // In two parts, as a prompt that is computed in two chunks.
                let (first, second) = tokens.split_at(tokens.len() / 2);
                let position = 1 + first.len() as u32;
                for (first_position, tokens) in [(1, first), (position, second)] {
                    let tokens = tokens.to_vec();
                    yield say(Event::PromptLogprobs(PromptLogprobs { first_position, tokens }));
                }
            }
            let mut sent = 0;
            for ids in answer.chunks(script.together.max(1)) {
                if script.cut_after.is_some_and(|limit| sent >= limit) {
                    yield Err(Status::unavailable("rank 1 died"));
                    return;
                }
                if script.wait_before.is_some_and(|first| sent >= first) {
                    shared.permits.acquire().await.unwrap().forget();
                }
                sent += ids.len();
                let logprobs = sampling.logprobs.map(|top| ids.iter().map(move |&id| logprobs(id, top)));
                let logprobs = logprobs.map(Iterator::collect).unwrap_or_default();
                yield say(Event::Tokens(Tokens { ids: ids.to_vec(), logprobs }));
            }
            ending.is_finished = true;
            yield say(Event::Finished(Finished {
                reason: reason.into(),
                prompt_tokens: request.prompt_tokens.len() as u32,
                cached_tokens: script.cached_tokens,
                output_tokens: answer.len() as u32,
            }));
        };
        Ok(Response::new(Box::pin(stream)))
    }

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        let mut frames = self.0.frames.subscribe();
        let resumed = request.epoch == Some(self.0.epoch);
        self.0.watches.lock().push(request);
        let shared = Arc::clone(&self.0);
        let stream = stream! {
            let frame = |frame| Ok(WatchFrame { frame: Some(frame) });
            if !resumed {
                let hashes = shared.snapshot.lock().clone();
                let (first, second) = hashes.split_at(hashes.len() / 2);
                for (hashes, last) in [(first, false), (second, true)] {
                    let runs = vec![Run { parent: None, hashes: hashes.to_vec() }];
                    let epoch = shared.epoch;
                    yield frame(Frame::Snapshot(Snapshot { epoch, sequence: 10, runs, last }));
                }
            }
            loop {
                yield frame(Frame::Load(shared.load()));
                match tokio::time::timeout(REPORT_IDLE, frames.recv()).await {
                    Ok(Ok(Some(told))) => yield Ok(told),
                    Ok(Ok(None) | Err(_)) => return,
                    Err(_elapsed) => {}
                }
            }
        };
        Ok(Response::new(Box::pin(stream)))
    }

    async fn describe(
        &self,
        _request: Request<DescribeRequest>,
    ) -> Result<Response<DescribeResponse>, Status> {
        let assets = self.0.assets().into_iter().map(|(sha256, (name, bytes))| Asset {
            name: name.to_owned(),
            sha256,
            size_bytes: bytes.len() as u64,
        });
        Ok(Response::new(DescribeResponse {
            model: MODEL.to_owned(),
            model_digest: vec![7; 32],
            block_size_tokens: 16,
            epoch: self.0.epoch,
            context_tokens: CONTEXT_TOKENS,
            vocab_size: VOCAB_SIZE,
            kv_blocks: 1000,
            assets: assets.collect(),
            eos_token_ids: vec![END],
            ..DescribeResponse::default()
        }))
    }

    async fn get_asset(
        &self,
        request: Request<GetAssetRequest>,
    ) -> Result<Response<Self::GetAssetStream>, Status> {
        *self.0.assets_sent.lock() += 1;
        let (_, mut bytes) = self
            .0
            .assets()
            .remove(&request.into_inner().sha256)
            .ok_or_else(|| Status::not_found("no such asset"))?;
        if *self.0.spoil_assets.lock() {
            bytes[0] ^= 1;
        }
        let chunks: Vec<_> =
            bytes.chunks(1000).map(|part| Ok(AssetChunk { data: part.to_vec().into() })).collect();
        Ok(Response::new(Box::pin(futures::stream::iter(chunks))))
    }

    async fn drain(&self, _: Request<DrainRequest>) -> Result<Response<DrainResponse>, Status> {
        Ok(Response::new(DrainResponse::default()))
    }
}
