//! When does a sequence end?

use glint_core::FinishReason;

use crate::group::{CONTEXT_TOKENS_MAX, EOS, Group, Limits, prompt, request};
use crate::record::{End, Record};

/// Wants to end with every token.
fn hasty() -> Limits {
    Limits { end_probability: 1.0, ..Limits::default() }
}

fn reason(record: &Record) -> FinishReason {
    match record.end {
        Some(End::Finished(reason, _)) => reason,
        ref other => panic!("{other:?}"),
    }
}

#[test]
fn an_end_token_is_told_and_is_the_last() {
    let mut group = Group::new(&hasty());
    let record = group.run(request(prompt(1, 20), 10));
    assert_eq!((&record.tokens, reason(record)), (&vec![EOS], FinishReason::Stop));
}

#[test]
fn min_tokens_hold_off_every_end() {
    for min_tokens in 0..=10 {
        let mut request = request(prompt(1, 20), 10);
        request.sampling.min_tokens = min_tokens;
        request.sampling.stop_token_ids = vec![5];
        let mut group = Group::new(&hasty());
        let record = group.run(request);
        let expected = if min_tokens == 10 { FinishReason::Length } else { FinishReason::Stop };
        assert_eq!(reason(record), expected);
        assert_eq!(record.tokens.len() as u32, 10.min(min_tokens + 1));
        assert!(
            record.tokens.iter().take(min_tokens as usize).all(|token| ![5, EOS].contains(token))
        );
    }
}

#[test]
fn the_models_end_can_be_ignored_and_the_requests_own_cannot() {
    let mut request = request(prompt(1, 20), 10);
    request.sampling.ignore_eos = true;
    let mut group = Group::new(&hasty());
    let record = group.run(request.clone());
    assert_eq!((record.tokens.len(), reason(record)), (10, FinishReason::Length));
    request.sampling.stop_token_ids = vec![5];
    let record = group.run(request);
    assert_eq!((&record.tokens, reason(record)), (&vec![5], FinishReason::Stop));
}

#[test]
fn the_context_ends_what_max_tokens_does_not() {
    let mut group = Group::new(&Limits::default());
    let mut request = request(prompt(1, CONTEXT_TOKENS_MAX - 5), u32::MAX);
    request.sampling.ignore_eos = true;
    let record = group.run(request);
    assert_eq!((record.tokens.len(), reason(record)), (5, FinishReason::Length));
}

/// With two plans in flight the device has drawn one token too many when the end is seen, and three with four.
#[test]
fn surplus_tokens_are_thrown_away() {
    for depth in 1..=4 {
        let mut group = Group::new(&Limits { depth, ..hasty() });
        let record = group.run(request(prompt(1, 20), 10));
        assert_eq!(record.tokens, [EOS]);
        assert_eq!(group.engine.load().steps, depth as u64);
    }
}

#[test]
fn a_prompt_may_end_with_an_end_token() {
    let mut tokens = prompt(1, 20);
    tokens.push(EOS);
    let mut group = Group::new(&Limits { end_probability: 0.0, ..Limits::default() });
    assert_eq!(group.run(request(tokens, 10)).tokens.len(), 10);
}
