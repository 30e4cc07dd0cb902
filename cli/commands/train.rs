//! `nemo-burn train`: GRPO.

use std::time::Instant;

use nemo_rl::checkpoint::Algorithm;
use nemo_rl::tasks::load_tasks;
use nemo_rl::train;

use super::ground_truths;
use super::run::{BuiltIn, Intent, Parts, conclude, describe, load_config};
use crate::arguments::TrainArguments;
use crate::progress::Progress;
use crate::report::summary::Kind;
use crate::{interrupt, output};

pub const BUILT_IN: BuiltIn = BuiltIn {
    path: "configs/grpo_workplace_tiny.yaml",
    text: include_str!("../../configs/grpo_workplace_tiny.yaml"),
    algorithm: Algorithm::Grpo,
};

pub fn run(arguments: TrainArguments) -> anyhow::Result<()> {
    let began = Instant::now();
    let config = load_config(&arguments.run, &BUILT_IN, &[])?;
    let tasks = load_tasks(&config.data.train, "data.train")?;
    if arguments.run.dry_run {
        let intent = Intent {
            algorithm: BUILT_IN.algorithm,
            seed: config.grpo.seed,
            shuffle_rewards: arguments.shuffle_rewards,
            last_step: train::last_step(&config, tasks.len())?.0,
            output: None,
        };
        return describe(&arguments.run, &config, &intent);
    }
    let mut parts = Parts::assemble(&arguments.run, config, arguments.shuffle_rewards)?;
    ground_truths::check_set(&parts.config.data.train, &tasks, &parts.environment)?;
    ground_truths::check_set(&parts.config.data.validation, &parts.validation_tasks, &parts.environment)?;
    output::note(&format!(
        "tasks: {} to train on, {} to validate on; {} x {} rollouts a step",
        tasks.len(),
        parts.validation_tasks.len(),
        parts.config.grpo.num_prompts_per_step,
        parts.config.grpo.num_generations_per_prompt
    ));
    let stop = interrupt::install()?;
    let mut progress = Progress::new("reward", parts.config.logger.num_val_samples_to_print);
    let (inputs, policy) = parts.inputs(&stop);
    let summary = train::train(policy, inputs, &tasks, &mut progress);
    progress.finish();
    conclude(&summary?, Kind::Grpo, &parts.config.policy.model_name, began.elapsed())
}
