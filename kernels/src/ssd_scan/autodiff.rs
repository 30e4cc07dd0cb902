//! Records the hand-written backward pass.

use super::{SsdSaved, SsdScanGradient, SsdScanOps, SsdTensors};
use crate::autodiff::record_two;
use burn::backend::autodiff::{Autodiff, checkpoint::strategy::CheckpointStrategy};
use burn::backend::tensor::FloatTensor;

impl<B, C> SsdScanOps for Autodiff<B, C>
where
    B: SsdScanOps + SsdScanGradient,
    C: CheckpointStrategy,
{
    fn ssd_scan(
        tensors: SsdTensors<Self>,
        dt_limit: (f64, f64),
        lengths: Vec<usize>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (x, x_node) = tensors.x.into_parts();
        let (dt, dt_node) = tensors.dt.into_parts();
        let (a_log, a_log_node) = tensors.a_log.into_parts();
        let (b, b_node) = tensors.b.into_parts();
        let (c, c_node) = tensors.c.into_parts();
        let (d, d_node) = tensors.d.into_parts();
        let (dt_bias, dt_bias_node) = tensors.dt_bias.into_parts();
        let (state, state_node) = tensors.state.into_parts();
        let tensors = SsdTensors::<B> { x, dt, a_log, b, c, d, dt_bias, state };
        let outputs = B::ssd_scan(tensors.clone(), dt_limit, lengths.clone());
        record_two::<B, C, _, 8>(
            [x_node, dt_node, a_log_node, b_node, c_node, d_node, dt_bias_node, state_node],
            outputs,
            SsdSaved { tensors, dt_limit, lengths },
            B::ssd_scan_backward,
        )
    }
}
