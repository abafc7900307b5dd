//! How is a body read within bounds?
//!
//! Three of them: its own size, the time it takes, and the memory of all bodies that are being read together.

use std::ops::Deref;
use std::sync::Arc;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use bytes::BytesMut;
use http_body_util::BodyExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::Refusal;
use crate::front::Front;

/// A body that is too large is read this much further and thrown away: a client that is still writing would see a broken
/// connection instead of the answer.
const DISCARD_BYTES_MAX: usize = 64 << 20;

/// A body in memory, and its share of the memory that all bodies may have.
pub(crate) struct Held {
    bytes: Bytes,
    _memory: OwnedSemaphorePermit,
}

impl Deref for Held {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Front {
    /// Reads a body to its end.
    pub(super) async fn body(&self, request: Request) -> Result<Held, Refusal> {
        let reading = self.body_in_time(request.into_body());
        timeout(self.body_timeout, reading)
            .await
            .map_err(|_elapsed| Refusal::BodySlow { limit_s: self.body_timeout.as_secs() })?
    }

    async fn body_in_time(&self, mut body: Body) -> Result<Held, Refusal> {
        let limit_bytes = self.body_bytes_max;
        let announced = body.size_hint().upper();
        let announced = announced.and_then(|bytes| usize::try_from(bytes).ok());
        if announced.is_some_and(|bytes| bytes > limit_bytes) {
            discard(body).await;
            return Err(Refusal::BodyTooLarge { limit_bytes });
        }
        let memory = self.body_memory(announced.unwrap_or(limit_bytes)).await?;
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Refusal::BodyBroken(error.to_string()))?;
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > limit_bytes {
                drop(bytes);
                discard(body).await;
                return Err(Refusal::BodyTooLarge { limit_bytes });
            }
            bytes.extend_from_slice(&data);
        }
        Ok(Held { bytes: bytes.freeze(), _memory: memory })
    }

    async fn body_memory(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        let share = Front::body_share(bytes);
        let permit = Arc::clone(&self.body_memory).acquire_many_owned(share).await;
        permit.map_err(|closed| Refusal::BodyBroken(closed.to_string()))
    }
}

async fn discard(mut body: Body) {
    let mut discarded = 0;
    while discarded < DISCARD_BYTES_MAX {
        let Some(Ok(frame)) = body.frame().await else { return };
        discarded += frame.data_ref().map_or(0, Bytes::len);
    }
}
