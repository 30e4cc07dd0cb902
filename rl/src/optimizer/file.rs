//! The optimizer's state in one safetensors file.
//!
//! Tensors are flat and called `exp_avg.NAME` and `exp_avg_sq.NAME`, as PyTorch calls the moments; codes in eight bits have
//! their blocks' largest magnitudes beside them, `exp_avg_absmax.NAME`. Masters are `master_param.NAME`, as Megatron calls them.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use nemo_kernels::Moment;
use nemo_kernels::adamw::{Order, num_blocks};
use nemo_model::Dtypes;
use nemo_model::checkpoint::{CheckpointError, StoredDtype, TensorFile, TensorHeader, TensorValues, write_tensor_file};

use super::{AdamW, OptimizerDtypes, State};
use crate::config::MomentDtype;
use crate::policy::api::PolicyError;

/// Names of the two moments.
const MOMENT_NAMES: [&str; 2] = ["exp_avg", "exp_avg_sq"];
/// What follows the name of a moment whose blocks' magnitudes are meant.
const LARGEST: &str = "_absmax";
/// Name of the weights in f32.
const MASTER_NAME: &str = "master_param";
/// Metadata key of the number of updates.
const STEP_KEY: &str = "step";

/// Where a tensor's values are.
enum Stored<'a> {
    Floats(&'a Tensor<1>),
    Codes(&'a Tensor<1, Int>),
}

impl Stored<'_> {
    fn header(&self, name: String) -> TensorHeader {
        let (length, dtype) = match self {
            Self::Floats(values) => {
                let is_narrow = values.dtype() == DType::BF16;
                (values.dims()[0], if is_narrow { StoredDtype::Bf16 } else { StoredDtype::F32 })
            }
            Self::Codes(codes) => (codes.dims()[0], StoredDtype::U8),
        };
        TensorHeader { name, shape: vec![length], dtype }
    }

    /// In f32, which holds bf16 numbers and codes as they are.
    fn values(&self) -> Vec<f32> {
        match self {
            Self::Floats(values) => values.to_data().iter::<f32>().collect(),
            Self::Codes(codes) => codes.to_data().iter::<f32>().collect(),
        }
    }
}

impl AdamW {
    /// Writes the state to one safetensors file, and beside it `masters`: the weights themselves, flat by name, of a model
    /// without masters whose own file rounds them.
    ///
    /// # Errors
    /// The file cannot be written; an older one at `path` is then untouched.
    pub fn save(&self, path: &Path, masters: &BTreeMap<String, Tensor<1>>) -> Result<(), CheckpointError> {
        let mut tensors = BTreeMap::new();
        for (name, state) in &self.states {
            for (kind, moment) in MOMENT_NAMES.into_iter().zip(&state.moments) {
                match moment {
                    Moment::Float(values) => {
                        tensors.insert(format!("{kind}.{name}"), Stored::Floats(values));
                    }
                    Moment::Blockwise { codes, largest, .. } => {
                        tensors.insert(format!("{kind}.{name}"), Stored::Codes(codes));
                        tensors.insert(format!("{kind}{LARGEST}.{name}"), Stored::Floats(largest));
                    }
                }
            }
        }
        for (name, values) in self.masters().chain(masters) {
            tensors.insert(format!("{MASTER_NAME}.{name}"), Stored::Floats(values));
        }
        let headers: Vec<_> = tensors.iter().map(|(name, stored)| stored.header(name.clone())).collect();
        write_tensor_file(path, &headers, &[(STEP_KEY, &self.step.to_string())], |header| {
            let values = tensors.get(&header.name).map(Stored::values);
            Ok::<_, CheckpointError>(TensorValues::F32(values.unwrap_or_default()))
        })
    }

    /// Reads what [`Self::save`] wrote of an optimizer like `self` for a model of these types: its state, and weights that are
    /// no masters of it.
    ///
    /// # Errors
    /// The file cannot be read, or is not the state of such an optimizer.
    pub fn load(
        path: &Path,
        device: &Device,
        model: Dtypes,
        dtypes: OptimizerDtypes,
        seed: u64,
    ) -> Result<(Self, BTreeMap<String, Tensor<1>>), PolicyError> {
        let mut optimizer = Self::new(model, dtypes, seed);
        let reader = Reader { file: TensorFile::open(path).map_err(model_error)?, path, device };
        let step = reader.file.metadata().get(STEP_KEY).cloned().unwrap_or_default();
        optimizer.step =
            step.parse().map_err(|_| reader.malformed(format!("step {step:?}"), "a number of updates".to_owned()))?;
        let mut masters = BTreeMap::new();
        let mut known = 0;
        for stored in reader.file.tensors().keys() {
            match stored.split_once('.') {
                Some((kind, name)) if kind == MOMENT_NAMES[0] => {
                    let [first, second] = dtypes.moments();
                    let moments =
                        [reader.moment(MOMENT_NAMES[0], name, first)?, reader.moment(MOMENT_NAMES[1], name, second)?];
                    known += moments
                        .iter()
                        .map(|moment| if matches!(moment, Moment::Float(_)) { 1 } else { 2 })
                        .sum::<usize>();
                    optimizer.states.insert(name.to_owned(), State { moments, master: None });
                }
                Some((MASTER_NAME, name)) => {
                    masters.insert(name.to_owned(), reader.floats(stored)?);
                }
                _ => {}
            }
        }
        if known + masters.len() != reader.file.tensors().len() {
            let found = format!("{} tensors", reader.file.tensors().len());
            return Err(reader.malformed(found, "two moments per parameter, and weights".to_owned()));
        }
        if optimizer.has_masters() {
            optimizer.masters = std::mem::take(&mut masters);
        }
        Ok((optimizer, masters))
    }
}

fn model_error(error: CheckpointError) -> PolicyError {
    PolicyError::Model(Box::new(error))
}

struct Reader<'a> {
    file: TensorFile,
    path: &'a Path,
    device: &'a Device,
}

impl Reader<'_> {
    fn malformed(&self, found: String, expected: String) -> PolicyError {
        PolicyError::Malformed { path: self.path.to_owned(), found, expected }
    }

    /// f32 `[n]`.
    fn floats(&self, stored: &str) -> Result<Tensor<1>, PolicyError> {
        let (values, _) = self.file.read_f32(stored).map_err(model_error)?;
        let count = values.len();
        Ok(Tensor::from_data(TensorData::new(values, [count]), (self.device, DType::F32)))
    }

    /// A moment that is to be kept in `dtype`.
    fn moment(&self, kind: &str, name: &str, (order, dtype): (Order, MomentDtype)) -> Result<Moment<1>, PolicyError> {
        let stored = format!("{kind}.{name}");
        let info = self.file.info(&stored).map_err(model_error)?;
        let length: usize = info.shape.iter().product();
        let expected = match dtype {
            MomentDtype::Float32 => StoredDtype::F32,
            MomentDtype::Bfloat16 => StoredDtype::Bf16,
            MomentDtype::Uint8 => StoredDtype::U8,
        };
        if info.dtype != expected {
            let found = format!("{stored} in {}", info.dtype.name());
            let key = format!("policy.megatron_cfg.optimizer.{kind}_dtype");
            return Err(self.malformed(found, format!("{}, as {key} says", expected.name())));
        }
        Ok(match dtype {
            MomentDtype::Float32 => Moment::Float(self.floats(&stored)?),
            MomentDtype::Bfloat16 => Moment::Float(self.floats(&stored)?.cast(DType::BF16)),
            MomentDtype::Uint8 => {
                let codes = TensorData::new(self.file.raw(&stored).map_err(model_error)?.to_vec(), [length]);
                let magnitudes = format!("{kind}{LARGEST}.{name}");
                let largest = self.floats(&magnitudes)?;
                if largest.dims() != [num_blocks(length)] {
                    let found = format!("{} numbers in {magnitudes}", largest.dims()[0]);
                    return Err(self.malformed(found, format!("{} for {length} codes", num_blocks(length))));
                }
                Moment::Blockwise { order, codes: Tensor::from_data(codes, (self.device, DType::U8)), largest }
            }
        })
    }
}
