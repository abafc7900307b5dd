//! Every way in which a server can fail has its kind and its sentence.

use std::time::Duration;

use glint_loadtest::{
    record::{ErrorKind, Outcome, Record},
    target::Target,
};

use crate::{
    kit::{closed, open, run, single, target},
    mock::{Mock, Step, answer, done, end, piece, status, usage},
};

/// What comes of one request that is answered so.
fn asked(steps: Vec<Step>, change: impl FnOnce(&mut Target)) -> Record {
    let mock = Mock::start(move |_| steps.clone());
    let mut target = target(&mock);
    change(&mut target);
    let (driven, mut records) = run(target, vec![single(0)], &open());
    assert!(driven.broken.is_none());
    assert_eq!(driven.run.summary.requests, 1);
    records.remove(0)
}

fn failed(record: &Record) -> (ErrorKind, String) {
    match &record.outcome {
        Outcome::Failed(kind, message) => (*kind, message.to_string()),
        other => panic!("{other:?}"),
    }
}

fn events(events: Vec<String>, last: Step) -> Vec<Step> {
    vec![Step::Head, Step::Events(events), last]
}

#[test]
fn each_fault_of_a_server_has_its_kind_and_says_what_happened() {
    let (a, b) = (piece("a"), piece("b"));
    let ok = "HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n<html>no</html";
    let sheds = r#"{"error":{"message":"queue is full"}}"#;
    let cases = [
        (
            status("429 Too Many Requests", sheds),
            ErrorKind::Refused,
            "429 Too Many Requests: queue is full",
        ),
        (
            status("503 Service Unavailable", "draining"),
            ErrorKind::ServerError,
            "503 Service Unavailable: draining",
        ),
        (
            status("404 Not Found", r#"{"detail":"no such path"}"#),
            ErrorKind::ClientError,
            "no such path",
        ),
        (
            vec![Step::Raw(b"SSH-2.0-OpenSSH_9.6\r\n".to_vec()), Step::Close],
            ErrorKind::Garbage,
            "no HTTP",
        ),
        (vec![Step::Raw(ok.as_bytes().to_vec())], ErrorKind::Garbage, "<html>no"),
        (events(vec![a.clone(), "{broken".to_owned()], Step::End), ErrorKind::Garbage, "{broken"),
        (vec![Step::Close], ErrorKind::Reset, "before an answer"),
        (events(vec![a.clone(), b.clone()], Step::Close), ErrorKind::Cut, "broke off"),
        (events(vec![a.clone(), b.clone()], Step::End), ErrorKind::Cut, "in the middle"),
        (events(vec![a.clone(), end()], Step::End), ErrorKind::Cut, "without [DONE]"),
        (events(vec![end(), done()], Step::End), ErrorKind::Empty, "no token"),
        (
            events(vec![a.clone(), b.clone(), b.clone(), end(), usage(1, 2, 0), done()], Step::End),
            ErrorKind::Duplicated,
            "3 pieces of text came for 2 tokens",
        ),
        (events(vec![a.clone(), end(), end(), done()], Step::End), ErrorKind::Duplicated, "twice"),
        (
            events(vec![a.clone(), end(), b, done()], Step::End),
            ErrorKind::Reordered,
            "after the answer's end",
        ),
        (
            events(vec![a, r#"{"error":{"message":"worker lost"}}"#.to_owned()], Step::End),
            ErrorKind::StreamError,
            "worker lost",
        ),
    ];
    for (steps, kind, words) in cases {
        let (was, message) = failed(&asked(steps, |_| {}));
        assert_eq!(was, kind, "{message}");
        assert!(message.contains(words), "{message} for {words}");
    }
}

#[test]
fn a_stream_that_never_ends_runs_into_the_time_limit_and_what_came_is_kept() {
    let record = asked(events(vec![piece("a"), piece("b")], Step::Forever), |target| {
        target.request_timeout = Duration::from_millis(300);
    });
    let (kind, message) = failed(&record);
    assert_eq!((kind, &*message), (ErrorKind::Timeout, "no whole answer within 0.3 s"));
    assert_eq!(record.output_tokens, 2);
    assert!(record.first_token.is_some() && record.end >= Duration::from_millis(300));
}

#[test]
fn nobody_listening_is_a_failure_to_connect() {
    let mock = Mock::start(|_| answer(&["a"]));
    let mut target = target(&mock);
    // Bound and not listened to, so that nobody else gets it meanwhile.
    let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    target.url = format!("http://{free}").parse().unwrap();
    let (driven, records) = run(target, vec![single(0), single(1)], &open());
    assert_eq!(driven.run.summary.errors.get(&ErrorKind::Connect), Some(&2));
    let (_, message) = failed(&records[0]);
    assert!(message.contains(&format!("cannot connect to {free}")), "{message}");
}

#[test]
fn an_answer_that_is_not_streamed_is_judged_too() {
    let whole = |body: &str| {
        let steps = status("200 OK", body);
        asked(steps, |target| target.stream = false)
    };
    let good = r#"{"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}],"usage":{"completion_tokens":1,"prompt_tokens":3}}"#;
    let record = whole(good);
    assert_eq!(
        (record.outcome, record.output_tokens, record.prompt_tokens),
        (Outcome::Done, 1, Some(3))
    );
    let (kind, message) = failed(&whole(r#"{"error":{"message":"out of memory"}}"#));
    assert_eq!((kind, &*message), (ErrorKind::StreamError, "out of memory"));
    assert_eq!(failed(&whole("{}")).0, ErrorKind::Garbage);
    assert_eq!(failed(&whole("hello")).0, ErrorKind::Garbage);
}

#[test]
fn a_request_lost_on_a_kept_connection_is_counted_and_not_asked_again() {
    let mock = Mock::start(|seen| match seen.number {
        1 => vec![Step::Wait(Duration::from_millis(200)), Step::Close],
        _ => answer(&["a"]),
    });
    let (driven, _) = run(target(&mock), (0..3).map(|_| single(0)).collect(), &closed(1));
    assert_eq!((driven.run.summary.done, driven.run.summary.failed), (2, 1));
    assert_eq!(driven.run.summary.errors.get(&ErrorKind::Reset), Some(&1));
    assert_eq!(mock.seen().len(), 3);
}

#[test]
fn a_connection_that_the_server_closed_meanwhile_costs_no_request() {
    let mock = Mock::start(|_| {
        let mut steps = answer(&["a"]);
        steps.push(Step::Close);
        steps
    });
    let (driven, _) = run(target(&mock), [0, 100, 200, 300].map(single).to_vec(), &open());
    assert_eq!((driven.run.summary.done, driven.run.summary.failed), (4, 0));
    assert_eq!(mock.connections(), 4);
}
