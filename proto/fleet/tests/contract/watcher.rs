//! A watch, and what it has told so far.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use glint_fleet::{Bytes, Change, Fleet};

/// Far longer than anything takes: only a test that fails waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Watcher {
    changes: BoxStream<'static, Change>,
    /// Keys and values as told.
    pub(crate) view: BTreeMap<String, Bytes>,
}

impl Watcher {
    pub(crate) fn new(fleet: &dyn Fleet, prefix: &str) -> Self {
        Self { changes: fleet.watch(prefix.to_owned()), view: BTreeMap::new() }
    }

    pub(crate) async fn next(&mut self) -> Change {
        let next = tokio::time::timeout(PATIENCE, self.changes.next()).await;
        let change = next
            .unwrap_or_else(|_| panic!("nothing was told, known is {:?}", self.view))
            .expect("a watch never ends");
        match &change {
            Change::Put { key, value } => {
                self.view.insert(key.clone(), value.clone());
            }
            Change::Deleted { key } => {
                let old = self.view.remove(key);
                assert!(old.is_some(), "{key} was told to be gone, but never to be there");
            }
            Change::Synced | Change::Away { .. } => {}
        }
        change
    }

    /// Waits for a change; returns it with all before it.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&Change) -> bool) -> Vec<Change> {
        let mut told = Vec::new();
        loop {
            told.push(self.next().await);
            if told.last().is_some_and(&wanted) {
                return told;
            }
        }
    }

    pub(crate) async fn synced(&mut self) -> Vec<Change> {
        self.until(|change| *change == Change::Synced).await
    }

    pub(crate) async fn away(&mut self) -> Vec<Change> {
        self.until(|change| matches!(change, Change::Away { .. })).await
    }

    pub(crate) async fn deleted(&mut self, key: &str) -> Vec<Change> {
        self.until(|change| *change == deleted(key)).await
    }

    /// Waits until a key is there; at once if it is.
    pub(crate) async fn there(&mut self, key: &str) {
        while !self.view.contains_key(key) {
            self.next().await;
        }
    }
}

pub(crate) fn put(key: &str, value: &'static str) -> Change {
    Change::Put { key: key.to_owned(), value: Bytes::from(value) }
}

pub(crate) fn deleted(key: &str) -> Change {
    Change::Deleted { key: key.to_owned() }
}
