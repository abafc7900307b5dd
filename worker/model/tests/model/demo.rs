//! Does the demo model, a real one, say what the reference says?
//!
//! Its folder is made by `glint model fetch demo` or a first `make up`.

use std::path::PathBuf;

use glint_core::SamplingParams;
use glint_kernels::Compute;

use crate::fixtures::{Expected, largest_difference, shared};
use crate::parity::{Means, near};
use crate::plans::{Answer, Hand, Request};
use crate::ranks::{GroupOptions, Ranks};

const KV_BLOCKS: u32 = 80;

/// Returns the model and the expected values.
fn demo() -> Option<(PathBuf, Expected)> {
    let expected = Expected::of(&shared("smollm2-135m-glm")?);
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty());
    let cache = cache.map(PathBuf::from).or_else(|| Some(std::env::home_dir()?.join(".cache")));
    let folder = cache?.join("glint/models/demo-smollm2-135m-instruct");
    if folder.join("config.json").exists() {
        return Some((folder, expected));
    }
    assert!(
        std::env::var_os("GLINT_REQUIRE_DEMO").is_none_or(|value| value != "1"),
        "GLINT_REQUIRE_DEMO=1, and the demo model is not in {}",
        folder.display()
    );
    println!("skipped: the demo model is not in the cache, `glint model fetch demo` brings it");
    None
}

fn group(folder: &std::path::Path, compute: Compute, world_size: u32) -> Hand {
    let threads = if world_size == 1 { 2 } else { 1 };
    let options = GroupOptions {
        world_size,
        compute,
        kv_blocks: KV_BLOCKS,
        threads,
        ..GroupOptions::default()
    };
    Hand::new(Ranks::load(folder, options), KV_BLOCKS)
}

/// Runs the eight chats side by side, for as many tokens as the reference has.
fn chats(hand: &mut Hand, expected: &Expected) -> Vec<Answer> {
    let requests = (0..8).map(|chat| Request {
        sampling: SamplingParams::greedy(u32::MAX),
        ..Request::greedy(
            &expected.ids(&format!("c{chat}.ids")),
            expected.ids(&format!("c{chat}.bf16w.greedy")).len(),
        )
    });
    hand.run(requests.collect(), 256)
}

fn assert_greedy_texts(world_size: u32) {
    let Some((folder, expected)) = demo() else { return };
    let mut hand = group(&folder, Compute::F32, world_size);
    for (chat, answer) in chats(&mut hand, &expected).iter().enumerate() {
        let prompt = expected.ids(&format!("c{chat}.ids"));
        let reference = expected.numbers(&format!("c{chat}.bf16w.logits_last"));
        let difference = largest_difference(answer.last_prompt_logits(prompt.len()), &reference);
        assert!(difference <= 1e-3, "chat {chat}: {difference}");
        assert_eq!(answer.drawn, expected.ids(&format!("c{chat}.bf16w.greedy")), "chat {chat}");
    }
}

#[test]
fn eight_chats_give_their_greedy_texts_on_one_rank() {
    assert_greedy_texts(1);
}

#[test]
fn eight_chats_give_their_greedy_texts_on_three_ranks() {
    assert_greedy_texts(3);
}

#[test]
fn bf16_arithmetic_stays_near_at_every_position() {
    let Some((folder, expected)) = demo() else { return };
    for world_size in [1, 3] {
        let mut hand = group(&folder, Compute::Bf16, world_size);
        let ids = expected.ids("c0.ids");
        let answer = hand.one(Request::greedy(&ids, 1));
        let logits: Vec<f32> = answer.logits.into_values().flatten().collect();
        let reference = expected.numbers("c0.bf16w.logits");
        near(&logits, &reference, ids.len(), Means::Checked, &format!("{world_size} ranks"));
        let first = (0..8).map(|chat| Request {
            sampling: SamplingParams::greedy(1),
            ..Request::greedy(&expected.ids(&format!("c{chat}.ids")), 1)
        });
        // The eight rows are one comparison with one σ: rounding moves all logits of a position together, further than
        // its own spread would allow, and that shift changes no probability.
        let (mut logits, mut reference) = (Vec::new(), Vec::new());
        for (chat, answer) in hand.run(first.collect(), usize::MAX).iter().enumerate() {
            let prompt = expected.ids(&format!("c{chat}.ids"));
            logits.extend_from_slice(answer.last_prompt_logits(prompt.len()));
            reference.extend(expected.numbers(&format!("c{chat}.bf16w.logits_last")));
        }
        near(&logits, &reference, 8, Means::Ignored, &format!("last of {world_size} ranks"));
    }
}
