//! Where a layer's tensors come from when it is built: a checkpoint, or the family's initialisation.
//!
//! Layers ask for tensors by name and shape and say how they would be initialised; the source decides. So the code
//! that loads a checkpoint and the code that makes a fresh model are the same.

use burn::tensor::{DType, Device, Tensor, TensorData};

use super::{Dtypes, Matrix, WeightStorage};
use crate::error::ModelError;

/// Initialisation of one tensor (transformers' `NemotronHPreTrainedModel._init_weights`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Initialization {
    /// Normal with mean 0 and the given standard deviation.
    Normal(f64),
    /// Uniform in `[-bound, bound]`.
    Uniform(f64),
    /// All zeros.
    Zeros,
    /// All ones.
    Ones,
    /// `log(1), log(2), …`: the decay rates of the heads.
    LogRange,
    /// Inverse softplus of time steps drawn log-uniformly from `[minimum, maximum]`, not below `floor`.
    TimeStepBias {
        /// Smallest time step.
        minimum: f64,
        /// Largest time step.
        maximum: f64,
        /// Lower bound applied after drawing.
        floor: f64,
    },
}

impl Initialization {
    /// What linear maps and convolutions start with: uniform with the bound `1 / sqrt(fan_in)`, for `fan_in` inputs of
    /// each output.
    pub fn fan_in(fan_in: usize) -> Self {
        Self::Uniform(1.0 / (fan_in as f64).sqrt())
    }
}

/// A provider of weights.
pub trait WeightSource {
    /// Values of the tensor `name`, row-major, of the given shape.
    fn values(&mut self, name: &str, shape: &[usize], initialization: Initialization) -> Result<Vec<f32>, ModelError>;

    /// The tensor `name` where it lies, if it lies somewhere in `dtype` already.
    fn mapped(&mut self, _name: &str, _dtype: DType) -> Result<Option<TensorData>, ModelError> {
        Ok(None)
    }

    /// The tensor `name` will not be read again.
    fn release(&mut self, _name: &str) {}
}

/// What a fresh tensor is made from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TensorOutline {
    /// Checkpoint name.
    pub name: String,
    /// How its values are drawn.
    pub initialization: Initialization,
}

/// Where a builder's tensors come from.
enum Origin<'a> {
    /// Whoever has the values.
    Source(&'a mut dyn WeightSource),
    /// Nowhere: what the layers ask for is listed, and they get tensors without elements.
    Outline(Vec<TensorOutline>),
}

/// Builds tensors for layers: source, device and types in one hand.
pub struct WeightBuilder<'a> {
    origin: Origin<'a>,
    device: &'a Device,
    dtypes: Dtypes,
    mapped_bytes: usize,
}

impl<'a> WeightBuilder<'a> {
    /// Tensors will be made on `device`.
    pub fn new(source: &'a mut dyn WeightSource, device: &'a Device, dtypes: Dtypes) -> Self {
        Self { origin: Origin::Source(source), device, dtypes, mapped_bytes: 0 }
    }

    /// Makes no tensors and lists what would be asked of a source; see [`Self::into_outline`].
    pub(crate) fn of_outline(device: &'a Device) -> Self {
        Self { origin: Origin::Outline(Vec::new()), device, dtypes: Dtypes::F32, mapped_bytes: 0 }
    }

    /// The tensors that were asked for, of a builder that makes none.
    pub(crate) fn into_outline(self) -> Vec<TensorOutline> {
        match self.origin {
            Origin::Source(_) => Vec::new(),
            Origin::Outline(tensors) => tensors,
        }
    }

    /// The types that tensors are made in.
    pub fn dtypes(&self) -> Dtypes {
        self.dtypes
    }

    /// Bytes of the matrices so far that are kept where they lie.
    pub fn mapped_bytes(&self) -> usize {
        self.mapped_bytes
    }

    /// The matrix called `name` of a projection or an expert.
    pub fn matrix(
        &mut self,
        name: &str,
        shape: [usize; 2],
        initialization: Initialization,
    ) -> Result<Matrix, ModelError> {
        self.stored(name, shape, initialization, self.dtypes.matrices)
    }

    /// The matrix called `name` of the embedding or the head.
    pub fn table(
        &mut self,
        name: &str,
        shape: [usize; 2],
        initialization: Initialization,
    ) -> Result<Matrix, ModelError> {
        self.stored(name, shape, initialization, self.dtypes.tables)
    }

    /// A matrix, taken into storage at once: no two exist in full at a time.
    fn stored(
        &mut self,
        name: &str,
        shape: [usize; 2],
        initialization: Initialization,
        storage: WeightStorage,
    ) -> Result<Matrix, ModelError> {
        // Eight bits are made from bf16 in pieces, so the tensor does not have to exist in f32.
        let dtype = self.dtypes.float_of(storage).unwrap_or(DType::BF16);
        let mapped = match &mut self.origin {
            Origin::Source(source) => source.mapped(name, dtype)?,
            Origin::Outline(_) => None,
        };
        let tensor = match mapped {
            Some(data) => {
                let stays = storage != WeightStorage::Int8;
                self.mapped_bytes += if stays { data.as_bytes().len() } else { 0 };
                Tensor::from_data(data, (self.device, dtype))
            }
            None => self.tensor(name, shape, initialization)?,
        };
        let matrix = Matrix::store(tensor, storage);
        if let Origin::Source(source) = &mut self.origin
            && storage == WeightStorage::Int8
        {
            source.release(name);
        }
        Ok(matrix)
    }

    /// The tensor called `name`.
    pub fn tensor<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
        initialization: Initialization,
    ) -> Result<Tensor<D>, ModelError> {
        let data = match &mut self.origin {
            Origin::Source(source) => TensorData::new(source.values(name, &shape, initialization)?, shape),
            Origin::Outline(tensors) => {
                tensors.push(TensorOutline { name: name.to_owned(), initialization });
                TensorData::new(Vec::<f32>::new(), [0; D])
            }
        };
        Ok(Tensor::from_data(data, (self.device, self.dtypes.activations)))
    }

    /// The tensor called `name` if `present`, else nothing.
    pub fn optional<const D: usize>(
        &mut self,
        present: bool,
        name: &str,
        shape: [usize; D],
        initialization: Initialization,
    ) -> Result<Option<Tensor<D>>, ModelError> {
        present.then(|| self.tensor(name, shape, initialization)).transpose()
    }
}
