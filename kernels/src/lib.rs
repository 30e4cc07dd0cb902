//! Fused tensor operations of hybrid Mamba-2/attention models, differentiable where training needs it.
//!
//! Operations are plain functions on Burn tensors (sampling on the host's logits). On the CPU device (Flex) in f32 they run
//! hand-written slice code with a hand-written backward pass, products also with weights in bf16 and int8; on a CubeCL
//! device (features `wgpu` and `cuda`) in f32, f16 or bf16 hand-written device kernels, but for the products, which are
//! cubek's. In every other precision an operation runs its reference: the paper's formula in Burn's own tensor operations,
//! which Burn differentiates. The operations know tensors and sizes only, never a model's configuration.

mod autodiff;
pub mod carry;
pub mod causal_attention;
pub mod causal_conv;
mod cpu;
#[cfg(feature = "cube")]
mod cube;
mod device_error;
mod dispatch;
mod error;
pub mod gated_rms_norm;
pub mod linear_log_prob;
mod precision;
pub mod rms_norm;
pub mod split;
pub mod squared_relu;
pub mod ssd_scan;

pub use carry::carry;
pub use causal_attention::causal_attention;
pub use causal_conv::causal_conv;
#[cfg(feature = "cube")]
pub use cube::product::allow_tf32;
pub use device_error::{DeviceError, WriteCheck};
pub use error::KernelError;
pub use gated_rms_norm::gated_rms_norm;
pub use linear_log_prob::{LogProbOutput, ScoredRows, linear_log_prob};
pub use rms_norm::{add_rms_norm, rms_norm};
pub use split::split_three;
pub use squared_relu::squared_relu;
pub use ssd_scan::{SsdInputs, ssd_scan};

pub mod adamw;
pub mod cache_write;
mod flex_slices;
pub mod linear;
pub mod paged_attention;
pub mod sample;
mod simd;
mod softmax;
pub mod ssm_step;

pub use adamw::{AdamWOptions, Moment, RoundingKey, Weights, adamw_step, global_norm, sum_of_squares};
pub use cache_write::cache_write;
pub use linear::{Int8Weight, WeightFactors, add_weight_gradient, linear, linear_deferred, linear_int8};
pub use paged_attention::{PagedSequence, paged_attention};
pub use sample::{RandomKey, SampledToken, SamplingOptions, sample, sample_rows};
pub use simd::choose_simd_level;
pub use ssm_step::{SsmStepInputs, SsmStepOptions, ssm_step};
