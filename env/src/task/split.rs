//! The division of one dataset into training and validation.

use super::dataset::Dataset;

/// Both parts of a dataset.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    pub training: Dataset,
    pub validation: Dataset,
}

/// Number of training tasks out of `len`: nine tenths, rounded down, but at least one.
pub(crate) fn split_point(len: usize) -> usize {
    (len * 9 / 10).max(1).min(len)
}
