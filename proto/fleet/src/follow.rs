//! How does a watch go on when the registry was away?
//!
//! It looks anew: the keys that are there now are compared with those it has told, and it tells the difference. The same
//! when the registry has forgotten the changes in between (compaction), or when the watcher was too slow for them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};

use crate::backoff::Backoff;
use crate::{Bytes, Change, FleetError};

/// One uninterrupted look at a prefix: present keys as `Put`, `Synced`, then changes in order.
///
/// An error says that the registry is away; an end, that some changes are lost although it is there.
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
        unseen: BTreeSet::new(),
        phase: Phase::Begin,
        queued: VecDeque::new(),
        backoff: Backoff::new(),
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
    /// Of `known`, what the present look has not shown; what is left at its `Synced` is gone.
    unseen: BTreeSet<String>,
    phase: Phase,
    /// To be told next.
    queued: VecDeque<Change>,
    backoff: Backoff,
}

/// Begin ──look──▶ Looking ──error, end──▶ Pause ──pause──▶ Begin
enum Phase {
    Begin,
    Looking(Look),
    Pause,
}

impl<S: Lookable> Follower<S> {
    async fn next(&mut self) -> Change {
        loop {
            if let Some(change) = self.queued.pop_front() {
                return change;
            }
            match &mut self.phase {
                Phase::Pause => {
                    self.backoff.pause().await;
                    self.phase = Phase::Begin;
                }
                Phase::Begin => self.begin().await,
                Phase::Looking(look) => match look.next().await {
                    Some(Ok(change)) => self.apply(change),
                    Some(Err(error)) => self.away(&error),
                    None => self.phase = Phase::Pause,
                },
            }
        }
    }

    // ## Begin => (Looking | Pause)
    async fn begin(&mut self) {
        match Arc::clone(&self.source).look(self.prefix.clone()).await {
            Ok(look) => {
                self.unseen = self.known.keys().cloned().collect();
                self.phase = Phase::Looking(look);
            }
            Err(error) => self.away(&error),
        }
    }

    // ## (Begin | Looking) => Pause
    //
    // The watcher hears of it at once; the pause comes with its next question.
    fn away(&mut self, error: &FleetError) {
        self.phase = Phase::Pause;
        self.queued.push_back(Change::Away { reason: error.to_string() });
    }

    /// Queues what of a change is news.
    fn apply(&mut self, change: Change) {
        match change {
            Change::Put { key, value } => {
                self.unseen.remove(&key);
                if self.known.get(&key) != Some(&value) {
                    self.known.insert(key.clone(), value.clone());
                    self.queued.push_back(Change::Put { key, value });
                }
            }
            Change::Deleted { key } => {
                self.unseen.remove(&key);
                if self.known.remove(&key).is_some() {
                    self.queued.push_back(Change::Deleted { key });
                }
            }
            Change::Synced => {
                self.backoff.reset();
                for key in std::mem::take(&mut self.unseen) {
                    self.known.remove(&key);
                    self.queued.push_back(Change::Deleted { key });
                }
                self.queued.push_back(Change::Synced);
            }
            // A registry that is itself a client of another: still looking, for it goes on by itself.
            away @ Change::Away { .. } => self.queued.push_back(away),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use parking_lot::Mutex;

    use super::*;

    type Shown = Result<Vec<Result<Change, FleetError>>, FleetError>;

    /// Gives prepared looks, and then none for ever.
    struct Script(Mutex<VecDeque<Shown>>);

    impl Lookable for Script {
        fn look(self: Arc<Self>, _prefix: String) -> BoxFuture<'static, Result<Look, FleetError>> {
            let next = self.0.lock().pop_front();
            async move {
                match next {
                    Some(look) => look.map(|changes| futures::stream::iter(changes).boxed()),
                    None => futures::future::pending().await,
                }
            }
            .boxed()
        }
    }

    fn put(key: &str, value: &'static str) -> Change {
        Change::Put { key: key.to_owned(), value: Bytes::from(value) }
    }

    fn deleted(key: &str) -> Change {
        Change::Deleted { key: key.to_owned() }
    }

    fn away() -> FleetError {
        FleetError::Away { reason: "cut".to_owned() }
    }

    async fn told(looks: Vec<Shown>, changes: usize) -> Vec<Change> {
        let script = Arc::new(Script(Mutex::new(looks.into())));
        follow(script, String::new()).take(changes).collect().await
    }

    #[tokio::test]
    async fn a_new_look_tells_only_what_is_different() {
        let first =
            vec![Ok(put("a", "1")), Ok(put("b", "1")), Ok(put("c", "1")), Ok(Change::Synced)];
        let second =
            vec![Ok(put("b", "1")), Ok(put("c", "2")), Ok(put("d", "1")), Ok(Change::Synced)];
        let all = told(vec![Ok(first), Ok(second)], 8).await;
        let expected = [
            put("a", "1"),
            put("b", "1"),
            put("c", "1"),
            Change::Synced,
            put("c", "2"),
            put("d", "1"),
            deleted("a"),
            Change::Synced,
        ];
        assert_eq!(all, expected);
    }

    #[tokio::test]
    async fn a_registry_that_is_away_is_told_and_nothing_is_taken_for_gone() {
        let first = vec![Ok(put("a", "1")), Ok(Change::Synced), Err(away())];
        let cut_short = vec![Ok(put("b", "1")), Err(away())];
        let last = vec![Ok(put("a", "1")), Ok(put("b", "1")), Ok(Change::Synced)];
        let all = told(vec![Ok(first), Err(away()), Ok(cut_short), Ok(last)], 7).await;
        let away = Change::Away { reason: away().to_string() };
        let expected = [
            put("a", "1"),
            Change::Synced,
            away.clone(),
            away.clone(),
            put("b", "1"),
            away,
            Change::Synced,
        ];
        assert_eq!(all, expected);
    }
}
