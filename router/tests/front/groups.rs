//! Groups that come, go, lie and break.

use glint_core::{ModelDigest, Namespace};
use glint_proto::v1::GroupState;
use serde_json::json;

use crate::support::worker::{Script, TEXT};
use crate::support::{FakeWorker, Scene, soon, wait_until};

/// Wire names of the blocks of a text's tokens.
fn names(text: &str, salt: &str) -> Vec<u64> {
    let tokens: Vec<u32> = text.bytes().map(u32::from).collect();
    let namespace = Namespace::new(&ModelDigest([7; 32]), b"", salt.as_bytes());
    namespace.chain(&tokens).into_iter().map(|name| name.wire().0).collect()
}

const LONG: &str = "A prompt that fills three blocks of tokens, and a bit of a fourth.";

async fn complete(scene: &Scene, salt: &str) {
    scene.complete_ok(json!({"prompt": LONG, "max_tokens": 1, "cache_salt": salt})).await;
}

/// Two groups, of which the first holds the blocks given.
async fn two_groups(blocks: &[u64]) -> (Scene, FakeWorker, FakeWorker) {
    let scene = Scene::empty(&[]).await;
    let (first, second) = (FakeWorker::start(1).await, FakeWorker::start(1).await);
    first.holds(blocks);
    scene.add("g0", &first).await;
    scene.add("g1", &second).await;
    scene.wait_metric("glint_router_groups{state=\"ready\"} 2").await;
    scene.wait_metric(&format!("glint_router_index_blocks {:?}", blocks.len() as f64)).await;
    (scene, first, second)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_where_its_prefix_is() {
    let (scene, first, second) = two_groups(&names(LONG, "")).await;
    for _ in 0..4 {
        complete(&scene, "").await;
    }
    assert_eq!((first.requests().len(), second.requests().len()), (4, 0));
    // The delta moves the prefix to the other group.
    first.tell_delta(11, &names(LONG, ""), &[]);
    second.tell_delta(11, &[], &names(LONG, "")[..2]);
    scene.wait_metric("glint_router_index_blocks 2.0").await;
    complete(&scene, "").await;
    assert_eq!((first.requests().len(), second.requests().len()), (4, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_salt_finds_no_prefix_and_goes_to_the_idle_group() {
    let (scene, first, second) = two_groups(&names(LONG, "")).await;
    first.tell_running(5);
    // What a group told last is known once it is chosen for it; so look until it is.
    wait_until("the idle group is chosen", || async {
        let before = second.requests().len();
        complete(&scene, "somebody else").await;
        second.requests().len() > before
    })
    .await;
    complete(&scene, "").await;
    assert_eq!(first.last_request().cache_salt, b"", "cached blocks win over load");
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_groups_take_turns() {
    let (scene, first, second) = two_groups(&[]).await;
    for _ in 0..6 {
        scene.chat_ok(json!({})).await;
    }
    assert!(first.requests().len() >= 2, "{}", first.requests().len());
    assert!(second.requests().len() >= 2, "{}", second.requests().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_refuses_or_breaks_at_once_is_passed_over() {
    for code in [tonic::Code::ResourceExhausted, tonic::Code::Unavailable] {
        let (scene, first, second) = two_groups(&names(LONG, "")).await;
        first.script(Script { refuse: Some(code), ..Script::default() });
        complete(&scene, "").await;
        assert_eq!((first.requests().len(), second.requests().len()), (1, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_request_is_not_tried_elsewhere() {
    let (scene, first, second) = two_groups(&names(LONG, "")).await;
    first.script(Script { refuse: Some(tonic::Code::InvalidArgument), ..Script::default() });
    let body = json!({"model": "sea", "prompt": LONG});
    assert_eq!(scene.post("/v1/completions", body).await.0, 400);
    assert_eq!(second.requests().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_key_takes_no_group_whose_stream_lives() {
    let (scene, mut worker) = Scene::with_worker(&[]).await;
    scene.remove("g0").await;
    // A second group, so that the first change is known to have been heard.
    let other = FakeWorker::start(1).await;
    scene.add("g1", &other).await;
    scene.wait_metric("glint_router_groups{state=\"ready\"} 2").await;
    other.tell_running(9);
    wait_until("the deleted group is chosen", || async {
        scene.chat_ok(json!({})).await;
        !worker.requests().is_empty()
    })
    .await;
    // Dead and deleted: now it is gone.
    worker.kill();
    scene.wait_metric("glint_router_groups{state=\"ready\"} 1").await;
    scene.wait_metric("glint_router_groups{state=\"lost\"} 0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_group_is_awaited_while_its_key_stays() {
    let (scene, mut worker) = Scene::with_worker(&[]).await;
    worker.kill();
    scene.wait_health(503).await;
    let (status, answer) = scene.chat(json!({})).await;
    assert_eq!((status, &answer["error"]["code"]), (503, &json!("model_not_ready")));
    scene.wait_metric("glint_router_groups{state=\"lost\"} 1").await;
    // It comes back elsewhere, in a new life.
    let again = FakeWorker::start(2).await;
    scene.add("g0", &again).await;
    scene.wait_ready().await;
    let answer = scene.chat_ok(json!({})).await;
    assert_eq!(answer["choices"][0]["message"]["content"], TEXT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_epoch_replaces_a_stream_that_still_lives() {
    let (scene, old) = Scene::with_worker(&[]).await;
    let new = FakeWorker::start(2).await;
    scene.add("g0", &new).await;
    wait_until("the new life is followed", || async { !new.watches().is_empty() }).await;
    scene.wait_ready().await;
    scene.chat_ok(json!({})).await;
    assert_eq!((old.requests().len(), new.requests().len()), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_stream_is_resumed_where_it_was() {
    let (scene, first, _second) = two_groups(&names(LONG, "")).await;
    first.tell_delta(11, &[], &[1]);
    let blocks = names(LONG, "").len() as f64 + 1.0;
    scene.wait_metric(&format!("glint_router_index_blocks {blocks:?}")).await;
    first.end_watches();
    wait_until("the stream is resumed", || async { first.watches().len() == 2 }).await;
    let resumed = first.watches()[1].clone();
    assert_eq!((resumed.epoch, resumed.sequence), (Some(1), Some(11)));
    scene.wait_metric("glint_router_groups{state=\"ready\"} 2").await;
    complete(&scene, "").await;
    assert_eq!(first.requests().len(), 1, "what was known is still known");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_noticed_and_the_old_view_stays() {
    let (scene, first, _second) = two_groups(&names(LONG, "")).await;
    first.tell_delta(13, &names(LONG, ""), &[]);
    wait_until("the stream is resumed", || async { first.watches().len() == 2 }).await;
    assert_eq!(first.watches()[1].sequence, Some(10));
    let blocks = names(LONG, "").len() as f64;
    scene.wait_metric(&format!("glint_router_index_blocks {blocks:?}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_of_one_model_share_its_texts() {
    let (_scene, first, second) = two_groups(&[]).await;
    assert_eq!(first.assets_sent() + second.assets_sent(), 3, "three files, once each");
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_outlive_a_broken_watch_stream() {
    let (scene, worker) = Scene::with_worker(&[]).await;
    worker.end_watches();
    wait_until("the stream is resumed", || async { worker.watches().len() == 2 }).await;
    scene.wait_ready().await;
    scene.chat_ok(json!({})).await;
    assert_eq!(worker.assets_sent(), 3, "three files, once each");
}

#[tokio::test(flavor = "multi_thread")]
async fn assets_that_are_not_what_they_claim_are_not_used() {
    let scene = Scene::empty(&[]).await;
    let worker = FakeWorker::start(1).await;
    worker.spoil_assets(true);
    scene.add("g0", &worker).await;
    wait_until("it is tried again", || async { worker.assets_sent() >= 2 }).await;
    assert_eq!(scene.get("/health").await.0, 503);
    worker.spoil_assets(false);
    scene.wait_ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_group_takes_nothing_new() {
    let (scene, first, second) = two_groups(&names(LONG, "")).await;
    first.tell_draining(true);
    scene.wait_metric("glint_router_groups{state=\"draining\"} 1").await;
    complete(&scene, "").await;
    assert_eq!((first.requests().len(), second.requests().len()), (0, 1));
    first.tell_draining(false);
    scene.put("g1", &second, GroupState::Draining).await;
    scene.wait_metric("glint_router_groups{state=\"draining\"} 1").await;
    wait_until("the other drains", || async {
        complete(&scene, "other salt").await;
        first.requests().len() >= 3
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_says_what_is_missing() {
    let scene = Scene::empty(&[]).await;
    let ready = || async {
        let response = crate::support::client().get(format!("{}/readyz", scene.admin)).send();
        let response = response.await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    wait_until("only groups are missing", || async {
        let (status, reasons) = ready().await;
        status == 503 && reasons == "groups: none can answer (0 lost, 0 draining)\n"
    })
    .await;
    let worker = FakeWorker::start(1).await;
    scene.add("g0", &worker).await;
    scene.wait_ready().await;
    soon("ready", async { assert_eq!(ready().await.0, 200) }).await;
}
