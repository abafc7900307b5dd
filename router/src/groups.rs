//! Who can answer?
//!
//! The registry says where groups are; a group's Watch stream says whether it lives. Each known group is followed by one
//! task ([`follow`]) that connects, asks what the group is, loads its text assets ([`texts`]), and then applies the frames of
//! one Watch stream until it ends.
//!
//! **Invariant.** The registry only hints. A key that is gone, a registry that is away or empty, takes no group whose stream
//! lives; a group goes when its stream is dead *and* its key is gone.

mod dispatch;
mod follow;
mod link;
mod texts;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use futures::StreamExt;
use glint_core::{GroupId, ModelId, RouterId};
use glint_fleet::{Change, Fleet, Keys};
use glint_proto::v1::{GroupRecord, GroupState};
use glint_service::Readiness;
use parking_lot::RwLock;
use prost::Message;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::error::{RequestError, short};
use crate::metrics::Metrics;
pub(crate) use dispatch::SequenceEvent;
use link::Link;
pub(crate) use texts::Text;
use texts::Texts;

/// All groups that this router knows.
#[derive(Debug)]
pub(crate) struct Groups {
    router: RouterId,
    groups: RwLock<BTreeMap<(ModelId, GroupId), Arc<Group>>>,
    texts: Texts,
    /// Goes round equal groups.
    turn: AtomicU64,
    metrics: Metrics,
    readiness: Readiness,
    can_answer: watch::Sender<bool>,
}

/// One group, as the registry and its own stream tell.
#[derive(Debug)]
struct Group {
    model: ModelId,
    id: GroupId,
    /// What the registry said last.
    told: watch::Sender<Told>,
    state: RwLock<State>,
}

#[derive(Clone, Debug)]
struct Told {
    record: GroupRecord,
    is_gone: bool,
}

#[derive(Debug, Default)]
struct State {
    /// Names under which clients ask for it; kept while it is lost, so that they hear "not now" and not "never".
    served_names: Vec<String>,
    /// Present while the Watch stream lives.
    link: Option<Arc<Link>>,
}

/// What a request needs to know about a model.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    /// The name that the client asked for.
    pub(crate) name: String,
    pub(crate) text: Arc<Text>,
    /// Prompt and output together, of the group that takes least.
    pub(crate) context_tokens: u32,
    pub(crate) vocab_size: u32,
}

impl Group {
    fn link(&self) -> Option<Arc<Link>> {
        self.state.read().link.clone()
    }

    /// Returns the link if the group takes new sequences.
    fn taking(&self) -> Option<Arc<Link>> {
        let is_draining = self.told.borrow().record.state() == GroupState::Draining;
        self.link().filter(|link| !is_draining && !link.is_draining())
    }
}

impl Groups {
    pub(crate) fn new(router: RouterId, metrics: Metrics, readiness: Readiness) -> Self {
        let groups = Self {
            router,
            groups: RwLock::default(),
            texts: Texts::default(),
            turn: AtomicU64::new(0),
            metrics,
            readiness,
            can_answer: watch::Sender::new(false),
        };
        groups.readiness.not_ready("fleet", "the registry has not answered yet");
        groups.update();
        groups
    }

    /// Tells whether at least one model can answer, and each change of it.
    pub(crate) fn can_answer(&self) -> watch::Receiver<bool> {
        self.can_answer.subscribe()
    }

    /// Returns the names that clients may ask for, sorted, each with its context in tokens.
    pub(crate) fn names(&self) -> BTreeMap<String, u32> {
        let mut names = BTreeMap::new();
        for group in self.groups.read().values() {
            let state = group.state.read();
            let Some(link) = &state.link else { continue };
            for name in &state.served_names {
                let context: &mut u32 = names.entry(name.clone()).or_insert(u32::MAX);
                *context = link.context_tokens.min(*context);
            }
        }
        names
    }

    /// Returns what is needed to read a request for this model.
    pub(crate) fn served(&self, name: &str) -> Result<Served, RequestError> {
        let groups = self.groups.read();
        let (mut is_known, mut served) = (groups.is_empty(), None::<Served>);
        for group in groups.values() {
            let state = group.state.read();
            // A group that has not said yet what it serves may serve this.
            is_known |= state.served_names.is_empty();
            if !state.served_names.iter().any(|served| served == name) {
                continue;
            }
            is_known = true;
            drop(state);
            let Some(link) = group.taking() else { continue };
            match &mut served {
                None => {
                    served = Some(Served {
                        name: name.to_owned(),
                        text: Arc::clone(&link.text),
                        context_tokens: link.context_tokens,
                        vocab_size: link.vocab_size,
                    });
                }
                // Groups with other texts are of another revision; a request is for one.
                Some(served) if Arc::ptr_eq(&served.text, &link.text) => {
                    served.context_tokens = served.context_tokens.min(link.context_tokens);
                }
                Some(_) => {}
            }
        }
        let name = short(&name);
        match served {
            Some(served) => Ok(served),
            None if is_known => Err(RequestError::NotReady { name }),
            None => Err(RequestError::UnknownModel { name }),
        }
    }

    /// Follows the registry and every group in it. Never ends; dropped, it ends all that it started.
    pub(crate) async fn follow(self: Arc<Self>, fleet: Arc<dyn Fleet>, keys: Keys) {
        let mut changes = fleet.watch(keys.groups());
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                change = changes.next() => match change {
                    Some(change) => self.heard(change, &keys, &mut tasks),
                    None => std::future::pending().await,
                },
                Some(ended) = tasks.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(error = %error, "the task that follows a group ended");
                    }
                }
            }
        }
    }

    fn heard(self: &Arc<Self>, change: Change, keys: &Keys, tasks: &mut JoinSet<()>) {
        match change {
            Change::Synced => {
                self.readiness.ready("fleet");
            }
            Change::Away { reason } => {
                warn!(reason, "the registry is away, groups are kept as they are");
            }
            Change::Deleted { key } => {
                let Some(key) = keys.parse_group(&key) else { return };
                if let Some(group) = self.groups.read().get(&key) {
                    group.told.send_modify(|told| told.is_gone = true);
                }
            }
            Change::Put { key, value } => {
                let Some((model, id)) = keys.parse_group(&key) else {
                    warn!(key, "a key that is no group's is ignored");
                    return;
                };
                match GroupRecord::decode(value) {
                    Ok(record) => self.put(model, id, record, tasks),
                    Err(error) => {
                        warn!(key, error = %error, "a group's record that is none is ignored");
                    }
                }
            }
        }
    }

    fn put(
        self: &Arc<Self>,
        model: ModelId,
        id: GroupId,
        record: GroupRecord,
        tasks: &mut JoinSet<()>,
    ) {
        let told = Told { record, is_gone: false };
        let mut groups = self.groups.write();
        if let Some(group) = groups.get(&(model.clone(), id.clone())) {
            group.told.send_replace(told);
        } else {
            info!(%model, group = %id, address = told.record.address, "group found");
            let group = Arc::new(Group {
                model: model.clone(),
                id: id.clone(),
                told: watch::Sender::new(told),
                state: RwLock::default(),
            });
            groups.insert((model, id), Arc::clone(&group));
            tasks.spawn(follow::follow(Arc::clone(self), group));
        }
        drop(groups);
        self.update();
    }

    /// Drops a group if the registry does not list it any more.
    fn drop_if_gone(&self, group: &Group) -> bool {
        let mut groups = self.groups.write();
        let is_gone = group.told.borrow().is_gone;
        if is_gone {
            groups.remove(&(group.model.clone(), group.id.clone()));
            drop(groups);
            info!(model = %group.model, group = %group.id, "group dropped");
            self.update();
        }
        is_gone
    }

    /// Publishes how many groups there are, and whether anybody can answer.
    fn update(&self) {
        let (mut ready, mut draining, mut lost) = (0, 0, 0);
        for group in self.groups.read().values() {
            match (group.link(), group.taking()) {
                (_, Some(_)) => ready += 1,
                (Some(_), None) => draining += 1,
                (None, None) => lost += 1,
            }
        }
        self.metrics.groups(ready, draining, lost);
        if ready > 0 {
            self.readiness.ready("groups");
        } else {
            let why = format!("none can answer ({lost} lost, {draining} draining)");
            self.readiness.not_ready("groups", why);
        }
        self.can_answer
            .send_if_modified(|before| std::mem::replace(before, ready > 0) != (ready > 0));
    }
}
