//! What can happen to a registry behind a wire: in the end every key whose writer lives is there, and every watcher knows.

use std::sync::Arc;

use etcd_client::{CompactionOptions, DeleteOptions};
use glint_fleet::{Bytes, Change, Fleet, Memory, Registration, Remote, connect, serve};
use glint_proto::v1::RouterRecord;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::oneshot;

use crate::etcd::{Server, fleet_at};
use crate::link::Link;
use crate::watcher::{PATIENCE, Watcher, deleted, put};
use crate::{TTL, remote_fleet};

const GROUP: &str = "/f/group";

/// A group that lives through all of it, and a watcher that knows it.
async fn living_group(fleet: &Arc<dyn Fleet>) -> (Registration, Watcher) {
    let group = Registration::start(Arc::clone(fleet), TTL);
    assert!(group.put(GROUP, &RouterRecord { address: "group".to_owned() }).await);
    let mut watcher = Watcher::new(fleet, "/f/");
    watcher.synced().await;
    assert!(watcher.view.contains_key(GROUP));
    (group, watcher)
}

/// The group is there, for the watcher and in truth, and still is when a lease that nobody keeps has ended.
async fn assert_lives(fleet: &Arc<dyn Fleet>, watcher: &mut Watcher) {
    watcher.there(GROUP).await;
    let control = fleet.grant(TTL).await.unwrap();
    fleet.put("/f/control".to_owned(), Bytes::new(), Some(control)).await.unwrap();
    watcher.there("/f/control").await;
    let told = watcher.deleted("/f/control").await;
    assert!(!told.contains(&deleted(GROUP)), "the group is lost again: {told:?}");
    let listed = fleet.list(GROUP.to_owned()).await.unwrap();
    assert_eq!(listed.len(), 1, "the group is not in the registry");
}

async fn store(fleet: &Arc<dyn Fleet>, key: &str, value: &'static str) {
    assert!(fleet.put(key.to_owned(), Bytes::from(value), None).await.unwrap());
}

#[tokio::test]
async fn etcd_stopped_and_started_loses_no_group_that_lives() {
    let Some(mut etcd) = Server::start().await else { return };
    let fleet = etcd.fleet();
    let (_group, mut watcher) = living_group(&fleet).await;
    etcd.stop().await;
    let told = watcher.away().await;
    assert!(!told.contains(&deleted(GROUP)), "an etcd that is away is no news about groups");
    assert!(fleet.list("/f/".to_owned()).await.is_err());
    etcd.resume().await;
    watcher.synced().await;
    assert_lives(&fleet, &mut watcher).await;
}

#[tokio::test]
async fn etcd_emptied_loses_no_group_that_lives() {
    let Some(etcd) = Server::start().await else { return };
    let fleet = etcd.fleet();
    let (_group, mut watcher) = living_group(&fleet).await;
    let all = DeleteOptions::new().with_all_keys();
    etcd.raw().await.delete("", Some(all)).await.unwrap();
    watcher.deleted(GROUP).await;
    assert_lives(&fleet, &mut watcher).await;
}

#[tokio::test]
async fn etcd_that_forgot_every_lease_loses_no_group_that_lives() {
    let Some(etcd) = Server::start().await else { return };
    let fleet = etcd.fleet();
    let (_group, mut watcher) = living_group(&fleet).await;
    let mut raw = etcd.raw().await;
    for lease in raw.leases().await.unwrap().leases() {
        raw.lease_revoke(lease.id()).await.unwrap();
    }
    watcher.deleted(GROUP).await;
    assert_lives(&fleet, &mut watcher).await;
}

#[tokio::test]
async fn etcd_whose_disk_is_lost_loses_no_group_that_lives() {
    let Some(mut etcd) = Server::start().await else { return };
    let fleet = etcd.fleet();
    let (_group, mut watcher) = living_group(&fleet).await;
    // So that the new etcd's revisions are far below the old one's.
    for round in 0..50_u32 {
        let value = Bytes::from(round.to_string());
        fleet.put("/f/nobody".to_owned(), value, None).await.unwrap();
    }
    watcher.there("/f/nobody").await;
    etcd.stop().await;
    watcher.away().await;
    etcd.wipe();
    etcd.resume().await;
    let told = watcher.synced().await;
    assert!(told.contains(&deleted("/f/nobody")), "nobody put it again: {told:?}");
    assert_lives(&fleet, &mut watcher).await;
    // And what comes later is told.
    store(&fleet, "/f/later", "1").await;
    watcher.there("/f/later").await;
}

#[tokio::test]
async fn etcd_compacted_loses_no_group_that_lives() {
    let Some(etcd) = Server::start().await else { return };
    let fleet = etcd.fleet();
    let (_group, mut watcher) = living_group(&fleet).await;
    store(&fleet, "/f/a", "1").await;
    compact(&etcd).await;
    store(&fleet, "/f/b", "1").await;
    compact(&etcd).await;
    let told = watcher.until(|change| *change == put("/f/b", "1")).await;
    assert_eq!(told, [put("/f/a", "1"), put("/f/b", "1")]);
    assert_lives(&fleet, &mut watcher).await;
}

/// The changes that the watcher missed are compacted, so only comparison can tell them.
#[tokio::test]
async fn etcd_compacted_behind_a_cut_wire_is_compared() {
    let Some(etcd) = Server::start().await else { return };
    let link = Link::to(etcd.address()).await;
    let (behind, direct) = (fleet_at(link.address), etcd.fleet());
    store(&direct, "/f/changed", "1").await;
    store(&direct, "/f/dropped", "1").await;
    let (_group, mut watcher) = living_group(&behind).await;
    let mut witness = Watcher::new(&direct, "/f/");
    witness.synced().await;
    link.cut();
    watcher.away().await;
    store(&direct, "/f/changed", "2").await;
    direct.delete("/f/dropped".to_owned()).await.unwrap();
    store(&direct, "/f/added", "1").await;
    // Cut off for longer than its lease.
    witness.deleted(GROUP).await;
    compact(&etcd).await;
    link.mend();
    let told = watcher.synced().await;
    for change in [put("/f/added", "1"), put("/f/changed", "2"), deleted("/f/dropped")] {
        assert!(told.contains(&change), "{change:?} is missing in {told:?}");
    }
    assert_lives(&behind, &mut watcher).await;
    witness.there(GROUP).await;
}

async fn compact(etcd: &Server) {
    let mut raw = etcd.raw().await;
    let now = raw.get("/", None).await.unwrap().header().unwrap().revision();
    let physical = CompactionOptions::new().with_physical();
    raw.compact(now, Some(physical)).await.unwrap();
}

/// A connection that carries nothing looks like one without news; both clients ask.
#[tokio::test]
async fn a_registry_that_falls_silent_is_told_to_be_away() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let served = listener.local_addr().unwrap();
    tokio::spawn(serve(Memory::new(), listener, std::future::pending()));
    let link = Link::to(served).await;
    let remote: Arc<dyn Fleet> =
        Arc::new(Remote::new(&format!("http://{}", link.address)).unwrap());
    let behind_remote = falls_silent(&remote, &link);
    match Server::start().await {
        Some(etcd) => {
            let link = Link::to(etcd.address()).await;
            let fleet = fleet_at(link.address);
            tokio::join!(behind_remote, falls_silent(&fleet, &link));
        }
        None => behind_remote.await,
    }
}

async fn falls_silent(fleet: &Arc<dyn Fleet>, link: &Link) {
    let (_group, mut watcher) = living_group(fleet).await;
    link.silence();
    let told = watcher.away().await;
    assert!(!told.contains(&deleted(GROUP)));
    link.mend();
    watcher.synced().await;
    assert_lives(fleet, &mut watcher).await;
}

#[tokio::test]
async fn a_served_registry_that_starts_anew_is_filled_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (end, ended) = oneshot::channel::<()>();
    let first = tokio::spawn(serve(Memory::new(), listener, async move {
        let _ = ended.await;
    }));
    let fleet: Arc<dyn Fleet> = Arc::new(Remote::new(&format!("http://{address}")).unwrap());
    let (_group, mut watcher) = living_group(&fleet).await;
    store(&fleet, "/f/nobody", "1").await;
    watcher.there("/f/nobody").await;

    end.send(()).unwrap();
    watcher.away().await;
    first.await.unwrap().unwrap();
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(serve(Memory::new(), listener, std::future::pending()));

    let told = watcher.synced().await;
    assert!(told.contains(&deleted("/f/nobody")), "nobody put it again: {told:?}");
    assert_lives(&fleet, &mut watcher).await;
}

/// A registrant says at once that the registry is away, and is there as soon as it comes.
#[tokio::test]
async fn a_registry_that_comes_late_is_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let fleet: Arc<dyn Fleet> = Arc::new(Remote::new(&format!("http://{address}")).unwrap());
    let mut watcher = Watcher::new(&fleet, "/f/");
    assert!(matches!(watcher.next().await, Change::Away { .. }));
    let group = Registration::start(Arc::clone(&fleet), TTL);
    group.put(GROUP, &RouterRecord::default());
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(serve(Memory::new(), listener, std::future::pending()));
    watcher.there(GROUP).await;
}

/// The end of a process never waits long for a registry that is away.
#[tokio::test]
async fn closing_is_bounded_when_the_registry_is_away() {
    let fleet = remote_fleet().await;
    let link = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let served = listener.local_addr().unwrap();
        tokio::spawn(serve(fleet, listener, std::future::pending()));
        Link::to(served).await
    };
    let fleet: Arc<dyn Fleet> = Arc::new(Remote::new(&format!("http://{}", link.address)).unwrap());
    let (group, mut watcher) = living_group(&fleet).await;
    link.silence();
    let closed = tokio::time::timeout(std::time::Duration::from_secs(10), group.close()).await;
    assert!(closed.is_ok(), "close waits for a registry that is away");
    link.mend();
    watcher.deleted(GROUP).await;
}

#[tokio::test]
async fn an_etcd_that_starts_with_its_cluster_is_found() {
    let Some(mut etcd) = Server::start().await else { return };
    let url = format!("etcd:http://{}", etcd.address());
    store(&connect(&url).await.unwrap(), "/f/there", "it").await;
    etcd.stop().await;
    let (found, ()) = tokio::join!(connect(&url), etcd.resume());
    assert_eq!(found.unwrap().list("/f/".to_owned()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_registry_that_comes_with_the_cluster_is_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("remote:http://{}", listener.local_addr().unwrap());
    drop(listener);
    assert!(connect(&url).await.is_ok());
    assert!(connect("memory:").await.is_ok());
}

#[tokio::test]
async fn an_address_where_no_etcd_is_ends_in_one_sentence() {
    // One takes connections and says nothing, at the other nobody listens.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = TcpSocket::new_v4().unwrap();
    closed.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let urls =
        [silent.local_addr(), closed.local_addr()].map(|at| format!("http://{}", at.unwrap()));
    let asked = urls.map(|url| async move {
        let asked = tokio::time::timeout(PATIENCE, connect(&format!("etcd:{url}"))).await;
        let error = asked.expect("it is not waited for without end").unwrap_err().to_string();
        (url, error)
    });
    let reasons = ["no answer within 3s", "tcp connect error: Connection refused (os error 111)"];
    for ((url, error), reason) in futures::future::join_all(asked).await.into_iter().zip(reasons) {
        let told = format!(
            "cannot reach etcd at {url} within 5s: {reason}; start it, or give another address \
             (--etcd of glint up, --fleet=etcd:URL of others)"
        );
        assert_eq!(error, told);
    }
}
