//! Answers that are streamed.

use serde_json::{Value, json};

use crate::support::worker::{Script, TEXT};
use crate::support::{Scene, spelled};

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_spells_the_whole_answer_and_ends_with_usage_and_done() {
    let (scene, worker) = Scene::with_worker(&[]).await;
    worker.script(Script { cached_tokens: 2, ..Script::default() });
    let stream = scene.stream_chat(json!({"stream_options": {"include_usage": true}})).await;
    assert_eq!(stream.status, 200);
    assert!(stream.headers["content-type"].to_str().unwrap().starts_with("text/event-stream"));
    let mut events = stream.rest().await;
    assert_eq!(events.pop(), Some(Value::String("[DONE]".to_owned())));
    let usage = events.pop().unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["completion_tokens"], TEXT.len() + 1);
    assert_eq!(usage["usage"]["prompt_tokens_details"]["cached_tokens"], 2);
    assert_eq!(events[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    assert_eq!(spelled(&events, 0), TEXT, "and no character is split");
    let last = &events.last().unwrap()["choices"][0];
    assert_eq!((&last["delta"], &last["finish_reason"]), (&json!({}), &json!("stop")));
    assert!(events.iter().all(|event| event["object"] == "chat.completion.chunk"));
    assert!(events.iter().all(|event| event["id"] == events[0]["id"]));
    assert!(events.iter().all(|event| event["usage"].is_null()));
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_not_sent_unasked() {
    let (scene, _worker) = Scene::with_worker(&[]).await;
    let events = scene.stream_chat(json!({})).await.rest().await;
    assert!(events.iter().all(|event| event.get("usage").is_none()));
    assert_eq!(events.last().unwrap(), "[DONE]");
}

#[tokio::test(flavor = "multi_thread")]
async fn n_answers_stream_side_by_side() {
    let (scene, _worker) = Scene::with_worker(&[]).await;
    let events = scene.stream_chat(json!({"n": 2, "seed": 0, "temperature": 1})).await.rest().await;
    assert_eq!(spelled(&events, 0), format!("a{TEXT}"));
    assert_eq!(spelled(&events, 1), format!("b{TEXT}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_string_is_never_shown_in_part() {
    let (scene, _worker) = Scene::with_worker(&[]).await;
    let events = scene.stream_chat(json!({"stop": " Waves"})).await.rest().await;
    assert_eq!(spelled(&events, 0), "The sea is blue.");
}

#[tokio::test(flavor = "multi_thread")]
async fn log_probabilities_come_with_their_text() {
    let (scene, _worker) = Scene::with_worker(&[]).await;
    let events = scene.stream_chat(json!({"logprobs": true, "top_logprobs": 1})).await.rest().await;
    let mut said = Vec::new();
    for choice in events.iter().filter_map(|event| event["choices"].get(0)) {
        let entries = choice["logprobs"]["content"].as_array();
        for entry in entries.into_iter().flatten() {
            said.extend(
                entry["bytes"].as_array().unwrap().iter().map(|b| b.as_u64().unwrap() as u8),
            );
        }
    }
    assert_eq!(String::from_utf8(said).unwrap(), TEXT);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_sent_as_they_come() {
    let (scene, worker) = Scene::with_worker(&[]).await;
    worker.script(Script { wait_before: Some(1), ..Script::default() });
    let mut stream = scene.stream_chat(json!({})).await;
    assert_eq!(stream.next().await.unwrap()["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(stream.next().await.unwrap()["choices"][0]["delta"]["content"], "T");
    for letter in ["h", "e"] {
        worker.go(1);
        assert_eq!(stream.next().await.unwrap()["choices"][0]["delta"]["content"], letter);
    }
    assert_eq!(worker.aborted(), 0);
    drop(stream);
    worker.wait_aborted(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_first_token_does_not_hold_the_head_back_for_ever() {
    let (scene, worker) = Scene::with_worker(&["--first-byte-ms=50"]).await;
    worker.script(Script { wait_before: Some(0), ..Script::default() });
    let mut stream = scene.stream_chat(json!({})).await;
    assert_eq!(stream.status, 200, "the head has come without a token");
    assert!(stream.next_raw().await.unwrap().contains("\"role\":\"assistant\""));
    for _ in 0..2 {
        assert_eq!(stream.next_raw().await.unwrap(), ": keep-alive");
    }
    worker.go(1000);
    let events = stream.rest().await;
    assert_eq!(spelled(&events, 0), TEXT);
    assert_eq!(events.last().unwrap(), "[DONE]");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_before_the_first_token_has_a_true_status() {
    let (scene, worker) = Scene::with_worker(&[]).await;
    worker.script(Script { cut_after: Some(0), ..Script::default() });
    let mut stream = scene.stream_chat(json!({})).await;
    assert_eq!(stream.status, 503);
    assert_eq!(stream.headers["retry-after"], "1");
    assert!(stream.headers["content-type"].to_str().unwrap().contains("json"));
    assert!(stream.next_raw().await.is_none(), "no event");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_failure_is_an_event_and_nothing_is_done() {
    let (scene, worker) = Scene::with_worker(&[]).await;
    worker.script(Script { cut_after: Some(4), ..Script::default() });
    let stream = scene.stream_chat(json!({"stream_options": {"include_usage": true}})).await;
    assert_eq!(stream.status, 200);
    let events = stream.rest().await;
    assert_eq!(spelled(&events, 0), "The ");
    let error = &events.last().unwrap()["error"];
    assert_eq!(error["type"], "server_error");
    assert_eq!(error["code"], "group_lost");
    assert!(error["message"].as_str().unwrap().contains("rank 1 died"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_vanishes_ends_the_stream_with_an_error() {
    let (scene, mut worker) = Scene::with_worker(&[]).await;
    worker.script(Script { wait_before: Some(2), ..Script::default() });
    let mut stream = scene.stream_chat(json!({})).await;
    stream.next().await.unwrap();
    worker.kill();
    let events = stream.rest().await;
    assert_eq!(events.last().unwrap()["error"]["code"], "group_lost");
}
