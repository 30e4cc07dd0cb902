//! Temperature, top-k, top-p, min-p and the draw itself.

use rayon::prelude::*;

use super::RandomKey;
use super::philox::uniform;
use crate::softmax::{BLOCK, Softmax, block_sum, inverse_temperature, largest};

/// Logits below which splitting over threads costs more than it gains.
const SERIAL_LOGITS: usize = 1 << 14;

/// How tokens are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingOptions {
    /// Divides the logits. 0 takes the largest logit (the lowest id of equals).
    pub temperature: f32,
    /// Keeps the `k` largest logits.
    pub top_k: Option<usize>,
    /// Then keeps the fewest most probable tokens whose probabilities reach this sum; 1 keeps all.
    pub top_p: f32,
    /// Then keeps the tokens with at least this share of the largest probability; 0 keeps all.
    pub min_p: f32,
}

impl SamplingOptions {
    fn keeps_all(&self, vocabulary: usize) -> bool {
        self.top_k.is_none_or(|k| k >= vocabulary) && self.top_p >= 1.0 && self.min_p <= 0.0
    }
}

/// A drawn token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampledToken {
    /// Index into the row.
    pub id: u32,
    /// Natural logarithm of its probability in the distribution it was drawn from: softmax of `logits / temperature`,
    /// renormalised over what top-k, top-p and min-p keep. For temperature 0, which draws nothing, that of softmax of
    /// the logits. Where all tokens are kept it has the bits of [`linear_log_prob`](fn@crate::linear_log_prob).
    pub log_prob: f32,
}

/// Draws from one row of logits. Logits of negative infinity are never drawn.
///
/// Independent of thread count and SIMD level. A row that is empty or holds a NaN gives `None`.
pub fn sample(logits: &[f32], options: &SamplingOptions, key: RandomKey) -> Option<SampledToken> {
    let mut weights = vec![0.0; logits.len()];
    sample_with(logits, options, key, &mut weights)
}

/// Draws from every row; row `i` is `logits[i * vocab .. (i + 1) * vocab]` under `rows[i]`.
///
/// `None` where a row holds a NaN.
pub fn sample_rows(logits: &[f32], vocab: usize, rows: &[(SamplingOptions, RandomKey)]) -> Vec<Option<SampledToken>> {
    assert_eq!(logits.len(), rows.len() * vocab, "sample_rows: {} rows of {vocab}", rows.len());
    if vocab == 0 {
        return vec![None; rows.len()];
    }
    let weights = || vec![0.0; vocab];
    let draw = |weights: &mut Vec<f32>, (logits, (options, key)): (&[f32], &(_, RandomKey))| {
        sample_with(logits, options, *key, weights)
    };
    if logits.len() <= SERIAL_LOGITS {
        let mut weights = weights();
        return logits.chunks(vocab).zip(rows).map(|row| draw(&mut weights, row)).collect();
    }
    logits.par_chunks(vocab).zip(rows).map_init(weights, draw).collect()
}

fn sample_with(logits: &[f32], options: &SamplingOptions, key: RandomKey, weights: &mut [f32]) -> Option<SampledToken> {
    let greedy = options.temperature <= 0.0;
    let inverse = if greedy { 1.0 } else { inverse_temperature(options.temperature) };
    let largest = largest(logits);
    // Negative infinity everywhere, or no logits at all.
    if !largest.is_finite() {
        return None;
    }
    weights.copy_from_slice(logits);
    let softmax = Softmax::weigh(weights, largest, inverse);
    // A NaN among the logits is one in the sum.
    if softmax.total.is_nan() {
        return None;
    }
    let (id, total) = if greedy {
        (logits.iter().position(|&logit| logit == largest)?, softmax.total)
    } else {
        let draw = f64::from(uniform(key));
        if options.keeps_all(logits.len()) {
            (search(weights, draw * softmax.total)?, softmax.total)
        } else {
            let (kept, total) = candidates(logits, weights, options);
            (search_in(&kept, weights, draw * total)?, total)
        }
    };
    Some(SampledToken { id: id as u32, log_prob: softmax.log_prob(logits[id] * inverse, total) })
}

/// The first index whose cumulative weight exceeds `target`; rounding at the very end gives the last index with weight.
fn search(weights: &[f32], target: f64) -> Option<usize> {
    let mut cumulative = 0.0;
    for (block, values) in weights.chunks(BLOCK).enumerate() {
        let sum = f64::from(block_sum(values));
        if cumulative + sum > target {
            for (i, &weight) in values.iter().enumerate() {
                cumulative += f64::from(weight);
                if cumulative > target {
                    return Some(block * BLOCK + i);
                }
            }
            // The block's sum and its running sum round differently: its last weight is meant.
            if let Some(i) = values.iter().rposition(|&weight| weight > 0.0) {
                return Some(block * BLOCK + i);
            }
        }
        cumulative += sum;
    }
    weights.iter().rposition(|&weight| weight > 0.0)
}

fn search_in(kept: &[u32], weights: &[f32], target: f64) -> Option<usize> {
    let mut cumulative = 0.0;
    for &id in kept {
        cumulative += f64::from(weights[id as usize]);
        if cumulative > target {
            return Some(id as usize);
        }
    }
    kept.iter().map(|&id| id as usize).rfind(|&id| weights[id] > 0.0)
}

/// What top-k, then top-p, then min-p keep, most probable first, and the sum of its weights.
fn candidates(logits: &[f32], weights: &[f32], options: &SamplingOptions) -> (Vec<u32>, f64) {
    // A total order: equal logits by id.
    let order = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then_with(|| a.cmp(b));
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    if let Some(k) = options.top_k
        && k < ids.len()
    {
        let k = k.max(1);
        ids.select_nth_unstable_by(k - 1, order);
        ids.truncate(k);
    }
    ids.sort_unstable_by(order);
    let sum = |ids: &[u32]| ids.iter().map(|&id| f64::from(weights[id as usize])).sum::<f64>();
    if options.top_p < 1.0 {
        let limit = f64::from(options.top_p) * sum(&ids);
        let mut cumulative = 0.0;
        let reached = ids.iter().position(|&id| {
            cumulative += f64::from(weights[id as usize]);
            cumulative >= limit
        });
        ids.truncate(reached.map_or(ids.len(), |last| last + 1));
    }
    // Weights are relative to the largest probability. At least that one stays.
    let likely = ids.partition_point(|&id| weights[id as usize] >= options.min_p);
    ids.truncate(likely.max(1));
    let total = sum(&ids);
    (ids, total)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: RandomKey = RandomKey { seed: 7, step: 1, task: 2, sample: 3, position: 0 };
    const PLAIN: SamplingOptions = SamplingOptions { temperature: 1.0, top_k: None, top_p: 1.0, min_p: 0.0 };

    fn logits(count: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 % 613) as f32 / 613.0 - 0.5) * 8.0).collect()
    }

    /// Probabilities by the definition, in f64.
    fn distribution(logits: &[f32], options: &SamplingOptions) -> Vec<f64> {
        let scaled: Vec<f64> = logits.iter().map(|&l| f64::from(l) / f64::from(options.temperature)).collect();
        let mut ids: Vec<usize> = (0..logits.len()).collect();
        ids.sort_by(|&a, &b| scaled[b].total_cmp(&scaled[a]).then(a.cmp(&b)));
        ids.truncate(options.top_k.unwrap_or(ids.len()));
        let sum: f64 = ids.iter().map(|&i| scaled[i].exp()).sum();
        let mut cumulative = 0.0;
        let mut kept = vec![];
        for i in ids {
            kept.push(i);
            cumulative += scaled[i].exp() / sum;
            if options.top_p < 1.0 && cumulative >= f64::from(options.top_p) {
                break;
            }
        }
        let most = scaled[kept[0]];
        kept.retain(|&i| (scaled[i] - most).exp() >= f64::from(options.min_p));
        let sum: f64 = kept.iter().map(|&i| scaled[i].exp()).sum();
        let mut out = vec![0.0; logits.len()];
        for i in kept {
            out[i] = scaled[i].exp() / sum;
        }
        out
    }

    #[test]
    fn frequencies_and_log_probs_follow_the_distribution() {
        let logits = logits(37);
        for options in [
            PLAIN,
            SamplingOptions { temperature: 0.7, ..PLAIN },
            SamplingOptions { top_k: Some(5), ..PLAIN },
            SamplingOptions { top_p: 0.8, ..PLAIN },
            SamplingOptions { temperature: 1.5, top_k: Some(20), top_p: 0.9, min_p: 0.0 },
            SamplingOptions { min_p: 0.1, ..PLAIN },
            SamplingOptions { top_k: Some(20), top_p: 0.9, min_p: 0.3, ..PLAIN },
        ] {
            let expected = distribution(&logits, &options);
            let draws = 40_000;
            let mut counts = vec![0; logits.len()];
            for position in 0..draws {
                let token = sample(&logits, &options, RandomKey { position, ..KEY }).unwrap();
                counts[token.id as usize] += 1;
                let want = expected[token.id as usize].ln();
                assert!((f64::from(token.log_prob) - want).abs() < 2e-6, "{options:?}");
            }
            for (count, p) in counts.into_iter().zip(expected) {
                let sigma = (p * (1.0 - p) * draws as f64).sqrt();
                assert!((f64::from(count) - p * draws as f64).abs() <= 5.0 * sigma, "{options:?}");
            }
        }
    }

    #[test]
    fn greedy_takes_the_first_largest() {
        let mut logits = logits(1000);
        (logits[300], logits[700]) = (9.0, 9.0);
        let greedy = SamplingOptions { temperature: 0.0, ..PLAIN };
        let token = sample(&logits, &greedy, KEY).unwrap();
        assert_eq!(token.id, 300);
        let total: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
        assert!((f64::from(token.log_prob) - (9.0 - total.ln())).abs() < 1e-6);
    }

    /// The limit of falling temperatures is the largest logit with all the probability, down to the smallest float.
    #[test]
    fn any_cold_temperature_is_greedy() {
        let mut logits = logits(1000);
        (logits[300], logits[301]) = (90.0, 89.999);
        for temperature in [1e-5, 1e-20, 1e-30, 1e-37, 1e-38, 2e-39, 1e-40, f32::from_bits(1)] {
            for options in [PLAIN, SamplingOptions { top_p: 0.9, top_k: Some(50), min_p: 0.1, ..PLAIN }] {
                for position in 0..20 {
                    let options = SamplingOptions { temperature, ..options };
                    let token = sample(&logits, &options, RandomKey { position, ..KEY });
                    assert_eq!(token, Some(SampledToken { id: 300, log_prob: 0.0 }), "{options:?}");
                }
            }
        }
    }

    #[test]
    fn batches_and_threads_do_not_matter() {
        let vocab = 1537;
        let all = logits(vocab * 9);
        let rows: Vec<_> = (0..9).map(|i| (PLAIN, RandomKey { sample: i, ..KEY })).collect();
        let together = sample_rows(&all, vocab, &rows);
        for threads in [1, 4] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(pool.install(|| sample_rows(&all, vocab, &rows)), together);
        }
        for (i, token) in together.into_iter().enumerate() {
            let (options, key) = rows[i];
            assert_eq!(sample(&all[i * vocab..(i + 1) * vocab], &options, key), token);
        }
    }

    #[test]
    fn masked_logits_are_never_drawn_and_bad_rows_are_refused() {
        let mut logits = vec![f32::NEG_INFINITY; 300];
        (logits[17], logits[250]) = (1.0, 1.0);
        for position in 0..200 {
            for options in [PLAIN, SamplingOptions { top_p: 0.99, top_k: Some(50), ..PLAIN }] {
                let token = sample(&logits, &options, RandomKey { position, ..KEY }).unwrap();
                assert!([17, 250].contains(&token.id));
                assert!((token.log_prob - 0.5f32.ln()).abs() < 1e-6);
            }
        }
        logits[100] = f32::NAN;
        assert_eq!(sample(&logits, &PLAIN, KEY), None);
        assert_eq!(sample(&[], &PLAIN, KEY), None);
        assert_eq!(sample(&[f32::NEG_INFINITY; 4], &PLAIN, KEY), None);
        assert!(sample_rows(&[], 0, &[]).is_empty());
    }

    #[test]
    #[ignore = "measures"]
    fn time_per_row() {
        for vocab in [1536, 4096] {
            let logits = logits(vocab);
            let fastest = (0..2000)
                .map(|_| {
                    let start = std::time::Instant::now();
                    std::hint::black_box(sample_rows(std::hint::black_box(&logits), vocab, &[(PLAIN, KEY)]));
                    start.elapsed()
                })
                .min();
            println!("sample vocab {vocab}: {fastest:?} per row");
        }
    }
}
