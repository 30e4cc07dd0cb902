//! A projection's result cut into the parts that a layer uses separately.
//!
//! Forward the parts are views on the host. Backward their gradients are joined in one pass, where Burn's slices would each fill a
//! gradient of the whole width with zeros and add it to the others.

mod autodiff;
mod cpu;
mod reference;

use burn::backend::{Backend, Dispatch, backend_extension, tensor::FloatTensor};
use burn::tensor::{DType, Tensor};

use crate::error::assert_size;

/// Three tensors of a backend.
type Three<B> = (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>);

/// Cuts the last axis into three parts of the given widths. Differentiable.
///
/// # Shapes
/// - `x`: `[batch, tokens, w0 + w1 + w2]`
/// - result: `[batch, tokens, w]` for each width, views of `x` on the host
///
/// # Panics
/// When the widths do not add up to that of `x`.
pub fn split_three(x: Tensor<3>, widths: [usize; 3]) -> [Tensor<3>; 3] {
    let width = x.dims()[2];
    let rule = "the parts must make up the whole width";
    assert_size("split_three", "widths", widths.iter().sum(), widths.iter().sum::<usize>() == width, rule);
    let (first, second, third) = Dispatch::split_three(x.into_dispatch(), widths);
    [first, second, third].map(Tensor::from_dispatch)
}

/// The operation on a backend's own tensors.
#[backend_extension(Autodiff, Flex, Cube: cfg(feature = "cube"))]
pub trait SplitOps: Backend {
    /// See [`split_three`](fn@split_three).
    fn split_three(
        x: FloatTensor<Self>,
        widths: [usize; 3],
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        reference::split_three::<Self>(x, widths)
    }
}

/// The gradient of [`SplitOps`].
pub trait SplitGradient: Backend {
    /// The parts side by side, `[batch, tokens, w0 + w1 + w2]`; a missing part is zero.
    fn join_three(
        parts: [Option<FloatTensor<Self>>; 3],
        shape: [usize; 2],
        widths: [usize; 3],
        dtype: DType,
    ) -> FloatTensor<Self>;
}

#[cfg(feature = "cube")]
mod device {
    use super::{DType, FloatTensor, SplitGradient, SplitOps, reference};
    use burn_cubecl::CubeBackend;

    impl SplitOps for CubeBackend {}

    impl SplitGradient for CubeBackend {
        fn join_three(
            parts: [Option<FloatTensor<Self>>; 3],
            shape: [usize; 2],
            widths: [usize; 3],
            dtype: DType,
        ) -> FloatTensor<Self> {
            reference::join_three::<Self>(parts, shape, widths, dtype)
        }
    }
}
