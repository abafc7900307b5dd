//! A registry in the memory of one process.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::backoff::random;
use crate::follow::{Look, Lookable, follow};
use crate::{Bytes, Change, Fleet, FleetError, LeaseId};

/// Changes that a slow watcher may fall behind; one more, and it looks anew.
const CHANGES_BEHIND_MAX: usize = 1024;
/// Bounds on what writers can make it hold: far beyond any cluster, far below the memory of a laptop.
const KEYS_MAX: usize = 100_000;
const LEASES_MAX: usize = 100_000;
const ENTRY_BYTES_MAX: usize = 1 << 20;

/// A registry in memory. Clones are the same registry.
#[derive(Clone, Debug)]
pub struct Memory {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    changes: broadcast::Sender<Change>,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<String, Entry>,
    leases: BTreeMap<LeaseId, Lease>,
    last_lease: u64,
}

#[derive(Debug)]
struct Entry {
    value: Bytes,
    lease: Option<LeaseId>,
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    ends_at: Instant,
    expiry: AbortHandle,
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Memory {
    /// Returns an empty registry.
    #[must_use]
    pub fn new() -> Self {
        let changes = broadcast::Sender::new(CHANGES_BEHIND_MAX);
        // Leases of different lives of a registry have different names: a writer that outlived one must not keep
        // somebody else's lease alive in the next.
        let state = State { last_lease: random() >> 1, ..State::default() };
        Self { inner: Arc::new(Inner { state: Mutex::new(state), changes }) }
    }
}

impl Inner {
    fn end_lease(&self, state: &mut State, lease: LeaseId) {
        if let Some(ended) = state.leases.remove(&lease) {
            ended.expiry.abort();
        }
        let gone = state.entries.extract_if(.., |_, entry| entry.lease == Some(lease));
        for (key, _) in gone {
            self.tell(Change::Deleted { key });
        }
    }

    /// Told under the lock, so that watchers hear changes in the order in which they happened.
    fn tell(&self, change: Change) {
        // An error means that nobody watches.
        let _nobody = self.changes.send(change);
    }
}

/// Ends a lease when it was not kept alive. Lives as long as the lease, or the registry.
async fn expire(inner: Weak<Inner>, lease: LeaseId, mut ends_at: Instant) {
    loop {
        tokio::time::sleep_until(ends_at).await;
        let Some(inner) = inner.upgrade() else { return };
        let mut state = inner.state.lock();
        match state.leases.get(&lease) {
            None => return,
            Some(kept) if kept.ends_at > ends_at => ends_at = kept.ends_at,
            Some(_) => {
                inner.end_lease(&mut state, lease);
                return;
            }
        }
    }
}

impl Lookable for Inner {
    fn look(self: Arc<Self>, prefix: String) -> BoxFuture<'static, Result<Look, FleetError>> {
        async move {
            let (present, changes) = {
                let state = self.state.lock();
                let present: Vec<_> = below(&state.entries, &prefix)
                    .map(|(key, entry)| Change::Put {
                        key: key.clone(),
                        value: entry.value.clone(),
                    })
                    .chain([Change::Synced])
                    .collect();
                (present, self.changes.subscribe())
            };
            // Ends when the watcher fell too far behind: it looks anew.
            let later = futures::stream::unfold(changes, |mut changes| async move {
                Some((changes.recv().await.ok()?, changes))
            });
            let later = later.filter(move |change| {
                futures::future::ready(match change {
                    Change::Put { key, .. } | Change::Deleted { key } => key.starts_with(&prefix),
                    Change::Synced | Change::Away { .. } => true,
                })
            });
            Ok(futures::stream::iter(present).chain(later).map(Ok).boxed())
        }
        .boxed()
    }
}

fn below<'a>(
    entries: &'a BTreeMap<String, Entry>,
    prefix: &'a str,
) -> impl Iterator<Item = (&'a String, &'a Entry)> {
    entries.range(prefix.to_owned()..).take_while(move |(key, _)| key.starts_with(prefix))
}

impl Fleet for Memory {
    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, FleetError>> {
        async move {
            let mut state = self.inner.state.lock();
            if state.leases.len() >= LEASES_MAX {
                return Err(FleetError::Full { reason: format!("{LEASES_MAX} leases") });
            }
            state.last_lease += 1;
            let lease = LeaseId(state.last_lease);
            let ends_at = Instant::now() + ttl;
            let expiry = tokio::spawn(expire(Arc::downgrade(&self.inner), lease, ends_at));
            state.leases.insert(lease, Lease { ttl, ends_at, expiry: expiry.abort_handle() });
            Ok(lease)
        }
        .boxed()
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<bool, FleetError>> {
        async move {
            let mut state = self.inner.state.lock();
            let Some(kept) = state.leases.get_mut(&lease) else { return Ok(false) };
            kept.ends_at = Instant::now() + kept.ttl;
            Ok(true)
        }
        .boxed()
    }

    fn revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), FleetError>> {
        async move {
            self.inner.end_lease(&mut self.inner.state.lock(), lease);
            Ok(())
        }
        .boxed()
    }

    fn put(
        &self,
        key: String,
        value: Bytes,
        lease: Option<LeaseId>,
    ) -> BoxFuture<'_, Result<bool, FleetError>> {
        async move {
            let mut state = self.inner.state.lock();
            if lease.is_some_and(|lease| !state.leases.contains_key(&lease)) {
                return Ok(false);
            }
            if key.len() + value.len() > ENTRY_BYTES_MAX {
                let reason = format!("{ENTRY_BYTES_MAX} bytes for a key and its value");
                return Err(FleetError::Full { reason });
            }
            if state.entries.len() >= KEYS_MAX && !state.entries.contains_key(&key) {
                return Err(FleetError::Full { reason: format!("{KEYS_MAX} keys") });
            }
            state.entries.insert(key.clone(), Entry { value: value.clone(), lease });
            self.inner.tell(Change::Put { key, value });
            Ok(true)
        }
        .boxed()
    }

    fn delete(&self, key: String) -> BoxFuture<'_, Result<(), FleetError>> {
        async move {
            let mut state = self.inner.state.lock();
            if state.entries.remove(&key).is_some() {
                self.inner.tell(Change::Deleted { key });
            }
            Ok(())
        }
        .boxed()
    }

    fn list(&self, prefix: String) -> BoxFuture<'_, Result<Vec<(String, Bytes)>, FleetError>> {
        async move {
            let state = self.inner.state.lock();
            let entries = below(&state.entries, &prefix);
            Ok(entries.map(|(key, entry)| (key.clone(), entry.value.clone())).collect())
        }
        .boxed()
    }

    fn watch(&self, prefix: String) -> BoxStream<'static, Change> {
        follow(Arc::clone(&self.inner), prefix).boxed()
    }
}
