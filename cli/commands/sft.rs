//! `nemo-burn sft`: supervised warm start on demonstrations.

use std::time::Instant;

use nemo_rl::checkpoint::Algorithm;
use nemo_rl::sft;
use nemo_rl::tasks::demonstrations;

use super::ground_truths;
use super::run::{BuiltIn, Intent, Parts, conclude, describe, load_config};
use crate::arguments::SftArguments;
use crate::progress::Progress;
use crate::report::summary::Kind;
use crate::{interrupt, output};

const BUILT_IN: BuiltIn = BuiltIn {
    path: "configs/sft_workplace_tiny.yaml",
    text: include_str!("../../configs/sft_workplace_tiny.yaml"),
    algorithm: Algorithm::Sft,
};

pub fn run(arguments: SftArguments) -> anyhow::Result<()> {
    let began = Instant::now();
    let output_dir = arguments.output.as_ref().map(|folder| format!("sft.output_dir={}", folder.display()));
    let config = load_config(&arguments.run, &BUILT_IN, output_dir.as_slice())?;
    config.check_supervised()?;
    let source = demonstrations(&config.data.train, "data.train")?;
    if arguments.run.dry_run {
        let intent = Intent {
            algorithm: BUILT_IN.algorithm,
            seed: config.sft.seed,
            shuffle_rewards: false,
            last_step: config.sft.max_num_steps as u64,
            output: config.sft.output_dir.as_deref(),
        };
        return describe(&arguments.run, &config, &intent);
    }
    let mut parts = Parts::assemble(&arguments.run, config, false)?;
    if parts.config.data.train.data_path.is_some() {
        // The whole file is one chunk.
        ground_truths::check_set(&parts.config.data.train, &source.chunk(0, None)?, &parts.environment)?;
    }
    ground_truths::check_set(&parts.config.data.validation, &parts.validation_tasks, &parts.environment)?;
    let stop = interrupt::install()?;
    let mut progress = Progress::new("loss", parts.config.logger.num_val_samples_to_print);
    let (inputs, policy) = parts.inputs(&stop);
    let summary = sft::train_supervised(policy, inputs, source.as_ref(), &mut progress);
    progress.finish();
    conclude(&summary?, Kind::Supervised, &parts.config.policy.model_name, began.elapsed())?;
    match &parts.config.sft.output_dir {
        Some(folder) => output::line(&format!("model       {}", folder.display())),
        None => Ok(()),
    }
}
