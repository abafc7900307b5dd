//! How is one group followed?
//!
//! ```text
//! connect ─▶ Describe ─▶ assets ─▶ Watch ─▶ frames … ─▶ stream ends ─▶ pause ─▶ connect
//!                                  (takes requests)        └─ key gone: forget the group
//! ```
//!
//! After a break the Watch stream is resumed where it was, if the group is still in the same epoch; what was known stays
//! as a prediction until then.

use std::sync::Arc;
use std::time::Duration;

use glint_core::{BLOCK_SIZE_TOKENS, Credits, Epoch, LoadSnapshot, ModelDigest, Pause, WireHash};
use glint_policy::{Position, Snapshot, View, ViewError};
use glint_proto::v1::watch_frame::Frame;
use glint_proto::v1::worker_client::WorkerClient;
use glint_proto::v1::{DescribeRequest, DescribeResponse, Load, Run, WatchFrame, WatchRequest};
use glint_proto::{WireError, convert};
use parking_lot::RwLock;
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use tracing::{debug, info, warn};

use super::link::{Link, Traffic};
use super::texts::{Lease, TextError};
use super::{Group, Groups, Told};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(10);
const ASSETS_TIMEOUT: Duration = Duration::from_secs(120);
/// Reports come at least each second; a stream that is silent for so long is dead, whatever its connection says.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// A peer that does not answer a ping has gone without a word: a frozen process, a cut cable.
const PING_INTERVAL: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Log-probabilities of a whole prompt come in one message.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Why a group is not followed at the moment.
#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error("{address:?} is no address, HOST:PORT is")]
    Address { address: String },
    #[error("cannot connect to {address}: {reason}")]
    Connect { address: String, reason: String },
    #[error("no answer from {address} within {}s to {to}", timeout.as_secs())]
    Slow { address: String, to: &'static str, timeout: Duration },
    #[error("{0}")]
    Refused(#[from] Box<Status>),
    #[error("{0}")]
    Wire(#[from] WireError),
    #[error(
        "its blocks have {block_size_tokens} tokens, this router knows blocks of {BLOCK_SIZE_TOKENS}"
    )]
    BlockSize { block_size_tokens: u32 },
    #[error("it serves model {described}, its key says {expected}")]
    OtherModel { described: String, expected: String },
    #[error("{0}")]
    Text(#[from] TextError),
    #[error("{0}")]
    View(#[from] ViewError),
    #[error("it reports under epoch {got}, its stream began in {expected}")]
    OtherEpoch { expected: u64, got: u64 },
    #[error("the stream was silent for {}s", SILENCE_MAX.as_secs())]
    Silent,
    #[error("the leader closed the stream")]
    Closed,
    #[error("the registry has a newer epoch, {newer}")]
    Replaced { newer: u64 },
}

impl From<Status> for FollowError {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

/// What was known of a group when its stream ended.
struct Remembered {
    epoch: Epoch,
    view: Arc<RwLock<View>>,
    /// Keeps the texts loaded, so that a reconnect fetches nothing.
    _lease: Lease,
}

/// Follows a group until its stream is dead and its key gone.
pub(super) async fn follow(groups: Arc<Groups>, group: Arc<Group>) {
    let mut told = group.told.subscribe();
    let mut remembered: Option<Remembered> = None;
    let mut pause = Pause::new(PAUSE_MIN, PAUSE_MAX);
    let mut failed_before = false;
    loop {
        let target = told.borrow_and_update().clone();
        if target.is_gone && groups.drop_if_gone(&group) {
            forget(&groups, remembered.take());
            return;
        }
        let started = tokio::select! {
            started = start(&groups, &group, &target, &mut remembered) => started,
            // Another address, or gone: what is being tried is out of date.
            _ = told.changed() => continue,
        };
        let error = match started {
            Ok(Started { link, frames }) => {
                info!(model = %group.model, group = %group.id, epoch = %link.epoch, "group ready");
                pause.reset();
                failed_before = false;
                group.state.write().link = Some(Arc::clone(&link));
                groups.update();
                let ended = read(&groups, &link, frames, &mut told).await;
                group.state.write().link = None;
                groups.update();
                link.view.write().interrupt();
                ended
            }
            Err(error) => error,
        };
        // Once, not at each attempt: a group that is away stays away for a while.
        if std::mem::replace(&mut failed_before, true) {
            debug!(model = %group.model, group = %group.id, error = %error, "group still lost");
        } else {
            warn!(model = %group.model, group = %group.id, error = %error, "group lost");
        }
        tokio::select! {
            () = tokio::time::sleep(pause.take()) => {}
            _ = told.changed() => pause.reset(),
        }
    }
}

fn forget(groups: &Groups, remembered: Option<Remembered>) {
    if let Some(remembered) = remembered {
        groups.metrics.blocks(remembered.view.read().len(), 0);
    }
}

struct Started {
    link: Arc<Link>,
    frames: Streaming<WatchFrame>,
}

/// From an address to an open Watch stream.
async fn start(
    groups: &Groups,
    group: &Group,
    told: &Told,
    remembered: &mut Option<Remembered>,
) -> Result<Started, FollowError> {
    let address = &told.record.address;
    let slow = |to, timeout| move |_| FollowError::Slow { address: address.clone(), to, timeout };
    let mut client = connect(address).await?;

    let describing = client.describe(DescribeRequest {});
    let described = tokio::time::timeout(DESCRIBE_TIMEOUT, describing)
        .await
        .map_err(slow("Describe", DESCRIBE_TIMEOUT))??
        .into_inner();
    let digest = check(group, &described)?;
    let epoch = Epoch(described.epoch);

    let fetching = groups.texts.get(&described.assets, &client);
    let lease = tokio::time::timeout(ASSETS_TIMEOUT, fetching)
        .await
        .map_err(slow("GetAsset", ASSETS_TIMEOUT))??;

    if remembered.as_ref().is_some_and(|known| known.epoch != epoch) {
        forget(groups, remembered.take());
    }
    let text = Arc::clone(&lease.text);
    let known = remembered.get_or_insert_with(|| {
        let blocks_max = usize::try_from(described.kv_blocks).unwrap_or(usize::MAX);
        Remembered { epoch, view: Arc::new(RwLock::new(View::new(blocks_max))), _lease: lease }
    });
    let position = known.view.read().position();
    let request = WatchRequest {
        router: groups.router.to_string(),
        epoch: position.map(|position| position.epoch.0),
        sequence: position.map(|position| position.sequence),
    };
    let frames = tokio::time::timeout(DESCRIBE_TIMEOUT, client.watch(request))
        .await
        .map_err(slow("Watch", DESCRIBE_TIMEOUT))??
        .into_inner();

    let mut served_names = described.served_names;
    if served_names.is_empty() {
        served_names.push(described.model);
    }
    group.state.write().served_names = served_names;
    let link = Arc::new(Link {
        group: group.id.clone(),
        client,
        epoch,
        digest,
        context_tokens: described.context_tokens,
        vocab_size: described.vocab_size,
        text,
        view: Arc::clone(&known.view),
        traffic: Traffic::default(),
    });
    Ok(Started { link, frames })
}

async fn connect(address: &str) -> Result<WorkerClient<Channel>, FollowError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|_| FollowError::Address { address: address.to_owned() })?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true);
    let channel = endpoint.connect().await.map_err(|error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        let reason = cause.unwrap_or_else(|| error.to_string());
        FollowError::Connect { address: address.to_owned(), reason }
    })?;
    Ok(WorkerClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
}

fn check(group: &Group, described: &DescribeResponse) -> Result<ModelDigest, FollowError> {
    if described.block_size_tokens as usize != BLOCK_SIZE_TOKENS {
        let block_size_tokens = described.block_size_tokens;
        return Err(FollowError::BlockSize { block_size_tokens });
    }
    if described.model != group.model.as_str() {
        let (described, expected) = (described.model.clone(), group.model.to_string());
        return Err(FollowError::OtherModel { described, expected });
    }
    Ok(convert::digest("DescribeResponse", &described.model_digest)?)
}

/// Applies frames until the stream is of no more use; returns why.
async fn read(
    groups: &Groups,
    link: &Link,
    mut frames: Streaming<WatchFrame>,
    told: &mut watch::Receiver<Told>,
) -> FollowError {
    loop {
        let frame = tokio::select! {
            frame = tokio::time::timeout(SILENCE_MAX, frames.message()) => frame,
            _ = told.changed() => {
                let record = told.borrow_and_update().record.clone();
                groups.update();
                // Only rank 0 of this very group writes epochs: the old one is over.
                if record.epoch > link.epoch.0 {
                    return FollowError::Replaced { newer: record.epoch };
                }
                continue;
            }
        };
        let applied = match frame {
            Err(_elapsed) => Err(FollowError::Silent),
            Ok(Err(status)) => Err(status.into()),
            Ok(Ok(None)) => Err(FollowError::Closed),
            Ok(Ok(Some(WatchFrame { frame }))) => apply(groups, link, frame),
        };
        if let Err(error) = applied {
            return error;
        }
    }
}

fn apply(groups: &Groups, link: &Link, frame: Option<Frame>) -> Result<(), FollowError> {
    match frame {
        Some(Frame::Load(load)) => {
            check_epoch(link, load.epoch)?;
            take_load(groups, link, &load);
            Ok(())
        }
        Some(Frame::Snapshot(snapshot)) => {
            check_epoch(link, snapshot.epoch)?;
            let position = Position { epoch: link.epoch, sequence: snapshot.sequence };
            let stored = names(&snapshot.runs);
            let chunk = Snapshot { position, stored, is_last: snapshot.last };
            change_view(groups, link, |view| view.apply_snapshot(chunk))
        }
        Some(Frame::Delta(delta)) => {
            let removed: Vec<_> = delta.removed.iter().copied().map(WireHash).collect();
            let stored = names(&delta.stored);
            change_view(groups, link, |view| view.apply_delta(delta.sequence, &removed, &stored))
        }
        // A frame that a newer leader may send.
        None => Ok(()),
    }
}

fn check_epoch(link: &Link, got: u64) -> Result<(), FollowError> {
    let expected = link.epoch.0;
    if got == expected { Ok(()) } else { Err(FollowError::OtherEpoch { expected, got }) }
}

fn take_load(groups: &Groups, link: &Link, load: &Load) {
    if link.reported(LoadSnapshot::from(load), Credits::from(load)) {
        groups.update();
    }
}

fn change_view(
    groups: &Groups,
    link: &Link,
    change: impl FnOnce(&mut View) -> Result<(), ViewError>,
) -> Result<(), FollowError> {
    let mut view = link.view.write();
    let before = view.len();
    let changed = change(&mut view);
    groups.metrics.blocks(before, view.len());
    Ok(changed?)
}

fn names(runs: &[Run]) -> Vec<WireHash> {
    runs.iter().flat_map(|run| &run.hashes).copied().map(WireHash).collect()
}
