//! Does the demo model say what the reference says, through the whole cluster?

use serde_json::{Value, json};

use crate::support::{Cluster, demo_is_there, shared};

#[test]
fn eight_chats_give_their_greedy_texts_on_one_rank() {
    chats_match(&["--world-size=1"]);
}

#[test]
fn eight_chats_give_their_greedy_texts_on_three_ranks() {
    chats_match(&["--world-size=3"]);
}

/// Asks the eight chats twice; the second time the prefix cache answers.
fn chats_match(flags: &[&str]) {
    let Some(expected) = shared("fixtures/smollm2-135m-glm/expected.json") else { return };
    if !demo_is_there() {
        return;
    }
    let expected: Value = serde_json::from_slice(&std::fs::read(expected).unwrap()).unwrap();
    let chats = expected["chats"].as_array().unwrap();
    assert_eq!(chats.len(), 8);
    let cluster = Cluster::start(&[&["--model=demo", "--compute=f32"], flags].concat());
    for (number, chat) in chats.iter().enumerate() {
        let body = json!({
            "model": "demo", "messages": chat["messages"], "temperature": 0, "max_tokens": 48,
        });
        // The reference text spells the end token; the API does not.
        let text = chat["bf16w_text"].as_str().unwrap().trim_end_matches("<|im_end|>");
        for again in [false, true] {
            let (status, answer) = cluster.post("/v1/chat/completions", &body);
            assert_eq!(status, 200, "{answer}");
            assert_eq!(answer["choices"][0]["message"]["content"], text, "chat {number}");
            let usage = &answer["usage"];
            assert_eq!(usage["prompt_tokens"], chat["n_prompt"], "chat {number}");
            if again {
                let blocks = (chat["n_prompt"].as_u64().unwrap() - 1) / 16;
                let cached = &usage["prompt_tokens_details"]["cached_tokens"];
                assert_eq!(*cached, blocks * 16, "chat {number}");
            }
        }
    }
}
