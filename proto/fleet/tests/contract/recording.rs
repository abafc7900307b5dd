//! A fleet that remembers which leases were granted, so that a test can take them away.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use glint_fleet::{Bytes, Change, Fleet, FleetError, LeaseId};
use parking_lot::Mutex;

#[derive(Debug)]
pub(crate) struct Recording {
    fleet: Arc<dyn Fleet>,
    granted: Mutex<Vec<LeaseId>>,
}

impl Recording {
    pub(crate) fn new(fleet: Arc<dyn Fleet>) -> Self {
        Self { fleet, granted: Mutex::default() }
    }

    pub(crate) fn granted(&self) -> Vec<LeaseId> {
        self.granted.lock().clone()
    }
}

impl Fleet for Recording {
    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, FleetError>> {
        async move {
            let lease = self.fleet.grant(ttl).await?;
            self.granted.lock().push(lease);
            Ok(lease)
        }
        .boxed()
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<bool, FleetError>> {
        self.fleet.keep_alive(lease)
    }

    fn revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), FleetError>> {
        self.fleet.revoke(lease)
    }

    fn put(
        &self,
        key: String,
        value: Bytes,
        lease: Option<LeaseId>,
    ) -> BoxFuture<'_, Result<bool, FleetError>> {
        self.fleet.put(key, value, lease)
    }

    fn delete(&self, key: String) -> BoxFuture<'_, Result<(), FleetError>> {
        self.fleet.delete(key)
    }

    fn list(&self, prefix: String) -> BoxFuture<'_, Result<Vec<(String, Bytes)>, FleetError>> {
        self.fleet.list(prefix)
    }

    fn watch(&self, prefix: String) -> BoxStream<'static, Change> {
        self.fleet.watch(prefix)
    }
}
