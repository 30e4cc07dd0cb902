//! Which device the tests of devices run on; every crate's `tests/devices.rs` includes this file.

use burn::tensor::Device;

/// The device under test and its name for `--device`, or nothing and a line that says why: the first CUDA device with
/// the feature `cuda`, else software Vulkan with the feature `wgpu`.
pub fn named_device() -> Option<(&'static str, Device)> {
    #[cfg(feature = "cuda")]
    {
        if let Some(device) = Device::enumerate(burn::tensor::DeviceType::Cuda).first() {
            return Some(("cuda:0", device.clone()));
        }
        println!("skipped: no CUDA device");
    }
    #[cfg(feature = "wgpu")]
    {
        let software = Device::wgpu(burn::tensor::DeviceKind::Cpu);
        let found = Device::enumerate(burn::tensor::DeviceType::Wgpu);
        if found.iter().any(|device| format!("{device:?}") == format!("{software:?}")) {
            return Some(("wgpu", software));
        }
        println!("skipped: no Vulkan device (none of {found:?} is a software device)");
    }
    #[cfg(not(any(feature = "wgpu", feature = "cuda")))]
    println!("skipped: built without a device feature (wgpu or cuda)");
    None
}
