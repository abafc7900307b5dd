//! What may a router ask of a group?

use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{StreamExt, future};
use glint_core::{Kind, SamplingParams};
use glint_engine::{EngineRequest, Event};
use glint_proto::v1::worker_server::Worker;
use glint_proto::{status, v1};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::assets::Assets;
use crate::convert;
use crate::engine_thread::Command;
use crate::epoch::{GroupFailed, GroupForming};
use crate::leader::{Live, LiveSlot};
use crate::watch::{self, FRAMES_MAX};

/// Bytes of an asset in one message.
const CHUNK_BYTES: usize = 1 << 20;

/// The leader's face to routers.
pub(crate) struct Front {
    pub(crate) group: String,
    pub(crate) live: LiveSlot,
    pub(crate) assets: Arc<Assets>,
}

impl Front {
    fn live(&self) -> Result<Arc<Live>, Status> {
        let live = self.live.read().clone();
        live.ok_or_else(|| status(&GroupForming { group: self.group.clone() }))
    }
}

/// The end of the epoch came between the question and the answer.
fn failed(live: &Live) -> Status {
    status(&GroupFailed { group: live.group.to_string(), reason: live.end.reason() })
}

#[tonic::async_trait]
impl Worker for Front {
    type GenerateStream = BoxStream<'static, Result<v1::GenerateResponse, Status>>;
    type WatchStream = ReceiverStream<Result<v1::WatchFrame, Status>>;
    type GetAssetStream = BoxStream<'static, Result<v1::AssetChunk, Status>>;

    async fn generate(
        &self,
        request: Request<v1::GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let live = self.live()?;
        let request = request.into_inner();
        let sampling = request
            .sampling
            .ok_or_else(|| Status::invalid_argument("GenerateRequest without sampling"))?;
        let sampling = SamplingParams::try_from(sampling).map_err(|error| status(&error))?;
        let tag = live.routers.seen(&request.router, request.dispatch);
        let tokens = request.prompt_tokens;
        let given = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
        let request = EngineRequest {
            prompt_tokens: request.resume_from.unwrap_or(given),
            tokens,
            sampling,
            adapter: request.adapter,
            salt: request.cache_salt,
            tag,
        };
        let (reply, admitted) = oneshot::channel();
        let command = Command::Add { request: Box::new(request), reply };
        live.commands.send(command).await.map_err(|_| failed(&live))?;
        let admitted = admitted.await.map_err(|_| failed(&live))?;
        let events = admitted.map_err(|error| status(&error))?;
        let responses =
            ReceiverStream::new(events).filter_map(|event| future::ready(answer(event)));
        Ok(Response::new(responses.boxed()))
    }

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let live = self.live()?;
        let (frames, out) = mpsc::channel(FRAMES_MAX);
        // Ends with the router's call or the epoch.
        tokio::spawn(watch::serve(live, request.into_inner(), frames));
        Ok(Response::new(ReceiverStream::new(out)))
    }

    async fn describe(
        &self,
        _request: Request<v1::DescribeRequest>,
    ) -> Result<Response<v1::DescribeResponse>, Status> {
        Ok(Response::new(self.live()?.describe.clone()))
    }

    async fn get_asset(
        &self,
        request: Request<v1::GetAssetRequest>,
    ) -> Result<Response<Self::GetAssetStream>, Status> {
        let sha256 = request.into_inner().sha256;
        let asset = self.assets.find(&sha256);
        let asset = asset.ok_or_else(|| Status::not_found(format!("no asset {sha256}")))?;
        let mut rest = asset.bytes.clone();
        let mut chunks = Vec::with_capacity(rest.len() / CHUNK_BYTES + 1);
        while !rest.is_empty() {
            let data = rest.split_to(rest.len().min(CHUNK_BYTES)).to_vec();
            chunks.push(Ok(v1::AssetChunk { data }));
        }
        Ok(Response::new(futures::stream::iter(chunks).boxed()))
    }

    async fn drain(
        &self,
        _request: Request<v1::DrainRequest>,
    ) -> Result<Response<v1::DrainResponse>, Status> {
        let live = self.live()?;
        live.drain_asked.notify_one();
        let load = live.load.borrow().snapshot.clone();
        let in_flight_sequences = load.running_sequences + load.waiting_sequences;
        Ok(Response::new(v1::DrainResponse { in_flight_sequences }))
    }
}

fn answer(event: Result<Event, GroupFailed>) -> Option<Result<v1::GenerateResponse, Status>> {
    match event {
        Err(failed) => Some(Err(status(&failed))),
        Ok(Event::Failed { .. }) => Some(Err(status(&SequenceFailed))),
        Ok(event) => convert::response(event).map(Ok),
    }
}

/// One sequence failed alone; the log has the cause.
#[derive(Debug, thiserror::Error)]
#[error("the sequence failed")]
struct SequenceFailed;

impl glint_core::Failure for SequenceFailed {
    fn kind(&self) -> Kind {
        Kind::Internal
    }
}
