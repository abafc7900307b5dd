//! Does the server still say the same?

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::{
    cli::loadtest,
    mock::{Mock, Step, done, end, piece},
};

const PIECES: [&str; 5] = ["the", " cat", " sat", " down", "."];

/// Says what was chosen last, without counting tokens: the difference is then all that tells.
fn says(all: &'static [&'static [&'static str]]) -> (Mock, Arc<AtomicUsize>) {
    let chosen: Arc<AtomicUsize> = Arc::default();
    let which = chosen.clone();
    let mock = Mock::start(move |_| {
        let mut events: Vec<String> =
            all[which.load(Ordering::SeqCst)].iter().map(|text| piece(text)).collect();
        events.extend([end(), done()]);
        vec![Step::Head, Step::Events(events), Step::End]
    });
    (mock, chosen)
}

#[test]
fn what_was_recorded_is_verified_and_each_difference_is_named() {
    let (mock, chosen) = says(&[
        &PIECES,
        &["the", " cat", " ran", " down", "."],
        &["the", " cat", " sat"],
        &["the", " cat", " cat", " sat", " down", "."],
        &["the", " sat", " cat", " down", "."],
        &["the cat", " sat down", "."],
    ]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("golden.jsonl");
    let (url, file) = (mock.url(), file.to_str().unwrap());
    let (code, out, err) = loadtest(&["record", "--url", &url, "--requests", "3", "--to", file]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("3 of 3 answers recorded"), "{out}");
    assert!(mock.seen().iter().all(|seen| seen.body["temperature"] == 0));
    let asked: Vec<_> =
        mock.seen().into_iter().map(|seen| seen.body["messages"].to_string()).collect();

    let (code, out, err) = loadtest(&["verify", "--url", &url, file]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("3 of 3 answers are the recorded ones"), "{out}");
    let mut again: Vec<_> =
        mock.seen()[3..].iter().map(|seen| seen.body["messages"].to_string()).collect();
    let mut asked = asked;
    asked.sort();
    again.sort();
    assert_eq!(asked, again);

    for (which, words) in [
        (1, "line 1: different from token 2: \" sat down.\" was recorded, \" ran down.\" came"),
        (2, "line 1: cut from token 3"),
        (3, "line 1: duplicated from token 2"),
        (4, "line 1: reordered from token 1"),
    ] {
        chosen.store(which, Ordering::SeqCst);
        let (code, out, err) = loadtest(&["verify", "--url", &url, file]);
        assert_eq!(code, 3, "{out}{err}");
        assert!(out.contains(words), "{out}");
        assert!(out.contains("0 of 3 answers are the recorded ones, 3 differ"), "{out}");
    }
    // The text counts, not how it was cut into pieces.
    chosen.store(5, Ordering::SeqCst);
    assert_eq!(loadtest(&["verify", "--url", &url, file]).0, 0);
}

#[test]
fn a_line_that_is_no_recorded_answer_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("golden.jsonl");
    std::fs::write(&file, "{\"prompt\":\"p\",\"output_tokens\":1,\"expected\":[]}\nhello\n")
        .unwrap();
    let (code, _, err) = loadtest(&["verify", file.to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(err.contains("golden.jsonl, line 2: no recorded answer"), "{err}");
}
