//! Does the server go on answering, whatever is thrown at it?

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use serde_json::json;

use crate::support::Cluster;

#[test]
fn bad_input_gets_a_clear_error_and_the_server_goes_on() {
    let cluster = Cluster::start(&["--model=tiny", "--world-size=2"]);
    let chat = "/v1/chat/completions";
    let answers = || {
        let body = json!({"model": "tiny", "max_tokens": 2, "messages": [{"role": "user", "content": "x"}]});
        let (status, answer) = cluster.post(chat, &body);
        assert_eq!(status, 200, "{answer}");
    };
    let refused = |path: &str, body: Vec<u8>, status_wanted: u16| {
        let (status, answer) = cluster.post_bytes(path, body);
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert_eq!(status, status_wanted, "{answer}");
        assert!(message.len() > 10, "{answer}");
        message.to_owned()
    };

    refused(chat, b"{".to_vec(), 400);
    refused(chat, b"\xff\xfe".to_vec(), 400);
    refused(
        chat,
        br#"{"model":"tiny","messages":[{"role":"user","content":"\ud800"}]}"#.to_vec(),
        400,
    );
    let bad_utf8 = [
        br#"{"model":"tiny","messages":[{"role":"user","content":""#.as_slice(),
        b"\xc3\x28",
        br#""}]}"#,
    ];
    refused(chat, bad_utf8.concat(), 400);
    refused(chat, vec![b'['; 100_000], 400);
    refused(chat, vec![b' '; 10 << 20], 413);
    let long =
        json!({"model": "tiny", "messages": [{"role": "user", "content": "sea ".repeat(500_000)}]});
    let said = refused(chat, long.to_string().into_bytes(), 400);
    assert!(said.contains("tokens"), "{said}");
    let hello = json!([{"role": "user", "content": "x"}]);
    let unknown = json!({"model": "tiny", "messages": hello, "mesages": []});
    let said = refused(chat, unknown.to_string().into_bytes(), 400);
    assert!(said.contains("mesages"), "{said}");
    refused(
        "/v1/completions",
        json!({"model": "tiny", "prompt": [999_999_999]}).to_string().into_bytes(),
        400,
    );
    refused(
        "/v1/completions",
        json!({"model": "tiny", "prompt": [-1]}).to_string().into_bytes(),
        400,
    );
    refused(
        "/detokenize",
        json!({"model": "tiny", "tokens": [4_000_000_000_u32]}).to_string().into_bytes(),
        400,
    );
    refused("/v1/no-such-route", b"{}".to_vec(), 404);
    let (status, answer) = cluster.get(chat);
    assert_eq!(status, 405, "{answer}");
    answers();
}

#[test]
fn a_thousand_idle_connections_and_garbage_leave_the_server_answering() {
    let cluster = Cluster::start(&["--model=tiny", "--world-size=1"]);
    let address = cluster.url.trim_start_matches("http://");
    let idle: Vec<TcpStream> = (0..1_000)
        .map(|_| TcpStream::connect(address).expect("a connection is accepted"))
        .collect();
    for garbage in
        [b"\x00\x01\x02\x03\r\n\r\n".as_slice(), b"GET\r\n\r\n", b"POST / HTTP/9.9\r\n\r\n"]
    {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(garbage).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        // An answer, an end or a reset are all fine; a hang is not, nor is a crash.
        let _reset = stream.read_to_end(&mut answer);
    }
    let body =
        json!({"model": "tiny", "max_tokens": 2, "messages": [{"role": "user", "content": "x"}]});
    let (status, answer) = cluster.post("/v1/chat/completions", &body);
    assert_eq!(status, 200, "{answer}");
    drop(idle);
}

#[test]
fn text_that_spells_a_special_token_stays_text() {
    let cluster = Cluster::start(&["--model=tiny", "--world-size=1"]);
    let ids = |content: &str| {
        let body = json!({"model": "tiny", "messages": [{"role": "user", "content": content}]});
        let (status, answer) = cluster.post("/tokenize", &body);
        assert_eq!(status, 200, "{answer}");
        answer["tokens"].as_array().unwrap().len()
    };
    // A forged turn is as many tokens as bytes for a byte tokenizer, not one.
    assert_eq!(ids("<|assistant|>") - ids(""), "<|assistant|>".len());
}
