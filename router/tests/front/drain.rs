//! How a router ends.

use serde_json::json;

use crate::support::worker::{Script, TEXT};
use crate::support::{Scene, client, soon, spelled, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_in_peace_and_nothing_new_is_taken() {
    let (mut scene, worker) = Scene::with_worker(&[]).await;
    worker.script(Script { wait_before: Some(2), ..Script::default() });
    let mut stream = scene.stream_chat(json!({})).await;
    stream.next().await.unwrap();
    scene.drain.begin();
    wait_until("it is not ready", || async {
        let ready = client().get(format!("{}/readyz", scene.admin)).send().await.unwrap();
        ready.status().as_u16() == 503 && ready.text().await.unwrap().contains("router: draining")
    })
    .await;
    wait_until("no new connection is taken", || async {
        client().get(format!("{}/health", scene.http)).send().await.is_err()
    })
    .await;
    worker.go(1000);
    let events = stream.rest().await;
    assert_eq!(spelled(&events, 0), TEXT);
    assert_eq!(events.last().unwrap(), "[DONE]");
    let router = scene.router.take().unwrap();
    soon("the router ends", router).await.unwrap().unwrap();
    assert_eq!(worker.aborted(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_still_runs_at_the_stop_is_cut() {
    let (mut scene, worker) = Scene::with_worker(&[]).await;
    worker.script(Script { wait_before: Some(2), ..Script::default() });
    let stream = scene.stream_chat(json!({})).await;
    scene.drain.begin();
    scene.drain.stop();
    let router = scene.router.take().unwrap();
    soon("the router ends", router).await.unwrap().unwrap();
    assert_ne!(stream.rest().await.last().unwrap(), "[DONE]");
    worker.wait_aborted(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_is_in_the_registry_while_it_lives() {
    use glint_fleet::Fleet;
    let (mut scene, _worker) = Scene::with_worker(&["--router-id=r1"]).await;
    let key = "/glint/default/routers/r1";
    let fleet = scene.fleet.clone();
    let is_there = || async { !fleet.list(key.to_owned()).await.unwrap().is_empty() };
    wait_until("it is registered", is_there).await;
    scene.drain.begin();
    let router = scene.router.take().unwrap();
    soon("the router ends", router).await.unwrap().unwrap();
    assert!(!is_there().await, "it is gone at once, not with its lease");
}
