//! What a device fails at is an error that says so, not a wrong number.

use crate::adamw_forms::adamw;
use burn::tensor::{DType, Tensor};
use nemo_kernels::{DeviceError, WriteCheck};

use crate::check::STEP;
use crate::device::named_device;
use crate::harness::*;

fn check(tensor: &Tensor<1>) -> Result<(), DeviceError> {
    let mut check = WriteCheck::default();
    check.add(tensor);
    check.finish()
}

#[test]
fn memory_that_runs_out_is_said_and_spoils_what_depends_on_it() {
    let Some((name, device)) = named_device() else { return };
    if !name.starts_with("cuda") {
        // wgpu panics on its own thread instead.
        return println!("skipped: {device:?} does not report it");
    }
    // A tebibyte.
    let lost = Tensor::<1>::empty([1usize << 38], (&device, DType::F32));
    let error = check(&lost).unwrap_err();
    assert!(matches!(error, DeviceError::OutOfMemory(_)), "{error}");
    let dependent = lost.narrow(0, 0, 8) * 2.0;
    check(&dependent).unwrap_err();
    let sound = tensor(&[1.0; 8], DType::F32, &device);
    check(&sound).unwrap();
    assert_eq!(to_vec((sound.clone() + 1.0).sum()), [16.0]);
    // An update by a lost gradient loses weights and moments, which nobody reads at once.
    let (param, first, second) = adamw(sound.clone(), dependent, sound.clone(), sound, 1, STEP);
    [param, first, second].iter().for_each(|tensor| assert!(check(tensor).is_err()));
}
