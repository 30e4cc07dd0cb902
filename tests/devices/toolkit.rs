//! What the program says where kernels cannot be compiled.

use std::process::Command;

use crate::device::named_device;
use crate::program::{PROGRAM, finish, repository};

#[test]
fn a_missing_header_is_said_with_what_to_install() {
    let Some((device, _)) = named_device() else { return };
    if !device.starts_with("cuda") {
        return println!("skipped: {device} has no toolkit");
    }
    let toolkit = tempfile::tempdir().unwrap();
    std::fs::create_dir(toolkit.path().join("include")).unwrap();
    let mut command = Command::new(PROGRAM);
    // Graphics drivers, which are looked for too, complain where the second is missing.
    command.current_dir(repository()).env("CUDA_PATH", toolkit.path()).env("XDG_RUNTIME_DIR", toolkit.path());
    command.args([
        "generate",
        "--model=configs/models/tiny",
        "--prompt=Hello",
        "--max-new-tokens=1",
        "--device",
        device,
    ]);
    let missing = toolkit.path().join("include/cuda_runtime.h");
    finish(command).refused(&[missing.to_str().unwrap(), "install", "CUDA toolkit", "CUDA_PATH"]);
}
