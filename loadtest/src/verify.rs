//! Does the server still say the same?
//!
//! `record` asks greedily and writes each request with its answer, piece by piece, one JSON line each; `verify` asks the same again and
//! tells the first differing token. A rollout or a new kernel is proven not to change what the model says, and a stream that lost,
//! doubled or swapped pieces is told apart from a model that changed its mind.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    plan::{Begins, Labels, PlanError, Prompt, Reader, Session, Turn},
    record::ErrorKind,
    target::Answer,
};

/// Longest line of a recorded file.
const LINE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A request and its answer: one line of a recorded file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Recorded {
    /// Of the chat endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<Box<RawValue>>,
    /// Of the completions endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Of the completions endpoint or gRPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
    /// Longest answer.
    pub output_tokens: u32,
    /// The answer in the pieces in which it came, about one token each.
    pub expected: Vec<String>,
    /// Its token ids, where the server tells them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expected_token_ids: Vec<u32>,
}

/// How an answer differs from the recorded one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Differs {
    /// What kind of difference.
    pub kind: ErrorKind,
    /// Index of the first differing token (of the recorded pieces, where ids are unknown), from 0.
    pub token: usize,
    /// What was recorded from there on.
    pub expected: String,
    /// What came from there on.
    pub came: String,
}

impl Recorded {
    /// The request of a turn with its answer; `None` where the turn stands on others before it.
    #[must_use]
    pub fn new(turn: &Turn, asked: &Prompt, answer: &Answer) -> Option<Self> {
        let mut recorded = Self {
            messages: None,
            prompt: None,
            prompt_token_ids: None,
            output_tokens: turn.output_tokens,
            expected: answer.pieces.iter().flatten().map(ToString::to_string).collect(),
            expected_token_ids: answer.token_ids.clone(),
        };
        match asked {
            Prompt::Messages(messages) => recorded.messages = Some((**messages).to_owned()),
            Prompt::Text(text) => recorded.prompt = Some(text.to_string()),
            Prompt::TokenIds(ids) => recorded.prompt_token_ids = Some(ids.to_vec()),
            Prompt::Whole(_) | Prompt::Next(_) => return None,
        }
        Some(recorded)
    }

    /// The request.
    ///
    /// # Errors
    ///
    /// The line has no prompt, or more than one.
    pub fn session(&self) -> Result<Session, String> {
        let prompt = match (&self.messages, &self.prompt, &self.prompt_token_ids) {
            (Some(messages), None, None) => Prompt::Messages(Arc::from(messages.clone())),
            (None, Some(text), None) => Prompt::Text(Arc::from(&**text)),
            (None, None, Some(ids)) => Prompt::TokenIds(Arc::from(&**ids)),
            _ => return Err("needs one of messages, prompt and prompt_token_ids".to_owned()),
        };
        let turn = Turn {
            begins: Begins::At(Duration::ZERO),
            prompt,
            output_tokens: self.output_tokens,
            reader: Reader::Whole,
        };
        Ok(Session { start: Duration::ZERO, labels: Labels::default(), turns: vec![turn] })
    }

    /// Compares an answer with the recorded one.
    ///
    /// # Errors
    ///
    /// Where they differ first, and how.
    pub fn compare(&self, answer: &Answer) -> Result<(), Differs> {
        let none = Vec::new();
        let came: Vec<&str> =
            answer.pieces.as_ref().unwrap_or(&none).iter().map(|p| &**p).collect();
        let expected: Vec<&str> = self.expected.iter().map(String::as_str).collect();
        let ids_known = !self.expected_token_ids.is_empty() && !answer.token_ids.is_empty();
        if came.concat() == expected.concat()
            && (!ids_known || self.expected_token_ids == answer.token_ids)
        {
            return Ok(());
        }
        let token = if ids_known {
            same(&self.expected_token_ids, &answer.token_ids)
        } else {
            piece_at(&expected, same(expected.concat().as_bytes(), came.concat().as_bytes()))
        };
        let from = |pieces: &[&str]| {
            let skipped: usize = expected.iter().take(token).map(|piece| piece.len()).sum();
            let text = pieces.concat();
            let tail = text.get(skipped.min(text.len())..).unwrap_or(&text);
            tail.chars().take(60).collect()
        };
        Err(Differs {
            kind: kind(&expected, &came),
            token,
            expected: from(&expected),
            came: from(&came),
        })
    }
}

/// Length of the common beginning.
fn same<T: PartialEq>(a: &[T], b: &[T]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The piece that holds a byte.
fn piece_at(pieces: &[&str], byte: usize) -> usize {
    let mut end = 0;
    let before = |piece: &&&str| {
        end += piece.len();
        end <= byte
    };
    pieces.iter().take_while(before).count()
}

fn kind(expected: &[&str], came: &[&str]) -> ErrorKind {
    if expected.len() > came.len() && expected.starts_with(came) {
        return ErrorKind::Cut;
    }
    let begin = same(expected, came);
    let end = same_end(&expected[begin..], &came[begin..]);
    let (lost, extra) = (&expected[begin..expected.len() - end], &came[begin..came.len() - end]);
    // What was inserted stands right before: it came twice.
    if lost.is_empty() && !extra.is_empty() && expected[..begin].ends_with(extra) {
        return ErrorKind::Duplicated;
    }
    let sorted = |pieces: &[&str]| {
        let mut sorted: Vec<String> = pieces.iter().map(ToString::to_string).collect();
        sorted.sort_unstable();
        sorted
    };
    if lost.len() > 1 && sorted(lost) == sorted(extra) {
        return ErrorKind::Reordered;
    }
    ErrorKind::Different
}

fn same_end(a: &[&str], b: &[&str]) -> usize {
    a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count()
}

/// Reads a recorded file.
///
/// # Errors
///
/// It cannot be read, or a line is none.
pub fn read(path: &Path) -> Result<Vec<Recorded>, PlanError> {
    let file = path.display().to_string();
    let unreadable = |error| PlanError::Read { file: file.clone(), error };
    let mut reader = BufReader::new(std::fs::File::open(path).map_err(unreadable)?);
    let mut all = Vec::new();
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let bytes =
            std::io::Read::take(&mut reader, LINE_BYTES_MAX as u64).read_until(b'\n', &mut line);
        if bytes.map_err(unreadable)? == 0 {
            break;
        }
        let wrong = |reason| PlanError::Line { file: file.clone(), line: number, reason };
        let recorded: Recorded = serde_json::from_slice(&line).map_err(|error| {
            wrong(format!("no recorded answer ({error}); make one with `glint loadtest record`"))
        })?;
        recorded.session().map_err(wrong)?;
        all.push(recorded);
    }
    if all.is_empty() {
        return Err(PlanError::Impossible(format!("{file} holds no recorded answer")));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(pieces: &[&str]) -> Recorded {
        Recorded {
            messages: None,
            prompt: Some("p".to_owned()),
            prompt_token_ids: None,
            output_tokens: 8,
            expected: pieces.iter().map(ToString::to_string).collect(),
            expected_token_ids: Vec::new(),
        }
    }

    fn answer(pieces: &[&str]) -> Answer {
        let mut answer = Answer::new(8, true);
        answer.pieces = Some(pieces.iter().map(|piece| Box::from(*piece)).collect());
        answer
    }

    #[test]
    fn the_first_differing_token_and_the_kind_of_difference_are_told() {
        let was = recorded(&["the", " cat", " sat", " down"]);
        assert_eq!(was.compare(&answer(&["the", " cat", " sat", " down"])), Ok(()));
        // Pieces may be cut elsewhere: the text counts.
        assert_eq!(was.compare(&answer(&["the cat", " sat down"])), Ok(()));
        for (came, token, kind) in [
            (&["the", " cat"][..], 2, ErrorKind::Cut),
            (&["the", " cat", " cat", " sat", " down"], 2, ErrorKind::Duplicated),
            (&["the", " sat", " cat", " down"], 1, ErrorKind::Reordered),
            (&["the", " cat", " ran", " down"], 2, ErrorKind::Different),
            (&["a", " cat", " sat", " down"], 0, ErrorKind::Different),
        ] {
            let differs = was.compare(&answer(came)).unwrap_err();
            assert_eq!((differs.token, differs.kind), (token, kind), "{came:?}");
        }
    }

    #[test]
    fn token_ids_differ_where_texts_do_not() {
        let mut was = recorded(&["a", "b"]);
        was.expected_token_ids = vec![1, 2];
        let mut came = answer(&["a", "b"]);
        came.token_ids = vec![1, 3];
        assert_eq!(was.compare(&came).unwrap_err().token, 1);
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let good = serde_json::to_string(&recorded(&["a"])).unwrap();
        std::fs::write(file.path(), format!("{good}\n{{\"output_tokens\":1,\"expected\":[]}}\n"))
            .unwrap();
        let error = read(file.path()).unwrap_err().to_string();
        assert!(error.contains("line 2: needs one of messages"), "{error}");
    }
}
