//! Slices, and their concatenation.

use burn::backend::Backend;
use burn::backend::TensorMetadata;
use burn::backend::tensor::{Device, FloatTensor};
use burn::tensor::{DType, Shape, Slice};

use super::Three;

/// See [`split_three`](super::split_three()).
pub(super) fn split_three<B: Backend>(x: FloatTensor<B>, widths: [usize; 3]) -> Three<B> {
    let shape = x.shape();
    let part = |from: usize, width: usize| {
        let ranges = [Slice::from(0..shape[0]), Slice::from(0..shape[1]), Slice::from(from..from + width)];
        B::float_slice(x.clone(), &ranges)
    };
    (part(0, widths[0]), part(widths[0], widths[1]), part(widths[0] + widths[1], widths[2]))
}

/// See [`SplitGradient::join_three`](super::SplitGradient::join_three). At least one part must be there.
pub(super) fn join_three<B: Backend>(
    parts: [Option<FloatTensor<B>>; 3],
    [batch, tokens]: [usize; 2],
    widths: [usize; 3],
    dtype: DType,
) -> FloatTensor<B> {
    let device: Option<Device<B>> = parts.iter().flatten().map(|part| part.device()).next();
    let whole = parts.into_iter().zip(widths).filter_map(|(part, width)| {
        let zeros = |device: &Device<B>| B::float_zeros(Shape::from([batch, tokens, width]), device, dtype.into());
        part.or_else(|| device.as_ref().map(zeros))
    });
    B::float_cat(whole.collect(), 2)
}
