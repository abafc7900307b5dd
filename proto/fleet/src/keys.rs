//! Where in the registry does what lie? `FORMATS.md` section 5; nobody else knows.
//!
//! Each kind of key has a prefix to watch, a constructor, and a reader that returns nothing for any other key.

use glint_core::{ClusterId, Epoch, GroupId, ModelId, RouterId};

/// The keys of one cluster, all below `/glint/<cluster>/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    root: String,
}

impl Keys {
    /// Returns the keys of a cluster; several may share one etcd.
    #[must_use]
    pub fn new(cluster: &ClusterId) -> Self {
        Self { root: format!("/glint/{cluster}/") }
    }

    /// Returns the prefix of all groups.
    #[must_use]
    pub fn groups(&self) -> String {
        format!("{}groups/", self.root)
    }

    /// Returns where a group's leader says that it serves; a `GroupRecord` under a lease.
    #[must_use]
    pub fn group(&self, model: &ModelId, group: &GroupId) -> String {
        format!("{}{model}/{group}", self.groups())
    }

    /// Reads a key of [`Self::group`].
    #[must_use]
    pub fn parse_group(&self, key: &str) -> Option<(ModelId, GroupId)> {
        let [model, group] = self.parts(key, "groups")?;
        Some((model.parse().ok()?, group.parse().ok()?))
    }

    /// Returns the prefix of a group's rendezvous, over all epochs.
    #[must_use]
    pub fn rendezvous_of(&self, model: &ModelId, group: &GroupId) -> String {
        format!("{}rendezvous/{model}/{group}/", self.root)
    }

    /// Returns where a rank says that it takes part in an epoch; a `RendezvousRecord` under a lease.
    #[must_use]
    pub fn rendezvous(&self, model: &ModelId, group: &GroupId, epoch: Epoch, rank: u32) -> String {
        format!("{}{}/{rank}", self.rendezvous_of(model, group), epoch.0)
    }

    /// Reads epoch and rank out of a key of [`Self::rendezvous`].
    #[must_use]
    pub fn parse_rendezvous(&self, key: &str) -> Option<(Epoch, u32)> {
        let [_model, _group, epoch, rank] = self.parts(key, "rendezvous")?;
        Some((Epoch(epoch.parse().ok()?), rank.parse().ok()?))
    }

    /// Returns the prefix of all models.
    #[must_use]
    pub fn models(&self) -> String {
        format!("{}models/", self.root)
    }

    /// Returns where a model's names and weights of revisions lie; a `ModelRecord` without a lease.
    #[must_use]
    pub fn model(&self, model: &ModelId) -> String {
        format!("{}{model}", self.models())
    }

    /// Reads a key of [`Self::model`].
    #[must_use]
    pub fn parse_model(&self, key: &str) -> Option<ModelId> {
        let [model] = self.parts(key, "models")?;
        model.parse().ok()
    }

    /// Returns the prefix of all intents.
    #[must_use]
    pub fn intents(&self) -> String {
        format!("{}intents/", self.root)
    }

    /// Returns where the operator says what a group is to do; an `IntentRecord` without a lease.
    #[must_use]
    pub fn intent(&self, model: &ModelId, group: &GroupId) -> String {
        format!("{}{model}/{group}", self.intents())
    }

    /// Reads a key of [`Self::intent`].
    #[must_use]
    pub fn parse_intent(&self, key: &str) -> Option<(ModelId, GroupId)> {
        let [model, group] = self.parts(key, "intents")?;
        Some((model.parse().ok()?, group.parse().ok()?))
    }

    /// Returns the prefix of what all routers have seen of all groups.
    #[must_use]
    pub fn seen_all(&self) -> String {
        format!("{}seen/", self.root)
    }

    /// Returns the prefix of what all routers have seen of a group.
    #[must_use]
    pub fn seen_of(&self, model: &ModelId, group: &GroupId) -> String {
        format!("{}{model}/{group}/", self.seen_all())
    }

    /// Returns where a router says what it has seen of a group; a `SeenRecord` under a lease.
    #[must_use]
    pub fn seen(&self, model: &ModelId, group: &GroupId, router: &RouterId) -> String {
        format!("{}{router}", self.seen_of(model, group))
    }

    /// Reads a key of [`Self::seen`].
    #[must_use]
    pub fn parse_seen(&self, key: &str) -> Option<(ModelId, GroupId, RouterId)> {
        let [model, group, router] = self.parts(key, "seen")?;
        Some((model.parse().ok()?, group.parse().ok()?, router.parse().ok()?))
    }

    /// Returns the prefix of all routers.
    #[must_use]
    pub fn routers(&self) -> String {
        format!("{}routers/", self.root)
    }

    /// Returns where a router says that it lives; a `RouterRecord` under a lease.
    #[must_use]
    pub fn router(&self, router: &RouterId) -> String {
        format!("{}{router}", self.routers())
    }

    /// Reads a key of [`Self::router`].
    #[must_use]
    pub fn parse_router(&self, key: &str) -> Option<RouterId> {
        let [router] = self.parts(key, "routers")?;
        router.parse().ok()
    }

    /// Returns the prefix of all models that are waited for.
    #[must_use]
    pub fn wakes(&self) -> String {
        format!("{}wake/", self.root)
    }

    /// Returns where a router says that requests wait for a model at zero; a `WakeRecord` under a lease.
    #[must_use]
    pub fn wake(&self, model: &ModelId) -> String {
        format!("{}{model}", self.wakes())
    }

    /// Reads a key of [`Self::wake`].
    #[must_use]
    pub fn parse_wake(&self, key: &str) -> Option<ModelId> {
        let [model] = self.parts(key, "wake")?;
        model.parse().ok()
    }

    /// Returns what follows the kind, if it is exactly so many parts.
    fn parts<'k, const N: usize>(&self, key: &'k str, kind: &str) -> Option<[&'k str; N]> {
        let rest = key.strip_prefix(&self.root)?.strip_prefix(kind)?.strip_prefix('/')?;
        rest.split('/').collect::<Vec<_>>().try_into().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> (Keys, ModelId, GroupId, RouterId) {
        let keys = Keys::new(&"prod".parse().unwrap());
        (keys, "glm-4-9b".parse().unwrap(), "g0".parse().unwrap(), "r1".parse().unwrap())
    }

    #[test]
    fn keys_are_those_of_the_format() {
        let (keys, model, group, router) = names();
        assert_eq!(keys.group(&model, &group), "/glint/prod/groups/glm-4-9b/g0");
        let rendezvous = keys.rendezvous(&model, &group, Epoch(17), 3);
        assert_eq!(rendezvous, "/glint/prod/rendezvous/glm-4-9b/g0/17/3");
        assert_eq!(keys.model(&model), "/glint/prod/models/glm-4-9b");
        assert_eq!(keys.intent(&model, &group), "/glint/prod/intents/glm-4-9b/g0");
        assert_eq!(keys.seen(&model, &group, &router), "/glint/prod/seen/glm-4-9b/g0/r1");
        assert_eq!(keys.router(&router), "/glint/prod/routers/r1");
        assert_eq!(keys.wake(&model), "/glint/prod/wake/glm-4-9b");
    }

    #[test]
    fn every_key_is_below_its_prefix_and_is_read_back() {
        let (keys, model, group, router) = names();
        let (m, g, r) = (model.clone(), group.clone(), router.clone());

        let key = keys.group(&m, &g);
        assert!(key.starts_with(&keys.groups()));
        assert_eq!(keys.parse_group(&key), Some((m.clone(), g.clone())));
        let key = keys.rendezvous(&m, &g, Epoch(u64::MAX), 7);
        assert!(key.starts_with(&keys.rendezvous_of(&m, &g)));
        assert_eq!(keys.parse_rendezvous(&key), Some((Epoch(u64::MAX), 7)));
        let key = keys.model(&m);
        assert!(key.starts_with(&keys.models()));
        assert_eq!(keys.parse_model(&key), Some(m.clone()));
        let key = keys.intent(&m, &g);
        assert!(key.starts_with(&keys.intents()));
        assert_eq!(keys.parse_intent(&key), Some((m.clone(), g.clone())));
        let key = keys.seen(&m, &g, &r);
        assert!(key.starts_with(&keys.seen_of(&m, &g)) && key.starts_with(&keys.seen_all()));
        assert_eq!(keys.parse_seen(&key), Some((model, group, router)));
        let key = keys.router(&r);
        assert!(key.starts_with(&keys.routers()));
        assert_eq!(keys.parse_router(&key), Some(r));
        let key = keys.wake(&m);
        assert!(key.starts_with(&keys.wakes()));
        assert_eq!(keys.parse_wake(&key), Some(m));
    }

    #[test]
    fn a_foreign_key_is_none_of_ours() {
        let (keys, ..) = names();
        for foreign in [
            "",
            "/glint/other/groups/a/b",
            "/glint/prod/groups/a",
            "/glint/prod/groups/a/b/c",
            "/glint/prod/groups/a/B",
            "/glint/prod/groupsx/a/b",
            "/glint/production/groups/a/b",
            "glint/prod/groups/a/b",
        ] {
            assert_eq!(keys.parse_group(foreign), None, "{foreign}");
        }
        for foreign in ["a/b/x/0", "a/b/1/x", "a/b/1", "a/b/1/2/3", "a/b/18446744073709551616/0"] {
            let key = format!("/glint/prod/rendezvous/{foreign}");
            assert_eq!(keys.parse_rendezvous(&key), None, "{foreign}");
        }
        assert_eq!(keys.parse_model("/glint/prod/models/a/b"), None);
        assert_eq!(keys.parse_seen("/glint/prod/seen/a/b"), None);
    }
}
