//! How do a writer's keys stay in the registry?
//!
//! One task keeps one lease alive and compares what should be there with what is: a lease that ended (the registry
//! was away for longer, or restarted empty) is granted anew, and keys that are gone are put again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::backoff::Backoff;
use crate::{Bytes, Fleet, FleetError, LeaseId};

/// For the last words: a registry that is away must not hold up the end of a process.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Keys under one lease, for as long as this lives. Dropped without [`Registration::close`], they end with the lease.
#[derive(Debug)]
pub struct Registration {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    fleet: Arc<dyn Fleet>,
    ttl: Duration,
    wanted: Mutex<Wanted>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Wanted {
    entries: BTreeMap<String, Bytes>,
    /// Keys that were put once and are to go.
    dropped: Vec<String>,
    lease: Option<LeaseId>,
}

impl Registration {
    /// Starts to keep a lease of `ttl`. Must be called within a tokio runtime.
    #[must_use]
    pub fn start(fleet: Arc<dyn Fleet>, ttl: Duration) -> Self {
        let shared =
            Arc::new(Shared { fleet, ttl, wanted: Mutex::default(), changed: Notify::new() });
        let task = tokio::spawn(keep(Arc::clone(&shared)));
        Self { shared, task }
    }

    /// Says that a key is to have this value, from now on and again whenever it is lost. Returns at once.
    pub fn put(&self, key: String, value: &impl prost::Message) {
        let value = Bytes::from(value.encode_to_vec());
        self.shared.wanted.lock().entries.insert(key, value);
        self.shared.changed.notify_one();
    }

    /// Says that a key is to go. Returns at once.
    pub fn remove(&self, key: &str) {
        let mut wanted = self.shared.wanted.lock();
        if wanted.entries.remove(key).is_some() {
            wanted.dropped.push(key.to_owned());
            self.shared.changed.notify_one();
        }
    }

    /// Ends the lease and with it all keys.
    pub async fn close(self) {
        self.task.abort();
        let lease = self.shared.wanted.lock().lease.take();
        if let Some(lease) = lease {
            let revoked =
                tokio::time::timeout(CLOSE_TIMEOUT, self.shared.fleet.revoke(lease)).await;
            if !matches!(revoked, Ok(Ok(()))) {
                info!("the registry is away, the lease ends by itself");
            }
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep(shared: Arc<Shared>) {
    let mut backoff = Backoff::new();
    let mut is_away = false;
    loop {
        match shared.once().await {
            Ok(()) => {
                if std::mem::take(&mut is_away) {
                    info!("the registry is back");
                }
                backoff.reset();
                tokio::select! {
                    () = shared.changed.notified() => {}
                    () = tokio::time::sleep(shared.ttl / 3) => {}
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut is_away, true) {
                    warn!(error = %error, "cannot register, goes on trying");
                }
                backoff.pause().await;
            }
        }
    }
}

impl Shared {
    /// Makes the registry hold what is wanted.
    async fn once(&self) -> Result<(), FleetError> {
        let held = self.wanted.lock().lease;
        let lease = match held {
            Some(lease) if self.fleet.keep_alive(lease).await? => lease,
            Some(_) | None => {
                let lease = self.fleet.grant(self.ttl).await?;
                self.wanted.lock().lease = Some(lease);
                lease
            }
        };
        let (entries, dropped) = {
            let mut wanted = self.wanted.lock();
            (wanted.entries.clone(), std::mem::take(&mut wanted.dropped))
        };
        for key in dropped {
            if let Err(error) = self.fleet.delete(key.clone()).await {
                self.wanted.lock().dropped.push(key);
                return Err(error);
            }
        }
        for (key, value) in entries {
            let found = self.fleet.list(key.clone()).await?;
            let is_there =
                held == Some(lease) && found.iter().any(|(at, old)| *at == key && *old == value);
            if !is_there && !self.fleet.put(key, value, Some(lease)).await? {
                // The lease ended in between: begin again with a new one.
                let reason = "the lease ended".to_owned();
                return Err(FleetError::Away { reason });
            }
        }
        Ok(())
    }
}
