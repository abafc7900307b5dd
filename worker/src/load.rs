//! What does a router hear of the group's load, and when?

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use glint_core::{BLOCK_SIZE_TOKENS, Credits, LoadSnapshot};
use glint_engine::TagLoad;
use glint_proto::{convert, v1};
use parking_lot::Mutex;

/// No report follows another sooner.
pub(crate) const INTERVAL_MIN: Duration = Duration::from_millis(20);
/// Routers whose loads are told apart; the others share one sum.
const ROUTERS_MAX: usize = 1024;
/// Tag of the routers beyond [`ROUTERS_MAX`].
const OTHERS: u64 = 0;

/// What the engine thread last saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct LoadReport {
    pub(crate) snapshot: LoadSnapshot,
    pub(crate) by_tag: HashMap<u64, TagLoad>,
}

impl LoadReport {
    /// Returns whether sequences wait or run.
    pub(crate) fn is_busy(&self) -> bool {
        self.snapshot.running_sequences + self.snapshot.waiting_sequences > 0
    }

    /// Returns whether a router should hear of this before its time: work began or ended, the queue grew from
    /// nothing or by half, or the door closed.
    pub(crate) fn differs_much_from(&self, told: &Self) -> bool {
        let (now, then) = (&self.snapshot, &told.snapshot);
        let changed = |now: u32, then: u32| now.abs_diff(then) * 2 > then.max(1);
        now.draining != then.draining
            || self.is_busy() != told.is_busy()
            || changed(now.waiting_sequences, then.waiting_sequences)
            || changed(now.running_sequences, then.running_sequences)
    }
}

/// The routers that this leader knows, by the tag that their sequences carry in the engine.
#[derive(Debug, Default)]
pub(crate) struct Routers {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    by_name: HashMap<String, Router>,
    last_tag: u64,
}

#[derive(Clone, Copy, Debug)]
struct Router {
    tag: u64,
    dispatches_seen: u64,
    /// Watch streams that it holds open.
    watches: u32,
}

impl Known {
    /// Returns a router's entry, or nothing if there is no room for one more.
    fn router(&mut self, name: &str) -> Option<&mut Router> {
        if !self.by_name.contains_key(name) {
            if self.by_name.len() >= ROUTERS_MAX {
                let gone = self.by_name.iter().find(|(_, router)| router.watches == 0);
                let gone = gone.map(|(name, _)| name.clone())?;
                self.by_name.remove(&gone);
            }
            self.last_tag += 1;
            let router = Router { tag: self.last_tag, dispatches_seen: 0, watches: 0 };
            self.by_name.insert(name.to_owned(), router);
        }
        self.by_name.get_mut(name)
    }
}

impl Routers {
    /// Returns the tag of a router's sequences, and notes that its `dispatch`-th call has been seen.
    pub(crate) fn seen(&self, router: &str, dispatch: u64) -> u64 {
        let mut known = self.known.lock();
        let Some(router) = known.router(router) else { return OTHERS };
        router.dispatches_seen = router.dispatches_seen.max(dispatch);
        router.tag
    }

    /// Notes that a router watches; until the result is dropped, it gets its share of the credits.
    pub(crate) fn watches(self: &Arc<Self>, router: &str) -> Watching {
        if let Some(router) = self.known.lock().router(router) {
            router.watches += 1;
            // A router counts its dispatches by connection. The old number would tell it that all it now sends has
            // been seen; one too low makes it count a sequence twice for a moment.
            router.dispatches_seen = 0;
        }
        Watching { routers: Arc::clone(self), router: router.to_owned() }
    }

    /// Returns the report for one router.
    pub(crate) fn report(
        &self,
        router: &str,
        epoch: u64,
        limits: Limits,
        load: &LoadReport,
    ) -> v1::Load {
        let known = &self.known.lock().by_name;
        let snapshot = &load.snapshot;
        let free_blocks = u64::from(snapshot.kv_blocks_total - snapshot.kv_blocks_used);
        // Shared out evenly: what one router leaves, all are granted again with the next report.
        let watching = known.values().filter(|router| router.watches > 0).count().max(1);
        let free_sequences = (limits.sequences_max + limits.waiting_max)
            .saturating_sub(snapshot.running_sequences + snapshot.waiting_sequences);
        let is_open = !snapshot.draining;
        let credits = Credits {
            dispatches_seen: known.get(router).map_or(0, |router| router.dispatches_seen),
            sequences: if is_open { free_sequences.div_ceil(watching as u32) } else { 0 },
            tokens: if is_open {
                (free_blocks * BLOCK_SIZE_TOKENS as u64).div_ceil(watching as u64)
            } else {
                0
            },
        };
        let in_flight = |(name, router): (&String, &Router)| {
            let load = load.by_tag.get(&router.tag)?;
            Some(v1::RouterLoad {
                router: name.clone(),
                sequences: load.waiting_sequences + load.running_sequences,
                uncached_tokens: load.queued_prefill_tokens,
            })
        };
        let in_flight = known.iter().filter_map(in_flight).collect();
        convert::load(epoch, snapshot, credits, in_flight)
    }
}

/// A router's open Watch stream.
#[derive(Debug)]
pub(crate) struct Watching {
    routers: Arc<Routers>,
    pub(crate) router: String,
}

impl Drop for Watching {
    fn drop(&mut self) {
        if let Some(router) = self.routers.known.lock().by_name.get_mut(&self.router) {
            router.watches = router.watches.saturating_sub(1);
        }
    }
}

/// Bounds that credits follow from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) sequences_max: u32,
    pub(crate) waiting_max: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(waiting: u32, running: u32) -> LoadReport {
        let snapshot = LoadSnapshot {
            waiting_sequences: waiting,
            running_sequences: running,
            kv_blocks_total: 100,
            kv_blocks_used: 40,
            ..LoadSnapshot::default()
        };
        LoadReport { snapshot, by_tag: HashMap::new() }
    }

    #[test]
    fn large_changes_are_told_at_once() {
        assert!(report(0, 1).differs_much_from(&report(0, 0)));
        assert!(report(3, 8).differs_much_from(&report(0, 8)));
        assert!(!report(0, 9).differs_much_from(&report(0, 8)));
        assert!(report(0, 0).differs_much_from(&report(0, 8)));
    }

    #[test]
    fn each_router_hears_of_its_own_dispatches_and_an_even_share() {
        let routers = Arc::new(Routers::default());
        let (_a, b) = (routers.watches("a"), routers.watches("b"));
        let tag = routers.seen("a", 5);
        assert_ne!(tag, routers.seen("b", 1));
        assert_eq!(routers.seen("a", 4), tag);
        let mut load = report(1, 3);
        let in_flight =
            TagLoad { waiting_sequences: 1, running_sequences: 2, queued_prefill_tokens: 7 };
        load.by_tag.insert(tag, in_flight);
        let limits = Limits { sequences_max: 8, waiting_max: 4 };
        let wire = routers.report("a", 9, limits, &load);
        assert_eq!((wire.epoch, wire.dispatches_seen), (9, 5));
        assert_eq!((wire.credit_sequences, wire.credit_tokens), (4, 480));
        assert_eq!(wire.routers.len(), 1);
        assert_eq!((wire.routers[0].sequences, wire.routers[0].uncached_tokens), (3, 7));

        drop(b);
        assert_eq!(routers.report("a", 9, limits, &load).credit_sequences, 8);
        load.snapshot.draining = true;
        assert_eq!(routers.report("a", 9, limits, &load).credit_sequences, 0);
    }

    #[test]
    fn a_new_connection_is_told_of_no_dispatch_that_it_has_not_sent() {
        let routers = Arc::new(Routers::default());
        let seen = || routers.report("a", 1, LIMITS, &LoadReport::default()).dispatches_seen;
        let _old = routers.watches("a");
        routers.seen("a", 900);
        let _new = routers.watches("a");
        assert_eq!(seen(), 0);
        routers.seen("a", 1);
        assert_eq!(seen(), 1);
    }

    #[test]
    fn routers_beyond_the_bound_share_a_tag_and_those_that_left_make_room() {
        let routers = Arc::new(Routers::default());
        let mut held: Vec<_> = (0..ROUTERS_MAX).map(|n| routers.watches(&n.to_string())).collect();
        assert_eq!(routers.seen("late", 1), OTHERS);
        held.pop();
        assert_ne!(routers.seen("late", 2), OTHERS);
    }

    const LIMITS: Limits = Limits { sequences_max: 1, waiting_max: 1 };
}
