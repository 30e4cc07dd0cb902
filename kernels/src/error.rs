//! Errors of the operations' contracts on shapes and precisions.
//!
//! Tensors reach the operations from code, never from a user's file, so a wrong one is a programming error: the
//! operations assert, and this module makes every such message name the operation, the argument, what was found and what
//! was expected.

use burn::tensor::DType;
use thiserror::Error;

/// A broken contract between an operation and its caller.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum KernelError {
    /// An argument's shape does not agree with the other arguments.
    #[error("{operation}: `{argument}` has shape {found:?}, expected {expected:?}")]
    ShapeMismatch {
        /// Name of the operation.
        operation: &'static str,
        /// Name of the argument.
        argument: &'static str,
        /// Shape that was passed.
        found: Vec<usize>,
        /// Shape that the other arguments call for.
        expected: Vec<usize>,
    },
    /// A size breaks a rule that is not an equality of shapes.
    #[error("{operation}: `{argument}` is {found}, but {rule}")]
    InvalidSize {
        /// Name of the operation.
        operation: &'static str,
        /// Name of the argument.
        argument: &'static str,
        /// Value that was passed.
        found: usize,
        /// The rule, as the end of a sentence.
        rule: &'static str,
    },
    /// An argument's precision is not one that the operation is for.
    #[error("{operation}: `{argument}` is {found:?}, expected {expected}")]
    WrongDtype {
        /// Name of the operation.
        operation: &'static str,
        /// Name of the argument.
        argument: &'static str,
        /// Precision that was passed.
        found: DType,
        /// What it may be.
        expected: &'static str,
    },
}

/// Asserts that an argument has the expected shape.
///
/// # Panics
/// With [`KernelError::ShapeMismatch`] as message when the shapes differ.
#[track_caller]
pub(crate) fn assert_shape(operation: &'static str, argument: &'static str, found: &[usize], expected: &[usize]) {
    assert!(
        found == expected,
        "{}",
        KernelError::ShapeMismatch { operation, argument, found: found.to_vec(), expected: expected.to_vec() }
    );
}

/// Asserts a rule about one size.
///
/// # Panics
/// With [`KernelError::InvalidSize`] as message when `holds` is false.
#[track_caller]
pub(crate) fn assert_size(
    operation: &'static str,
    argument: &'static str,
    found: usize,
    holds: bool,
    rule: &'static str,
) {
    assert!(holds, "{}", KernelError::InvalidSize { operation, argument, found, rule });
}

/// Asserts that an argument has one of the dtypes that `expected` names.
///
/// # Panics
/// With [`KernelError::WrongDtype`] as message when `allowed` does not hold its dtype.
#[track_caller]
pub(crate) fn assert_dtype(
    operation: &'static str,
    argument: &'static str,
    found: DType,
    allowed: &[DType],
    expected: &'static str,
) {
    assert!(allowed.contains(&found), "{}", KernelError::WrongDtype { operation, argument, found, expected });
}

/// Asserts that `lengths`, where given, has one entry per row and none above `num_tokens`.
///
/// # Panics
/// When the number of entries is not `batch` or an entry is above `num_tokens`.
#[track_caller]
pub(crate) fn assert_lengths(
    operation: &'static str,
    argument: &'static str,
    lengths: Option<&[usize]>,
    batch: usize,
    num_tokens: usize,
) {
    if let Some(lengths) = lengths {
        assert_shape(operation, argument, &[lengths.len()], &[batch]);
        for &length in lengths {
            assert_size(
                operation,
                argument,
                length,
                length <= num_tokens,
                "a row cannot be longer than the padded length",
            );
        }
    }
}

/// Asserts that a leading dimension is 1 (broadcast) or `batch`.
///
/// # Panics
/// When it is neither.
#[track_caller]
pub(crate) fn assert_broadcast_batch(operation: &'static str, argument: &'static str, found: usize, batch: usize) {
    assert_size(
        operation,
        argument,
        found,
        found == 1 || found == batch,
        "the batch of a state must be 1 or the batch of the input",
    );
}
