//! Plain tensor operations.

use burn::tensor::{Tensor, activation::relu};

/// See [`squared_relu`](super::squared_relu()).
pub fn squared_relu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let rectified = relu(x);
    rectified.clone() * rectified
}
