use std::sync::{Arc, Mutex};

use glint_core::{Chunk, SamplingParams, SequenceStart};

use super::*;

fn config() -> SimConfig {
    SimConfig {
        prefill_tokens_per_s: 1_000.0,
        step: Duration::from_millis(2),
        step_per_sequence: Duration::from_millis(1),
        kv_blocks: 8,
        vocab_size: 1_000,
        end_probability: 0.0,
        depth: 2,
    }
}

fn sim() -> Sim {
    Sim::new(config(), Box::new(|_| ()))
}

fn start(slot: u32, tokens: Vec<u32>, blocks: Vec<u32>) -> SequenceStart {
    let prompt_tokens = tokens.len() as u32;
    let (sampling, end_token_ids) = (SamplingParams::greedy(100), vec![7]);
    SequenceStart { slot, sampling, end_token_ids, tokens, prompt_tokens, blocks }
}

fn chunk(slot: u32, positions: std::ops::Range<u32>, new_blocks: &[u32]) -> Chunk {
    let (first_position, len) = (positions.start, positions.len() as u32);
    Chunk { slot, first_position, len, new_blocks: new_blocks.to_vec(), sample: false }
}

fn sampling(chunk: Chunk) -> Chunk {
    Chunk { sample: true, ..chunk }
}

/// Submits and settles one plan.
fn step(sim: &mut Sim, mut plan: StepPlan) -> Result<StepOutcome, ExecutorError> {
    plan.step = sim.next_step;
    sim.submit(plan)?;
    sim.settle()
}

/// Returns what follows 40 tokens in blocks 0, 1 and 2, after these plans came in between.
fn drawn_after(meddle: impl Fn(&mut Sim)) -> u32 {
    let mut sim = sim();
    let whole = StepPlan {
        start: vec![start(0, (0..40).collect(), vec![])],
        chunks: vec![chunk(0, 0..39, &[0, 1, 2])],
        ..StepPlan::default()
    };
    step(&mut sim, whole).unwrap();
    meddle(&mut sim);
    let last = StepPlan { chunks: vec![sampling(chunk(0, 39..40, &[]))], ..StepPlan::default() };
    step(&mut sim, last).unwrap().sampled[0].token.unwrap()
}

#[test]
fn a_token_depends_on_every_block_before_it() {
    let honest = drawn_after(|_| ());
    assert_eq!(honest, drawn_after(|_| ()));
    for block in 0..3 {
        let other = drawn_after(|sim| sim.rank.blocks[block][0] ^= 1);
        assert_ne!(honest, other, "block {block} was overwritten");
    }
}

#[test]
fn chunks_do_not_matter_and_tables_do() {
    let run = |chunks: Vec<Chunk>, table: &[u32]| {
        let mut sim = sim();
        let mut drawn = None;
        for (n, chunk) in chunks.into_iter().enumerate() {
            let start = start(0, (0..40).collect(), vec![]);
            let start = if n == 0 { vec![start] } else { vec![] };
            let plan = StepPlan { start, chunks: vec![chunk], ..StepPlan::default() };
            drawn = step(&mut sim, plan).unwrap().sampled.pop();
        }
        let reuse = StepPlan {
            start: vec![start(1, (0..40).collect(), table.to_vec())],
            chunks: vec![sampling(chunk(1, 32..40, &[7]))],
            ..StepPlan::default()
        };
        (drawn.unwrap().token, step(&mut sim, reuse).unwrap().sampled[0].token)
    };
    let (whole, reused) = run(vec![sampling(chunk(0, 0..40, &[0, 1, 2]))], &[0, 1]);
    assert_eq!(whole, reused, "equal prefixes may be read by others");
    let cut = vec![chunk(0, 0..5, &[0]), chunk(0, 5..17, &[1]), sampling(chunk(0, 17..40, &[2]))];
    assert_eq!(run(cut.clone(), &[0, 1]), (whole, whole));
    assert_ne!(run(cut, &[1, 0]).1, whole, "the blocks were in the wrong order");
}

#[test]
fn plans_that_make_no_sense_are_refused() {
    let begun = StepPlan {
        start: vec![start(0, (0..40).collect(), vec![])],
        chunks: vec![chunk(0, 0..16, &[0])],
        ..StepPlan::default()
    };
    let shared = StepPlan {
        start: vec![start(1, (0..20).collect(), vec![0])],
        chunks: vec![sampling(chunk(1, 16..20, &[1]))],
        ..StepPlan::default()
    };
    let chunks = |chunks| StepPlan { chunks, ..StepPlan::default() };
    let starts = |start| StepPlan { start: vec![start], ..StepPlan::default() };
    let far = SequenceStart { prompt_tokens: 41, ..start(2, (0..40).collect(), vec![]) };
    let bad = [
        (chunks(vec![chunk(5, 0..1, &[])]), "slot 5 is not held"),
        (chunks(vec![chunk(0, 8..20, &[2])]), "slot 0 is at position 16, not 8"),
        (chunks(vec![chunk(0, 16..16, &[])]), "slot 0 is at position 16, not 16"),
        (chunks(vec![chunk(0, 16..41, &[2, 3])]), "slot 0 has no token at position 40"),
        (chunks(vec![chunk(0, 16..40, &[2, 3])]), "slot 0 draws before its last"),
        (chunks(vec![sampling(chunk(0, 16..20, &[2]))]), "slot 0 draws before its last"),
        (chunks(vec![chunk(0, 16..20, &[])]), "slot 0 has 1 blocks for 20 positions"),
        (chunks(vec![chunk(0, 16..20, &[2, 3])]), "slot 0 has 3 blocks for 20 positions"),
        (chunks(vec![chunk(0, 16..20, &[1])]), "block 1 is given to slot 0 while held"),
        (chunks(vec![chunk(0, 16..20, &[8])]), "there is no block 8"),
        (chunks(vec![chunk(0, 16..17, &[2]), chunk(0, 17..18, &[])]), "slot 0 stands in two"),
        (starts(start(0, (0..40).collect(), vec![])), "slot 0 is started while held"),
        (starts(start(2, (0..32).collect(), vec![0, 1])), "slot 2 starts with nothing to compute"),
        (starts(start(2, (0..40).collect(), vec![0, 0])), "block 0 stands twice"),
        (starts(start(2, vec![1_000], vec![])), "slot 2 has token 1000"),
        (starts(far), "slot 2 has 41 prompt of 40 tokens"),
        (StepPlan { release: vec![4], ..StepPlan::default() }, "slot 4 is not held"),
    ];
    for (plan, expected) in bad {
        let mut sim = sim();
        step(&mut sim, begun.clone()).unwrap();
        step(&mut sim, shared.clone()).unwrap();
        match step(&mut sim, plan) {
            Err(ExecutorError::BadPlan { step: 2, message }) => {
                assert!(message.starts_with(expected), "{message:?}, expected {expected:?}");
            }
            other => panic!("{other:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn a_shared_block_is_not_written() {
    let mut sim = sim();
    let begun = StepPlan {
        start: vec![start(0, (0..40).collect(), vec![])],
        chunks: vec![chunk(0, 0..8, &[0])],
        ..StepPlan::default()
    };
    step(&mut sim, begun).unwrap();
    let early = StepPlan {
        start: vec![start(1, (0..20).collect(), vec![0])],
        chunks: vec![sampling(chunk(1, 16..20, &[1])), chunk(0, 8..16, &[])],
        ..StepPlan::default()
    };
    let error = step(&mut sim, early).unwrap_err();
    assert!(error.to_string().contains("slot 0 writes block 0, which others hold"), "{error}");
}

#[test]
fn plans_in_flight_are_counted_and_their_slots_stay() {
    let first = StepPlan {
        start: vec![start(0, (0..40).collect(), vec![])],
        chunks: vec![chunk(0, 0..16, &[0])],
        ..StepPlan::default()
    };
    let mut overfull = sim();
    overfull.submit(first.clone()).unwrap();
    overfull.submit(StepPlan { step: 1, ..StepPlan::default() }).unwrap();
    let error = overfull.submit(StepPlan { step: 2, ..StepPlan::default() }).unwrap_err();
    assert!(error.to_string().ends_with("2 plans are in flight"), "{error}");

    let mut hasty = sim();
    hasty.submit(first.clone()).unwrap();
    let release = StepPlan { step: 1, release: vec![0], ..StepPlan::default() };
    let error = hasty.submit(release).unwrap_err();
    assert!(error.to_string().contains("slot 0 is released while a plan in flight"), "{error}");

    let mut gap = sim();
    let error = gap.submit(StepPlan { step: 1, ..first }).unwrap_err();
    assert!(error.to_string().ends_with("step 0 was next"), "{error}");
    assert!(gap.settle().is_err(), "there is nothing to settle");
}

#[test]
fn time_follows_the_cost_model() {
    let waited = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&waited);
    let mut sim = Sim::new(config(), Box::new(move |time| log.lock().unwrap().push(time)));
    let plans = [
        StepPlan {
            start: vec![start(0, (0..10).collect(), vec![]), start(1, (0..30).collect(), vec![])],
            chunks: vec![sampling(chunk(0, 0..10, &[0])), sampling(chunk(1, 0..30, &[1, 2]))],
            ..StepPlan::default()
        },
        StepPlan {
            chunks: vec![sampling(chunk(0, 10..11, &[])), sampling(chunk(1, 30..31, &[]))],
            ..StepPlan::default()
        },
    ];
    for plan in plans {
        step(&mut sim, plan).unwrap();
    }
    assert_eq!(*waited.lock().unwrap(), [42, 4].map(Duration::from_millis));
    for free in [0.0, f64::INFINITY] {
        let config = SimConfig { prefill_tokens_per_s: free, ..config() };
        assert_eq!(config.cost(1_000, 1), Duration::from_millis(3));
        assert_eq!(config.cost(0, 0), Duration::from_millis(2));
    }
}

#[test]
fn ends_come_as_often_as_configured_and_never_before_min_tokens() {
    let mut ends = 0;
    for seed in 0..2_000 {
        let mut start = start(0, vec![1, 2, 3], vec![]);
        start.sampling = SamplingParams::plain(seed, 100);
        ends += u32::from(draw::draw(&start, 99, 10, 0.25) == 7);
        start.sampling.min_tokens = 1;
        assert_ne!(draw::draw(&start, 99, 10, 1.0), 7, "seed {seed}");
        start.tokens.push(1);
        assert_eq!(draw::draw(&start, 99, 10, 1.0), 7, "seed {seed}");
        start.sampling.ignore_eos = true;
        start.end_token_ids.clear();
        assert!(draw::draw(&start, 99, 10, 1.0) < 10);
    }
    assert!((400..600).contains(&ends), "{ends} of 2000 ended, 500 were expected");
}
