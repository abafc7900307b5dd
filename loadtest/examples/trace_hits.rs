//! Does a replayed trace keep its own prefixes?
//!
//! `cargo run --release -p glint-loadtest --example trace_hits -- TRACE…` makes every token id that would be sent, asks an
//! unbounded prefix cache for them, and compares its hit rate with what the trace's own ids say. Fails beyond 0.1 point.

use std::{process::ExitCode, time::Instant};

use anyhow::Context as _;
use glint_loadtest::{
    plan::Prompt,
    tokens::{HitRate, IdealCache, Vocabulary},
    trace::Trace,
};

fn main() -> anyhow::Result<ExitCode> {
    let mut all_kept = true;
    for path in std::env::args_os().skip(1) {
        let trace = Trace::new(path);
        let own = trace.own_hits()?.with_context(|| format!("{trace} has no ids"))?;
        let begun = Instant::now();
        let sent = sent(&trace, own.block_tokens)?;
        say(format_args!("{trace} ({:.1} s)", begun.elapsed().as_secs_f64()));
        let whole = ("whole blocks", own.whole_blocks, sent.whole_blocks());
        let all = ("with the last, shorter ones", own.hits, sent.hits());
        let has_shorter = own.hits != own.whole_blocks;
        for (what, own, sent) in std::iter::once(whole).chain(has_shorter.then_some(all)) {
            let kept = is_kept(own, sent);
            all_kept &= kept;
            say(format_args!(
                "  {what}: its own {own}; sent {sent}: {}",
                if kept { "kept" } else { "NOT KEPT" }
            ));
        }
    }
    Ok(if all_kept { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn is_kept(own: HitRate, sent: HitRate) -> bool {
    let blocks = (own.of_blocks() - sent.of_blocks()).abs();
    let tokens = (own.of_tokens() - sent.of_tokens()).abs();
    own.blocks == sent.blocks && blocks.max(tokens) <= 0.001
}

fn sent(trace: &Trace, block_tokens: u32) -> anyhow::Result<IdealCache> {
    let vocabulary = Vocabulary::new(1_000..=150_000)?;
    let mut cache = IdealCache::new(block_tokens);
    let mut ids = Vec::new();
    for session in trace.schedule()? {
        for turn in session?.turns {
            let Prompt::Whole(pieces) = turn.prompt else { continue };
            ids.clear();
            for piece in pieces {
                vocabulary.push(piece, &mut ids);
            }
            cache.ask(&ids);
        }
    }
    Ok(cache)
}

#[expect(clippy::print_stdout, reason = "a command line that prints its findings")]
fn say(line: std::fmt::Arguments<'_>) {
    println!("{line}");
}
