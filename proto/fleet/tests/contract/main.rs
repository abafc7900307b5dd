//! Does every registry mean the same?
//!
//! [`cases`] is the contract; each case runs against memory, a memory served over loopback, and a real etcd. [`faults`] adds
//! what can happen to a registry behind a wire: it is stopped, started, emptied, compacted, unreachable, silent.

#![cfg(test)]

mod cases;
mod etcd;
mod faults;
mod link;
mod recording;
mod watcher;

use std::sync::Arc;
use std::time::Duration;

use glint_fleet::{Fleet, Memory, Remote, serve};
use tokio::net::TcpListener;

/// Of leases in these tests; etcd as it is started here grants no shorter one.
const TTL: Duration = Duration::from_secs(1);

macro_rules! contract {
    ($($case:ident)*) => {
        $(#[tokio::test]
        async fn $case() {
            everywhere(cases::$case).await;
        })*
    };
}

contract! {
    keys_are_listed_in_order_until_they_are_deleted
    a_watch_tells_what_is_there_then_synced_then_changes_in_order
    a_watch_tells_nothing_beside_its_prefix
    a_watcher_that_is_too_slow_ends_with_the_truth
    a_lease_that_is_not_kept_alive_ends_with_its_keys
    a_lease_that_is_kept_alive_outlives_those_that_are_not
    a_revoked_lease_takes_its_keys_along
    a_key_belongs_to_the_lease_it_was_put_under_last
    a_registration_puts_changes_and_removes
    a_registration_that_is_closed_leaves_at_once
    a_registrant_that_is_killed_disappears_when_its_lease_ends
    a_registration_puts_again_what_was_deleted
    a_registration_whose_lease_is_lost_gets_another
}

/// Runs a case against all registries at once: most of its time it waits for leases to end.
async fn everywhere<F>(case: fn(Arc<dyn Fleet>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let etcd = etcd::Server::start().await;
    let mut runs = vec![
        ("memory", tokio::spawn(case(Arc::new(Memory::new())))),
        ("remote", tokio::spawn(case(remote_fleet().await))),
    ];
    runs.extend(etcd.as_ref().map(|etcd| ("etcd", tokio::spawn(case(etcd.fleet())))));
    for (registry, run) in runs {
        run.await.unwrap_or_else(|error| panic!("with {registry}: {error}"));
    }
}

/// A memory fleet behind loopback gRPC; it ends with the test's runtime.
async fn remote_fleet() -> Arc<dyn Fleet> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(serve(Memory::new(), listener, std::future::pending()));
    Arc::new(Remote::new(&address).unwrap())
}
