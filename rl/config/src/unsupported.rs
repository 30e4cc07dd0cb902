//! What is understood and not implemented, and what is accepted with a meaning of its own.
//!
//! A setting that this program cannot honour is refused here, never skipped; when it gets an implementation, its line goes.

use crate::ConfigWarning;
use crate::error::{ConfigError, Origin};
use crate::schema::{AdvantageEstimatorName, BaseDtype, Precision, RunConfig};

/// Refuses settings without an implementation; their places are the loader's to add.
pub(crate) fn refuse(config: &RunConfig) -> Result<(), ConfigError> {
    let (grpo, policy, loss) = (&config.grpo, &config.policy, &config.loss_fn);
    let batch = grpo.num_prompts_per_step * grpo.num_generations_per_prompt;
    let (optimizer, peft) = (&policy.megatron_cfg.optimizer, &policy.megatron_cfg.peft);
    let refused: &[(bool, &str, &str)] = &[
        (grpo.use_dynamic_sampling, "grpo.use_dynamic_sampling", "dynamic sampling is not implemented"),
        (
            grpo.batch_multiplier != 1.0,
            "grpo.batch_multiplier",
            "it belongs to dynamic sampling, which is not implemented",
        ),
        (
            grpo.adv_estimator.name != AdvantageEstimatorName::Grpo,
            "grpo.adv_estimator.name",
            "the only advantage estimator is grpo",
        ),
        (
            grpo.seq_logprob_error_threshold.is_some(),
            "grpo.seq_logprob_error_threshold",
            "masking of samples by their log-prob error is not implemented",
        ),
        (
            grpo.invalid_tool_call_advantage.is_some(),
            "grpo.invalid_tool_call_advantage",
            "advantages of single turns are not implemented",
        ),
        (
            grpo.malformed_thinking_advantage.is_some(),
            "grpo.malformed_thinking_advantage",
            "advantages of single turns are not implemented",
        ),
        (
            loss.use_kl_in_reward,
            "loss_fn.use_kl_in_reward",
            "the divergence is a term of the loss (loss_fn.reference_policy_kl_penalty), not of the reward",
        ),
        (
            loss.positive_example_nll_weight != 0.0,
            "loss_fn.positive_example_nll_weight",
            "it averages over a micro-batch, which has no counterpart where shared prefixes are computed once",
        ),
        (
            policy.train_global_batch_size != batch,
            "policy.train_global_batch_size",
            "several optimizer steps per batch are not implemented; set it to \
             ${mul:${grpo.num_prompts_per_step}, ${grpo.num_generations_per_prompt}}",
        ),
        (
            policy.make_sequence_length_divisible_by != 1,
            "policy.make_sequence_length_divisible_by",
            "padding has no such granularity here",
        ),
        (
            optimizer.main_grads_dtype != Precision::Float32,
            "policy.megatron_cfg.optimizer.main_grads_dtype",
            "gradients are summed in f32",
        ),
        (
            peft.enabled && peft.dropout != 0.0,
            "policy.megatron_cfg.peft.dropout",
            "dropout would make the trained policy another than the one that was sampled from; set it to 0",
        ),
        (
            peft.enabled && !peft.exclude_modules.is_empty(),
            "policy.megatron_cfg.peft.exclude_modules",
            "name the maps that are trained in target_modules instead",
        ),
        (
            !peft.enabled && peft.base_dtype == BaseDtype::Int8,
            "policy.megatron_cfg.peft.base_dtype",
            "weights in eight bits are not trained themselves; set policy.megatron_cfg.peft.enabled=true",
        ),
        (
            peft.enabled && policy.init.model_config.is_some(),
            "policy.megatron_cfg.peft.enabled",
            "an adapter is worth nothing without its model, and one with random weights is saved nowhere; make it first \
             (nemo-burn init, nemo-burn sft) and name its folder in policy.model_name",
        ),
        (
            optimizer.optimizer_cpu_offload,
            "policy.megatron_cfg.optimizer.optimizer_cpu_offload",
            "offloading is not implemented",
        ),
        (
            optimizer.optimizer_offload_fraction != 0.0,
            "policy.megatron_cfg.optimizer.optimizer_offload_fraction",
            "offloading is not implemented",
        ),
        (
            policy.generation.top_p != 1.0,
            "policy.generation.top_p",
            "training samples the whole distribution; val_top_p may be set for validation",
        ),
        (policy.generation.top_k.is_some(), "policy.generation.top_k", "rollouts sample the whole distribution"),
        (
            policy.generation.val_top_k.is_some(),
            "policy.generation.val_top_k",
            "rollouts sample the whole distribution; val_top_p may be set",
        ),
        (
            policy.generation.vllm_cfg.tensor_parallel_size != 1,
            "policy.generation.vllm_cfg.tensor_parallel_size",
            "generation over several devices is not implemented",
        ),
        (
            !policy.generation.vllm_cfg.http_server_serving_chat_kwargs.enable_auto_tools,
            "policy.generation.vllm_cfg.http_server_serving_chat_kwargs.enable_auto_tools",
            "the environment works by tool calls",
        ),
        (
            !policy.generation.colocated.enabled,
            "policy.generation.colocated.enabled",
            "generation shares the training devices",
        ),
        (!config.env.should_use_nemo_gym, "env.should_use_nemo_gym", "there is no other environment"),
        (
            config.env.nemo_gym.is_trajectory_collection,
            "env.nemo_gym.is_trajectory_collection",
            "collect trajectories with `nemo-burn eval --episodes FILE` instead",
        ),
        (
            config.env.nemo_gym.invalid_tool_call_patterns.is_some(),
            "env.nemo_gym.invalid_tool_call_patterns",
            "advantages of single turns are not implemented",
        ),
        (
            config.env.nemo_gym.thinking_tags.is_some(),
            "env.nemo_gym.thinking_tags",
            "advantages of single turns are not implemented",
        ),
        (
            config.env.nemo_gym.policy_model.responses_api_models.vllm_model.uses_reasoning_parser,
            "env.nemo_gym.policy_model.responses_api_models.vllm_model.uses_reasoning_parser",
            "reasoning is not told apart from answers",
        ),
        (
            config.logger.mlflow_enabled,
            "logger.mlflow_enabled",
            "MLflow is not supported; metrics.jsonl has every metric",
        ),
        (
            config.logger.tensorboard_enabled,
            "logger.tensorboard_enabled",
            "TensorBoard is not supported; metrics.jsonl has every metric",
        ),
    ];
    match refused.iter().find(|(applies, ..)| *applies) {
        None => Ok(()),
        Some((_, key, reason)) => Err(ConfigError::Refused {
            origin: Origin::Default,
            key: (*key).to_owned(),
            found: config.value_text(key),
            reason: (*reason).to_owned(),
        }),
    }
}

/// What is accepted with a different meaning than its name has in NeMo RL.
pub(crate) fn notices(config: &RunConfig, origin: &impl Fn(&str) -> Origin) -> Vec<ConfigWarning> {
    let (policy, generation) = (&config.policy, &config.policy.generation);
    let peft = |name: &str| origin(&format!("policy.megatron_cfg.peft.{name}"));
    let sets_adapter = ["target_modules", "exclude_modules", "dim", "alpha", "dropout", "lora_A_init_method"]
        .into_iter()
        .find(|name| peft(name) != Origin::Default);
    let adapter_key = format!("policy.megatron_cfg.peft.{}", sets_adapter.unwrap_or("dim"));
    let notices: &[(bool, &str, &str)] = &[
        (
            sets_adapter.is_some() && !policy.megatron_cfg.peft.enabled,
            &adapter_key,
            "the block has no effect while policy.megatron_cfg.peft.enabled is false",
        ),
        (
            origin("policy.generation.backend") != Origin::Default,
            "policy.generation.backend",
            "`vllm` stands for the built-in generation engine",
        ),
        (
            !policy.megatron_cfg.distributed_data_parallel_config.grad_reduce_in_fp32,
            "policy.megatron_cfg.distributed_data_parallel_config.grad_reduce_in_fp32",
            "gradients are summed in f32 all the same",
        ),
        (
            policy.megatron_cfg.tensor_model_parallel_size > 1,
            "policy.megatron_cfg.tensor_model_parallel_size",
            "the run uses one device",
        ),
        (config.cluster.gpus_per_node > 1, "cluster.gpus_per_node", "the run uses one device"),
        (
            policy.megatron_cfg.optimizer.params_dtype != Precision::Float32,
            "policy.megatron_cfg.optimizer.params_dtype",
            "policy.precision says what weights are kept in, main_params_dtype what is updated in their place",
        ),
        (
            !policy.megatron_cfg.scheduler.override_opt_param_scheduler,
            "policy.megatron_cfg.scheduler.override_opt_param_scheduler",
            "the schedule is always the configuration's",
        ),
        (
            policy.offload_optimizer_for_logprob,
            "policy.offload_optimizer_for_logprob",
            "the optimizer stays where it is",
        ),
        (
            generation.vllm_kwargs.mamba_ssm_cache_dtype != Precision::Float32,
            "policy.generation.vllm_kwargs.mamba_ssm_cache_dtype",
            "state-space states are kept in f32 all the same",
        ),
        (
            policy.megatron_cfg.defer_fp32_logits,
            "policy.megatron_cfg.defer_fp32_logits",
            "log-probs are computed tile by tile in f32 anyway, so there is nothing to defer",
        ),
        (
            generation.vllm_cfg.expose_http_server,
            "policy.generation.vllm_cfg.expose_http_server",
            "training needs no HTTP server, none is started",
        ),
        (
            config.logger.wandb_enabled,
            "logger.wandb_enabled",
            "nothing is sent to Weights & Biases; metrics.jsonl has the same names",
        ),
        (config.logger.monitor_gpus, "logger.monitor_gpus", "GPU utilisation is not recorded"),
    ];
    notices
        .iter()
        .filter(|(applies, ..)| *applies)
        .map(|(_, key, message)| ConfigWarning {
            key: (*key).to_owned(),
            origin: origin(key),
            message: format!("`{key}: {}`: {message}", config.value_text(key)),
        })
        .collect()
}
