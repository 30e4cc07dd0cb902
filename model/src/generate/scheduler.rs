//! Chooses what goes through the model next. Pure: it sees lengths, never tensors.
//!
//! Runs with several pending tokens (prompts, tool results) go first, in batches of similar length, so that padding
//! stays below half; otherwise every sequence with an open turn decodes one token.

/// One candidate: how many tokens it has pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Index into the caller's list.
    pub index: usize,
    /// Tokens not yet computed, at least 1.
    pub pending: usize,
}

/// A pass through the model: these candidates, each with at most `tokens` tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pass {
    /// `(index, tokens)` for each row.
    pub rows: Vec<(usize, usize)>,
}

/// The next pass, or nothing when there are no candidates.
///
/// `token_budget` bounds rows times padded length of a prefill pass, and with it the length of one chunk.
pub(super) fn next_pass(candidates: &[Candidate], token_budget: usize) -> Option<Pass> {
    let mut long: Vec<Candidate> = candidates.iter().copied().filter(|c| c.pending > 1).collect();
    if long.is_empty() {
        let rows: Vec<_> = candidates.iter().map(|c| (c.index, 1)).collect();
        return (!rows.is_empty()).then_some(Pass { rows });
    }
    // Longest first: the first row sets the padded length, the others must fill at least half of it.
    long.sort_by(|a, b| b.pending.cmp(&a.pending).then(a.index.cmp(&b.index)));
    let length = long[0].pending.min(token_budget);
    let most_rows = (token_budget / length).max(1);
    let mut rows: Vec<_> = long
        .iter()
        .take_while(|c| c.pending * 2 >= length)
        .take(most_rows)
        .map(|c| (c.index, c.pending.min(length)))
        .collect();
    // The oldest takes its memory first.
    rows.sort_unstable();
    Some(Pass { rows })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every mix of up to four lengths drains within the budget and never schedules a token twice.
    #[test]
    fn every_small_mix_drains() {
        for budget in 1..=5 {
            for mix in 0..6_usize.pow(4) {
                let mut pending: Vec<usize> = (0..4).map(|i| mix / 6_usize.pow(i) % 6).collect();
                let mut passes = 0;
                loop {
                    let candidates: Vec<_> = pending
                        .iter()
                        .enumerate()
                        .filter(|(_, p)| **p > 0)
                        .map(|(index, &pending)| Candidate { index, pending })
                        .collect();
                    let Some(pass) = next_pass(&candidates, budget) else { break };
                    let length = pass.rows.iter().map(|r| r.1).max().unwrap_or(0);
                    let mut seen = std::collections::BTreeSet::new();
                    for &(index, tokens) in &pass.rows {
                        assert!(seen.insert(index), "a row is scheduled twice");
                        assert!(tokens >= 1 && tokens <= pending[index]);
                        assert!(tokens * 2 >= length, "more than half of a row would be padding");
                        pending[index] -= tokens;
                    }
                    assert!(length == 1 || length * pass.rows.len() <= budget.max(length));
                    passes += 1;
                    assert!(passes < 100, "no progress");
                }
                assert!(pending.iter().all(|&p| p == 0));
            }
        }
    }
}
