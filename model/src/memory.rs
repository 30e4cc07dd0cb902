//! Whether a model that is made from nothing, and then trained, has room in this machine's memory.
//!
//! A configuration of a few lines can describe any number of weights. Where they lie in files, the files are the limit; a
//! model that is made from its configuration alone is checked here, since a program that runs out of memory is ended
//! without a word.

use std::fs;
use std::path::Path;

use crate::checkpoint::expected_tensors;
use crate::config::{ConfigError, ModelConfig};

/// Bytes of a trained parameter: its value, its gradient and Adam's two moments in f32.
const BYTES_PER_PARAMETER: usize = 16;

/// Checks that a model of the shape `config`, read from `path`, could be made and trained here.
///
/// # Errors
/// [`ConfigError::Inconsistent`] with the number of parameters, the bytes they take and the largest tensor.
pub fn check_room(config: &ModelConfig, path: &Path) -> Result<(), ConfigError> {
    match problem(config, memory_bytes()) {
        Some(problem) => Err(ConfigError::Inconsistent { path: path.to_owned(), problem }),
        None => Ok(()),
    }
}

fn problem(config: &ModelConfig, available: Option<usize>) -> Option<String> {
    let parameters = config.num_parameters();
    let needed = parameters.saturating_mul(BYTES_PER_PARAMETER);
    let limit = match available {
        Some(available) if needed > available => format!("this machine has {:.1} GB", gigabytes(available)),
        // Asking costs nothing: memory is taken when it is written to. A limit of the process is found so.
        _ if Vec::<u8>::new().try_reserve_exact(needed).is_err() => "this process does not get that much".to_owned(),
        _ => return None,
    };
    let tensors = expected_tensors(config).into_iter();
    let largest = tensors.max_by_key(|tensor| tensor.shape.iter().map(|size| *size as u128).product::<u128>())?;
    Some(format!(
        "a model of this shape has {parameters} parameters; to make and train it takes {:.1} GB (weights, gradients and two \
         moments in f32), but {limit}; the largest tensor is {} of shape {:?}",
        gigabytes(needed),
        largest.name,
        largest.shape
    ))
}

fn gigabytes(bytes: usize) -> f64 {
    bytes as f64 / 1e9
}

/// Bytes of memory that this process can still take: what the machine has available, less where its container is limited
/// further; `None` where the system does not say.
pub fn available_memory() -> Option<usize> {
    let read = |path: &str| fs::read_to_string(path).ok();
    let number = |path: &str| read(path)?.trim().parse::<usize>().ok();
    let field = |path: &str, name: &str| {
        let text = read(path)?;
        text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse::<usize>().ok()
    };
    let machine = field("/proc/meminfo", "MemAvailable:").and_then(|kilobytes| kilobytes.checked_mul(1024));
    // The second and the first version of control groups. Files that were read count as used, and give way.
    let containers = [
        ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file "),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "),
    ];
    let container = containers.map(|(folder, limit, used, files)| {
        let (limit, used) = (number(&format!("{folder}/{limit}"))?, number(&format!("{folder}/{used}"))?);
        let files = field(&format!("{folder}/memory.stat"), files).unwrap_or(0);
        Some(limit.saturating_sub(used.saturating_sub(files)))
    });
    container.into_iter().chain([machine]).flatten().min()
}

/// Bytes of memory of this machine, or of the container that the process runs in; `None` where the system has no such files.
fn memory_bytes() -> Option<usize> {
    let read = |path: &str| fs::read_to_string(path).ok();
    let machine = read("/proc/meminfo").and_then(|text| {
        let kilobytes = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.split_whitespace().next()?;
        kilobytes.parse::<usize>().ok()?.checked_mul(1024)
    });
    // The second and the first version of control groups; without a limit these hold a word or a number beyond any memory.
    let container = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .map(|path| read(path)?.trim().parse::<usize>().ok());
    container.into_iter().chain([machine]).flatten().min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TINY: &str = include_str!("../../configs/models/tiny.json");

    fn shape(changes: &[(&str, usize)]) -> ModelConfig {
        let mut document: serde_json::Value = serde_json::from_str(TINY).unwrap();
        for (key, value) in changes {
            document[key] = (*value).into();
        }
        ModelConfig::from_json_text(&document.to_string(), Path::new("shape.json")).unwrap()
    }

    /// Sizes that are refused for their own sake are far above these; it is their product that no memory holds.
    #[test]
    fn models_that_no_memory_holds_are_refused_with_their_size() {
        for (changes, tensor) in [
            (&[("vocab_size", 200_000_000)][..], "backbone.embeddings.weight of shape [200000000, 128]"),
            (&[("hidden_size", 100_000_000)], "of shape [2048, 100000000]"),
            (&[("intermediate_size", 100_000_000)], "down_proj.weight of shape [128, 100000000]"),
            (&[("conv_kernel", 200_000_000)], "conv1d.weight of shape"),
            (&[("head_dim", 100_000_000)], "_proj.weight of shape"),
            (&[("mamba_num_heads", 1_000_000)], "in_proj.weight of shape"),
            (&[("num_attention_heads", 1_000_000)], "_proj.weight of shape"),
            (&[("vocab_size", 1 << 28), ("hidden_size", 1 << 28)], "[268435456, 268435456]"),
        ] {
            let config = shape(changes);
            let message = problem(&config, Some(100_000_000_000)).unwrap();
            for part in [tensor, " parameters; ", " GB ", "this machine has 100.0 GB"] {
                assert!(message.contains(part), "{changes:?}: {part} is missing in: {message}");
            }
            let parameters = config.num_parameters();
            assert!(parameters >= 1 << 30 && message.contains(&parameters.to_string()), "{changes:?}: {message}");
        }
    }

    #[test]
    fn the_bound_is_what_training_takes() {
        let config = shape(&[]);
        assert!(check_room(&config, Path::new("shape.json")).is_ok());
        let needed = config.num_parameters() * 16;
        assert_eq!(problem(&config, Some(needed)), None);
        assert!(problem(&config, Some(needed - 1)).unwrap().contains("this machine has"));
        assert_eq!(problem(&config, None), None);
        assert!(available_memory() <= memory_bytes());
    }
}
