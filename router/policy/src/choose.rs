//! Which group is the best for this prompt?

use std::cmp::Reverse;

use glint_core::{LoadSnapshot, WireHash};

use crate::View;

/// A group that could take the sequence.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// What it holds.
    pub view: &'a View,
    /// Names of the prompt's reusable blocks under this group's weights.
    pub chain: &'a [WireHash],
    /// Its last report; nothing when there is none, or none that is fresh.
    pub load: Option<&'a LoadSnapshot>,
    /// Sequences that were sent to it and that the report does not know of.
    pub unseen_sequences: u64,
}

/// The group that was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Its place among the candidates.
    pub candidate: usize,
    /// Leading blocks of the prompt that its view says it holds.
    pub cached_blocks: usize,
}

/// Returns the candidate with most cached blocks, then with fewest sequences, then with fewest queued prompt tokens.
///
/// A group whose load is unknown counts as busy as the busiest that is known: unknown is never idle. Equals take
/// turns: a `turn` that counts up goes round them.
#[must_use]
pub fn choose(candidates: &[Candidate<'_>], turn: u64) -> Option<Choice> {
    let busiest = candidates.iter().filter_map(|c| c.load).map(reported).max().unwrap_or((0, 0));
    let rank = |candidate: &Candidate<'_>| {
        let (sequences, tokens) = candidate.load.map_or(busiest, reported);
        let sequences = sequences.saturating_add(candidate.unseen_sequences);
        let cached_blocks = candidate.view.cached_blocks(candidate.chain);
        (Reverse(cached_blocks), sequences, tokens)
    };
    let ranks: Vec<_> = candidates.iter().map(rank).collect();
    let best = ranks.iter().min()?;
    let equals: Vec<usize> = (0..ranks.len()).filter(|&at| ranks[at] == *best).collect();
    let turn = usize::try_from(turn % equals.len() as u64).expect("it is below a length");
    Some(Choice { candidate: equals[turn], cached_blocks: best.0.0 })
}

/// Sequences, and prompt tokens yet to be computed.
fn reported(load: &LoadSnapshot) -> (u64, u64) {
    let sequences = u64::from(load.waiting_sequences) + u64::from(load.running_sequences);
    (sequences, load.queued_prefill_tokens)
}

#[cfg(test)]
mod tests {
    use glint_core::Epoch;

    use super::*;
    use crate::{Position, Snapshot};

    fn view(stored: &[u64]) -> View {
        let mut view = View::new(100);
        let position = Position { epoch: Epoch(1), sequence: 1 };
        let stored = stored.iter().copied().map(WireHash).collect();
        view.apply_snapshot(Snapshot { position, stored, is_last: true }).unwrap();
        view
    }

    fn busy(running_sequences: u32) -> LoadSnapshot {
        LoadSnapshot { running_sequences, ..LoadSnapshot::default() }
    }

    #[test]
    fn a_cached_prefix_wins_over_an_idle_group() {
        let chain = [1, 2, 3].map(WireHash);
        let (full, empty) = (view(&[1, 2]), view(&[2, 3]));
        let (idle, loaded) = (busy(0), busy(9));
        let candidate = |view, load| Candidate { view, chain: &chain, load, unseen_sequences: 0 };
        let candidates = [candidate(&empty, Some(&idle)), candidate(&full, Some(&loaded))];
        assert_eq!(choose(&candidates, 0), Some(Choice { candidate: 1, cached_blocks: 2 }));
    }

    #[test]
    fn unknown_load_is_not_idle_and_unseen_sequences_count() {
        let nothing = View::new(0);
        let one = busy(1);
        let candidate = |load, unseen_sequences| Candidate {
            view: &nothing,
            chain: &[],
            load,
            unseen_sequences,
        };
        let at = |candidates: &[Candidate<'_>]| choose(candidates, 0).unwrap().candidate;
        let two = busy(2);
        assert_eq!(
            at(&[candidate(None, 0), candidate(Some(&two), 0), candidate(Some(&one), 0)]),
            2
        );
        assert_eq!(at(&[candidate(Some(&one), 2), candidate(Some(&two), 0)]), 1);
    }

    #[test]
    fn equals_take_turns() {
        let nothing = View::new(0);
        let equal = Candidate { view: &nothing, chain: &[], load: None, unseen_sequences: 0 };
        let turns: Vec<_> =
            (0..4).map(|turn| choose(&[equal; 3], turn).unwrap().candidate).collect();
        assert_eq!(turns, [0, 1, 2, 0]);
        assert_eq!(choose(&[], 7), None);
    }
}
