//! Matrix products on a device, by a strategy for each type and number of rows.
//!
//! Nothing is chosen by timing, so the same product has the same bits in every run on the same kind of device. Numbers in f32
//! are multiplied as such: tensor cores would round them to TF32, eleven significant bits, which is for the user to allow.

use std::sync::OnceLock;

use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems, MatmulSetupError};
use cubek::matmul::launch::launch_ref;
use cubek::matmul::multi_level::Strategy;
use cubek::matmul::multi_level::routines::TileSizeSelection;
use cubek::matmul::multi_level::routines::batch::simple_unit::SimpleUnitSelectionArgs;
use cubek::matmul::routine::BlueprintStrategy;
use cubek::std::InputBinding;

use super::{cast_to, element_type, empty, sizes};

/// Products of fewer rows are bound by the reading of the matrix; tiles of tensor cores would be mostly empty.
const FEW_ROWS: usize = 8;

/// Set when the program starts, if ever.
static ALLOW_TF32: OnceLock<()> = OnceLock::new();

/// Lets products of f32 matrices round their factors to TF32, as tensor cores take them, for the rest of the program. Without
/// effect on other types, and on devices without tensor cores.
pub fn allow_tf32() {
    let _ = ALLOW_TF32.set(());
}

/// Whether there are products of matrices of this type.
pub(crate) fn multiplies(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::Flex32 | DType::F16 | DType::BF16)
}

/// `lhs rhs`: `[m, k]`, `[k, n]` to `[m, n]`, in the dtype of `lhs`. Rows may lie in any order in memory.
///
/// # Panics
/// When the device refuses a product that needs nothing special of it.
pub(crate) fn product(lhs: CubeTensor, rhs: CubeTensor) -> CubeTensor {
    let ([m, k], [_, n]) = (sizes(&lhs), sizes(&rhs));
    if k == 0 {
        return CubeBackend::float_zeros(Shape::from([m, n]), &lhs.device, lhs.dtype.into());
    }
    let out = empty(&lhs, [m, n], lhs.dtype);
    product_into(&lhs, rhs, &out);
    out
}

/// `lhs rhs`, `[m, k]` with `k > 0` and `[k, n]`, written to `out`, `[m, n]` in the dtype of `lhs`.
fn product_into(lhs: &CubeTensor, rhs: CubeTensor, out: &CubeTensor) {
    let dtype = lhs.dtype;
    let rhs = &cast_to(rhs, dtype);
    let ([m, k], [_, n]) = (sizes(lhs), sizes(rhs));
    if m == 0 || n == 0 {
        return;
    }
    let for_cores = matches!(dtype, DType::F16 | DType::BF16) || ALLOW_TF32.get().is_some();
    if for_cores && m >= FEW_ROWS && launch(Strategy::SimpleCyclicCmma(Default::default()), lhs, rhs, out).is_ok() {
        return;
    }
    // Few rows, numbers that cores would round, or a device without them.
    let tile_size = if m < FEW_ROWS { TileSizeSelection::MinTileSize } else { TileSizeSelection::MaxTileSize };
    let plain = Strategy::SimpleUnit(BlueprintStrategy::Inferred(SimpleUnitSelectionArgs { tile_size }));
    let refused = launch(plain, lhs, rhs, out);
    assert!(refused.is_ok(), "the device refuses a product of [{m}, {k}] and [{k}, {n}] in {dtype:?}: {refused:?}");
}

fn launch(strategy: Strategy, lhs: &CubeTensor, rhs: &CubeTensor, out: &CubeTensor) -> Result<(), MatmulSetupError> {
    let dtype = element_type(out.dtype);
    let input = |tensor: &CubeTensor| InputBinding::new(tensor.clone().binding(), dtype);
    let mut dtypes = MatmulElems::from_globals(&MatmulGlobalElems { lhs: dtype, rhs: dtype, out: dtype });
    launch_ref(&strategy.into(), &out.client, input(lhs), input(rhs), out.clone().binding(), &mut dtypes)
}
