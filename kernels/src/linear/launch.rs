//! Device matrix products, as Burn chooses them for the device.

use burn_cubecl::CubeBackend;

use super::LinearOps;

impl LinearOps for CubeBackend {}
