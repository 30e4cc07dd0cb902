//! Which stored values a model can compute with.

use rayon::prelude::*;

/// Largest magnitude of a weight that can be used: above it a square, which every norm takes, leaves the range of f32.
pub const LARGEST_WEIGHT: f32 = 1.8e19;

/// The first value that is not a number, infinite, or larger than [`LARGEST_WEIGHT`], and its position.
pub fn first_unusable(values: &[f32]) -> Option<(usize, f32)> {
    let usable = |value: f32| value.abs() <= LARGEST_WEIGHT;
    let position = values.par_iter().position_first(|value| !usable(*value))?;
    Some((position, values[position]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_out_of_range_is_found() {
        let mut values = vec![0.5; 100_000];
        values[7] = -LARGEST_WEIGHT;
        assert_eq!(first_unusable(&values), None);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30] {
            values[99_999] = bad;
            values[50_123] = bad;
            assert_eq!(first_unusable(&values).unwrap().0, 50_123, "{bad}");
        }
        const { assert!(LARGEST_WEIGHT * LARGEST_WEIGHT < f32::INFINITY) };
    }
}
