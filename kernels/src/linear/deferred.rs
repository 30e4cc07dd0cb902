//! Products whose weight gradient is left in two factors, to be added where the gradients are summed.
//!
//! The gradient of a weight is `dW = dy^T x`, as large as the weight, and most of a training step's memory traffic beside
//! the products themselves. A graph that formed it would hold one of every weight of a block and add it to the sum
//! afterwards. [`linear_deferred`] hands out `dy` and `x` instead, and [`add_weight_gradient`] adds their product to the
//! sum in place.

use burn::backend::Dispatch;
use burn::tensor::{Device, Gradients, Tensor};

use super::{LinearOps, add_bias, check_weight, is_plain, must_widen};
use crate::error::assert_shape;

/// Where one product of a graph leaves the two factors of its weight's gradient.
///
/// Two leaves of the graph stand for them; the gradients that arrive there are the factors. A second product of the same
/// graph would add its factors to those of the first, which means nothing: every product needs leaves of its own.
#[derive(Clone, Debug)]
pub struct WeightFactors {
    dy: Tensor<3>,
    x: Tensor<3>,
}

impl WeightFactors {
    /// Leaves of a fresh graph.
    pub fn new(device: &Device) -> Self {
        // Gradients take the place of these values without looking at them.
        let leaf = || Tensor::zeros([1, 1, 1], device).autodiff().require_grad();
        Self { dy: leaf(), x: leaf() }
    }

    /// The factors, taken out of `gradients`: `dy` `[batch, tokens, out]` and `x` `[batch, tokens, in]`; `None` where
    /// the loss does not depend on the product.
    pub fn take(&self, gradients: &mut Gradients) -> Option<(Tensor<3>, Tensor<3>)> {
        self.dy.grad_remove(gradients).zip(self.x.grad_remove(gradients))
    }
}

/// [`linear`](super::linear()) with a constant weight, whose gradient goes to `factors`. Differentiable in `x` and `bias`.
///
/// # Shapes
/// As those of [`linear`](super::linear()).
///
/// # Panics
/// As [`linear`](super::linear()), and when the weight is tracked.
pub fn linear_deferred(x: Tensor<3>, weight: Tensor<2>, bias: Option<Tensor<1>>, factors: &WeightFactors) -> Tensor<3> {
    const NAME: &str = "linear_deferred";
    let outputs = check_weight(NAME, &x, &weight);
    assert!(is_plain(&weight), "{NAME}: the weight is tracked, and its gradient would be lost");
    let weight = if must_widen(&x, &weight) { weight.cast(x.dtype()) } else { weight };
    let y = <Dispatch as LinearOps>::linear_deferred_forward(
        x.into_dispatch(),
        weight.into_dispatch(),
        factors.dy.clone().into_dispatch(),
        factors.x.clone().into_dispatch(),
    );
    add_bias(NAME, Tensor::from_dispatch(y), outputs, bias)
}

/// `sum + dy^T x` over all rows, in place where `sum` is the only handle; the product alone where there is no sum yet.
///
/// Every element of the product is formed before it is added, so the result has the bits of a separate addition.
///
/// # Shapes
/// - `dy`: `[batch, tokens, out]`
/// - `x`: `[batch, tokens, in]`
/// - `sum` and result: `[out, in]`, in the dtype of `x`
///
/// # Panics
/// When shapes disagree, or a tensor is tracked.
pub fn add_weight_gradient(sum: Option<Tensor<2>>, dy: Tensor<3>, x: Tensor<3>) -> Tensor<2> {
    const NAME: &str = "add_weight_gradient";
    let [batch, tokens, inputs] = x.dims();
    let [_, _, outputs] = dy.dims();
    assert_shape(NAME, "dy", &dy.dims(), &[batch, tokens, outputs]);
    let (dy, x) = (dy.into_dispatch(), x.into_dispatch());
    Tensor::from_dispatch(match sum {
        None => <Dispatch as LinearOps>::linear_grad_weight(dy, x),
        Some(sum) => {
            assert_shape(NAME, "sum", &sum.dims(), &[outputs, inputs]);
            <Dispatch as LinearOps>::linear_add_grad_weight(sum.into_dispatch(), dy, x)
        }
    })
}
