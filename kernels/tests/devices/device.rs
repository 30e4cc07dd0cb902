//! Which device the tests of devices run on; every crate's `tests/devices.rs` includes this file.

use burn::tensor::Device;

/// The device under test and its name for `--device`, or nothing and a line that says why: the first CUDA device with
/// the feature `cuda`, else software Vulkan with the feature `wgpu`.
///
/// `NEMO_BURN_TEST_DEVICE` names one of the two, `cuda` or `wgpu`.
///
/// # Panics
/// When the named device is not there: it was asked for, so nothing is skipped.
pub fn named_device() -> Option<(&'static str, Device)> {
    let asked = std::env::var("NEMO_BURN_TEST_DEVICE").ok();
    let found = match asked.as_deref() {
        Some("cuda") => cuda(),
        Some("wgpu") => wgpu(),
        Some(other) => panic!("NEMO_BURN_TEST_DEVICE={other}: expected cuda or wgpu"),
        None => cuda().or_else(wgpu),
    };
    assert!(found.is_some() || asked.is_none(), "NEMO_BURN_TEST_DEVICE={}: there is none", asked.unwrap_or_default());
    found
}

#[cfg(feature = "cuda")]
fn cuda() -> Option<(&'static str, Device)> {
    let device = Device::enumerate(burn::tensor::DeviceType::Cuda).first().cloned();
    if device.is_none() {
        println!("skipped: no CUDA device");
    }
    device.map(|device| ("cuda:0", device))
}

#[cfg(not(feature = "cuda"))]
fn cuda() -> Option<(&'static str, Device)> {
    println!("skipped: CUDA, since this was built without the feature cuda");
    None
}

#[cfg(feature = "wgpu")]
fn wgpu() -> Option<(&'static str, Device)> {
    let software = Device::wgpu(burn::tensor::DeviceKind::Cpu);
    let found = Device::enumerate(burn::tensor::DeviceType::Wgpu);
    if found.iter().any(|device| format!("{device:?}") == format!("{software:?}")) {
        return Some(("wgpu", software));
    }
    println!("skipped: no Vulkan device (none of {found:?} is a software device)");
    None
}

#[cfg(not(feature = "wgpu"))]
fn wgpu() -> Option<(&'static str, Device)> {
    println!("skipped: Vulkan, since this was built without the feature wgpu");
    None
}
