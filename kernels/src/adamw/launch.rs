//! In place; arithmetic in f32 whatever the storage.

use burn::backend::TensorMetadata;
use burn::backend::tensor::FloatTensor;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;

use super::blockwise;
use super::kernel::{DeviceFactorsLaunch, Forms, adamw_kernel, sum_of_squares_kernel};
use super::rounding::{Purpose, RUN, TILE};
use super::{AdamWOps, AdamWOptions, Factors, MomentTensors, Order, StepTensors, WeightTensors};
use crate::cube::{
    BLOCK, Numbers, arg, block, contiguous, contiguous_as, element_type, empty, grid, grid_of_units, writable,
};

/// Elements per unit of [`sum_of_squares_kernel`].
const ELEMENTS_PER_SUM: usize = 256;

impl AdamWOps for CubeBackend {
    fn adamw_step(
        grad: FloatTensor<Self>,
        tensors: StepTensors<Self>,
        step: u64,
        options: AdamWOptions,
    ) -> StepTensors<Self> {
        const { assert!(BLOCK == RUN, "a cube works on a tile, a unit on a block of random bits") };
        let StepTensors { weights, first, second } = tensors;
        let grad = match grad.dtype {
            DType::F32 | DType::F16 | DType::BF16 => contiguous(grad),
            _ => contiguous_as(grad, DType::F32),
        };
        let (param, master, is_rounded) = match weights {
            WeightTensors::Single(param) => (writable(param), None, false),
            WeightTensors::WithMaster { rounded, master } => (writable(rounded), Some(writable(master)), true),
            WeightTensors::Rounded(param) => (writable(param), None, true),
        };
        let (first, second) = (StoredMoment::new(first), StoredMoment::new(second));
        let [key_low, key_high] = options.rounding.map_or([0; 2], |key| key.at_step(step));
        let elements = param.shape().num_elements();
        if elements > 0 {
            let has_key = options.rounding.is_some();
            let forms = Forms {
                has_master: master.is_some(),
                is_bf16: is_rounded && param.dtype != DType::F16,
                is_random: is_rounded && master.is_none() && has_key,
                has_random_moment: second.is_bf16() && has_key,
                first_is_bf16: first.is_bf16(),
                second_is_bf16: second.is_bf16(),
                first_is_blockwise: first.codes.is_some(),
                second_is_blockwise: second.codes.is_some(),
                weight_purpose: Purpose::Weights as u32,
                moment_purpose: Purpose::SecondMoment as u32,
            };
            // A kernel is told what not to read; a buffer of its own stands for that.
            let none = |tensor: &Option<CubeTensor>, dtype| tensor.clone().unwrap_or_else(|| empty(&param, [1], dtype));
            let held_master = none(&master, DType::F32);
            let codes = [&first, &second].map(|moment| none(&moment.codes, DType::U32));
            let tables = [&first, &second].map(|moment| moment.table(&param.client));
            let Factors { grad_scale, keep, beta1, gain1, beta2, gain2, correction2, eps, rate } =
                Factors::new(step, options);
            let dtypes = [&param, &grad, &first.values, &second.values, &codes[0], &codes[1]];
            // SAFETY: all tensors have one shape, magnitudes one entry per block (the public function checks); units past
            // the end do nothing.
            unsafe {
                adamw_kernel::launch_unchecked(
                    &param.client,
                    grid(&param.client, elements.div_ceil(TILE)),
                    block(),
                    arg(&param),
                    arg(&held_master),
                    arg(&grad),
                    arg(&first.values),
                    arg(&second.values),
                    arg(&codes[0]),
                    arg(&codes[1]),
                    tables[0].arg(),
                    tables[1].arg(),
                    elements,
                    key_low,
                    key_high,
                    DeviceFactorsLaunch::new(grad_scale, keep, beta1, gain1, beta2, gain2, correction2, eps, rate),
                    forms,
                    dtypes.map(|tensor| element_type(tensor.dtype)),
                );
            }
        }
        let weights = match (master, is_rounded) {
            (Some(master), _) => WeightTensors::WithMaster { rounded: param, master },
            (None, true) => WeightTensors::Rounded(param),
            (None, false) => WeightTensors::Single(param),
        };
        StepTensors { weights, first: first.into_tensors(), second: second.into_tensors() }
    }
}

/// A moment to be changed: its values, or codes with their blocks' largest magnitudes in the place of values.
struct StoredMoment {
    order: Order,
    values: CubeTensor,
    codes: Option<CubeTensor>,
}

impl StoredMoment {
    fn new(moment: MomentTensors<CubeBackend>) -> Self {
        match moment {
            MomentTensors::Float(values) => Self { order: Order::First, values: writable(values), codes: None },
            MomentTensors::Blockwise { order, codes, largest } => {
                Self { order, values: writable(largest), codes: Some(writable(codes)) }
            }
        }
    }

    fn is_bf16(&self) -> bool {
        self.codes.is_none() && self.values.dtype == DType::BF16
    }

    fn table(&self, client: &Client) -> Numbers {
        match self.codes {
            None => Numbers::new(client, &[]),
            Some(_) => {
                let numbers = blockwise::table(self.order).iter().copied().chain(blockwise::borders(self.order));
                Numbers::new(client, &numbers.map(f32::to_bits).collect::<Vec<_>>())
            }
        }
    }

    fn into_tensors(self) -> MomentTensors<CubeBackend> {
        match self.codes {
            None => MomentTensors::Float(self.values),
            Some(codes) => MomentTensors::Blockwise { order: self.order, codes, largest: self.values },
        }
    }
}

/// Sums of squares of runs of 256 elements, f32; for the host to add.
pub(super) fn sums_of_squares(tensor: CubeTensor) -> CubeTensor {
    let tensor = contiguous(tensor);
    let elements = tensor.shape().num_elements();
    let runs = elements.div_ceil(ELEMENTS_PER_SUM);
    let sums = empty(&tensor, [runs], DType::F32);
    if runs > 0 {
        // SAFETY: runs end with the tensor and units past them do nothing.
        unsafe {
            sum_of_squares_kernel::launch_unchecked(
                &tensor.client,
                grid_of_units(&tensor.client, runs),
                block(),
                arg(&tensor),
                arg(&sums),
                elements,
                runs,
                ELEMENTS_PER_SUM,
                element_type(tensor.dtype),
            );
        }
    }
    sums
}
