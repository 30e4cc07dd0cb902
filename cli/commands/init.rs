//! `nemo-burn init`: a folder of random weights, of any shape.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::Instant;

use nemo_model::config::{ModelConfig, WeightDtype};
use nemo_model::{RandomOptions, save_random};

use crate::arguments::{CheckpointDtype, InitArguments};
use crate::{interrupt, output};

pub fn run(arguments: &InitArguments) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut config = ModelConfig::from_file(&arguments.config)?;
    if let Some(dtype) = arguments.dtype {
        config.dtype = weight_dtype(dtype);
    }
    let num_parameters = config.num_parameters();
    let stop = interrupt::flag("\nstopping: what was begun is removed (Ctrl-C again ends at once)")?;
    let is_watched = output::is_watched();
    let mut shown = 0;
    let saved = save_random(&arguments.output, &config, RandomOptions::of_seed(arguments.seed), |num_written| {
        // In percent; a tied head is written twice and counted once.
        let done = (num_written as u128 * 100 / num_parameters.max(1) as u128).min(100);
        if is_watched && done > shown {
            shown = done;
            output::overwrite(&format!("{done} % of {num_parameters} parameters"));
        }
        if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    if shown > 0 {
        output::overwrite("");
    }
    let saved = saved?;
    output::line(&format!(
        "{}: {num_parameters} random parameters in {} from seed {}, {} bytes in {} file(s), {:.1} seconds",
        arguments.output.display(),
        config.dtype.name(),
        arguments.seed,
        saved.num_bytes,
        saved.num_files,
        began.elapsed().as_secs_f64()
    ))
}

fn weight_dtype(dtype: CheckpointDtype) -> WeightDtype {
    match dtype {
        CheckpointDtype::Float32 => WeightDtype::Float32,
        CheckpointDtype::Bfloat16 => WeightDtype::BFloat16,
        CheckpointDtype::Float16 => WeightDtype::Float16,
    }
}
