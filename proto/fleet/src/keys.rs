//! Where in the registry does what lie? `FORMATS.md` section 5; nobody else knows.

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
        format!("{}groups/{model}/{group}", self.root)
    }

    /// Reads a key of [`Self::group`].
    #[must_use]
    pub fn parse_group(&self, key: &str) -> Option<(ModelId, GroupId)> {
        let (model, group) =
            key.strip_prefix(&self.root)?.strip_prefix("groups/")?.split_once('/')?;
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
        let mut parts = key.strip_prefix(&self.root)?.strip_prefix("rendezvous/")?.splitn(4, '/');
        let (_model, _group) = (parts.next()?, parts.next()?);
        Some((Epoch(parts.next()?.parse().ok()?), parts.next()?.parse().ok()?))
    }

    /// Returns the prefix of all models.
    #[must_use]
    pub fn models(&self) -> String {
        format!("{}models/", self.root)
    }

    /// Returns where a model's names and weights of revisions lie; a `ModelRecord` without a lease.
    #[must_use]
    pub fn model(&self, model: &ModelId) -> String {
        format!("{}models/{model}", self.root)
    }

    /// Returns where the operator says what a group is to do; an `IntentRecord` without a lease.
    #[must_use]
    pub fn intent(&self, model: &ModelId, group: &GroupId) -> String {
        format!("{}intents/{model}/{group}", self.root)
    }

    /// Returns where a router says what it has seen of a group; a `SeenRecord` under a lease.
    #[must_use]
    pub fn seen(&self, model: &ModelId, group: &GroupId, router: &RouterId) -> String {
        format!("{}seen/{model}/{group}/{router}", self.root)
    }

    /// Returns where a router says that it lives; a `RouterRecord` under a lease.
    #[must_use]
    pub fn router(&self, router: &RouterId) -> String {
        format!("{}routers/{router}", self.root)
    }

    /// Returns where a router says that requests wait for a model at zero; a `WakeRecord` under a lease.
    #[must_use]
    pub fn wake(&self, model: &ModelId) -> String {
        format!("{}wake/{model}", self.root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_format() {
        let keys = Keys::new(&"prod".parse().unwrap());
        let model: ModelId = "glm-4-9b".parse().unwrap();
        let group: GroupId = "g0".parse().unwrap();
        let router: RouterId = "r1".parse().unwrap();
        assert_eq!(keys.group(&model, &group), "/glint/prod/groups/glm-4-9b/g0");
        let rendezvous = keys.rendezvous(&model, &group, Epoch(17), 3);
        assert_eq!(rendezvous, "/glint/prod/rendezvous/glm-4-9b/g0/17/3");
        assert_eq!(keys.model(&model), "/glint/prod/models/glm-4-9b");
        assert_eq!(keys.intent(&model, &group), "/glint/prod/intents/glm-4-9b/g0");
        assert_eq!(keys.seen(&model, &group, &router), "/glint/prod/seen/glm-4-9b/g0/r1");
        assert_eq!(keys.router(&router), "/glint/prod/routers/r1");
        assert_eq!(keys.wake(&model), "/glint/prod/wake/glm-4-9b");
        assert_eq!(keys.parse_group(&keys.group(&model, &group)), Some((model, group)));
        assert_eq!(keys.parse_rendezvous(&rendezvous), Some((Epoch(17), 3)));
        assert_eq!(keys.parse_group("/glint/other/groups/a/b"), None);
        assert_eq!(keys.parse_rendezvous("/glint/prod/rendezvous/a/b/x/0"), None);
    }
}
