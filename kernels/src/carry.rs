//! Where a gradient that was computed elsewhere enters a graph.

use burn::backend::autodiff::{Autodiff, checkpoint::strategy::CheckpointStrategy};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::Tensor;

use crate::autodiff::record_one;
use crate::error::assert_shape;

/// Backends that can run [`carry`].
#[backend_extension(Autodiff, Flex, Cube: cfg(feature = "cube"))]
pub trait CarryOps: Backend {
    /// A zero `[1]`.
    fn carry(output: FloatTensor<Self>, _cotangent: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_zeros([1].into(), &output.device(), output.dtype().into())
    }
}

impl CarryOps for burn::backend::Flex {}

#[cfg(feature = "cube")]
impl CarryOps for burn_cubecl::CubeBackend {}

impl<B: CarryOps, C: CheckpointStrategy> CarryOps for Autodiff<B, C> {
    fn carry(output: FloatTensor<Self>, cotangent: FloatTensor<Self>) -> FloatTensor<Self> {
        let (output, node) = output.into_parts();
        let cotangent = cotangent.into_primitive();
        record_one::<B, C, _, 1>([node], B::carry(output, cotangent.clone()), cotangent, |cotangent, _| [cotangent])
    }
}

/// A zero whose gradient with respect to `output` is `cotangent`, bit for bit: the backward pass of a sum of such zeros
/// goes on where another one ended.
///
/// # Shapes
/// - `output` (tracked), `cotangent` (plain): the same
/// - result: `[1]`
///
/// # Panics
/// When the shapes differ.
pub fn carry<const D: usize>(output: Tensor<D>, cotangent: Tensor<D>) -> Tensor<1> {
    assert_shape("carry", "cotangent", &cotangent.dims(), &output.dims());
    Tensor::from_dispatch(Dispatch::carry(output.into_dispatch(), cotangent.into_dispatch()))
}
