//! Element types of stored tensors and their conversion, which is the hot part of loading a large model.

use half::{bf16, f16};
use rayon::prelude::*;

use crate::config::WeightDtype;

/// The float types, as error messages list them.
pub(super) const FLOAT_TYPES: &str = "a float type (F64, F32, BF16, F16)";

/// Element types this crate reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoredDtype {
    /// 64-bit float.
    F64,
    /// 32-bit float.
    F32,
    /// 16-bit brain float.
    Bf16,
    /// 16-bit IEEE float.
    F16,
    /// 64-bit signed integer (token ids in test fixtures, counters).
    I64,
    /// 32-bit signed integer.
    I32,
    /// Bytes.
    U8,
}

impl StoredDtype {
    /// Bytes per element.
    pub fn size_bytes(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::Bf16 | Self::F16 => 2,
            Self::U8 => 1,
        }
    }

    /// The name in a safetensors header.
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "F64",
            Self::F32 => "F32",
            Self::Bf16 => "BF16",
            Self::F16 => "F16",
            Self::I64 => "I64",
            Self::I32 => "I32",
            Self::U8 => "U8",
        }
    }

    /// Whether it holds real numbers, as weights do.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::Bf16 | Self::F16)
    }

    pub(super) fn from_safetensors(dtype: safetensors::Dtype) -> Option<Self> {
        match dtype {
            safetensors::Dtype::F64 => Some(Self::F64),
            safetensors::Dtype::F32 => Some(Self::F32),
            safetensors::Dtype::BF16 => Some(Self::Bf16),
            safetensors::Dtype::F16 => Some(Self::F16),
            safetensors::Dtype::I64 => Some(Self::I64),
            safetensors::Dtype::I32 => Some(Self::I32),
            safetensors::Dtype::U8 => Some(Self::U8),
            _ => None,
        }
    }
}

impl From<WeightDtype> for StoredDtype {
    fn from(dtype: WeightDtype) -> Self {
        match dtype {
            WeightDtype::Float32 => Self::F32,
            WeightDtype::BFloat16 => Self::Bf16,
            WeightDtype::Float16 => Self::F16,
            WeightDtype::Float64 => Self::F64,
        }
    }
}

/// Values of one tensor, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum TensorValues {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// 64-bit floats.
    F64(Vec<f64>),
}

impl TensorValues {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F64(values) => values.len(),
        }
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Little-endian bytes in `dtype`. Floats round to nearest even; integers convert as `as` does.
    pub fn to_bytes(&self, dtype: StoredDtype) -> Vec<u8> {
        match self {
            Self::F32(values) => match dtype {
                StoredDtype::F64 => encode(values, |value| f64::from(*value).to_le_bytes()),
                StoredDtype::F32 => encode(values, |value| value.to_le_bytes()),
                StoredDtype::Bf16 => encode(values, |value| bf16::from_f32(*value).to_le_bytes()),
                StoredDtype::F16 => encode(values, |value| f16::from_f32(*value).to_le_bytes()),
                StoredDtype::I64 => encode(values, |value| (*value as i64).to_le_bytes()),
                StoredDtype::I32 => encode(values, |value| (*value as i32).to_le_bytes()),
                StoredDtype::U8 => encode(values, |value| [*value as u8]),
            },
            Self::F64(values) => match dtype {
                StoredDtype::F64 => encode(values, |value| value.to_le_bytes()),
                StoredDtype::F32 => encode(values, |value| (*value as f32).to_le_bytes()),
                StoredDtype::Bf16 => encode(values, |value| bf16::from_f64(*value).to_le_bytes()),
                StoredDtype::F16 => encode(values, |value| f16::from_f64(*value).to_le_bytes()),
                StoredDtype::I64 => encode(values, |value| (*value as i64).to_le_bytes()),
                StoredDtype::I32 => encode(values, |value| (*value as i32).to_le_bytes()),
                StoredDtype::U8 => encode(values, |value| [*value as u8]),
            },
        }
    }
}

impl From<Vec<f32>> for TensorValues {
    fn from(values: Vec<f32>) -> Self {
        Self::F32(values)
    }
}

impl From<Vec<f64>> for TensorValues {
    fn from(values: Vec<f64>) -> Self {
        Self::F64(values)
    }
}

/// Elements handled by one parallel task: enough to drown the cost of the task.
const CHUNK: usize = 1 << 16;

fn encode<T: Sync, const N: usize>(values: &[T], to_bytes: impl Fn(&T) -> [u8; N] + Sync) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * N];
    bytes.par_chunks_mut(CHUNK * N).zip(values.par_chunks(CHUNK)).for_each(|(bytes, values)| {
        for (bytes, value) in bytes.as_chunks_mut::<N>().0.iter_mut().zip(values) {
            *bytes = to_bytes(value);
        }
    });
    bytes
}

fn decode<T: Copy + Default + Send, const N: usize>(bytes: &[u8], from_bytes: impl Fn([u8; N]) -> T + Sync) -> Vec<T> {
    let mut values = vec![T::default(); bytes.len() / N];
    values.par_chunks_mut(CHUNK).zip(bytes.par_chunks(CHUNK * N)).for_each(|(values, bytes)| {
        for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<N>().0) {
            *value = from_bytes(*bytes);
        }
    });
    values
}

/// Stored floats as f32 (exact but for f64, which rounds); `None` if the type is no float.
pub(super) fn decode_f32(dtype: StoredDtype, bytes: &[u8]) -> Option<Vec<f32>> {
    match dtype {
        StoredDtype::F64 => Some(decode(bytes, |bytes| f64::from_le_bytes(bytes) as f32)),
        StoredDtype::F32 => Some(decode(bytes, f32::from_le_bytes)),
        StoredDtype::Bf16 => Some(decode(bytes, |bytes| bf16::from_le_bytes(bytes).to_f32())),
        StoredDtype::F16 => Some(decode(bytes, |bytes| f16::from_le_bytes(bytes).to_f32())),
        StoredDtype::I64 | StoredDtype::I32 | StoredDtype::U8 => None,
    }
}

/// Stored floats as f64, exactly; `None` if the type is no float.
pub(crate) fn decode_f64(dtype: StoredDtype, bytes: &[u8]) -> Option<Vec<f64>> {
    match dtype {
        StoredDtype::F64 => Some(decode(bytes, f64::from_le_bytes)),
        StoredDtype::F32 => Some(decode(bytes, |bytes| f64::from(f32::from_le_bytes(bytes)))),
        StoredDtype::Bf16 => Some(decode(bytes, |bytes| bf16::from_le_bytes(bytes).to_f64())),
        StoredDtype::F16 => Some(decode(bytes, |bytes| f16::from_le_bytes(bytes).to_f64())),
        StoredDtype::I64 | StoredDtype::I32 | StoredDtype::U8 => None,
    }
}
