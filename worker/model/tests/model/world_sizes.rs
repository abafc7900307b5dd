//! Does a group of any allowed size say what one rank says?

use glint_model::Checkpoint;

use crate::fixtures::{largest_difference, tiny};
use crate::parity::{PROMPTS, TOLERANCE, compare, each_model, requests};
use crate::plans::{Hand, Request};
use crate::random::{self, Shape};
use crate::ranks::{KV_BLOCKS, Ranks};

#[test]
fn every_allowed_world_size_gives_the_reference() {
    each_model(|model, folder, expected| {
        let sizes = Checkpoint::open(folder).unwrap().config().world_sizes();
        assert_eq!(sizes, [1, 2, 4], "{model}: four heads");
        for world_size in sizes.into_iter().skip(1) {
            let mut hand = Hand::new(Ranks::of(folder, world_size), KV_BLOCKS);
            let answers = hand.run(requests(expected, 32), 64);
            for (prompt, answer) in PROMPTS.iter().zip(answers) {
                compare(expected, prompt, &answer, &format!("{model} on {world_size} ranks"));
            }
        }
    });
}

/// Compares groups of these sizes with one rank, on prompts alone and together.
fn assert_sizes_agree(shape: Shape, world_sizes: &[u32]) {
    let folder = tempfile::tempdir().unwrap();
    random::write(folder.path(), shape);
    let allowed = Checkpoint::open(folder.path()).unwrap().config().world_sizes();
    assert!(world_sizes.iter().all(|size| allowed.contains(size)), "{allowed:?}");
    let requests: Vec<Request> = [1, 9, 40, 75]
        .map(|len| Request::greedy(&random::tokens(len, len as usize, shape.vocab), 12))
        .into();
    let mut alone = Hand::new(Ranks::alone(folder.path()), KV_BLOCKS);
    let references: Vec<_> = requests.iter().map(|request| alone.one(request.clone())).collect();
    for &world_size in world_sizes {
        let mut hand = Hand::new(Ranks::of(folder.path(), world_size), KV_BLOCKS);
        for (answer, reference) in hand.run(requests.clone(), 32).iter().zip(&references) {
            assert_eq!(answer.drawn, reference.drawn, "{world_size} ranks");
            assert_eq!(answer.logits.len(), reference.logits.len());
            for (position, logits) in &answer.logits {
                let difference = largest_difference(logits, &reference.logits[position]);
                assert!(difference <= TOLERANCE, "{world_size} ranks, {position}: {difference}");
            }
        }
    }
}

#[test]
fn eight_ranks_share_two_kv_groups() {
    let shape = Shape {
        family: "glm4",
        heads: 8,
        kv_heads: 2,
        head_dim: 16,
        ffn: 136,
        vocab: 203,
        tied: false,
    };
    assert_sizes_agree(shape, &[2, 4, 8]);
    assert_sizes_agree(Shape { family: "chatglm", ..shape }, &[8]);
}

#[test]
fn three_and_nine_ranks_share_three_kv_groups() {
    let shape = Shape {
        family: "glm",
        heads: 9,
        kv_heads: 3,
        head_dim: 8,
        ffn: 100,
        vocab: 250,
        tied: true,
    };
    assert_sizes_agree(shape, &[3, 9]);
}

#[test]
fn heads_of_their_own_are_split_too() {
    let shape = Shape {
        family: "chatglm",
        heads: 6,
        kv_heads: 6,
        head_dim: 12,
        ffn: 48,
        vocab: 90,
        tied: false,
    };
    assert_sizes_agree(shape, &[2, 3, 6]);
}

#[test]
fn a_broken_number_fails_its_own_sequence_alone() {
    use glint_core::{Chunk, SamplingParams, SequenceStart, StepPlan};

    let folder = tempfile::tempdir().unwrap();
    let shape = Shape {
        family: "glm",
        heads: 2,
        kv_heads: 2,
        head_dim: 8,
        ffn: 32,
        vocab: 64,
        tied: false,
    };
    // Whoever reads token 5 reads a NaN.
    random::write_tensors(folder.path(), shape, &mut |tensors| {
        let (_, _, embedding) =
            tensors.iter_mut().find(|(name, ..)| name == "model.embed_tokens.weight").unwrap();
        embedding[5 * 72] = f32::NAN;
    });
    let sound =
        Hand::new(Ranks::of(folder.path(), 2), KV_BLOCKS).one(Request::greedy(&[1, 2, 3], 2));
    let mut ranks = Ranks::of(folder.path(), 2);
    let start = |slot: u32, tokens: [u32; 3]| SequenceStart {
        slot,
        sampling: SamplingParams { logprobs: Some(2), ..SamplingParams::greedy(10) },
        end_token_ids: Vec::new(),
        tokens: tokens.to_vec(),
        prompt_tokens: 3,
        blocks: Vec::new(),
    };
    let chunk = |slot, first_position, len, new_blocks: &[u32]| Chunk {
        slot,
        first_position,
        len,
        new_blocks: new_blocks.to_vec(),
        sample: true,
    };
    let plan = StepPlan {
        step: 0,
        release: Vec::new(),
        start: vec![start(0, [4, 5, 6]), start(1, [1, 2, 3])],
        chunks: vec![chunk(0, 0, 3, &[0]), chunk(1, 0, 3, &[1])],
    };
    let outcome = ranks.execute(&plan).unwrap();
    assert_eq!(outcome.sampled[0].token, None);
    assert_eq!(outcome.sampled[0].logprobs, None);
    assert_eq!(outcome.sampled[1].token, Some(sound.drawn[0]));
    assert_eq!(outcome.sampled[1].logprobs.as_ref().unwrap().top.len(), 2);
    // The plan that was under way still computes a token that was never drawn.
    let plan = StepPlan {
        step: 1,
        chunks: vec![chunk(0, 3, 1, &[]), chunk(1, 3, 1, &[])],
        ..StepPlan::default()
    };
    let outcome = ranks.execute(&plan).unwrap();
    assert_eq!(outcome.sampled[0].token, None);
    assert_eq!(outcome.sampled[1].token, Some(sound.drawn[1]));
}

#[test]
fn a_plan_that_makes_no_sense_is_refused_by_every_rank() {
    use glint_core::{Chunk, SamplingParams, SequenceStart, StepPlan};
    use glint_model::ExecuteError;

    let Some(folder) = tiny("glm-tiny-bf16") else { return };
    let start = SequenceStart {
        slot: 3,
        sampling: SamplingParams::greedy(10),
        end_token_ids: Vec::new(),
        tokens: vec![1; 20],
        prompt_tokens: 20,
        blocks: Vec::new(),
    };
    let chunk = Chunk { slot: 3, first_position: 0, len: 20, new_blocks: vec![0, 1], sample: true };
    let good = StepPlan { step: 0, release: vec![], start: vec![start], chunks: vec![chunk] };
    assert!(Ranks::of(&folder, 2).execute(&good).is_ok());
    type Spoil = (&'static str, fn(&mut StepPlan));
    let bad: [Spoil; 15] = [
        ("step", |plan| plan.step = 1),
        ("released", |plan| plan.release.push(1)),
        ("held", |plan| plan.chunks[0].slot = 4),
        ("two chunks", |plan| {
            plan.chunks[0].sample = false;
            plan.chunks[0].len = 10;
            plan.chunks.push(Chunk { first_position: 10, len: 1, ..plan.chunks[0].clone() });
        }),
        ("while held", |plan| plan.start.push(plan.start[0].clone())),
        ("token", |plan| plan.start[0].tokens[7] = 512),
        ("prompt", |plan| plan.start[0].prompt_tokens = 21),
        ("prompt", |plan| plan.start[0].prompt_tokens = 0),
        ("nothing to compute", |plan| plan.start[0].blocks = vec![0, 1]),
        ("block", |plan| plan.start[0].blocks = vec![64]),
        ("block", |plan| plan.chunks[0].new_blocks[1] = 64),
        ("blocks", |plan| plan.chunks[0].new_blocks.truncate(1)),
        ("position", |plan| plan.chunks[0].len = 0),
        ("position", |plan| plan.chunks[0].first_position = 1),
        ("draws", |plan| plan.chunks[0].len = 19),
    ];
    for (word, spoil) in bad {
        let mut plan = good.clone();
        spoil(&mut plan);
        let error = Ranks::of(&folder, 2).execute(&plan).unwrap_err();
        assert!(matches!(error, ExecuteError::BadPlan { .. }), "{error}");
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
    let mut plan = good;
    plan.chunks[0].len = u32::MAX;
    assert!(Ranks::of(&folder, 2).execute(&plan).is_err());
}

#[test]
fn numerics_name_what_decides_the_bits() {
    let Some(folder) = tiny("glm-tiny-bf16") else { return };
    let numerics = Ranks::of(&folder, 2).leader().numerics();
    let isa = glint_kernels::Isa::detect();
    assert_eq!(numerics.to_string(), format!("cpu/{isa}/f32/kv-f32/tp2/invariant/v1"));
}
