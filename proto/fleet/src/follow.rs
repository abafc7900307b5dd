//! How does a watch go on when the registry was away?
//!
//! It lists again and tells by comparison what it missed.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};

use crate::backoff::Backoff;
use crate::{Bytes, Change, FleetError};

/// One uninterrupted look at a prefix: present keys as `Put`, `Synced`, then changes; an error ends it.
pub(crate) type Look = BoxStream<'static, Result<Change, FleetError>>;

/// What can be looked at.
pub(crate) trait Lookable: Send + Sync + 'static {
    fn look(self: Arc<Self>, prefix: String) -> BoxFuture<'static, Result<Look, FleetError>>;
}

/// Makes one endless watch of many looks.
pub(crate) fn follow(
    source: Arc<impl Lookable>,
    prefix: String,
) -> impl Stream<Item = Change> + Send + 'static {
    let state = Follower {
        source,
        prefix,
        known: BTreeMap::new(),
        look: None,
        unseen: BTreeMap::new(),
        queued: Vec::new(),
        backoff: Backoff::new(),
        is_away: false,
    };
    futures::stream::unfold(state, |mut state| async move {
        let change = state.next().await;
        Some((change, state))
    })
}

struct Follower<S> {
    source: Arc<S>,
    prefix: String,
    /// What the watcher has been told.
    known: BTreeMap<String, Bytes>,
    look: Option<Look>,
    /// Of `known`, what the present look has not shown before its `Synced`.
    unseen: BTreeMap<String, ()>,
    /// To be told next, last first.
    queued: Vec<Change>,
    backoff: Backoff,
    /// The registry is away: pause before the next look.
    is_away: bool,
}

impl<S: Lookable> Follower<S> {
    async fn next(&mut self) -> Change {
        loop {
            if let Some(change) = self.queued.pop() {
                return change;
            }
            let Some(look) = &mut self.look else {
                if self.is_away {
                    self.backoff.pause().await;
                }
                match Arc::clone(&self.source).look(self.prefix.clone()).await {
                    Ok(look) => {
                        self.look = Some(look);
                        self.unseen = self.known.keys().map(|key| (key.clone(), ())).collect();
                    }
                    Err(error) => return self.away(&error),
                }
                continue;
            };
            let mut look = pin!(look);
            match look.next().await {
                Some(Ok(change)) => {
                    self.backoff.reset();
                    self.is_away = false;
                    if let Some(change) = self.apply(change) {
                        return change;
                    }
                }
                Some(Err(error)) => return self.away(&error),
                None => {
                    let reason = "the watch ended".to_owned();
                    return self.away(&FleetError::Away { reason });
                }
            }
        }
    }

    /// The watcher hears of it at once; the pause comes with its next question.
    fn away(&mut self, error: &FleetError) -> Change {
        self.look = None;
        self.is_away = true;
        Change::Away { reason: error.to_string() }
    }

    /// Returns what of a change is news.
    fn apply(&mut self, change: Change) -> Option<Change> {
        match change {
            Change::Put { key, value } => {
                self.unseen.remove(&key);
                let is_news = self.known.get(&key) != Some(&value);
                self.known.insert(key.clone(), value.clone());
                is_news.then_some(Change::Put { key, value })
            }
            Change::Deleted { key } => {
                self.unseen.remove(&key);
                self.known.remove(&key).map(|_| Change::Deleted { key })
            }
            Change::Synced => {
                self.queued.push(Change::Synced);
                for (key, ()) in std::mem::take(&mut self.unseen) {
                    self.known.remove(&key);
                    self.queued.push(Change::Deleted { key });
                }
                None
            }
            away @ Change::Away { .. } => Some(away),
        }
    }
}
