//! Requests that cannot be answered as they are.

use serde_json::{Value, json};

use crate::support::worker::{CONTEXT_TOKENS, Script};
use crate::support::{MODEL, Scene, chat_body, with};

/// Each: what is wrong, the parameter that is named, a piece of the sentence, the code.
fn wrong_chats() -> Vec<(Value, &'static str, &'static str, &'static str)> {
    let message = |content: Value| json!({"messages": [{"role": "user", "content": content}]});
    vec![
        (json!({"temprature": 1}), "temprature", "did you mean temperature?", "unknown_parameter"),
        (json!({"qwertz": null}), "qwertz", "leave it out", "unknown_parameter"),
        (json!({"temperature": -1}), "temperature", "use 0 to 100", "invalid_value"),
        (
            json!({"temperature": "hot"}),
            "temperature",
            "is a string, use a number",
            "invalid_value",
        ),
        (json!({"top_p": 0}), "top_p", "must be above 0 and at most 1", "invalid_value"),
        (json!({"top_k": 1.5}), "top_k", "whole number", "invalid_value"),
        (json!({"n": 0}), "n", "n is 0, use a whole number from 1 to 128", "invalid_value"),
        (json!({"n": 129}), "n", "from 1 to 128", "invalid_value"),
        (json!({"seed": 1.5}), "seed", "whole number", "invalid_value"),
        (json!({"max_tokens": 0}), "max_tokens", "whole number from 1 to", "invalid_value"),
        (json!({"max_tokens": -1}), "max_tokens", "whole number from 1 to", "invalid_value"),
        (
            json!({"min_tokens": 9, "max_tokens": 8}),
            "min_tokens",
            "above max_tokens",
            "invalid_value",
        ),
        (json!({"stop": [""]}), "stop", "empty string", "invalid_value"),
        (json!({"stop": vec!["x"; 17]}), "stop", "at most 16", "invalid_value"),
        (json!({"stop": 3}), "stop", "is a number", "invalid_value"),
        (json!({"logit_bias": {"a": 1}}), "logit_bias", "token ids", "invalid_value"),
        (json!({"logit_bias": {"260": 1}}), "logit_bias", "260 tokens", "invalid_value"),
        (json!({"stop_token_ids": [-1]}), "stop_token_ids", "token ids", "invalid_value"),
        (json!({"top_logprobs": 2}), "top_logprobs", "needs logprobs", "invalid_value"),
        (
            json!({"logprobs": true, "top_logprobs": 21}),
            "top_logprobs",
            "from 0 to 20",
            "invalid_value",
        ),
        (json!({"stream_options": {}}), "stream_options", "needs stream", "invalid_value"),
        (
            json!({"stream": true, "stream_options": {"include_usge": true}}),
            "stream_options.include_usge",
            "stream_options.include_usage?",
            "unknown_parameter",
        ),
        (
            json!({"stream": true, "prompt_logprobs": 1}),
            "prompt_logprobs",
            "stream",
            "invalid_value",
        ),
        (
            json!({"response_format": {"type": "json_object"}}),
            "response_format",
            "free text",
            "unsupported_parameter",
        ),
        (
            json!({"tools": [{"type": "function"}]}),
            "tools",
            "does not call tools",
            "unsupported_parameter",
        ),
        (json!({"tool_choice": "required"}), "tool_choice", "tools", "unsupported_parameter"),
        (json!({"audio": {"voice": "x"}}), "audio", "text only", "unsupported_parameter"),
        (
            json!({"modalities": ["text", "audio"]}),
            "modalities",
            "text only",
            "unsupported_parameter",
        ),
        (
            json!({"reasoning_effort": "high"}),
            "reasoning_effort",
            "leave it out",
            "unsupported_parameter",
        ),
        (json!({"messages": []}), "messages", "at least one", "invalid_value"),
        (json!({"messages": null}), "messages", "missing", "invalid_value"),
        (json!({"messages": "Hi"}), "messages", "list", "invalid_value"),
        (json!({"messages": ["Hi"]}), "messages[0]", "no object", "invalid_value"),
        (json!({"messages": [{"content": "x"}]}), "messages[0].role", "missing", "invalid_value"),
        (
            json!({"messages": [{"role": "user"}]}),
            "messages[0].content",
            "missing",
            "invalid_value",
        ),
        (
            json!({"messages": [{"role": "king", "content": "x"}]}),
            "messages[0].role",
            "use one of",
            "invalid_value",
        ),
        (
            json!({"messages": [{"role": "user", "content": "x", "contnt": 1}]}),
            "messages[0].contnt",
            "messages[0].content?",
            "unknown_parameter",
        ),
        (message(json!(5)), "messages[0].content", "neither", "invalid_value"),
        (
            message(json!([{"type": "image_url", "image_url": {}}])),
            "messages[0].content[0]",
            "image_url",
            "unsupported_parameter",
        ),
        (
            message(json!([{"type": "text"}])),
            "messages[0].content[0].text",
            "missing",
            "invalid_value",
        ),
        (
            message(json!("x".repeat(CONTEXT_TOKENS as usize))),
            "messages",
            "2048",
            "context_length_exceeded",
        ),
        (json!({"cache_salt": "x".repeat(257)}), "cache_salt", "at most 256", "invalid_value"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_wrong_parameter_is_named_and_says_what_to_do() {
    let (scene, worker) = Scene::with_worker(&[]).await;
    for (more, param, sentence, code) in wrong_chats() {
        let (status, answer) = scene.chat(more.clone()).await;
        let error = &answer["error"];
        assert_eq!(status, 400, "{more}: {answer}");
        assert_eq!(error["type"], "invalid_request_error", "{more}");
        assert_eq!(error["param"], param, "{more}: {error}");
        assert_eq!(error["code"], code, "{more}: {error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(sentence), "{more}: {message}");
    }
    assert_eq!(worker.requests().len(), 0, "nothing wrong reaches a worker");
    scene.chat_ok(json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_prompts_are_refused() {
    let (scene, _worker) = Scene::with_worker(&[]).await;
    for (more, param) in [
        (json!({"prompt": null}), "prompt"),
        (json!({"prompt": []}), "prompt"),
        (json!({"prompt": ""}), "prompt"),
        (json!({"prompt": [999_999_999]}), "prompt"),
        (json!({"prompt": [-1]}), "prompt"),
        (json!({"prompt": ["a", 1]}), "prompt"),
        (json!({"prompt": {"text": "a"}}), "prompt"),
        (json!({"prompt": vec!["a"; 129]}), "n"),
        (json!({"best_of": 2}), "best_of"),
        (json!({"suffix": "x"}), "suffix"),
        (json!({"echoe": true}), "echoe"),
        (json!({"logprobs": 21}), "logprobs"),
    ] {
        let body = with(json!({"model": MODEL, "prompt": "x"}), more.clone());
        let (status, answer) = scene.post("/v1/completions", body).await;
        assert_eq!((status, &answer["error"]["param"]), (400, &json!(param)), "{more}: {answer}");
    }
    let (status, answer) = scene.post("/tokenize", json!({"model": MODEL, "text": "a"})).await;
    assert_eq!((status, &answer["error"]["param"]), (400, &json!("prompt")));
    let (status, answer) =
        scene.post("/detokenize", json!({"model": MODEL, "tokens": [4_000_000_000_u32]})).await;
    assert_eq!((status, &answer["error"]["param"]), (400, &json!("tokens")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_model_is_not_found_and_a_missing_one_is_asked_for() {
    let (scene, _worker) = Scene::with_worker(&[]).await;
    let (status, answer) = scene.chat(json!({"model": "lake"})).await;
    assert_eq!((status, &answer["error"]["code"]), (404, &json!("model_not_found")));
    let (status, answer) = scene.chat(json!({"model": null})).await;
    assert_eq!((status, &answer["error"]["param"]), (400, &json!("model")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_router_and_a_full_group_say_so() {
    let (scene, worker) = Scene::with_worker(&["--requests-max=1"]).await;
    worker.script(Script { wait_before: Some(1), ..Script::default() });
    let stream = scene.stream_chat(json!({})).await;
    assert_eq!(stream.status, 200, "the first is admitted");
    let (status, answer) = scene.chat(json!({})).await;
    assert_eq!((status, &answer["error"]["code"]), (429, &json!("overloaded")));
    assert_eq!(scene.get("/health").await.0, 200, "health is not shed");
    drop(stream);
    scene.wait_metric("glint_router_requests_in_flight 0").await;

    worker.script(Script { refuse: Some(tonic::Code::ResourceExhausted), ..Script::default() });
    let (status, answer) = scene.chat(json!({})).await;
    assert_eq!((status, &answer["error"]["type"]), (429, &json!("rate_limit_error")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workers_refusal_keeps_its_meaning() {
    let (scene, worker) = Scene::with_worker(&[]).await;
    for (code, status) in [
        (tonic::Code::InvalidArgument, 400),
        (tonic::Code::Unavailable, 503),
        (tonic::Code::Internal, 500),
        (tonic::Code::DeadlineExceeded, 504),
    ] {
        worker.script(Script { refuse: Some(code), ..Script::default() });
        let (got, answer) = scene.chat(json!({})).await;
        assert_eq!(got, status, "{answer}");
        let message = answer["error"]["message"].as_str().unwrap();
        assert_eq!(message.contains("the script says no"), status != 500, "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_group_the_client_is_told_to_come_again() {
    let scene = Scene::empty(&[]).await;
    assert_eq!(scene.get("/health").await.0, 503);
    let (status, answer) = scene.post("/v1/chat/completions", chat_body()).await;
    assert_eq!((status, &answer["error"]["code"]), (503, &json!("model_not_ready")));
    assert_eq!(scene.get("/v1/models").await.1["data"], json!([]));
}
