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
        const FULL: [&str; 3] = ["out of device memory", "ut-of-memory", "an't allocate"];
        let mut cause = message;
        for end in ["[Source]", "No backtrace available", "Backtrace"] {
            cause = cause.split(end).next().unwrap_or_default();
        }
        let cause = cause.rsplit("Caused by:").next().unwrap_or_default();
        let cause = cause.split_whitespace().collect::<Vec<_>>().join(" ");
        let full = FULL.iter().any(|words| message.contains(words));
        if full { Self::OutOfMemory(cause) } else { Self::Failed(cause) }
    }
}

/// Tensors of which everything that was to write them must have been handed to the device.
///
/// The check costs a round trip to the thread that feeds the device, and does not wait for the device itself. On the CPU there
/// is nothing to check.
#[derive(Default)]
pub struct WriteCheck {
    #[cfg(feature = "cube")]
    tensors: Vec<burn_cubecl::tensor::CubeTensor>,
}

impl WriteCheck {
    /// Adds a tensor that is part of no graph of gradients.
    pub fn add<const D: usize>(&mut self, tensor: &Tensor<D>) {
        #[cfg(feature = "cube")]
        self.tensors.extend(tensor.clone().try_into_primitive::<burn_cubecl::CubeBackend>());
        #[cfg(not(feature = "cube"))]
        let _ = tensor;
    }

    /// Checks all of them.
    ///
    /// # Errors
    /// When one is lost.
    pub fn finish(self) -> Result<(), DeviceError> {
        #[cfg(feature = "cube")]
        if let Some(first) = self.tensors.first() {
            let checked = first.client.check(self.tensors.iter().map(|tensor| &tensor.handle));
            return checked.map_err(|error| DeviceError::from_message(&error.to_string()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_cause_is_what_counts() {
        let full = |cause: &str| DeviceError::OutOfMemory(cause.to_owned());
        let failed = |cause: &str| DeviceError::Failed(cause.to_owned());
        for (message, expected) in [
            ("Several\nCaused by:\n  A launch\nCaused by:\n  error: x\n[Source]\nvoid f() {}", failed("error: x")),
            ("A launch\nCaused by:\n  no\n  room\nBacktrace:\nNo backtrace available", failed("no room")),
            ("An out-of-memory error\nCaused by:\n  5 bytes\nBacktrace:\nNo backtrace available", full("5 bytes")),
            (
                "Lost\nCaused by:\n  out of device memory\nNo backtrace available\nAsked at: x",
                full("out of device memory"),
            ),
            ("can't allocate buffer of size: 7", full("can't allocate buffer of size: 7")),
        ] {
            assert_eq!(DeviceError::from_message(message), expected, "{message}");
        }
    }
}
