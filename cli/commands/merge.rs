//! `nemo-burn merge`: a model folder with an adapter merged into it.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::Instant;

use nemo_model::adapter::merge_adapter;
use nemo_rl::assemble;

use super::places::places;
use crate::arguments::MergeArguments;
use crate::{interrupt, output};

pub fn run(arguments: &MergeArguments) -> anyhow::Result<()> {
    let began = Instant::now();
    let base = assemble::model_folder(&arguments.model, &places(None)?)?;
    let stop = interrupt::flag("\nstopping: what was begun is removed (Ctrl-C again ends at once)")?;
    let is_watched = output::is_watched();
    let mut shown = 0;
    let merged = merge_adapter(&base, &arguments.adapter, &arguments.output, |num_written| {
        // In steps that one can read.
        const STEP: usize = 50_000_000;
        if is_watched && num_written >= shown + STEP {
            shown = num_written;
            output::overwrite(&format!("{} M parameters", num_written / 1_000_000));
        }
        if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    if shown > 0 {
        output::overwrite("");
    }
    let merged = merged?;
    output::line(&format!(
        "{}: {} with {} merged into {} matrices, {} bytes in {} file(s), {:.1} seconds",
        arguments.output.display(),
        arguments.model,
        arguments.adapter.display(),
        merged.num_matrices,
        merged.saved.num_bytes,
        merged.saved.num_files,
        began.elapsed().as_secs_f64()
    ))
}
