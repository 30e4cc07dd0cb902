//! The one-token case of the sequence operations' references, between a gather and a scatter.

use burn::tensor::{Int, Tensor, TensorData, s};

use super::{SsmStepInputs, SsmStepOptions};
use crate::ssd_scan::SsdInputs;
use crate::{causal_conv, gated_rms_norm, ssd_scan};

/// See [`ssm_step`](super::ssm_step()).
pub fn ssm_step(
    inputs: SsmStepInputs,
    options: SsmStepOptions,
    src: &[u32],
    dst: &[u32],
) -> (Tensor<2>, Tensor<3>, Tensor<4>) {
    let [rows, _] = inputs.z.dims();
    let [_, heads, width, state_size] = inputs.ssm_pool.dims();
    let groups = options.num_groups;
    let (inner, grouped) = (heads * width, groups * state_size);
    let device = inputs.z.device();
    let indices: Vec<i64> = src.iter().map(|&slot| i64::from(slot)).collect();
    let indices = Tensor::<1, Int>::from_data(TensorData::new(indices, [rows]), &device);

    let window = inputs.conv_pool.clone().select(0, indices.clone());
    let state = inputs.ssm_pool.clone().select(0, indices);
    let (active, window) = causal_conv::reference::causal_conv(
        inputs.xbc.unsqueeze_dim(1),
        inputs.conv_weight,
        inputs.conv_bias,
        window,
        None,
    );
    let part = |from: usize, len: usize| active.clone().narrow(2, from, len);
    let scan = SsdInputs {
        x: part(0, inner).reshape([rows, 1, heads, width]),
        dt: inputs.dt.unsqueeze_dim(1),
        a_log: inputs.a_log,
        b: part(inner, grouped).reshape([rows, 1, groups, state_size]),
        c: part(inner + grouped, grouped).reshape([rows, 1, groups, state_size]),
        d: inputs.d,
        dt_bias: inputs.dt_bias,
        state,
    };
    let (y, state) = ssd_scan::reference::ssd_scan(scan, options.dt_limit, None);
    let y = gated_rms_norm::reference::gated_rms_norm(
        y.reshape([rows, 1, inner]),
        inputs.z.unsqueeze_dim(1),
        inputs.norm_weight,
        groups,
        options.epsilon,
    );

    let (mut conv_pool, mut ssm_pool) = (inputs.conv_pool, inputs.ssm_pool);
    for (row, &slot) in dst.iter().enumerate() {
        let slot = slot as usize;
        let (window, state) = (window.clone().narrow(0, row, 1), state.clone().narrow(0, row, 1));
        conv_pool = conv_pool.slice_assign(s![slot..slot + 1], window);
        ssm_pool = ssm_pool.slice_assign(s![slot..slot + 1], state);
    }
    (y.squeeze_dim(1), conv_pool, ssm_pool)
}
