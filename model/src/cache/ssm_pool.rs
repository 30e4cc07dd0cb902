//! Slots of recurrent state (convolution window and SSM state) for every Mamba-2 layer.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use nemo_kernels::WriteCheck;

use super::growth::{grow, grown};

/// Windows `[slots, channels, kernel - 1]` and SSM states `[slots, heads, head_dim, state_size]` of all Mamba layers.
///
/// Slot [`SsmPool::EMPTY`] is never written: it is the state before the first token. The pool starts with that slot alone
/// and grows as more are in use.
#[derive(Debug)]
pub struct SsmPool {
    layers: Vec<(Tensor<3>, Tensor<4>)>,
    slots: usize,
}

impl SsmPool {
    /// The slot that holds the empty state.
    pub const EMPTY: u32 = 0;

    /// A pool of the empty slot, for windows and states of these shapes in `num_layers` Mamba layers.
    pub fn new(num_layers: usize, window: [usize; 2], ssm: [usize; 3], device: &Device, dtype: DType) -> Self {
        let layer = || {
            (
                Tensor::zeros([1, window[0], window[1]], (device, dtype)),
                Tensor::zeros([1, ssm[0], ssm[1], ssm[2]], (device, dtype)),
            )
        };
        Self { layers: (0..num_layers).map(|_| layer()).collect(), slots: 1 }
    }

    /// Makes room for `used` slots, and for some more so that the next slots need no copy, up to `most`.
    pub fn grow(&mut self, used: usize, most: usize) {
        if let Some(slots) = grown(self.slots, used, most) {
            self.slots = slots;
            for (windows, states) in &mut self.layers {
                windows.inplace(|pool| grow(pool, slots));
                states.inplace(|pool| grow(pool, slots));
            }
        }
    }

    /// The states in `slots` as a batch: window `[rows, channels, kernel - 1]`, SSM state
    /// `[rows, heads, head_dim, state_size]`.
    pub fn read(&self, layer: usize, slots: &[u32]) -> (Tensor<3>, Tensor<4>) {
        let (windows, states) = &self.layers[layer];
        let indices: Vec<i64> = slots.iter().map(|&slot| i64::from(slot)).collect();
        let indices = Tensor::<1, Int>::from_data(TensorData::new(indices, [slots.len()]), &windows.device());
        (windows.clone().select(0, indices.clone()), states.clone().select(0, indices))
    }

    /// Stores a batch of states, row i in `slots[i]`.
    pub fn write(&mut self, layer: usize, slots: &[u32], window: &Tensor<3>, state: &Tensor<4>) {
        let (windows, states) = &mut self.layers[layer];
        for (row, &slot) in slots.iter().enumerate() {
            debug_assert_ne!(slot, Self::EMPTY);
            let slot = slot as usize;
            let place = slot..slot + 1;
            windows.inplace(|pool| {
                pool.slice_assign(
                    [place.clone(), 0..window.dims()[1], 0..window.dims()[2]],
                    window.clone().narrow(0, row, 1),
                )
            });
            let [_, heads, dim, size] = state.dims();
            states
                .inplace(|pool| pool.slice_assign([place, 0..heads, 0..dim, 0..size], state.clone().narrow(0, row, 1)));
        }
    }

    /// Adds everything to a check.
    pub fn add_to(&self, check: &mut WriteCheck) {
        for (windows, states) in &self.layers {
            check.add(windows);
            check.add(states);
        }
    }

    /// Hands one layer's pools to `step`, which gives them back with a result. No other handle exists meanwhile.
    pub fn update<R>(
        &mut self,
        layer: usize,
        step: impl FnOnce(Tensor<3>, Tensor<4>) -> (R, Tensor<3>, Tensor<4>),
    ) -> R {
        let (windows, states) = &mut self.layers[layer];
        let (result, new_windows, new_states) = step(windows.extract(), states.extract());
        *windows = new_windows;
        *states = new_states;
        result
    }
}
