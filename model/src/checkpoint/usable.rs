//! Which stored values a model can compute with.

use half::bf16;
use rayon::prelude::*;

use super::dtype::StoredDtype;

/// Largest magnitude of a weight that can be used: above it a square, which every norm takes, leaves the range of f32.
pub const LARGEST_WEIGHT: f32 = 1.8e19;

/// The first value that is not a number, infinite, or larger than [`LARGEST_WEIGHT`], and its position.
pub fn first_unusable(values: &[f32]) -> Option<(usize, f32)> {
    let position = values.par_iter().position_first(|value| !is_usable(*value))?;
    Some((position, values[position]))
}

/// The same of stored bytes in f32 or bf16.
pub(super) fn first_unusable_stored(dtype: StoredDtype, bytes: &[u8]) -> Option<(usize, f32)> {
    let size = dtype.size_bytes();
    let value = |bytes: &[u8]| match dtype {
        StoredDtype::Bf16 => bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
        _ => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
    };
    let position = bytes.par_chunks_exact(size).position_first(|bytes| !is_usable(value(bytes)))?;
    Some((position, value(&bytes[position * size..])))
}

fn is_usable(value: f32) -> bool {
    value.abs() <= LARGEST_WEIGHT
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
            // In bf16 the largest would be rounded up.
            values[7] = -1e19;
            // In bf16 the largest is rounded up.
            values[7] = -1e19;
            for (dtype, bytes) in [
                (StoredDtype::F32, values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>()),
                (StoredDtype::Bf16, values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect()),
            ] {
                assert_eq!(first_unusable_stored(dtype, &bytes).unwrap().0, 50_123, "{bad} in {dtype:?}");
                assert_eq!(first_unusable_stored(dtype, &bytes[..50_123 * dtype.size_bytes()]), None);
            }
        }
        const { assert!(LARGEST_WEIGHT * LARGEST_WEIGHT < f32::INFINITY) };
    }
}
