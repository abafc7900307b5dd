//! What can a router ask of a group?

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use glint_core::{BLOCK_SIZE_TOKENS, Failure, Kind, Numerics, SamplingParams};
use glint_engine::EngineRequest;
use glint_proto::v1::worker_server::Worker as WorkerCalls;
use glint_proto::{deadline, status, v1};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};
use tracing::debug;

use crate::engine_thread::Command;
use crate::group::GroupError;
use crate::leader::{Front, Live};
use crate::model::Model;
use crate::outbox::{Outbox, Reader};
use crate::watch;

/// One message of an asset.
const CHUNK_BYTES: usize = 1 << 18;
/// Longest name of a router that is kept.
const ROUTER_BYTES_MAX: usize = 128;

/// Answers routers for the group.
#[derive(Clone, Debug)]
pub(crate) struct WorkerService {
    pub(crate) front: Arc<Front>,
    pub(crate) model: Arc<Model>,
    pub(crate) numerics: Arc<std::sync::OnceLock<Numerics>>,
    pub(crate) world_size: u32,
    pub(crate) tasks: TaskTracker,
}

/// A request that makes no sense.
#[derive(Debug, thiserror::Error)]
enum BadRequest {
    #[error("GenerateRequest has no sampling")]
    NoSampling,
    #[error("the router's name has {bytes} bytes, at most {ROUTER_BYTES_MAX} are taken")]
    LongName { bytes: usize },
    #[error("there is no asset with SHA-256 {sha256:?}, Describe lists those there are")]
    NoAsset { sha256: String },
}

impl Failure for BadRequest {
    fn kind(&self) -> Kind {
        match self {
            Self::NoSampling | Self::LongName { .. } => Kind::Invalid,
            Self::NoAsset { .. } => Kind::NotFound,
        }
    }
}

impl WorkerService {
    fn live(&self) -> Result<Arc<Live>, Status> {
        self.front.live().map_err(|error| status(&error))
    }
}

fn check_name(router: &str) -> Result<(), Status> {
    match router.len() {
        bytes if bytes > ROUTER_BYTES_MAX => Err(status(&BadRequest::LongName { bytes })),
        _ => Ok(()),
    }
}

#[tonic::async_trait]
impl WorkerCalls for WorkerService {
    type GenerateStream = BoxStream<'static, Result<v1::GenerateResponse, Status>>;
    type WatchStream = ReceiverStream<Result<v1::WatchFrame, Status>>;
    type GetAssetStream = BoxStream<'static, Result<v1::AssetChunk, Status>>;

    async fn generate(
        &self,
        request: Request<v1::GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let deadline =
            deadline::timeout(request.metadata()).map(|timeout| Instant::now() + timeout);
        let live = self.live()?;
        let request = request.into_inner();
        check_name(&request.router)?;
        let sampling = request.sampling.ok_or_else(|| status(&BadRequest::NoSampling))?;
        let sampling = SamplingParams::try_from(sampling).map_err(|error| status(&error))?;
        let given = u32::try_from(request.prompt_tokens.len()).unwrap_or(u32::MAX);
        let request_id = request.request_id;
        let request = EngineRequest {
            prompt_tokens: request.resume_from.unwrap_or(given),
            tokens: request.prompt_tokens,
            sampling,
            adapter: request.adapter,
            salt: request.cache_salt,
            tag: live.routers.seen(&request.router, request.dispatch),
        };
        let outbox = Arc::new(Outbox::default());
        // Made before the engine hears of it: a caller that goes while it waits is found gone.
        let reader = Reader::new(Arc::clone(&outbox));
        let request = Box::new(request);
        let admitted = live.ask(deadline, |reply| Command::Add { request, outbox, reply });
        if let Err(refused) = admitted.await.map_err(|error| status(&error))? {
            debug!(request = request_id, error = %refused, "a request was refused");
            return Err(status(&refused));
        }
        debug!(request = request_id, prompt_tokens = given, "a request was taken");
        Ok(Response::new(reader.messages(deadline).boxed()))
    }

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let live = self.live()?;
        let request = request.into_inner();
        check_name(&request.router)?;
        let (frames, stream) = mpsc::channel(watch::FRAMES_MAX);
        // Ends with the stream or the epoch.
        self.tasks.spawn(watch::serve(live, request, frames));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn describe(
        &self,
        _request: Request<v1::DescribeRequest>,
    ) -> Result<Response<v1::DescribeResponse>, Status> {
        let live = self.live()?;
        let model = &self.model;
        Ok(Response::new(v1::DescribeResponse {
            model: model.id.to_string(),
            revision: model.revision.clone(),
            model_digest: model.digest.0.into(),
            numerics: self.numerics.get().map(Into::into),
            world_size: self.world_size,
            block_size_tokens: BLOCK_SIZE_TOKENS as u32,
            epoch: live.bond.epoch().0,
            context_tokens: live.context_tokens,
            vocab_size: model.vocab_size(),
            kv_blocks: live.kv_blocks,
            assets: model.assets.describe(),
            served_names: model.served_names.clone(),
            eos_token_ids: model.eos_token_ids.clone(),
        }))
    }

    async fn get_asset(
        &self,
        request: Request<v1::GetAssetRequest>,
    ) -> Result<Response<Self::GetAssetStream>, Status> {
        let sha256 = request.into_inner().sha256;
        let Some(bytes) = self.model.assets.find(&sha256) else {
            let sha256 = sha256.chars().take(80).collect();
            return Err(status(&BadRequest::NoAsset { sha256 }));
        };
        let mut rest: Bytes = bytes.clone();
        let chunks = std::iter::from_fn(move || {
            let data = rest.split_to(rest.len().min(CHUNK_BYTES));
            (!data.is_empty()).then_some(Ok(v1::AssetChunk { data }))
        });
        Ok(Response::new(futures::stream::iter(chunks).boxed()))
    }

    async fn drain(
        &self,
        _request: Request<v1::DrainRequest>,
    ) -> Result<Response<v1::DrainResponse>, Status> {
        self.front.drain();
        // Once this is answered, the engine takes nothing new: the wait is for its step to end.
        let drained = match self.front.live() {
            Ok(live) => live.drain().await,
            Err(not_live) => Err(not_live),
        };
        let in_flight_sequences = match drained {
            Ok(sequences) => sequences,
            Err(error @ GroupError::Stuck { .. }) => return Err(status(&error)),
            // There is no engine that could have any.
            Err(_gone) => 0,
        };
        Ok(Response::new(v1::DrainResponse { in_flight_sequences }))
    }
}
