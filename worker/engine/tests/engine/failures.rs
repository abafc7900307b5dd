//! One sequence may fail alone; a device that fails takes the engine with it.

use glint_core::step::Sampled;
use glint_core::{Failure, Kind, StepOutcome, StepPlan};
use glint_engine::{Engine, Executor, ExecutorError, PrefixCache};

use crate::group::{Group, Limits, alone, prompt, request};
use crate::record::End;
use crate::spy::{FAILS, FAILS_AFTER_TOKENS};

#[test]
fn a_sequence_whose_logits_are_broken_fails_alone() {
    for depth in 1..=2 {
        let limits = Limits { depth, prefix_cache: PrefixCache::On, ..Limits::default() };
        let mut group = Group::new(&limits);
        let mut broken = request(prompt(1, 40), 20);
        broken.sampling.seed = FAILS;
        let whole = request(prompt(1, 50), 20);
        let fails = group.add(broken).unwrap();
        let stays = group.add(whole.clone()).unwrap();
        group.finish();
        let record = &group.records[&fails];
        let at = 40 + FAILS_AFTER_TOKENS;
        let message = format!("a logit of the token at position {at} is not a number");
        assert_eq!(record.end, Some(End::Failed(message)));
        assert_eq!(group.records[&stays].tokens, alone(&whole, limits.end_probability).0);
    }
}

/// Runs a prompt while its outcomes are meddled with, and returns the complaint.
fn complaint(meddle: impl FnMut(&mut StepOutcome) + Send + 'static) -> String {
    let mut group = Group::new(&Limits::default());
    let mut request = request(prompt(1, 20), 5);
    request.sampling.prompt_logprobs = Some(0);
    group.add(request).unwrap();
    group.engine.executor_mut().meddle = Box::new(meddle);
    let error = group.try_step().unwrap_err();
    assert_eq!(error.kind(), Kind::Internal);
    error.to_string()
}

#[test]
fn an_outcome_that_does_not_fit_is_not_believed() {
    let other = |slot| Sampled { slot, token: Some(1), logprobs: None };
    let does_not_fit = |what: &str| format!("has an outcome that does not fit: {what}");
    let said = complaint(|outcome| outcome.step = 1);
    assert!(said.ends_with(&does_not_fit("step 0 is the oldest in flight")), "{said}");
    let said = complaint(|outcome| outcome.sampled.clear());
    assert!(said.ends_with(&does_not_fit("slot 0 drew nothing")), "{said}");
    let said = complaint(move |outcome| outcome.sampled = vec![other(3)]);
    assert!(said.ends_with(&does_not_fit("slot 0 drew nothing")), "{said}");
    let said = complaint(move |outcome| outcome.sampled.push(other(3)));
    assert!(said.ends_with(&does_not_fit("slot 3 was not to draw")), "{said}");
    let said = complaint(|outcome| outcome.prompt_logprobs.clear());
    let missing = "no log-probabilities of prompt position 1";
    assert!(said.ends_with(&does_not_fit(missing)), "{said}");
    let said = complaint(|outcome| outcome.prompt_logprobs[0].first_position = 2);
    assert!(said.ends_with(&does_not_fit(missing)), "{said}");
    let said = complaint(|outcome| outcome.prompt_logprobs[0].slot = 4);
    assert!(said.ends_with(&does_not_fit("slot 4 was not computed")), "{said}");
}

/// Loses everything.
struct Dead;

impl Executor for Dead {
    fn submit(&mut self, _: StepPlan) -> Result<(), ExecutorError> {
        Ok(())
    }

    fn settle(&mut self) -> Result<StepOutcome, ExecutorError> {
        Err(ExecutorError::Lost { step: 0, message: "rank 1 is silent".to_owned() })
    }
}

#[test]
fn a_lost_group_says_so() {
    let now = std::time::Instant::now();
    let mut engine = Engine::new(Limits::default().config(), Dead).unwrap();
    assert_eq!(engine.step(&|| now), Ok(vec![]), "nothing to do, nothing to lose");
    engine.add(request(prompt(1, 20), 5), now).unwrap();
    let error = engine.step(&|| now).unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert_eq!(error.to_string(), "step 0 was lost: rank 1 is silent");
}
