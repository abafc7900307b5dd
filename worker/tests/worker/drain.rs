//! A group that leaves.

use glint_proto::v1;
use tonic::Code;

use crate::support::{FAST, Registry, SLOW, answer, broken, read_rest, request, started};

#[tokio::test]
async fn a_draining_group_takes_nothing_new_and_finishes_what_runs() {
    let registry = Registry::new();
    let (_group, mut client) = registry.one(&[SLOW]).await;
    let running = started(&mut client, request(0..5, 40)).await;
    let drained = client.drain(v1::DrainRequest {}).await.unwrap().into_inner();
    assert_eq!(drained.in_flight_sequences, 1);
    let refused = answer(&mut client, request(0..5, 1)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert_eq!(refused.message(), "the group is draining, ask another one");
    registry.group(|record| record.state() == v1::GroupState::Draining).await;
    assert_eq!(read_rest(running).await, 40);
}

#[tokio::test]
async fn a_process_that_drains_ends_when_its_sequences_have_ended() {
    let registry = Registry::new();
    let (group, mut client) = registry.one(&[SLOW]).await;
    let running = started(&mut client, request(0..5, 100)).await;
    group.drain.begin();
    registry.group(|record| record.state() == v1::GroupState::Draining).await;
    assert_eq!(read_rest(running).await, 100);
    group.ended().await.unwrap();
    let left = registry.fleet.list("/".into()).await.unwrap();
    assert_eq!(left, [], "a group that has ended leaves no key");
}

#[tokio::test]
async fn a_stop_cuts_what_still_runs() {
    let registry = Registry::new();
    let (group, mut client) = registry.one(&[SLOW]).await;
    let running = started(&mut client, request(0..5, 4000)).await;
    group.drain.stop();
    let status = broken(running).await;
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("was stopped"), "{status}");
    group.ended().await.unwrap();
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_step_to_end() {
    let registry = Registry::new();
    let endless = "--device=sim:prefill=0,step=600s,sequence=0us,end=0";
    let (group, mut client) = registry.one(&[endless]).await;
    let running = client.generate(request(0..5, 10)).await.unwrap().into_inner();
    group.drain.begin();
    registry.group(|record| record.state() == v1::GroupState::Draining).await;
    group.drain.stop();
    let status = broken(running).await;
    assert!(status.message().contains("was stopped"), "{status}");
    group.ended().await.unwrap();
}

#[tokio::test]
async fn a_group_of_several_ranks_drains_as_one() {
    let registry = Registry::new();
    let size = "--world-size=2";
    let leader = registry.start(&[SLOW, size, "--ranks=0"]).await;
    let follower = registry.start(&[SLOW, size, "--ranks=1"]).await;
    registry.ready_after(0).await;
    let mut client = leader.client().await;
    let running = started(&mut client, request(0..5, 40)).await;
    // The follower stays until the leader has finished.
    follower.drain.begin();
    leader.drain.begin();
    assert_eq!(read_rest(running).await, 40);
    leader.ended().await.unwrap();
    follower.ended().await.unwrap();
}

#[tokio::test]
async fn a_follower_that_is_told_to_end_drains_its_group_which_forms_anew_with_the_next() {
    let registry = Registry::new();
    let size = "--world-size=3";
    let leader = registry.start(&[SLOW, size, "--ranks=0"]).await;
    let _stays = registry.start(&[SLOW, size, "--ranks=1"]).await;
    let leaves = registry.start(&[SLOW, size, "--ranks=2"]).await;
    let before = registry.ready_after(0).await;
    let mut client = leader.client().await;
    let running = started(&mut client, request(0..5, 100)).await;
    leaves.drain.begin();
    registry.group(|record| record.state() == v1::GroupState::Draining).await;
    let refused = answer(&mut client, request(0..5, 1)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert_eq!(read_rest(running).await, 100, "what runs is finished");
    leaves.ended().await.unwrap();

    let _next = registry.start(&[SLOW, size, "--ranks=2"]).await;
    registry.ready_after(before.epoch).await;
    assert_eq!(answer(&mut client, request(0..5, 3)).await.unwrap().tokens.len(), 3);
}

#[tokio::test]
async fn a_followers_stop_cuts_what_still_runs() {
    let registry = Registry::new();
    let size = "--world-size=2";
    let leader = registry.start(&[SLOW, size, "--ranks=0"]).await;
    let follower = registry.start(&[SLOW, size, "--ranks=1"]).await;
    registry.ready_after(0).await;
    let mut client = leader.client().await;
    let running = started(&mut client, request(0..5, 4000)).await;
    follower.drain.begin();
    registry.group(|record| record.state() == v1::GroupState::Draining).await;
    follower.drain.stop();
    let status = broken(running).await;
    assert!(status.message().contains("rank 1 was stopped"), "{status}");
    follower.ended().await.unwrap();
}

#[tokio::test]
async fn a_rank_that_waits_for_its_group_ends_at_once() {
    let registry = Registry::new();
    let leader = registry.start(&[FAST, "--world-size=3", "--ranks=0"]).await;
    let follower = registry.start(&[FAST, "--world-size=3", "--ranks=1"]).await;
    follower.drain.begin();
    follower.ended().await.unwrap();
    leader.drain.begin();
    leader.ended().await.unwrap();
}
