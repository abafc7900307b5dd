//! Which epoch of the group is open, and where does its rank 0 take calls?

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use glint_core::Epoch;
use glint_fleet::{Change, Fleet};
use glint_proto::v1;
use prost::Message;
use tokio::sync::watch;

use crate::group::Identity;

/// An epoch that rank 0 has opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rendezvous {
    pub(crate) epoch: Epoch,
    /// `host:port` of rank 0.
    pub(crate) address: String,
}

/// Tells the highest epoch that has a rank 0, for as long as anybody listens. A registry that is away changes nothing.
pub(crate) async fn watch_rendezvous(
    fleet: Arc<dyn Fleet>,
    identity: Identity,
    tell: watch::Sender<Option<Rendezvous>>,
) {
    let mut open: BTreeMap<Epoch, String> = BTreeMap::new();
    let mut changes = fleet.watch(identity.rendezvous_prefix());
    loop {
        let change = tokio::select! {
            change = changes.next() => change,
            () = tell.closed() => return,
        };
        let leads = |key: &str| match identity.keys.parse_rendezvous(key) {
            Some((epoch, 0)) => Some(epoch),
            Some(_) | None => None,
        };
        match change {
            Some(Change::Put { key, value }) => {
                let record = v1::RendezvousRecord::decode(value);
                if let (Some(epoch), Ok(record)) = (leads(&key), record) {
                    open.insert(epoch, record.address);
                }
            }
            Some(Change::Deleted { key }) => {
                if let Some(epoch) = leads(&key) {
                    open.remove(&epoch);
                }
            }
            Some(Change::Synced | Change::Away { .. }) => {}
            None => return,
        }
        let highest = open.last_key_value();
        let highest =
            highest.map(|(&epoch, address)| Rendezvous { epoch, address: address.clone() });
        tell.send_if_modified(|told| {
            let is_news = *told != highest;
            *told = highest;
            is_news
        });
    }
}
