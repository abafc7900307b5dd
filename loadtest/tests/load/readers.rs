//! Clients that leave, and clients that are slow.

use std::time::Duration;

use glint_loadtest::{
    plan::{Reader, Session},
    record::Outcome,
};

use crate::{
    kit::{open, run, single, target},
    mock::{Leaving, Mock, Step, answer, piece},
};

fn reading(reader: Reader) -> Vec<Session> {
    let mut session = single(0);
    session.turns[0].reader = reader;
    vec![session]
}

fn endless() -> Mock {
    let pieces = ["a", "b", "c"].map(piece).to_vec();
    Mock::start(move |_| vec![Step::Head, Step::Events(pieces.clone()), Step::Forever])
}

#[test]
fn a_client_that_cancels_closes_the_stream() {
    let mock = endless();
    let (driven, records) =
        run(target(&mock), reading(Reader::Cancel { after_tokens: 3 }), &open());
    assert_eq!((driven.run.summary.left, driven.run.summary.failed), (1, 0));
    assert_eq!((&records[0].outcome, records[0].output_tokens), (&Outcome::Left, 3));
    assert_eq!(mock.leavings(1), [Leaving::Closed]);
}

#[test]
fn a_client_that_disconnects_resets_the_connection() {
    let mock = endless();
    let (driven, _) = run(target(&mock), reading(Reader::Disconnect { after_tokens: 3 }), &open());
    assert_eq!((driven.run.summary.left, driven.run.summary.failed), (1, 0));
    assert_eq!(mock.leavings(1), [Leaving::Reset]);
}

#[test]
fn a_client_that_leaves_before_the_first_token_reads_none() {
    let mock = Mock::start(|_| vec![Step::Head, Step::Forever]);
    let (_, records) = run(target(&mock), reading(Reader::Cancel { after_tokens: 0 }), &open());
    assert_eq!((&records[0].outcome, records[0].first_token), (&Outcome::Left, None));
    assert_eq!(mock.leavings(1), [Leaving::Closed]);
}

#[test]
fn a_client_that_wants_more_than_comes_reads_to_the_end() {
    let mock = Mock::start(|_| answer(&["a", "b"]));
    let (_, records) = run(target(&mock), reading(Reader::Cancel { after_tokens: 9 }), &open());
    assert_eq!(records[0].outcome, Outcome::Done);
}

#[test]
fn a_slow_client_takes_its_time_for_every_token() {
    let mock = Mock::start(|_| answer(&["a", "b", "c", "d", "e", "f"]));
    let (_, records) = run(target(&mock), reading(Reader::Slow { tokens_per_s: 20.0 }), &open());
    assert_eq!(records[0].outcome, Outcome::Done);
    assert!(records[0].e2e().unwrap() >= Duration::from_millis(300), "{records:?}");
}
