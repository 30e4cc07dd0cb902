//! Registers hand-written backward passes with Burn's autodiff.
//!
//! Burn gives every operation one output node. An operation with several outputs is recorded as a hub
//! node that carries the backward pass and thin nodes on top of it, one per output: each hands
//! its cotangent to the hub through a shared slot, so the backward pass runs once for all.

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

/// Backward pass of an operation with `N` inputs and `M` outputs. A missing cotangent is zero; at least one is present.
pub(crate) type BackwardMany<B, S, const N: usize, const M: usize> =
    fn(S, [Option<FloatTensor<B>>; M]) -> [FloatTensor<B>; N];

/// The two outputs of an operation.
pub(crate) type Outputs<B> = (FloatTensor<B>, FloatTensor<B>);

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
    let [first, second] = record_many::<B, C, _, N, 2>(
        inputs,
        [outputs.0, outputs.1],
        (saved, backward),
        |(saved, backward), [first, second]| backward(saved, first, second),
    );
    (first, second)
}

/// Records an operation with `M` outputs. `saved` is dropped at once when no input is tracked.
pub(crate) fn record_many<B, C, S, const N: usize, const M: usize>(
    inputs: [NodeGuard; N],
    outputs: [FloatTensor<B>; M],
    saved: S,
    backward: BackwardMany<B, S, N, M>,
) -> [FloatTensor<Autodiff<B, C>>; M]
where
    B: Backend,
    C: CheckpointStrategy,
    S: Clone + Send + Debug + 'static,
{
    let slots = Slots::<B, M>(Arc::new(Mutex::new(std::array::from_fn(|_| None))));
    let token = hub_token::<B>(&outputs[0]);
    let hub: FloatTensor<Autodiff<B, C>> = match (Hub { backward }).prepare::<C>(inputs).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish((saved, slots.clone()), token),
        OpsKind::UnTracked(prep) => prep.finish(token),
    };
    let mut index = 0;
    outputs.map(|output| {
        let take = Take::<M> { index };
        index += 1;
        match take.prepare::<C>([hub.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(slots.clone(), output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    })
}

/// The hub's output: never read, it only makes Burn visit the hub. In one dtype, whatever those of the outputs:
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

/// Cotangents of the outputs of one recorded operation, filled during the backward pass.
struct Slots<B: Backend, const M: usize>(Arc<Mutex<[Option<FloatTensor<B>>; M]>>);

impl<B: Backend, const M: usize> Slots<B, M> {
    fn lock(&self) -> MutexGuard<'_, [Option<FloatTensor<B>>; M]> {
        // A poisoned slot only means that another backward step panicked; its content is whole.
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl<B: Backend, const M: usize> Clone for Slots<B, M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B: Backend, const M: usize> Debug for Slots<B, M> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Slots")
    }
}

struct Hub<B: Backend, S, const N: usize, const M: usize> {
    backward: BackwardMany<B, S, N, M>,
}

impl<B: Backend, S, const N: usize, const M: usize> Debug for Hub<B, S, N, M> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Hub")
    }
}

impl<B, S, const N: usize, const M: usize> Backward<B, N> for Hub<B, S, N, M>
where
    B: Backend,
    S: Clone + Send + Debug + 'static,
{
    type State = (S, Slots<B, M>);

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        grads.consume::<B>(&ops.node);
        let (saved, slots) = ops.state;
        let cotangents = slots.lock().each_mut().map(Option::take);
        let gradients = (self.backward)(saved, cotangents);
        for (parent, gradient) in ops.parents.into_iter().zip(gradients) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, gradient);
            }
        }
    }
}

/// The node of output `index`.
#[derive(Debug)]
struct Take<const M: usize> {
    index: usize,
}

impl<B: Backend, const M: usize> Backward<B, 1> for Take<M> {
    type State = Slots<B, M>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let cotangent = grads.consume::<B>(&ops.node);
        let [hub] = ops.parents;
        if let Some(hub) = hub {
            grads.register::<B>(hub.id, hub_token::<B>(&cotangent));
            ops.state.lock()[self.index] = Some(cotangent);
        }
    }
}
