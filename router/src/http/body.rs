//! How is a body read within bounds?
//!
//! Three of them: its own size, the time it takes, and the memory of all bodies that are being read together.

use std::ops::Deref;
use std::sync::Arc;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use bytes::BytesMut;
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::Refusal;
use crate::front::{BODY_UNIT_BYTES, Front};

/// A body that is too large is read this much further and thrown away: a client that is still writing would see a broken
/// connection instead of the answer.
const DISCARD_BYTES_MAX: usize = 64 << 20;

/// The beginning of a body takes no share, so that large bodies, however slow, keep no ordinary request out. The number of
/// requests bounds it.
const FREE_BYTES: usize = 16 << 10;

/// A body in memory, and its share of the memory that all bodies may have.
pub(crate) struct Held {
    bytes: Bytes,
    _share: Share,
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
        let mut share = Share::new(Arc::clone(&self.body_memory));
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Refusal::BodyBroken(error.to_string()))?;
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > limit_bytes {
                drop(bytes);
                discard(body).await;
                return Err(Refusal::BodyTooLarge { limit_bytes });
            }
            share.grow(bytes.len() + data.len())?;
            bytes.extend_from_slice(&data);
        }
        Ok(Held { bytes: bytes.freeze(), _share: share })
    }
}

/// A body's share of the memory that all bodies may have. It grows as bytes come, not by what was promised.
#[derive(Debug)]
struct Share {
    memory: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

impl Share {
    fn new(memory: Arc<Semaphore>) -> Self {
        Self { memory, held: None }
    }

    /// Holds as much as a body of so many bytes takes. It does not wait: bodies that are each read in part, and wait for
    /// each other's memory, would all wait for ever.
    fn grow(&mut self, bytes: usize) -> Result<(), Refusal> {
        let units = bytes.saturating_sub(FREE_BYTES).div_ceil(BODY_UNIT_BYTES);
        let held = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if units <= held {
            return Ok(());
        }
        let more = u32::try_from(units - held).map_err(|_| Refusal::BodiesFull)?;
        let more = Arc::clone(&self.memory).try_acquire_many_owned(more);
        let more = more.map_err(|_| Refusal::BodiesFull)?;
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
        Ok(())
    }
}

async fn discard(mut body: Body) {
    let mut discarded = 0;
    while discarded < DISCARD_BYTES_MAX {
        let Some(Ok(frame)) = body.frame().await else { return };
        discarded += frame.data_ref().map_or(0, Bytes::len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_grows_with_the_body_and_is_given_back() {
        let memory = Arc::new(Semaphore::new(10));
        let mut first = Share::new(Arc::clone(&memory));
        first.grow(FREE_BYTES).unwrap();
        assert_eq!(memory.available_permits(), 10, "the beginning is free");
        first.grow(FREE_BYTES + 1).unwrap();
        first.grow(FREE_BYTES + BODY_UNIT_BYTES).unwrap();
        assert_eq!(memory.available_permits(), 9);
        first.grow(FREE_BYTES + 10 * BODY_UNIT_BYTES).unwrap();
        let mut second = Share::new(Arc::clone(&memory));
        second.grow(FREE_BYTES).unwrap();
        assert!(matches!(second.grow(FREE_BYTES + 1), Err(Refusal::BodiesFull)));
        drop(first);
        second.grow(FREE_BYTES + 1).unwrap();
    }
}
