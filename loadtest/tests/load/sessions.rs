//! What is said in a session: the bodies that a server gets.

use std::{sync::Arc, time::Duration};

use glint_loadtest::{
    plan::{Begins, Labels, Piece, Prompt, Session},
    target::{Endpoint, PromptForm, Target},
    tokens,
};
use serde_json::{Value, json};

use crate::{
    kit::{open, run, single, target, turn, whole},
    mock::{Mock, Seen, answer, status},
};

const SAID: [Piece; 3] =
    [Piece { name: 1, tokens: 5 }, Piece { name: 2, tokens: 3 }, Piece { name: 3, tokens: 2 }];

/// Three turns; the second after a pause, the third at a time of its own that has passed by then.
fn conversation() -> Session {
    let next = |piece| Prompt::Next(vec![piece]);
    Session {
        start: Duration::ZERO,
        labels: Labels::default(),
        turns: vec![
            turn(Begins::At(Duration::ZERO), Prompt::Whole(vec![SAID[0]])),
            turn(Begins::After(Duration::from_millis(30)), next(SAID[1])),
            turn(Begins::At(Duration::from_millis(1)), next(SAID[2])),
        ],
    }
}

fn seen_by(change: impl FnOnce(&mut Target)) -> Vec<Seen> {
    let mock = Mock::start(|_| answer(&["yes", " sir"]));
    let mut target = target(&mock);
    change(&mut target);
    let (driven, records) = run(target, vec![conversation()], &open());
    assert_eq!((driven.run.summary.done, driven.run.summary.requests), (3, 3));
    // The pause counts from the answer's end, and a turn cannot be asked before the answer that it stands on.
    assert!(records[1].intended >= records[0].end + Duration::from_millis(30));
    assert!(records[2].intended >= records[1].end);
    mock.seen()
}

#[test]
fn a_chat_carries_the_whole_conversation() {
    let seen = seen_by(|_| {});
    let [one, two, three] = SAID.map(|piece| tokens::text(&[piece]));
    let user = |text: &str| json!({"role": "user", "content": text});
    let assistant = json!({"role": "assistant", "content": "yes sir"});
    assert_eq!(seen[0].body["messages"], json!([user(&one)]));
    assert_eq!(seen[1].body["messages"], json!([user(&one), assistant, user(&two)]));
    let all = json!([user(&one), assistant, user(&two), assistant, user(&three)]);
    assert_eq!(seen[2].body["messages"], all);
    assert!(seen.iter().all(|seen| seen.path == "/v1/chat/completions"));
    assert_eq!(seen[0].body["stream_options"], json!({"include_usage": true}));
    assert_eq!((&seen[0].body["max_tokens"], &seen[0].body["model"]), (&json!(8), &json!("tiny")));
}

#[test]
fn a_completion_carries_the_whole_text() {
    let seen = seen_by(|target| target.endpoint = Endpoint::Completions);
    let [one, two, three] = SAID.map(|piece| tokens::text(&[piece]));
    assert_eq!(seen[2].body["prompt"], json!(format!("{one}yes sir{two}yes sir{three}")));
    assert_eq!(seen[2].path, "/v1/completions");
}

#[test]
fn a_completion_of_token_ids_grows_by_as_many_as_were_answered() {
    let seen = seen_by(|target| {
        target.endpoint = Endpoint::Completions;
        target.form = PromptForm::Tokens;
    });
    let ids = |seen: &Seen| -> Vec<Value> { seen.body["prompt"].as_array().unwrap().clone() };
    let prompts: Vec<Vec<Value>> = seen.iter().map(ids).collect();
    let lengths: Vec<usize> = prompts.iter().map(Vec::len).collect();
    assert_eq!(lengths, [5, 5 + 2 + 3, 5 + 2 + 3 + 2 + 2]);
    assert!(prompts[1].starts_with(&prompts[0]) && prompts[2].starts_with(&prompts[1]));
}

#[test]
fn a_turn_after_an_answer_that_failed_is_not_asked() {
    let mock = Mock::start(|seen| match seen.number {
        0 => status("500 Internal Server Error", "no"),
        _ => answer(&["yes"]),
    });
    let (driven, _) = run(target(&mock), vec![conversation()], &open());
    assert_eq!((driven.run.summary.requests, driven.run.summary.failed), (1, 1));
}

#[test]
fn turns_with_times_of_their_own_do_not_wait_for_answers() {
    // The first answer comes when the second turn was asked.
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let mock = Mock::start(move |seen| {
        if seen.number == 1 {
            gate.add_permits(8);
        }
        crate::mock::gated(&gate, &["a"])
    });
    let at = |ms| turn(Begins::At(Duration::from_millis(ms)), whole(ms, 3));
    let session = Session { turns: vec![at(0), at(20)], ..single(0) };
    let (driven, _) = run(target(&mock), vec![session], &open());
    assert_eq!(driven.run.summary.done, 2);
}

#[test]
fn a_turn_cannot_go_on_after_messages_and_says_so() {
    let mock = Mock::start(|_| answer(&["a"]));
    let messages = r#"[{"role":"user","content":"x"}]"#.to_owned();
    let messages =
        Prompt::Messages(serde_json::value::RawValue::from_string(messages).unwrap().into());
    let mut session = conversation();
    session.turns[0].prompt = messages;
    let (driven, _) = run(target(&mock), vec![session], &open());
    assert!(driven.broken.unwrap().to_string().contains("write the messages of every turn out"));
}

#[test]
fn tenants_send_their_keys_and_are_told_apart() {
    let mock = Mock::start(|_| answer(&["a"]));
    let mut target = target(&mock);
    target.api_key = Some(Arc::from("common"));
    target.tenant_keys.insert(Arc::from("acme"), Arc::from("secret"));
    target.class_header = Some("x-class".parse().unwrap());
    let labelled = |tenant: Option<&str>, class: &str| {
        let mut session = single(0);
        session.labels.tenant = tenant.map(Arc::from);
        session.labels.class = Some(Arc::from(class));
        session
    };
    let sessions = vec![
        labelled(Some("acme"), "batch"),
        labelled(Some("zeta"), "batch"),
        labelled(None, "chat"),
    ];
    let (driven, _) = run(target, sessions, &crate::kit::closed(1));
    let seen = mock.seen();
    let header =
        |name: &str| -> Vec<&str> { seen.iter().map(|seen| &*seen.headers[name]).collect() };
    assert_eq!(header("authorization"), ["Bearer secret", "Bearer common", "Bearer common"]);
    assert_eq!(header("x-class"), ["batch", "batch", "chat"]);
    let parts: Vec<(&str, &str, u64)> =
        driven.run.parts.iter().map(|part| (&*part.by, &*part.name, part.summary.done)).collect();
    assert_eq!(
        parts,
        [("class", "batch", 2), ("class", "chat", 1), ("tenant", "acme", 1), ("tenant", "zeta", 1)]
    );
}
