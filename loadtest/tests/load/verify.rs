//! Does the server still say the same?

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::{
    cli::loadtest,
    mock::{Mock, Step, done, end, piece, status},
};

const PIECES: [&str; 5] = ["the", " cat", " sat", " down", "."];

fn uncounted(pieces: &[&str]) -> Vec<Step> {
    let mut events: Vec<String> = pieces.iter().map(|text| piece(text)).collect();
    events.extend([end(), done()]);
    vec![Step::Head, Step::Events(events), Step::End]
}

/// Says what was chosen last, without counting tokens: the difference is then all that tells.
fn says(all: &'static [&'static [&'static str]]) -> (Mock, Arc<AtomicUsize>) {
    let chosen: Arc<AtomicUsize> = Arc::default();
    let which = chosen.clone();
    let mock = Mock::start(move |_| uncounted(all[which.load(Ordering::SeqCst)]));
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

#[test]
fn answers_are_not_asked_where_they_cannot_be_kept_and_not_lost_where_they_cannot_be_kept_any_more()
{
    let folder = tempfile::tempdir().unwrap();
    let golden = folder.path().join("golden");
    let file = golden.join("golden.jsonl");
    let file = file.to_str().unwrap();
    let gone = golden.clone();
    let mock = Mock::start(move |seen| {
        if seen.number == 0 {
            std::fs::remove_dir_all(&gone).unwrap();
        }
        uncounted(&PIECES)
    });
    let url = mock.url();
    let flags = ["record", "--url", &url, "--requests", "2", "--to", file];
    let (code, _, err) = loadtest(&flags);
    assert!(code == 1 && err.contains("there is no folder"), "{err}");
    assert!(mock.seen().is_empty());
    std::fs::create_dir(&golden).unwrap();
    let (code, out, err) = loadtest(&flags);
    assert!(code == 1 && err.contains("printed above instead"), "{err}");
    let printed: Vec<serde_json::Value> = out
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(printed.len(), 2);
    assert_eq!(printed[0]["expected"], serde_json::json!(PIECES));
}

#[test]
fn a_request_that_fails_is_told_beside_the_answers_that_came() {
    let (mock, _) = says(&[&PIECES]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("golden.jsonl");
    let file = file.to_str().unwrap();
    let url = mock.url();
    assert_eq!(loadtest(&["record", "--url", &url, "--requests", "3", "--to", file]).0, 0);
    let failing = Mock::start(|seen| match seen.number {
        1 => status("500 Internal Server Error", "oops"),
        _ => uncounted(&PIECES),
    });
    let url = failing.url();
    let (code, out, err) = loadtest(&["verify", "--url", &url, "--concurrency", "1", file]);
    assert_eq!(code, 3, "{out}{err}");
    assert!(out.contains("line 2: server_error: 500 Internal Server Error: oops"), "{out}");
    assert!(
        out.contains("2 of 3 answers are the recorded ones, 1 differ, 0 were not asked"),
        "{out}"
    );
}
