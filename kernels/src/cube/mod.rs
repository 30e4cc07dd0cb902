//! What the device kernels share: contiguous arguments, uninitialised results, grids, lists of numbers.
//!
//! Kernels index plain buffers in row-major order, and no buffer is bound twice. Cubes never exceed 256 units or
//! 32 KiB of shared memory, and nothing depends on the width of a plane (subgroup).

pub(crate) mod flash;
pub(crate) mod math;
pub(crate) mod product;
pub(crate) mod sum;

use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::{cast, into_contiguous};
use burn_cubecl::tensor::CubeTensor;
use cubecl::calculate_cube_count_elemwise;
use cubecl::client::Client;
use cubecl::ir::{ElemType, FloatKind, UIntKind};
use cubecl::prelude::*;
use cubecl::server::Handle;
use cubecl::std::tensor::copy_into;

/// Units of a cube that works on one row.
pub(crate) const BLOCK: usize = 128;

/// Bytes of shared memory that every device offers.
pub(crate) const SHARED_BYTES: usize = 32 << 10;

/// The tensor in row-major order.
pub(crate) fn contiguous(tensor: CubeTensor) -> CubeTensor {
    into_contiguous(tensor)
}

/// The tensor in row-major order and in `dtype`.
pub(crate) fn contiguous_as(tensor: CubeTensor, dtype: DType) -> CubeTensor {
    into_contiguous(if tensor.dtype == dtype { tensor } else { cast(tensor, dtype) })
}

/// The tensor in `dtype`, as it is when it has it already.
pub(crate) fn cast_to(tensor: CubeTensor, dtype: DType) -> CubeTensor {
    if tensor.dtype == dtype { tensor } else { cast(tensor, dtype) }
}

/// A tensor without values on the device of `like`; every element must be written.
pub(crate) fn empty(like: &CubeTensor, shape: impl Into<Shape>, dtype: DType) -> CubeTensor {
    let shape: Shape = shape.into();
    // No buffer of size zero: it could not be bound.
    let bytes = shape.num_elements().max(1) * dtype.size();
    let handle = like.client.empty(bytes);
    CubeTensor::new_contiguous(like.client.clone(), like.device.clone(), shape, handle, dtype)
}

/// An input that a kernel can do without, in row-major order and in `dtype`. Where there is none, a buffer of its own stands
/// for it, which the kernel is told not to read: a buffer that stood for two would be bound twice.
pub(crate) fn optional(tensor: Option<CubeTensor>, like: &CubeTensor, dtype: DType) -> CubeTensor {
    tensor.map_or_else(|| empty(like, [1], dtype), |tensor| contiguous_as(tensor, dtype))
}

/// Rows `first..first + count` of a matrix in row-major order, to be written by a kernel, in the same memory. Devices bind
/// memory from multiples of 256 bytes on, so `first` is to be a multiple of 64 where elements have four bytes.
pub(crate) fn rows_of(matrix: &CubeTensor, first: usize, count: usize) -> CubeTensor {
    let [_, width] = sizes(matrix);
    let bytes = |rows: usize| (rows * width * matrix.dtype.size()) as u64;
    let after = matrix.handle.size_in_used() - bytes(first + count);
    let handle = matrix.handle.clone().offset_start(bytes(first)).offset_end(after);
    let (client, device) = (matrix.client.clone(), matrix.device.clone());
    CubeTensor::new_contiguous(client, device, Shape::from([count, width]), handle, matrix.dtype)
}

/// The sizes of a tensor whose rank is known.
pub(crate) fn sizes<const D: usize>(tensor: &CubeTensor) -> [usize; D] {
    let shape = tensor.shape();
    std::array::from_fn(|axis| shape[axis])
}

/// How kernels name the dtype of a buffer of floating-point numbers, of codes in eight bits, or of 32-bit words.
///
/// # Panics
/// For a dtype that no device kernel reads.
pub(crate) fn element_type(dtype: DType) -> ElemType {
    assert!(
        matches!(dtype, DType::F32 | DType::Flex32 | DType::F16 | DType::BF16 | DType::U8 | DType::U32),
        "no device kernel reads or writes {dtype:?}"
    );
    match dtype {
        DType::F16 => ElemType::Float(FloatKind::F16),
        DType::BF16 => ElemType::Float(FloatKind::BF16),
        DType::U8 => ElemType::UInt(UIntKind::U8),
        DType::U32 => ElemType::UInt(UIntKind::U32),
        _ => ElemType::Float(FloatKind::F32),
    }
}

/// `cubes` cubes; the grid may be larger, so kernels check `CUBE_POS`.
pub(crate) fn grid(client: &Client, cubes: usize) -> CubeCount {
    calculate_cube_count_elemwise(client, cubes, CubeDim::new_single())
}

/// Cubes of [`BLOCK`] units for `units` units; kernels check `ABSOLUTE_POS`.
pub(crate) fn grid_of_units(client: &Client, units: usize) -> CubeCount {
    grid(client, units.div_ceil(BLOCK))
}

/// A cube of [`BLOCK`] units.
pub(crate) fn block() -> CubeDim {
    CubeDim::new_1d(BLOCK as u32)
}

/// Numbers from the host in a device buffer.
pub(crate) struct Numbers {
    handle: Handle,
    len: usize,
}

impl Numbers {
    pub(crate) fn new(client: &Client, numbers: &[u32]) -> Self {
        // No buffer of size zero: it could not be bound.
        let numbers = if numbers.is_empty() { &[0] } else { numbers };
        Self { handle: client.create_from_slice(u32::as_bytes(numbers)), len: numbers.len() }
    }

    pub(crate) fn from_sizes(client: &Client, sizes: &[usize]) -> Self {
        let numbers: Vec<u32> = sizes.iter().map(|&size| size as u32).collect();
        Self::new(client, &numbers)
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn arg(&self) -> BufferArg {
        // SAFETY: the buffer was made from `len` numbers.
        unsafe { BufferArg::from_raw_parts(self.handle.clone(), self.len) }
    }
}

/// A tensor as a kernel argument.
///
/// # Panics
/// When the tensor does not lie in row-major order, which kernels count on, or has more elements than 32 bits count, with
/// which kernels address buffers.
pub(crate) fn arg(tensor: &CubeTensor) -> BufferArg {
    let elements = tensor.shape().num_elements();
    assert!(u32::try_from(elements).is_ok(), "a device kernel was given {elements} elements, more than 2^32 - 1");
    if elements == 0 {
        // No buffer of size zero can be bound; the kernel reads nothing of it.
        // SAFETY: the buffer holds one element of any dtype.
        return unsafe { BufferArg::from_raw_parts(tensor.client.empty(size_of::<u64>()), 1) };
    }
    let (shape, strides) = (tensor.meta.shape(), tensor.meta.strides());
    assert!(tensor.is_contiguous(), "a device kernel was given a tensor of shape {shape:?} with strides {strides:?}");
    tensor.clone().into_buffer_arg()
}

/// A tensor that may be written in place, in row-major order: itself when this is the only handle, a copy otherwise.
pub(crate) fn writable(tensor: CubeTensor) -> CubeTensor {
    let tensor = contiguous(tensor);
    if tensor.can_mut() {
        return tensor;
    }
    // Not `CubeTensor::copy`: the memory it takes may have gaps between the rows.
    let copy = empty(&tensor, tensor.shape(), tensor.dtype);
    if copy.shape().num_elements() > 0 {
        let (client, dtype) = (copy.client.clone(), element_type(tensor.dtype));
        copy_into(&client, tensor.binding(), copy.clone().binding(), dtype);
    }
    copy
}
