//! Several ranks are one group.

use crate::support::{FAST, Registry, answer, request};

#[tokio::test]
async fn processes_with_one_rank_each_answer_as_one() {
    let (_alone, mut client) = Registry::new().one(&[FAST]).await;
    let expected = answer(&mut client, request(0..40, 20)).await.unwrap().tokens;

    let registry = Registry::new();
    let size = "--world-size=3";
    let _last = registry.start(&[FAST, size, "--ranks=2"]).await;
    let leader = registry.start(&[FAST, size, "--ranks=0"]).await;
    let waiting = leader.admin("/readyz").await;
    assert!(waiting.starts_with("HTTP/1.1 503"), "a rank is never healthy alone: {waiting}");
    let middle = registry.start(&[FAST, size, "--ranks=1"]).await;
    let record = registry.ready_after(0).await;
    assert_eq!((record.world_size, record.address), (3, leader.address.to_string()));
    let mut client = leader.client().await;
    assert_eq!(answer(&mut client, request(0..40, 20)).await.unwrap().tokens, expected);
    assert!(middle.admin("/readyz").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn one_process_may_hold_all_ranks_or_some() {
    let registry = Registry::new();
    let size = "--world-size=4";
    let leader = registry.start(&[FAST, size, "--ranks=0-1"]).await;
    let _others = registry.start(&[FAST, size, "--ranks=2-3", "--kv-blocks=50"]).await;
    registry.ready_after(0).await;
    let mut client = leader.client().await;
    assert_eq!(answer(&mut client, request(0..40, 20)).await.unwrap().tokens.len(), 20);
    let described = client.describe(glint_proto::v1::DescribeRequest {}).await.unwrap();
    assert_eq!(described.into_inner().kv_blocks, 50, "the group takes the least");
}

#[tokio::test]
async fn ranks_that_meet_by_tcp_answer_alike() {
    let registry = Registry::new();
    let flags = [FAST, "--world-size=3", "--ranks=0-2", "--collective=tcp"];
    let (_group, mut client) = registry.one(&flags).await;
    assert_eq!(answer(&mut client, request(0..40, 20)).await.unwrap().tokens.len(), 20);
}

#[tokio::test]
async fn a_model_on_the_cpu_says_the_same_whatever_the_number_of_ranks() {
    let mut answers = Vec::new();
    for world_size in [1, 2] {
        let size = format!("--world-size={world_size}");
        let ranks = format!("--ranks=0-{}", world_size - 1);
        let flags = [&size, &ranks, "--compute=f32", "--threads=1", "--kv-blocks=64"];
        let (_group, mut client) = Registry::new().one(&flags).await;
        let first = answer(&mut client, request(30..70, 24)).await.unwrap();
        let again = answer(&mut client, request(30..70, 24)).await.unwrap();
        assert_eq!((again.started_with, &again.tokens), (32, &first.tokens));
        answers.push(first.tokens);
    }
    assert_eq!(answers[0], answers[1]);
}
