//! What do both front ends share?

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::answer::{Events, answer};
use crate::config::RouterConfig;
use crate::error::RequestError;
use crate::groups::Groups;
use crate::metrics::{Held, Metrics};
use crate::request::{Arrival, Generation};

/// Texts up to this size are read on the thread that serves the connection: about half a millisecond's work.
const INLINE_BYTES_MAX: usize = 1024;

/// Header by HTTP, metadata by gRPC.
pub(crate) const REQUEST_ID: &str = "x-request-id";
/// A longer id is replaced: it is repeated in every line of the log.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Memory of all bodies that are being read.
const BODIES_BYTES_MAX: usize = 512 << 20;
pub(crate) const BODY_UNIT_BYTES: usize = 1024;

/// Takes the client's id if it can stand in a log, else makes one.
pub(crate) fn request_id(given: Option<&str>) -> String {
    let given = given.filter(|id| (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()));
    given.map_or_else(|| uuid::Uuid::new_v4().simple().to_string(), str::to_owned)
}

/// The way from a front end to the groups.
#[derive(Debug)]
pub(crate) struct Front {
    pub(crate) groups: Arc<Groups>,
    pub(crate) metrics: Metrics,
    pub(crate) body_bytes_max: usize,
    pub(crate) body_timeout: Duration,
    pub(crate) first_byte: Duration,
    /// Of all bodies that are being read, in units of [`BODY_UNIT_BYTES`].
    pub(crate) body_memory: Arc<Semaphore>,
    requests_max: u32,
    requests: Arc<Semaphore>,
    /// One permit per core: more would only take turns.
    readers: Arc<Semaphore>,
}

/// The right to be answered, for as long as the answer lasts.
#[derive(Debug)]
pub(crate) struct Admitted {
    _permit: OwnedSemaphorePermit,
    _held: Held,
}

impl Front {
    pub(crate) fn new(config: &RouterConfig, groups: Arc<Groups>, metrics: Metrics) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            groups,
            metrics,
            body_bytes_max: config.body_bytes_max as usize,
            body_timeout: config.idle_timeout,
            first_byte: config.first_byte,
            body_memory: Arc::new(Semaphore::new(
                BODIES_BYTES_MAX.max(2 * config.body_bytes_max as usize) / BODY_UNIT_BYTES,
            )),
            requests_max: config.requests_max,
            requests: Arc::new(Semaphore::new(config.requests_max as usize)),
            readers: Arc::new(Semaphore::new(cores)),
        }
    }

    /// Admits a request, or sheds it: a queue here would hide from the client a wait that it could spend elsewhere.
    pub(crate) fn admit(&self) -> Result<Admitted, RequestError> {
        let permit = Arc::clone(&self.requests).try_acquire_owned();
        let permit = permit.map_err(|_| RequestError::Busy { requests_max: self.requests_max })?;
        Ok(Admitted { _permit: permit, _held: self.metrics.request_in_flight() })
    }

    /// Does work in proportion to `bytes` of text: here if it is little, else on a thread that may block.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> Result<T, RequestError> + Send + 'static,
    ) -> Result<T, RequestError> {
        if bytes <= INLINE_BYTES_MAX {
            return work();
        }
        let permit = Arc::clone(&self.readers).acquire_owned().await;
        let permit = permit.map_err(|closed| RequestError::Internal(closed.to_string()))?;
        let working = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(permit);
            result
        });
        working.await.map_err(|panic| RequestError::Internal(panic.to_string()))?
    }

    /// Starts the answers of a request.
    pub(crate) fn answer(&self, generation: &Arc<Generation>) -> Events {
        answer(generation, &self.groups, &self.metrics)
    }
}

/// Returns the arrival of a request, now.
pub(crate) fn arrival(request_id: String) -> Arrival {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Arrival { request_id, at: Instant::now(), clock }
}
