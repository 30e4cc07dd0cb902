//! Failures on a device, which only come to light when results are asked for.
//!
//! A device computes behind the program's back. A kernel that does not compile, memory that runs out, a launch that the
//! driver refuses: what should have been written is marked as lost, whatever reads it is lost too, and reading it on the
//! host is an error. But an operation that writes a part of a tensor takes the mark away, so tensors that are written bit by
//! bit are to be checked in between.

use burn::tensor::Tensor;
use thiserror::Error;

/// What a device failed at.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DeviceError {
    /// Memory ran out.
    #[error("the device's memory is full, so take fewer sequences at a time, shorter ones or a smaller model: {0}")]
    OutOfMemory(String),
    /// Anything else: a kernel that does not compile or cannot be started, or an access outside its memory.
    #[error("the device failed: {0}")]
    Failed(String),
}

impl DeviceError {
    /// The error that a message of the device's runtime stands for: the last of its causes, on one line, without the source of
    /// the kernel and the places where a backtrace would stand.
    pub fn from_message(message: &str) -> Self {
        let cause = message.split("[Source]").next().unwrap_or_default();
        let cause = cause.split("No backtrace available").next().unwrap_or_default();
        let cause = cause.rsplit("Caused by:").next().unwrap_or_default();
        let message = cause.split_whitespace().collect::<Vec<_>>().join(" ");
        let full = ["out of device memory", "can't allocate buffer"].iter().any(|words| message.contains(words));
        if full { Self::OutOfMemory(message) } else { Self::Failed(message) }
    }
}

/// Checks that everything which was to write these tensors has been handed to the device. Costs a round trip to the thread
/// that feeds the device, and does not wait for the device itself. On the CPU there is nothing to check.
///
/// # Errors
/// When one of them is lost.
pub fn check_written<const D: usize>(tensors: &[&Tensor<D>]) -> Result<(), DeviceError> {
    #[cfg(feature = "cube")]
    {
        let primitives: Vec<_> = tensors
            .iter()
            .filter_map(|&tensor| tensor.clone().try_into_primitive::<burn_cubecl::CubeBackend>().ok())
            .collect();
        if let Some(first) = primitives.first() {
            let checked = first.client.check(primitives.iter().map(|tensor| &tensor.handle));
            return checked.map_err(|error| DeviceError::from_message(&error.to_string()));
        }
    }
    let _ = tensors;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_lose_the_source_and_keep_the_cause() {
        let error =
            DeviceError::from_message("A launch failed\nCaused by:\n  error: x\n[Source]\n__global__ void f() {}");
        assert_eq!(error, DeviceError::Failed("error: x".to_owned()));
        let lost =
            "Lost\nCaused by:\n  out of device memory\n  allocating 5 bytes\nNo backtrace available\nAsked at: x";
        let error = DeviceError::from_message(lost);
        assert_eq!(
            error.to_string(),
            "the device's memory is full, so take fewer sequences at a time, shorter ones or a smaller model: out of device memory allocating 5 bytes"
        );
    }
}
