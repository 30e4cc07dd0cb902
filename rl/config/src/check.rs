//! Settings that are fine one by one and wrong together, or out of range.
//!
//! The loss rules are NeMo RL's own assertions, raised when the configuration is loaded rather than at the first step.

use std::fmt::Debug;

use crate::error::{ConfigError, Origin, did_you_mean};
use crate::limits;
use crate::schema::{
    BaseDtype, DatasetConfig, GenerateConfig, LossConfig, LrDecayStyle, MomentDtype, Precision, RunConfig,
    TruncationType,
};
use crate::{TRAIN_METRICS, VALIDATION_METRICS};

type Result<T> = std::result::Result<T, ConfigError>;

/// All checks of a decoded configuration but those of `unsupported`. The errors know the key; the loader adds where it is
/// written and, to contradictions, what is written there.
pub(crate) fn check(config: &RunConfig) -> Result<()> {
    ranges(config)?;
    decays(config)?;
    optimizer_dtypes(config)?;
    config.loss_fn.check()?;
    algorithm(config)?;
    names(config)?;
    metrics(config)?;
    datasets(config)
}

impl RunConfig {
    /// What only supervised training minds: of its steps the loss alone is measured, so no other `train:` metric ranks
    /// its checkpoints.
    ///
    /// # Errors
    /// [`ConfigError::OtherCommand`] with the key to change.
    pub fn check_supervised(&self) -> Result<()> {
        let metric = self.checkpointing.metric_name.as_deref();
        let foreign = metric.filter(|name| name.starts_with("train:") && *name != "train:loss");
        let Some(found) = foreign else { return Ok(()) };
        Err(ConfigError::OtherCommand {
            key: "checkpointing.metric_name".to_owned(),
            found: found.to_owned(),
            reason: format!(
                "supervised training does not measure `{found}`; take `train:loss` (with \
                 checkpointing.higher_is_better: false) or one of `val:`"
            ),
        })
    }
}

fn inconsistent<T>(key: &str, reason: impl Into<String>) -> Result<T> {
    let (origin, found) = (Origin::Default, String::new());
    Err(ConfigError::Inconsistent { origin, key: key.to_owned(), found, reason: reason.into() })
}

/// Fails unless `found` is in the range that `expected` describes.
fn range(condition: bool, key: &str, found: impl Debug, expected: &str) -> Result<()> {
    if condition { Ok(()) } else { Err(wrong(key, &format!("{found:?}"), expected.to_owned(), None)) }
}

fn wrong(key: &str, found: &str, expected: String, suggestion: Option<Box<str>>) -> ConfigError {
    let found = format!("`{found}`");
    ConfigError::WrongValue { origin: Origin::Default, key: key.to_owned(), found, expected, suggestion }
}

fn unknown_name(key: &str, found: &str, known: &[impl AsRef<str>]) -> ConfigError {
    let known: Vec<&str> = known.iter().map(AsRef::as_ref).collect();
    let suggestion = did_you_mean(found, known.iter().copied());
    wrong(key, found, format!("one of `{}`", known.join("`, `")), suggestion)
}

/// Fails with `reason` unless `condition` holds.
fn require(condition: bool, key: &str, reason: &str) -> Result<()> {
    if condition { Ok(()) } else { inconsistent(key, reason) }
}

impl LossConfig {
    /// Rules between the switches of the loss.
    ///
    /// # Errors
    /// [`ConfigError::Inconsistent`] with the key to change.
    pub fn check(&self) -> Result<()> {
        require(
            !(self.sequence_level_importance_ratios && self.token_level_loss),
            "loss_fn.sequence_level_importance_ratios",
            "one ratio per sequence needs loss_fn.token_level_loss: false",
        )?;
        if self.use_cispo {
            let key = "loss_fn.use_cispo";
            require(!self.disable_ppo_ratio, key, "it weights by the ratio that loss_fn.disable_ppo_ratio removes")?;
            require(
                !self.force_on_policy_ratio,
                key,
                "it clips the ratio that loss_fn.force_on_policy_ratio fixes at 1",
            )?;
            require(
                self.ratio_clip_c.is_none(),
                key,
                "dual clipping (loss_fn.ratio_clip_c) would undo it; set that to null",
            )?;
            require(self.token_level_loss, key, "it needs loss_fn.token_level_loss: true")?;
        }
        for (key, bound) in [
            ("loss_fn.kl_input_clamp_value", self.kl_input_clamp_value),
            ("loss_fn.kl_output_clamp_value", self.kl_output_clamp_value),
        ] {
            let bound = bound.unwrap_or(0.0);
            range(bound >= 0.0, key, bound, "at least 0, as it bounds an absolute value")?;
        }
        if let Some(bound) = self.ratio_clip_c {
            range(bound > 1.0, "loss_fn.ratio_clip_c", bound, "more than 1, as it bounds the ratio from above")?;
        }
        for (key, value) in [
            ("loss_fn.ratio_clip_min", self.ratio_clip_min),
            ("loss_fn.ratio_clip_max", self.ratio_clip_max),
            ("loss_fn.reference_policy_kl_penalty", self.reference_policy_kl_penalty),
            ("loss_fn.positive_example_nll_weight", self.positive_example_nll_weight),
        ] {
            range(value >= 0.0, key, value, "at least 0")?;
        }
        self.check_truncation()
    }

    fn check_truncation(&self) -> Result<()> {
        let (min, max) = (self.truncated_importance_sampling_ratio_min, self.truncated_importance_sampling_ratio);
        let Some(kind) = self.truncated_importance_sampling_type else {
            return require(
                min.is_none() && max.is_none(),
                "loss_fn.truncated_importance_sampling_ratio",
                "a bound needs loss_fn.truncated_importance_sampling_type: tis, icepop or seq-mask-tis",
            );
        };
        require(
            self.use_importance_sampling_correction,
            "loss_fn.truncated_importance_sampling_type",
            "there is no weight to truncate without loss_fn.use_importance_sampling_correction: true",
        )?;
        let Some(max) = max.filter(|max| *max > 0.0) else {
            return inconsistent(
                "loss_fn.truncated_importance_sampling_ratio",
                "truncation needs an upper bound above 0",
            );
        };
        require(
            min.is_some() || kind == TruncationType::Tis,
            "loss_fn.truncated_importance_sampling_ratio_min",
            "icepop and seq-mask-tis need a lower bound",
        )?;
        require(
            min.is_none_or(|min| min <= max),
            "loss_fn.truncated_importance_sampling_ratio_min",
            "the lower bound is above loss_fn.truncated_importance_sampling_ratio",
        )?;
        require(
            !(kind == TruncationType::SeqMaskTis && self.sequence_level_importance_ratios),
            "loss_fn.truncated_importance_sampling_type",
            "seq-mask-tis weighs tokens, which contradicts loss_fn.sequence_level_importance_ratios: true",
        )
    }
}

fn ranges(config: &RunConfig) -> Result<()> {
    let (grpo, policy, sft) = (&config.grpo, &config.policy, &config.sft);
    for (index, stage) in sft.curriculum.iter().enumerate() {
        range(stage.num_steps > 0, &format!("sft.curriculum.{index}.num_steps"), stage.num_steps, "at least 1")?;
    }
    require(
        sft.curriculum.is_empty() || config.data.train.data_path.is_none(),
        "sft.curriculum",
        "it needs the generator, which knows how difficult its tasks are; set data.train.generate instead of \
         data.train.data_path",
    )?;
    for (key, value) in [
        ("grpo.num_prompts_per_step", grpo.num_prompts_per_step),
        ("grpo.val_num_generations_per_prompt", grpo.val_num_generations_per_prompt),
        ("grpo.max_num_epochs", grpo.max_num_epochs),
        ("policy.train_global_batch_size", policy.train_global_batch_size),
        ("policy.train_micro_batch_size", policy.train_micro_batch_size),
        ("policy.dynamic_batching.train_mb_tokens", policy.dynamic_batching.train_mb_tokens),
        ("policy.max_total_sequence_length", policy.max_total_sequence_length),
        ("policy.chunk_tokens", policy.chunk_tokens),
        ("policy.megatron_cfg.peft.dim", policy.megatron_cfg.peft.dim),
        ("policy.generation.max_new_tokens", policy.generation.max_new_tokens),
        ("checkpointing.save_period", config.checkpointing.save_period),
        ("cluster.gpus_per_node", config.cluster.gpus_per_node),
        ("sft.batch_size", sft.batch_size),
        (
            "env.nemo_gym.workplace_assistant_simple_agent.responses_api_agents.simple_agent.max_steps",
            config.max_rollout_steps(),
        ),
    ] {
        range(value > 0, key, value, "at least 1")?;
    }
    range(
        grpo.num_generations_per_prompt > 1,
        "grpo.num_generations_per_prompt",
        grpo.num_generations_per_prompt,
        "at least 2: an advantage compares the rollouts of one prompt with each other, so with fewer every advantage is 0 \
         and nothing is learned",
    )?;
    require(
        grpo.num_prompts_per_step.saturating_mul(grpo.num_generations_per_prompt) <= limits::BATCH,
        "grpo.num_prompts_per_step",
        &format!(
            "{} prompts of grpo.num_generations_per_prompt: {} are more than the {} sequences that one step may have",
            grpo.num_prompts_per_step,
            grpo.num_generations_per_prompt,
            limits::BATCH
        ),
    )?;
    let (optimizer, generation) = (&policy.megatron_cfg.optimizer, &policy.generation);
    let scheduler = &policy.megatron_cfg.scheduler;
    for (key, value) in [
        ("policy.megatron_cfg.optimizer.lr", optimizer.lr),
        ("policy.megatron_cfg.optimizer.min_lr", optimizer.min_lr),
        ("policy.megatron_cfg.optimizer.weight_decay", optimizer.weight_decay),
        ("policy.megatron_cfg.optimizer.clip_grad", optimizer.clip_grad),
        ("policy.megatron_cfg.scheduler.lr_warmup_init", scheduler.lr_warmup_init),
        ("policy.generation.val_temperature", generation.val_temperature),
        ("sft.lr", sft.lr),
        ("sft.min_lr", sft.min_lr),
        ("sft.max_grad_norm", sft.max_grad_norm),
        ("sft.weight_decay", sft.weight_decay),
        ("sft.context_loss_weight", sft.context_loss_weight),
    ] {
        range(value.is_finite() && value >= 0.0, key, value, "at least 0")?;
    }
    for (key, value) in [
        ("policy.megatron_cfg.optimizer.adam_eps", optimizer.adam_eps),
        ("policy.generation.temperature", generation.temperature),
        ("policy.megatron_cfg.peft.alpha", policy.megatron_cfg.peft.alpha),
    ] {
        range(value.is_finite() && value > 0.0, key, value, "above 0")?;
    }
    for (key, value) in [
        ("policy.megatron_cfg.optimizer.adam_beta1", optimizer.adam_beta1),
        ("policy.megatron_cfg.optimizer.adam_beta2", optimizer.adam_beta2),
        ("policy.megatron_cfg.peft.dropout", policy.megatron_cfg.peft.dropout),
        ("sft.label_smoothing", sft.label_smoothing),
    ] {
        range((0.0..1.0).contains(&value), key, value, "at least 0 and below 1")?;
    }
    for (key, value) in [
        ("policy.generation.top_p", generation.top_p),
        ("policy.generation.val_top_p", generation.val_top_p),
        ("policy.generation.vllm_cfg.gpu_memory_utilization", generation.vllm_cfg.gpu_memory_utilization),
    ] {
        range(value > 0.0 && value <= 1.0, key, value, "above 0 and at most 1")?;
    }
    Ok(())
}

/// A decay that would climb; Megatron asserts the same.
fn decays(config: &RunConfig) -> Result<()> {
    let (megatron, sft) = (&config.policy.megatron_cfg, &config.sft);
    for (block, style, min_lr, lr) in [
        (
            "policy.megatron_cfg.optimizer",
            megatron.scheduler.lr_decay_style,
            megatron.optimizer.min_lr,
            megatron.optimizer.lr,
        ),
        ("sft", sft.lr_decay_style, sft.min_lr, sft.lr),
    ] {
        require(
            style == LrDecayStyle::Constant || min_lr <= lr,
            &format!("{block}.min_lr"),
            &format!("the learning rate decays to it, so it has to be at most {block}.lr"),
        )?;
    }
    Ok(())
}

/// What the optimizer keeps its state in; Megatron asserts the first of these.
fn optimizer_dtypes(config: &RunConfig) -> Result<()> {
    let (policy, optimizer) = (&config.policy, &config.policy.megatron_cfg.optimizer);
    let narrow = [
        ("main_params_dtype", optimizer.main_params_dtype != Precision::Float32),
        ("main_grads_dtype", optimizer.main_grads_dtype != Precision::Float32),
        ("exp_avg_dtype", optimizer.exp_avg_dtype != MomentDtype::Float32),
        ("exp_avg_sq_dtype", optimizer.exp_avg_sq_dtype != MomentDtype::Float32),
    ];
    for (key, is_narrow) in narrow {
        require(
            !is_narrow || optimizer.use_precision_aware_optimizer,
            &format!("policy.megatron_cfg.optimizer.{key}"),
            "it has to be float32 unless policy.megatron_cfg.optimizer.use_precision_aware_optimizer is true",
        )?;
    }
    require(
        optimizer.main_params_dtype == Precision::Float32 || !policy.megatron_cfg.peft.enabled,
        "policy.megatron_cfg.optimizer.main_params_dtype",
        "adapters (policy.megatron_cfg.peft) are float32 and updated as they are",
    )?;
    require(
        optimizer.main_params_dtype == Precision::Float32 || policy.precision == Precision::Bfloat16,
        "policy.megatron_cfg.optimizer.main_params_dtype",
        "weights in float32 (policy.precision) are updated as they are: only those in bfloat16 can do without a copy in float32",
    )
}

fn algorithm(config: &RunConfig) -> Result<()> {
    let (grpo, policy) = (&config.grpo, &config.policy);
    let batch = grpo.num_prompts_per_step * grpo.num_generations_per_prompt;
    require(
        batch.is_multiple_of(policy.train_global_batch_size),
        "policy.train_global_batch_size",
        "it has to divide grpo.num_prompts_per_step * grpo.num_generations_per_prompt",
    )?;
    require(
        !config.loss_fn.force_on_policy_ratio || batch == policy.train_global_batch_size,
        "loss_fn.force_on_policy_ratio",
        "the ratio is 1 only with one optimizer step per batch: policy.train_global_batch_size has to be the whole batch",
    )?;
    require(
        config.loss_fn.reference_policy_kl_penalty == 0.0 || !grpo.skip_reference_policy_logprobs_calculation,
        "grpo.skip_reference_policy_logprobs_calculation",
        "loss_fn.reference_policy_kl_penalty needs the reference policy's log-probs",
    )?;
    require(
        grpo.advantage_clip_low.is_none_or(|low| grpo.advantage_clip_high.is_none_or(|high| low <= high)),
        "grpo.advantage_clip_low",
        "it is above grpo.advantage_clip_high",
    )?;
    require(
        grpo.stop_at_validation_metric.is_none() || grpo.stop_at_validation_threshold.is_some(),
        "grpo.stop_at_validation_metric",
        "it needs grpo.stop_at_validation_threshold",
    )?;
    require(
        grpo.stop_at_validation_threshold.is_none() || grpo.stop_at_validation_metric.is_some(),
        "grpo.stop_at_validation_threshold",
        "it ends nothing without grpo.stop_at_validation_metric",
    )?;
    require(
        matches!(
            (policy.megatron_cfg.peft.base_dtype, policy.precision),
            (BaseDtype::Int8, _)
                | (BaseDtype::Float32, Precision::Float32)
                | (BaseDtype::Bfloat16, Precision::Bfloat16)
        ),
        "policy.megatron_cfg.peft.base_dtype",
        "it is policy.precision or int8: set policy.precision for float32 and bfloat16",
    )?;
    let scheduler = &policy.megatron_cfg.scheduler;
    require(
        scheduler.lr_decay_style == LrDecayStyle::Constant
            || scheduler.lr_warmup_iters < scheduler.lr_decay_iters
            // A run that ends within the warm-up never comes to the decay, which often ends with the run.
            || grpo.max_num_steps <= scheduler.lr_warmup_iters + 1,
        "policy.megatron_cfg.scheduler.lr_decay_iters",
        "the decay has to end after lr_warmup_iters",
    )?;
    let decay = policy.megatron_cfg.optimizer.weight_decay;
    require(
        scheduler.start_weight_decay == decay && scheduler.end_weight_decay == decay,
        "policy.megatron_cfg.scheduler.start_weight_decay",
        "weight decay is constant, so start, end and policy.megatron_cfg.optimizer.weight_decay have to be equal",
    )?;
    require(
        policy.generation.vllm_cfg.max_model_len == policy.max_total_sequence_length,
        "policy.generation.vllm_cfg.max_model_len",
        "what was sampled is trained on, so it has to equal policy.max_total_sequence_length",
    )
}

/// Names that choose between implementations.
fn names(config: &RunConfig) -> Result<()> {
    let (generation, data) = (&config.policy.generation, &config.data.default);
    for (key, found, known) in [
        ("policy.megatron_cfg.optimizer.optimizer", &config.policy.megatron_cfg.optimizer.optimizer, &["adam"][..]),
        ("policy.generation.backend", &generation.backend, &["vllm"]),
        (
            "policy.generation.vllm_cfg.http_server_serving_chat_kwargs.tool_parser",
            &generation.vllm_cfg.http_server_serving_chat_kwargs.tool_parser,
            &["nemotron_json"],
        ),
        ("data.default.dataset_name", &data.dataset_name, &["NemoGymDataset"]),
        ("data.default.env_name", &data.env_name, &["nemo_gym", "penguin"]),
        ("data.default.processor", &data.processor, &["nemo_gym_data_processor"]),
    ] {
        if !known.contains(&found.as_str()) {
            return Err(unknown_name(key, found, known));
        }
    }
    for path in &config.env.nemo_gym.config_paths {
        let known = ["workplace_assistant", "vllm_model_for_training", "vllm_model"];
        let name = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".yaml");
        if !known.contains(&name) {
            return Err(ConfigError::Refused {
                origin: Origin::Default,
                key: "env.nemo_gym.config_paths".to_owned(),
                found: path.clone(),
                reason: "workplace_assistant is the only environment".to_owned(),
            });
        }
    }
    Ok(())
}

/// Metrics by name: what nobody measures would rank nothing and stop nothing.
fn metrics(config: &RunConfig) -> Result<()> {
    let grpo = &config.grpo;
    // What it takes for a validation to measure a metric of the list.
    let measured = |key: &str, name: &str| match name {
        "pass_k" => require(
            grpo.val_num_generations_per_prompt > 1,
            key,
            "`pass_k` is measured with at least 2 grpo.val_num_generations_per_prompt",
        ),
        "greedy_accuracy" => require(grpo.val_greedy, key, "`greedy_accuracy` is measured with grpo.val_greedy: true"),
        _ => Ok(()),
    };
    if let Some(found) = &config.checkpointing.metric_name {
        let key = "checkpointing.metric_name";
        let known = VALIDATION_METRICS.map(|name| format!("val:{name}"));
        let known: Vec<String> = known.into_iter().chain(TRAIN_METRICS.map(|name| format!("train:{name}"))).collect();
        if !known.contains(found) {
            return Err(unknown_name(key, found, &known));
        }
        measured(key, found.strip_prefix("val:").unwrap_or_default())?;
    }
    if let Some(found) = &grpo.stop_at_validation_metric {
        let key = "grpo.stop_at_validation_metric";
        let name = found.strip_prefix("val:").unwrap_or(found);
        if !VALIDATION_METRICS.contains(&name) {
            return Err(unknown_name(key, found, &VALIDATION_METRICS));
        }
        measured(key, name)?;
        let validation = &config.data.validation;
        require(
            validation.data_path.is_some() || validation.generate.count > 0,
            key,
            "there is nothing to validate on; set data.validation",
        )?;
        let last_periodic = grpo.max_num_steps.checked_div(grpo.val_period).unwrap_or(0) * grpo.val_period;
        let periodic = last_periodic > 0 && i64::try_from(last_periodic).is_ok_and(|last| last >= grpo.val_start_at);
        require(
            periodic || grpo.val_at_start || grpo.val_at_end || ranks_by_validation(config),
            key,
            "no validation is ever due: grpo.val_at_start and grpo.val_at_end are false, and grpo.val_period and \
             grpo.val_start_at give none up to grpo.max_num_steps",
        )?;
    }
    Ok(())
}

/// Whether every periodic checkpoint is validated, to be ranked.
fn ranks_by_validation(config: &RunConfig) -> bool {
    let checkpointing = &config.checkpointing;
    let by_validation = checkpointing.metric_name.as_ref().is_some_and(|name| name.starts_with("val:"));
    checkpointing.enabled && checkpointing.keep_top_k.is_some() && by_validation
}

fn datasets(config: &RunConfig) -> Result<()> {
    let both = |set: &DatasetConfig| set.data_path.is_some() && set.generate.count > 0;
    for (key, set) in [("data.train", &config.data.train), ("data.validation", &config.data.validation)] {
        require(!both(set), key, "it has a data_path and a generate.count; set one of them (the other to null or 0)")?;
        let GenerateConfig { split, num_offices, .. } = &set.generate;
        range(*num_offices > 0, &format!("{key}.generate.num_offices"), num_offices, "at least 1")?;
        let split_key = format!("{key}.generate.split");
        range(!split.is_empty(), &split_key, split, "at least one split")?;
        // The same tasks twice would be counted, and trained on, as if they were others.
        let repeated = split.iter().enumerate().any(|(index, one)| split[..index].contains(one));
        require(!repeated, &split_key, "it names a split twice, which would give the same tasks twice")?;
    }
    Ok(())
}
