//! Clients that mean harm, or know no better.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Scene, chat_body, soon, wait_until};

const CHAT: &str = "/v1/chat/completions";

async fn connect(scene: &Scene) -> TcpStream {
    TcpStream::connect(scene.http.trim_start_matches("http://")).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_none_get_an_error_in_openais_shape() {
    let (scene, _worker) = Scene::with_worker(&[]).await;
    let bad_utf8 =
        [br#"{"model":"sea","messages":[{"role":"user","content":""#.as_slice(), b"\xc3\x28\"}]}"];
    let surrogate = br#"{"model":"sea","messages":[{"role":"user","content":"\ud800"}]}"#;
    let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
    let nested =
        format!(r#"{{"model":"sea","metadata":{}1{}}}"#, "[".repeat(5000), "]".repeat(5000));
    for body in [
        b"".to_vec(),
        b"{".to_vec(),
        b"null".to_vec(),
        b"\xff\xfe".to_vec(),
        b"{\"model\": 1e999}".to_vec(),
        surrogate.to_vec(),
        bad_utf8.concat(),
        deep,
        nested.into_bytes(),
    ] {
        let (status, answer) = scene.post_bytes(CHAT, body).await;
        assert_eq!(status, 400, "{answer}");
        assert!(answer["error"]["message"].as_str().unwrap().len() > 10, "{answer}");
        assert_eq!(answer["error"]["type"], "invalid_request_error");
    }
    scene.chat_ok(json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_is_refused_announced_or_not() {
    let (scene, _worker) = Scene::with_worker(&["--body-bytes-max=100000"]).await;
    let (status, answer) = scene.post_bytes(CHAT, vec![b' '; 10 << 20]).await;
    assert_eq!(status, 413, "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("100000"), "{answer}");
    assert_eq!(answer["error"]["code"], "request_too_large");
    let chunks = futures::stream::iter((0..200).map(|_| Ok::<_, std::io::Error>(vec![b' '; 1000])));
    let request = crate::support::client().post(format!("{}{CHAT}", scene.http));
    let response = request.body(reqwest::Body::wrap_stream(chunks)).send().await.unwrap();
    assert_eq!(response.status().as_u16(), 413);
    scene.chat_ok(json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_and_methods_that_do_not_exist_say_so() {
    let (scene, _worker) = Scene::with_worker(&[]).await;
    let (status, answer) = scene.post("/v1/no-such-route", json!({})).await;
    assert_eq!((status, &answer["error"]["type"]), (404, &json!("invalid_request_error")));
    assert_eq!(answer["error"]["code"], "unknown_url");
    let nowhere = crate::support::client().get(format!("{}/nowhere", scene.http)).send().await;
    assert!(nowhere.unwrap().headers().contains_key("x-request-id"), "errors have a name, too");
    let (status, answer) = scene.get(CHAT).await;
    assert_eq!((status, &answer["error"]["type"]), (405, &json!("invalid_request_error")));
    assert_eq!(answer["error"]["code"], "method_not_supported");
    assert!(answer["error"]["message"].as_str().unwrap().ends_with("use POST"), "{answer}");
    let wrong = crate::support::client().get(format!("{}{CHAT}", scene.http)).send().await.unwrap();
    assert_eq!(wrong.headers()["allow"], "POST");
    scene.wait_metric("glint_router_requests_total{endpoint=\"other\",code=\"404\"} 2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_does_not_repeat_a_megabyte() {
    let (scene, _worker) = Scene::with_worker(&[]).await;
    let huge = "x".repeat(1 << 20);
    for more in [
        json!({"max_tokens": huge}),
        json!({"seed": huge}),
        json!({"top_k": huge}),
        json!({"model": huge}),
        json!({"stop_token_ids": [huge]}),
        json!({"logit_bias": {&huge: huge}}),
        json!({"messages": [{"role": huge, "content": "x"}]}),
        json!({"messages": [{"role": "user", "content": [{"type": huge}]}]}),
        json!({&huge: 1}),
    ] {
        let (status, answer) = scene.chat(more).await;
        assert!((400..=404).contains(&status));
        let length = answer.to_string().len();
        assert!(length < 1000, "{length} bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_wire_harms_nobody() {
    let (scene, _worker) = Scene::with_worker(&[]).await;
    let long = [b"GET /".as_slice(), &[b'a'; 200_000], b" HTTP/1.1\r\n\r\n"].concat();
    for garbage in [
        b"\x00\x01\x02\x03\r\n\r\n".as_slice(),
        b"GET\r\n\r\n",
        b"POST / HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /tokenize HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        &long,
    ] {
        let mut stream = connect(&scene).await;
        // A reset while we write is as good an answer as any; a hang is none.
        let _reset = stream.write_all(garbage).await;
        let _reset = stream.shutdown().await;
        let mut answer = Vec::new();
        let _reset = soon("an end", stream.read_to_end(&mut answer)).await;
    }
    scene.chat_ok(json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_idle_connections_leave_the_router_answering() {
    let (scene, _worker) = Scene::with_worker(&[]).await;
    let mut idle = Vec::new();
    for at in 0..1_000 {
        let mut stream = connect(&scene).await;
        if at % 2 == 0 {
            stream.write_all(b"POST /v1/chat/completions HTTP/1.1\r\nhost:").await.unwrap();
        }
        idle.push(stream);
    }
    scene.chat_ok(json!({})).await;
    drop(idle);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_and_bodies_that_do_not_get_on_are_ended() {
    let (scene, _worker) = Scene::with_worker(&["--idle-timeout-ms=300"]).await;
    for begun in ["", "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"] {
        let mut stream = connect(&scene).await;
        stream.write_all(begun.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        soon("the connection is closed", stream.read_to_end(&mut answer)).await.unwrap();
    }
    let mut stream = connect(&scene).await;
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let read = soon("an answer", stream.read(&mut answer)).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    // A whole request may take longer than that to be answered: only what comes from the client is bounded.
    scene.chat_ok(json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_connections_are_open_at_a_time() {
    let (scene, _worker) = Scene::with_worker(&["--connections-max=2"]).await;
    // What the test's own clients keep open for reuse goes with them; these two stay.
    let mut first = connect(&scene).await;
    let second = connect(&scene).await;
    let mut third = connect(&scene).await;
    third.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let early = tokio::time::timeout(Duration::from_millis(200), third.read_to_end(&mut answer));
    assert!(early.await.is_err(), "the third waits");
    first.shutdown().await.unwrap();
    drop(second);
    soon("the third is answered", third.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn long_texts_do_not_hold_short_ones_up() {
    let (scene, _worker) = Scene::with_worker(&[]).await;
    let long =
        json!({"model": "sea", "messages": [{"role": "user", "content": "sea ".repeat(500_000)}]});
    let (long, short) = tokio::join!(scene.post(CHAT, long), scene.post(CHAT, chat_body()));
    assert_eq!(short.0, 200);
    assert_eq!((long.0, &long.1["error"]["code"]), (400, &json!("context_length_exceeded")));
}

/// Fills whatever is between the router and a client that does not read: 16 answers of 2,000 tokens, each described.
fn long_answer() -> String {
    let mut body = chat_body();
    for (field, value) in [
        ("stream", json!(true)),
        ("n", json!(16)),
        ("ignore_eos", json!(true)),
        ("logprobs", json!(true)),
        ("top_logprobs", json!(20)),
    ] {
        body[field] = value;
    }
    body.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_loses_its_connection_and_its_sequences() {
    let (scene, _worker) = Scene::with_worker(&["--write-timeout-ms=300"]).await;
    let body = long_answer();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let address = scene.http.trim_start_matches("http://").parse().unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    wait_until("sequences are aborted", || async {
        let metrics = scene.metrics().await;
        let mut lines = metrics.lines();
        let aborted = lines.find_map(|l| l.strip_prefix("glint_router_aborted_sequences_total "));
        aborted.is_some_and(|count| count != "0")
    })
    .await;
    scene.wait_metric("glint_router_requests_in_flight 0").await;
    drop(stream);
}

#[tokio::test(flavor = "multi_thread")]
async fn promises_of_large_bodies_lock_nobody_out() {
    let (scene, _worker) = Scene::with_worker(&[]).await;
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{{", 8 << 20);
    let mut idle = Vec::new();
    for _ in 0..1_000 {
        let mut stream = connect(&scene).await;
        stream.write_all(head.as_bytes()).await.unwrap();
        idle.push(stream);
    }
    scene.wait_metric("glint_router_requests_in_flight 1000").await;
    scene.chat_ok(json!({})).await;
    drop(idle);
}
