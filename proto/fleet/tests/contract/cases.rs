//! The contract: what holds for every registry.

use std::sync::Arc;

use glint_fleet::{Bytes, Change, Fleet, LeaseId, Registration};
use glint_proto::v1::RouterRecord;

use crate::TTL;
use crate::recording::Recording;
use crate::watcher::{PATIENCE, Watcher, deleted, put};

async fn store(fleet: &dyn Fleet, key: &str, value: &'static str, lease: Option<LeaseId>) {
    let stored = fleet.put(key.to_owned(), Bytes::from(value), lease).await.unwrap();
    assert!(stored, "{key} was not stored: no such lease");
}

async fn listed(fleet: &dyn Fleet, prefix: &str) -> Vec<(String, Bytes)> {
    fleet.list(prefix.to_owned()).await.unwrap()
}

fn entry(key: &str, value: &'static str) -> (String, Bytes) {
    (key.to_owned(), Bytes::from(value))
}

fn record(address: &str) -> RouterRecord {
    RouterRecord { address: address.to_owned() }
}

fn encoded(address: &str) -> Bytes {
    prost::Message::encode_to_vec(&record(address)).into()
}

pub(crate) async fn keys_are_listed_in_order_until_they_are_deleted(fleet: Arc<dyn Fleet>) {
    assert_eq!(listed(&fleet, "/a/").await, []);
    for (key, value) in [("/a/2", "two"), ("/a/10", "ten"), ("/ab", "beside"), ("/a/1", "one")] {
        store(&fleet, key, value, None).await;
    }
    store(&fleet, "/a/2", "second", None).await;
    let all = [entry("/a/1", "one"), entry("/a/10", "ten"), entry("/a/2", "second")];
    assert_eq!(listed(&fleet, "/a/").await, all);
    fleet.delete("/a/10".to_owned()).await.unwrap();
    fleet.delete("/a/never".to_owned()).await.unwrap();
    assert_eq!(listed(&fleet, "/a/").await, [entry("/a/1", "one"), entry("/a/2", "second")]);
    assert_eq!(listed(&fleet, "/ab").await, [entry("/ab", "beside")]);
}

pub(crate) async fn a_watch_tells_what_is_there_then_synced_then_changes_in_order(
    fleet: Arc<dyn Fleet>,
) {
    store(&fleet, "/w/a", "1", None).await;
    store(&fleet, "/w/b", "1", None).await;
    let mut watcher = Watcher::new(&fleet, "/w/");
    assert_eq!(watcher.synced().await, [put("/w/a", "1"), put("/w/b", "1"), Change::Synced]);
    store(&fleet, "/w/c", "1", None).await;
    store(&fleet, "/w/a", "2", None).await;
    fleet.delete("/w/b".to_owned()).await.unwrap();
    store(&fleet, "/w/b", "2", None).await;
    let told = watcher.until(|change| *change == put("/w/b", "2")).await;
    let changes = [put("/w/c", "1"), put("/w/a", "2"), deleted("/w/b"), put("/w/b", "2")];
    assert_eq!(told, changes);
}

pub(crate) async fn a_watch_tells_nothing_beside_its_prefix(fleet: Arc<dyn Fleet>) {
    store(&fleet, "/ab/x", "1", None).await;
    let mut watcher = Watcher::new(&fleet, "/a/");
    assert_eq!(watcher.synced().await, [Change::Synced]);
    store(&fleet, "/ab/y", "1", None).await;
    store(&fleet, "/a", "1", None).await;
    fleet.delete("/ab/x".to_owned()).await.unwrap();
    store(&fleet, "/a/last", "1", None).await;
    assert_eq!(watcher.next().await, put("/a/last", "1"));
}

/// More changes than any registry keeps for one watcher: some are never told, but what is true at last is.
pub(crate) async fn a_watcher_that_is_too_slow_ends_with_the_truth(fleet: Arc<dyn Fleet>) {
    let mut watcher = Watcher::new(&fleet, "/slow/");
    watcher.synced().await;
    for round in 0..1_500_u32 {
        let key = format!("/slow/{}", round % 7);
        let value = Bytes::from(round.to_string());
        fleet.put(key, value, None).await.unwrap();
    }
    fleet.delete("/slow/0".to_owned()).await.unwrap();
    store(&fleet, "/slow/last", "1", None).await;
    watcher.there("/slow/last").await;
    let truth: Vec<_> = watcher.view.into_iter().collect();
    assert_eq!(listed(&fleet, "/slow/").await, truth);
    assert_eq!(truth.len(), 7);
}

pub(crate) async fn a_lease_that_is_not_kept_alive_ends_with_its_keys(fleet: Arc<dyn Fleet>) {
    let lease = fleet.grant(TTL).await.unwrap();
    store(&fleet, "/l/a", "1", Some(lease)).await;
    store(&fleet, "/l/b", "1", Some(lease)).await;
    store(&fleet, "/l/stays", "1", None).await;
    let mut watcher = Watcher::new(&fleet, "/l/");
    watcher.deleted("/l/a").await;
    while watcher.view.len() > 1 {
        watcher.next().await;
    }
    assert_eq!(listed(&fleet, "/l/").await, [entry("/l/stays", "1")]);
    assert!(!fleet.keep_alive(lease).await.unwrap(), "a lease that ended is kept alive");
    let stored = fleet.put("/l/a".to_owned(), Bytes::new(), Some(lease)).await.unwrap();
    assert!(!stored, "a key was put under a lease that ended");
    fleet.revoke(lease).await.unwrap();
}

pub(crate) async fn a_lease_that_is_kept_alive_outlives_those_that_are_not(fleet: Arc<dyn Fleet>) {
    let mut watcher = Watcher::new(&fleet, "/k/");
    let kept = fleet.grant(TTL).await.unwrap();
    store(&fleet, "/k/kept", "1", Some(kept)).await;
    let mut ended = 0;
    for control in ["/k/first", "/k/second"] {
        let lease = fleet.grant(TTL).await.unwrap();
        store(&fleet, control, "1", Some(lease)).await;
        watcher.there(control).await;
        let gone = watcher.deleted(control);
        let mut gone = std::pin::pin!(gone);
        while tokio::time::timeout(TTL / 5, &mut gone).await.is_err() {
            assert!(fleet.keep_alive(kept).await.unwrap(), "a lease ended although it was kept");
        }
        ended += 1;
    }
    assert_eq!(ended, 2);
    assert_eq!(listed(&fleet, "/k/").await, [entry("/k/kept", "1")]);
    assert_ne!(kept, fleet.grant(TTL).await.unwrap());
}

pub(crate) async fn a_revoked_lease_takes_its_keys_along(fleet: Arc<dyn Fleet>) {
    // So long that only the revocation can end it.
    let lease = fleet.grant(PATIENCE * 2).await.unwrap();
    store(&fleet, "/r/a", "1", Some(lease)).await;
    let mut watcher = Watcher::new(&fleet, "/r/");
    watcher.synced().await;
    fleet.revoke(lease).await.unwrap();
    assert_eq!(watcher.next().await, deleted("/r/a"));
    assert!(!fleet.keep_alive(lease).await.unwrap());
    fleet.revoke(lease).await.unwrap();
}

pub(crate) async fn a_key_belongs_to_the_lease_it_was_put_under_last(fleet: Arc<dyn Fleet>) {
    let first = fleet.grant(PATIENCE * 2).await.unwrap();
    let second = fleet.grant(PATIENCE * 2).await.unwrap();
    for key in ["/o/moved", "/o/freed"] {
        store(&fleet, key, "1", Some(first)).await;
    }
    store(&fleet, "/o/moved", "1", Some(second)).await;
    store(&fleet, "/o/freed", "1", None).await;
    fleet.revoke(first).await.unwrap();
    assert_eq!(listed(&fleet, "/o/").await, [entry("/o/freed", "1"), entry("/o/moved", "1")]);
    fleet.revoke(second).await.unwrap();
    assert_eq!(listed(&fleet, "/o/").await, [entry("/o/freed", "1")]);
}

pub(crate) async fn a_registration_puts_changes_and_removes(fleet: Arc<dyn Fleet>) {
    let registration = Registration::start(Arc::clone(&fleet), TTL);
    // Not awaited: what follows is settled only when this is.
    registration.put("/reg/a", &record("old"));
    assert!(registration.put("/reg/b", &record("b")).await);
    let both = [("/reg/a".to_owned(), encoded("old")), ("/reg/b".to_owned(), encoded("b"))];
    assert_eq!(listed(&fleet, "/reg/").await, both);
    assert!(registration.put("/reg/a", &record("new")).await);
    assert!(registration.remove("/reg/b").await);
    assert_eq!(listed(&fleet, "/reg/").await, [("/reg/a".to_owned(), encoded("new"))]);
    registration.remove("/reg/a");
    assert!(registration.put("/reg/a", &record("again")).await);
    assert_eq!(listed(&fleet, "/reg/").await, [("/reg/a".to_owned(), encoded("again"))]);
}

pub(crate) async fn a_registration_that_is_closed_leaves_at_once(fleet: Arc<dyn Fleet>) {
    let registration = Registration::start(Arc::clone(&fleet), PATIENCE * 2);
    assert!(registration.put("/close/a", &record("a")).await);
    registration.close().await;
    assert_eq!(listed(&fleet, "/close/").await, []);
}

pub(crate) async fn a_registrant_that_is_killed_disappears_when_its_lease_ends(
    fleet: Arc<dyn Fleet>,
) {
    let killed = Registration::start(Arc::clone(&fleet), TTL);
    let lives = Registration::start(Arc::clone(&fleet), TTL);
    assert!(killed.put("/kill/killed", &record("a")).await);
    assert!(lives.put("/kill/lives", &record("b")).await);
    let mut watcher = Watcher::new(&fleet, "/kill/");
    watcher.synced().await;
    drop(killed);
    assert_eq!(watcher.next().await, deleted("/kill/killed"));
    assert_eq!(listed(&fleet, "/kill/").await, [("/kill/lives".to_owned(), encoded("b"))]);
}

pub(crate) async fn a_registration_puts_again_what_was_deleted(fleet: Arc<dyn Fleet>) {
    let registration = Registration::start(Arc::clone(&fleet), TTL);
    assert!(registration.put("/again/a", &record("a")).await);
    let mut watcher = Watcher::new(&fleet, "/again/");
    watcher.synced().await;
    fleet.delete("/again/a".to_owned()).await.unwrap();
    assert_eq!(watcher.next().await, deleted("/again/a"));
    let back = Change::Put { key: "/again/a".to_owned(), value: encoded("a") };
    assert_eq!(watcher.next().await, back);
    // Also when somebody else wrote over it.
    store(&fleet, "/again/a", "foreign", None).await;
    assert_eq!(watcher.next().await, put("/again/a", "foreign"));
    assert_eq!(watcher.next().await, back);
}

pub(crate) async fn a_registration_whose_lease_is_lost_gets_another(fleet: Arc<dyn Fleet>) {
    let recording = Arc::new(Recording::new(Arc::clone(&fleet)));
    let registration = Registration::start(Arc::clone(&recording) as Arc<dyn Fleet>, TTL);
    assert!(registration.put("/lost/a", &record("a")).await);
    assert!(registration.put("/lost/b", &record("b")).await);
    let mut watcher = Watcher::new(&fleet, "/lost/");
    watcher.synced().await;
    let granted = recording.granted();
    assert_eq!(granted.len(), 1);
    fleet.revoke(granted[0]).await.unwrap();
    // Each is told to be gone before it is back, whatever comes between.
    for key in ["/lost/a", "/lost/b"] {
        if watcher.view.contains_key(key) {
            watcher.deleted(key).await;
        }
    }
    watcher.there("/lost/a").await;
    watcher.there("/lost/b").await;
    assert_eq!(recording.granted().len(), 2);
    // Closed, the second lease takes all keys along: they were put under it.
    registration.close().await;
    assert_eq!(listed(&fleet, "/lost/").await, []);
}
