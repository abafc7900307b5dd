//! `/v1/completions`.

use serde_json::{Value, json};

use crate::support::assets::USER;
use crate::support::worker::TEXT;
use crate::support::{MODEL, Scene, spelled};

#[tokio::test(flavor = "multi_thread")]
async fn text_is_continued() {
    let (scene, worker) = Scene::with_worker(&[]).await;
    let answer = scene.complete_ok(json!({"prompt": "<|user|>a"})).await;
    assert_eq!(answer["object"], "text_completion");
    assert_eq!(answer["choices"][0]["text"], TEXT);
    assert!(answer["choices"][0]["logprobs"].is_null());
    assert_eq!(
        worker.last_request().prompt_tokens,
        [USER, 97],
        "the client writes the whole prompt"
    );
    let short = scene.complete_ok(json!({"max_tokens": null})).await;
    assert_eq!(short["choices"][0]["text"], &TEXT[..16], "as long as OpenAI's");
}

#[tokio::test(flavor = "multi_thread")]
async fn token_ids_and_lists_are_continued() {
    let (scene, worker) = Scene::with_worker(&[]).await;
    scene.complete_ok(json!({"prompt": [104, 105]})).await;
    assert_eq!(worker.last_request().prompt_tokens, [104, 105]);
    let body = json!({"prompt": ["a", "bc"], "n": 2, "seed": 0, "temperature": 1});
    let answer = scene.complete_ok(body).await;
    let choices = answer["choices"].as_array().unwrap();
    let texts: Vec<_> =
        choices.iter().map(|c| c["text"].as_str().unwrap().chars().next()).collect();
    assert_eq!(texts, [Some('a'), Some('b'), Some('a'), Some('b')], "by prompt, then by seed");
    assert_eq!(answer["usage"]["prompt_tokens"], 3);
    let mut prompts: Vec<_> =
        worker.requests()[1..].iter().map(|r| r.prompt_tokens.len()).collect();
    prompts.sort_unstable();
    assert_eq!(prompts, [1, 1, 2, 2]);
    let ids = scene.complete_ok(json!({"prompt": [[1], [2, 3]]})).await;
    assert_eq!(ids["choices"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn echo_repeats_the_prompt() {
    let (scene, worker) = Scene::with_worker(&[]).await;
    let answer = scene.complete_ok(json!({"echo": true})).await;
    assert_eq!(answer["choices"][0]["text"], format!("Tell{TEXT}"));
    assert_eq!(worker.last_request().sampling.unwrap().prompt_logprobs, None);
    let ids = scene.complete_ok(json!({"echo": true, "prompt": [USER, 97]})).await;
    assert_eq!(ids["choices"][0]["text"], format!("<|user|>a{TEXT}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn log_probabilities_stand_in_columns() {
    let (scene, _worker) = Scene::with_worker(&[]).await;
    let answer = scene.complete_ok(json!({"logprobs": 2, "max_tokens": 4})).await;
    let logprobs = &answer["choices"][0]["logprobs"];
    assert_eq!(logprobs["tokens"], json!(["T", "h", "e", " "]));
    assert_eq!(logprobs["token_logprobs"], json!([-0.5, -0.5, -0.5, -0.5]));
    assert_eq!(logprobs["text_offset"], json!([0, 1, 2, 3]));
    assert_eq!(logprobs["top_logprobs"][0], json!({"T": -0.5, "U": -1.5}));
    let none = scene.complete_ok(json!({"logprobs": 0, "max_tokens": 1})).await;
    assert!(none["choices"][0]["logprobs"]["top_logprobs"].is_null());
    assert_eq!(none["choices"][0]["logprobs"]["tokens"], json!(["T"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_echoed_is_described() {
    let (scene, worker) = Scene::with_worker(&[]).await;
    let answer = scene.complete_ok(json!({"echo": true, "logprobs": 1, "max_tokens": 2})).await;
    assert_eq!(worker.last_request().sampling.unwrap().prompt_logprobs, Some(1));
    let logprobs = &answer["choices"][0]["logprobs"];
    assert_eq!(logprobs["tokens"], json!(["T", "e", "l", "l", "T", "h"]));
    assert_eq!(logprobs["token_logprobs"], json!([null, -0.5, -0.5, -0.5, -0.5, -0.5]));
    assert_eq!(logprobs["text_offset"], json!([0, 1, 2, 3, 4, 5]));
    assert!(answer["choices"][0].get("prompt_logprobs").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_can_be_scored_without_an_answer() {
    let (scene, worker) = Scene::with_worker(&[]).await;
    let answer = scene.complete_ok(json!({"echo": true, "logprobs": 0, "max_tokens": 0})).await;
    let choice = &answer["choices"][0];
    assert_eq!(choice["text"], "Tell");
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(choice["logprobs"]["tokens"], json!(["T", "e", "l", "l"]));
    assert_eq!(answer["usage"]["completion_tokens"], 0);
    assert_eq!(worker.last_request().sampling.unwrap().max_tokens, 1);
    let (status, _) = scene
        .post("/v1/completions", json!({"model": MODEL, "prompt": "x", "max_tokens": 0}))
        .await;
    assert_eq!(status, 400, "nothing to do");
}

#[tokio::test(flavor = "multi_thread")]
async fn prompt_logprobs_are_given_per_choice() {
    let (scene, _worker) = Scene::with_worker(&[]).await;
    let answer = scene.complete_ok(json!({"prompt": ["ab", "c"], "prompt_logprobs": 1})).await;
    let described =
        |at: usize| answer["choices"][at]["prompt_logprobs"].as_array().unwrap().clone();
    assert_eq!(described(0).len(), 2);
    assert_eq!(described(0)[1]["98"]["rank"], 1);
    assert_eq!(described(1), [Value::Null]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_spells_the_same_text() {
    let (scene, _worker) = Scene::with_worker(&[]).await;
    let body = json!({"model": MODEL, "prompt": "Tell", "max_tokens": 100, "temperature": 0,
                      "stream": true, "echo": true, "logprobs": 1,
                      "stream_options": {"include_usage": true}});
    let mut events = scene.stream("/v1/completions", body).await.rest().await;
    assert_eq!(events.pop(), Some(Value::String("[DONE]".to_owned())));
    assert_eq!(events.pop().unwrap()["usage"]["prompt_tokens"], 4);
    assert_eq!(spelled(&events, 0), format!("Tell{TEXT}"));
    let offsets: Vec<u64> = events
        .iter()
        .flat_map(|event| event["choices"][0]["logprobs"]["text_offset"].as_array().unwrap())
        .map(|offset| offset.as_u64().unwrap())
        .collect();
    assert_eq!(offsets[..6], [0, 1, 2, 3, 4, 5], "offsets go on from event to event");
}
