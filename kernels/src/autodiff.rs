//! Registers hand-written backward passes with Burn's autodiff.
//!
//! Burn gives every operation one output node. An operation with two outputs is recorded as a hub
//! node that carries the backward pass and two thin nodes on top of it, one per output: each hands
//! its cotangent to the hub through a shared slot, so the backward pass runs once for both.

use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, NodeGuard, Ops, OpsKind},
};
use burn::backend::{Backend, TensorMetadata, tensor::FloatTensor};
use burn::tensor::DType;
use std::fmt::{Debug, Formatter};
use std::sync::{Arc, Mutex, MutexGuard};

/// Backward pass of an operation with `N` inputs and one output: saved values and the output's
/// cotangent to the inputs' gradients.
pub(crate) type BackwardOne<B, S, const N: usize> = fn(S, FloatTensor<B>) -> [FloatTensor<B>; N];

/// Backward pass of an operation with `N` inputs and two outputs. A missing cotangent is zero; at
/// least one is present.
pub(crate) type BackwardTwo<B, S, const N: usize> =
    fn(S, Option<FloatTensor<B>>, Option<FloatTensor<B>>) -> [FloatTensor<B>; N];

/// The two outputs of an operation.
pub(crate) type Outputs<B> = (FloatTensor<B>, FloatTensor<B>);

/// Their cotangents; a missing one is zero.
type Cotangents<B> = (Option<FloatTensor<B>>, Option<FloatTensor<B>>);

/// Records an operation with one output. `saved` is dropped at once when no input is tracked.
pub(crate) fn record_one<B, C, S, const N: usize>(
    inputs: [NodeGuard; N],
    output: FloatTensor<B>,
    saved: S,
    backward: BackwardOne<B, S, N>,
) -> FloatTensor<Autodiff<B, C>>
where
    B: Backend,
    C: CheckpointStrategy,
    S: Clone + Send + Debug + 'static,
{
    match (Single { backward }).prepare::<C>(inputs).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(saved, output),
        OpsKind::UnTracked(prep) => prep.finish(output),
    }
}

/// Records an operation with two outputs. `saved` is dropped at once when no input is tracked.
pub(crate) fn record_two<B, C, S, const N: usize>(
    inputs: [NodeGuard; N],
    outputs: Outputs<B>,
    saved: S,
    backward: BackwardTwo<B, S, N>,
) -> Outputs<Autodiff<B, C>>
where
    B: Backend,
    C: CheckpointStrategy,
    S: Clone + Send + Debug + 'static,
{
    let slots = Slots::<B>(Arc::new(Mutex::new((None, None))));
    let token = hub_token::<B>(&outputs.0);
    let hub: FloatTensor<Autodiff<B, C>> = match (Hub { backward }).prepare::<C>(inputs).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish((saved, slots.clone()), token),
        OpsKind::UnTracked(prep) => prep.finish(token),
    };
    let take = |second: bool, output| -> FloatTensor<Autodiff<B, C>> {
        match (Take { second }).prepare::<C>([hub.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(slots.clone(), output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    };
    (take(false, outputs.0), take(true, outputs.1))
}

/// The hub's output: never read, it only makes Burn visit the hub. In one dtype, whatever those of the two outputs:
/// Burn adds their tokens.
fn hub_token<B: Backend>(like: &FloatTensor<B>) -> FloatTensor<B> {
    B::float_zeros([1].into(), &like.device(), DType::F32.into())
}

struct Single<B: Backend, S, const N: usize> {
    backward: BackwardOne<B, S, N>,
}

impl<B: Backend, S, const N: usize> Debug for Single<B, S, N> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Single")
    }
}

impl<B, S, const N: usize> Backward<B, N> for Single<B, S, N>
where
    B: Backend,
    S: Clone + Send + Debug + 'static,
{
    type State = S;

    fn backward(self, ops: Ops<S, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let cotangent = grads.consume::<B>(&ops.node);
        let gradients = (self.backward)(ops.state, cotangent);
        for (parent, gradient) in ops.parents.into_iter().zip(gradients) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, gradient);
            }
        }
    }
}

/// Cotangents of the two outputs of one recorded operation, filled during the backward pass.
struct Slots<B: Backend>(Arc<Mutex<Cotangents<B>>>);

impl<B: Backend> Slots<B> {
    fn lock(&self) -> MutexGuard<'_, Cotangents<B>> {
        // A poisoned slot only means that another backward step panicked; its content is whole.
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl<B: Backend> Clone for Slots<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B: Backend> Debug for Slots<B> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Slots")
    }
}

struct Hub<B: Backend, S, const N: usize> {
    backward: BackwardTwo<B, S, N>,
}

impl<B: Backend, S, const N: usize> Debug for Hub<B, S, N> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Hub")
    }
}

impl<B, S, const N: usize> Backward<B, N> for Hub<B, S, N>
where
    B: Backend,
    S: Clone + Send + Debug + 'static,
{
    type State = (S, Slots<B>);

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        grads.consume::<B>(&ops.node);
        let (saved, slots) = ops.state;
        let (first, second) = std::mem::take(&mut *slots.lock());
        let gradients = (self.backward)(saved, first, second);
        for (parent, gradient) in ops.parents.into_iter().zip(gradients) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
struct Take {
    second: bool,
}

impl<B: Backend> Backward<B, 1> for Take {
    type State = Slots<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let cotangent = grads.consume::<B>(&ops.node);
        let [hub] = ops.parents;
        if let Some(hub) = hub {
            grads.register::<B>(hub.id, hub_token::<B>(&cotangent));
            let mut slots = ops.state.lock();
            if self.second {
                slots.1 = Some(cotangent);
            } else {
                slots.0 = Some(cotangent);
            }
        }
    }
}
