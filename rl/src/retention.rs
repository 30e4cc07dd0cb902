//! Which checkpoints stay on disk.
//!
//! The union of: the newest; of the periodic ones the `keep_top_k` best by metric; the `keep_latest_k`
//! newest. A checkpoint without the metric ranks last, among equals the newer one ranks first. With neither
//! bound given everything stays.

use std::collections::{BTreeMap, BTreeSet};

/// The rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Checkpoints at multiples of this step count are periodic.
    pub save_period: usize,
    /// Periodic checkpoints kept by metric; `None` keeps all periodic ones.
    pub keep_top_k: Option<usize>,
    /// Newest checkpoints kept whatever their metric.
    pub keep_latest_k: Option<usize>,
    /// Whether a higher metric is better.
    pub higher_is_better: bool,
}

impl Retention {
    /// The steps that stay, given each checkpoint's metric.
    pub fn kept(&self, checkpoints: &BTreeMap<u64, Option<f64>>) -> BTreeSet<u64> {
        if self.keep_top_k.is_none() && self.keep_latest_k.is_none() {
            return checkpoints.keys().copied().collect();
        }
        let newest_first = || checkpoints.iter().rev();
        let mut ranked: Vec<(u64, f64)> = newest_first()
            .filter(|(step, _)| *step % self.save_period.max(1) as u64 == 0)
            .map(|(step, metric)| (*step, self.rank(*metric)))
            .collect();
        // Stable, so newer ones stay ahead of older ones of the same metric.
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
        let best = ranked.into_iter().take(self.keep_top_k.unwrap_or(usize::MAX)).map(|(step, _)| step);
        let latest = newest_first().take(self.keep_latest_k.unwrap_or(0).max(1)).map(|(step, _)| *step);
        best.chain(latest).collect()
    }

    /// The best of the checkpoints that have the metric; among equals the newer one.
    pub fn best(&self, checkpoints: &BTreeMap<u64, Option<f64>>) -> Option<u64> {
        checkpoints
            .iter()
            .filter(|(_, metric)| metric.is_some_and(|m| !m.is_nan()))
            .max_by(|a, b| self.rank(*a.1).total_cmp(&self.rank(*b.1)))
            .map(|(step, _)| *step)
    }

    /// Higher is better; negative infinity without a metric.
    fn rank(&self, metric: Option<f64>) -> f64 {
        match metric {
            Some(value) if value.is_nan() => f64::NEG_INFINITY,
            Some(value) if self.higher_is_better => value,
            Some(value) => -value,
            None => f64::NEG_INFINITY,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Retention =
        Retention { save_period: 2, keep_top_k: Some(2), keep_latest_k: None, higher_is_better: true };

    fn checkpoints() -> BTreeMap<u64, Option<f64>> {
        [(2, Some(0.5)), (4, Some(0.5)), (5, Some(0.9)), (6, None), (8, Some(0.1)), (9, None)].into()
    }

    #[test]
    fn keeps_the_newest_and_the_best_periodic_ones() {
        assert_eq!(RULE.kept(&checkpoints()), [2, 4, 9].into());
        assert_eq!(Retention { keep_top_k: Some(1), ..RULE }.kept(&checkpoints()), [4, 9].into());
        assert_eq!(Retention { higher_is_better: false, ..RULE }.kept(&checkpoints()), [4, 8, 9].into());
        assert_eq!(Retention { keep_latest_k: Some(3), ..RULE }.kept(&checkpoints()), [2, 4, 6, 8, 9].into());
        assert_eq!(Retention { keep_top_k: None, ..RULE }.kept(&checkpoints()).len(), 6);
    }

    #[test]
    fn the_best_has_the_metric() {
        assert_eq!(RULE.best(&checkpoints()), Some(5));
        assert_eq!(RULE.best(&[(1, None)].into()), None);
    }
}
