//! Keys that are accepted without effect, and keys of which only some values are accepted.
//!
//! Every key of NeMo RL's recipe is in one of three classes: a field of `RunConfig` (supported), `IGNORED` here (said
//! wherever a configuration sets it: with the reason when it differs from its default, by name when not), or `RESTRICTED` here (an error when its value is not listed).
//! A class is a promise to the reader of a log: nothing that was asked for is dropped in silence.

use crate::ConfigWarning;
use crate::error::{ConfigError, Origin, shortened};
use crate::node::Node;

const ONE_PROCESS: &str = "environment, engine and trainer share one process, so there is nothing to set";
const OTHER_BACKEND: &str = "belongs to the DTensor backend, which does not exist here";
const MEGATRON_INTERNAL: &str = "tunes the inside of Megatron; the training code here has no such switch";
const MIXTURE_OF_EXPERTS: &str = "tunes mixture-of-experts training, which the trained models do not have";
const ASYNC: &str = "without effect while grpo.async_grpo.enabled is false";
const DRAFT: &str = "without effect while policy.draft.enabled is false";
const VLLM_INTERNAL: &str = "tunes the inside of vLLM; the built-in engine has no such switch";
const NO_SEPARATE_PASS: &str = "log-probs come from the training forward, so there is no pass of their own to size";
const SHAPING: &str = "without effect while grpo.reward_shaping.enabled is false";
const SCALING: &str = "without effect while grpo.reward_scaling.enabled is false";
const PACKING: &str = "without effect while policy.sequence_packing.enabled is false";
const TILES: &str = "log-probs are computed in the training forward, tile by tile; the tiles are fixed";
const NO_SINK: &str = "without effect while the sink it belongs to does not exist; metrics.jsonl has every metric";
const MLFLOW: &str = "without effect while logger.mlflow_enabled is false";

/// (key, why it has no effect). A key stands for everything below it.
const IGNORED: &[(&str, &str)] = &[
    ("grpo.max_rollout_turns", "the environment's own max_steps bounds a rollout"),
    ("grpo.val_batch_size", "the whole validation set is one batch"),
    ("grpo.dynamic_sampling_max_gen_batches", "without effect while grpo.use_dynamic_sampling is false"),
    ("grpo.reward_shaping.overlong_buffer_length", SHAPING),
    ("grpo.reward_shaping.overlong_buffer_penalty", SHAPING),
    ("grpo.reward_shaping.max_response_length", SHAPING),
    ("grpo.reward_shaping.stop_properly_penalty_coef", SHAPING),
    ("grpo.reward_scaling.source_min", SCALING),
    ("grpo.reward_scaling.source_max", SCALING),
    ("grpo.reward_scaling.target_min", SCALING),
    ("grpo.reward_scaling.target_max", SCALING),
    ("grpo.adv_estimator.minus_baseline", "belongs to reinforce_plus_plus; the estimator grpo has its own baseline"),
    ("grpo.calculate_advantages_on_gpu", "advantages are a few numbers per group, computed on the host"),
    ("grpo.async_grpo.max_trajectory_age_steps", ASYNC),
    ("grpo.async_grpo.max_generation_failures", ASYNC),
    ("grpo.async_grpo.in_flight_weight_updates", ASYNC),
    ("grpo.async_grpo.recompute_kv_cache_after_weight_updates", ASYNC),
    ("policy.generation_batch_size", "it bounds a Hugging Face generation backend, which does not exist here"),
    ("policy.logprob_batch_size", NO_SEPARATE_PASS),
    ("policy.logprob_chunk_size", TILES),
    ("policy.dtensor_cfg._v2", OTHER_BACKEND),
    ("policy.dtensor_cfg.cpu_offload", OTHER_BACKEND),
    ("policy.dtensor_cfg.sequence_parallel", OTHER_BACKEND),
    ("policy.dtensor_cfg.activation_checkpointing", OTHER_BACKEND),
    ("policy.dtensor_cfg.tensor_parallel_size", OTHER_BACKEND),
    ("policy.dtensor_cfg.context_parallel_size", OTHER_BACKEND),
    ("policy.dtensor_cfg.custom_parallel_plan", OTHER_BACKEND),
    ("policy.dtensor_cfg.clear_cache_every_n_steps", OTHER_BACKEND),
    ("policy.megatron_cfg.enabled", "there is one training backend, and it is always on"),
    ("policy.dynamic_batching.logprob_mb_tokens", NO_SEPARATE_PASS),
    ("policy.dynamic_batching.sequence_length_round", "batches are padded to their longest sequence, to the token"),
    ("policy.sequence_packing.train_mb_tokens", PACKING),
    ("policy.sequence_packing.logprob_mb_tokens", PACKING),
    ("policy.sequence_packing.algorithm", PACKING),
    ("policy.sequence_packing.sequence_length_round", PACKING),
    ("policy.megatron_cfg.bias_activation_fusion", MEGATRON_INTERNAL),
    ("policy.megatron_cfg.empty_unused_memory_level", MEGATRON_INTERNAL),
    ("policy.megatron_cfg.checkpoint.async_save", "a checkpoint is on disk before the next step begins"),
    ("policy.megatron_cfg.peft.dropout_position", "without effect while policy.megatron_cfg.peft.dropout is 0"),
    ("policy.megatron_cfg.peft.a2a_experimental", MEGATRON_INTERNAL),
    ("policy.megatron_cfg.optimizer.bf16", "policy.precision sets the precision"),
    ("policy.megatron_cfg.train_iters", "grpo.max_num_steps and grpo.max_num_epochs end the run"),
    ("policy.megatron_cfg.pipeline_dtype", "there is no pipeline parallelism"),
    ("policy.megatron_cfg.freeze_moe_router", MIXTURE_OF_EXPERTS),
    ("policy.megatron_cfg.moe_router_dtype", MIXTURE_OF_EXPERTS),
    ("policy.megatron_cfg.moe_router_load_balancing_type", MIXTURE_OF_EXPERTS),
    ("policy.megatron_cfg.moe_router_bias_update_rate", MIXTURE_OF_EXPERTS),
    ("policy.megatron_cfg.moe_permute_fusion", MIXTURE_OF_EXPERTS),
    ("policy.megatron_cfg.moe_enable_deepep", MIXTURE_OF_EXPERTS),
    ("policy.megatron_cfg.moe_token_dispatcher_type", MIXTURE_OF_EXPERTS),
    ("policy.megatron_cfg.moe_shared_expert_overlap", MIXTURE_OF_EXPERTS),
    ("policy.megatron_cfg.apply_rope_fusion", "the attention of these models has no rotary embedding"),
    ("policy.megatron_cfg.gradient_accumulation_fusion", MEGATRON_INTERNAL),
    ("policy.megatron_cfg.use_fused_weighted_squared_relu", MEGATRON_INTERNAL),
    ("policy.megatron_cfg.optimizer.sgd_momentum", "the optimizer is Adam"),
    ("policy.megatron_cfg.optimizer.use_distributed_optimizer", MEGATRON_INTERNAL),
    ("policy.megatron_cfg.optimizer.overlap_cpu_optimizer_d2h_h2d", MEGATRON_INTERNAL),
    ("policy.megatron_cfg.distributed_data_parallel_config.overlap_grad_reduce", MEGATRON_INTERNAL),
    ("policy.megatron_cfg.distributed_data_parallel_config.overlap_param_gather", MEGATRON_INTERNAL),
    ("policy.megatron_cfg.distributed_data_parallel_config.data_parallel_sharding_strategy", MEGATRON_INTERNAL),
    ("policy.megatron_cfg.env_vars", ONE_PROCESS),
    ("policy.draft.model_name", DRAFT),
    ("policy.draft.loss_weight", DRAFT),
    ("policy.draft.num_layers", DRAFT),
    ("policy.draft.aux_layer_indices", DRAFT),
    ("policy.scheduler", "policy.megatron_cfg.scheduler sets the learning rate"),
    ("policy.generation.vllm_cfg.precision", "the engine samples from the trained weights, in policy.precision"),
    ("policy.generation.vllm_cfg.async_engine", VLLM_INTERNAL),
    ("policy.generation.vllm_cfg.use_deep_gemm", VLLM_INTERNAL),
    ("policy.generation.vllm_cfg.enforce_eager", VLLM_INTERNAL),
    ("policy.generation.vllm_cfg.num_last_layers_in_bf16", VLLM_INTERNAL),
    ("policy.generation.vllm_cfg.num_first_layers_in_bf16", VLLM_INTERNAL),
    ("policy.generation.vllm_cfg.skip_tokenizer_init", VLLM_INTERNAL),
    ("policy.generation.vllm_cfg.tool_parser_plugin", "the tool-call parser is built in"),
    ("policy.generation.vllm_kwargs.compilation_config.backend", VLLM_INTERNAL),
    ("data.max_input_seq_length", "policy.max_total_sequence_length bounds prompt and response together"),
    ("data.num_workers", ONE_PROCESS),
    ("env.should_log_nemo_gym_responses", "rollouts are not logged"),
    ("env.should_mask_flagged_samples", "the environment flags no samples"),
    ("env.nemo_gym.port_range_low", ONE_PROCESS),
    ("env.nemo_gym.port_range_high", ONE_PROCESS),
    ("env.nemo_gym.code_gen.resources_servers.code_gen.num_processes", "there is no code-generation environment"),
    ("logger.log_dir", "metrics.jsonl and the plot lie beside the checkpoints, in checkpointing.checkpoint_dir"),
    ("logger.wandb", NO_SINK),
    ("logger.tensorboard", NO_SINK),
    ("logger.gpu_monitoring", NO_SINK),
    ("logger.mlflow.experiment_name", MLFLOW),
    ("logger.mlflow.run_name", MLFLOW),
];

/// (key, accepted values as they are displayed, why no other value is accepted).
const RESTRICTED: &[(&str, &[&str], &str)] = &[
    ("grpo.max_val_samples", &["null"], "the whole validation set is evaluated; shorten the set instead"),
    ("grpo.reward_penalties", &["null"], "reward penalties are not implemented"),
    ("grpo.reward_shaping.enabled", &["false"], "reward shaping is not implemented"),
    ("grpo.reward_scaling.enabled", &["false"], "reward scaling is not implemented"),
    (
        "policy.sequence_packing.enabled",
        &["false"],
        "sequence packing is not implemented; shared prefixes are computed once without it",
    ),
    ("grpo.async_grpo.enabled", &["false"], "asynchronous training is not implemented"),
    ("checkpointing.pretrained_checkpoint", &["null"], "name the initial weights in policy.model_name"),
    ("policy.dtensor_cfg.enabled", &["false"], "there is one training backend; use policy.megatron_cfg"),
    ("policy.megatron_cfg.expert_tensor_parallel_size", &["1"], "expert parallelism is not implemented"),
    ("policy.megatron_cfg.expert_model_parallel_size", &["1"], "expert parallelism is not implemented"),
    ("policy.megatron_cfg.pipeline_model_parallel_size", &["1"], "pipeline parallelism is not implemented"),
    ("policy.megatron_cfg.num_layers_in_first_pipeline_stage", &["null"], "pipeline parallelism is not implemented"),
    ("policy.megatron_cfg.num_layers_in_last_pipeline_stage", &["null"], "pipeline parallelism is not implemented"),
    ("policy.megatron_cfg.context_parallel_size", &["1"], "context parallelism is not implemented"),
    ("policy.megatron_cfg.sequence_parallel", &["false"], "sequence parallelism does not work with Mamba layers"),
    (
        "policy.megatron_cfg.peft.lora_B_init_method",
        &["zero"],
        "an adapter that changes the model before the first step is not implemented",
    ),
    // The recipes write None, which YAML reads as text.
    ("policy.megatron_cfg.peft.lora_dtype", &["null", "None", "float32"], "adapters are trained in f32"),
    ("policy.megatron_cfg.optimizer.fp16", &["false"], "training in fp16 is not implemented; use float32"),
    (
        "policy.megatron_cfg.distributed_data_parallel_config.use_custom_fsdp",
        &["false"],
        "sharded data parallelism is not implemented",
    ),
    ("policy.draft.enabled", &["false"], "training of draft models is not implemented"),
    ("policy.optimizer", &["null"], "set policy.megatron_cfg.optimizer; two optimizers would contradict each other"),
    ("policy.router_replay", &["null"], "router replay is not implemented"),
    ("policy.generation.stop_token_ids", &["null"], "turns end where the chat template ends them"),
    ("policy.generation.stop_strings", &["null"], "turns end where the chat template ends them"),
    ("policy.generation.vllm_cfg.pipeline_parallel_size", &["1"], "pipeline parallelism is not implemented"),
    ("policy.generation.vllm_cfg.expert_parallel_size", &["1"], "expert parallelism is not implemented"),
    ("policy.generation.vllm_cfg.kv_cache_dtype", &["auto", "bfloat16"], "quantised caches are not implemented"),
    ("policy.generation.colocated.resources.gpus_per_node", &["null"], "generation shares the training devices"),
    ("policy.generation.colocated.resources.num_nodes", &["null"], "generation shares the training devices"),
    ("data.use_multiple_dataloader", &["false"], "there is one training set"),
    ("data.default.prompt_file", &["null"], "records carry their whole prompt"),
    ("data.default.system_prompt_file", &["null"], "records carry their whole prompt"),
    ("logger.swanlab_enabled", &["false"], "SwanLab is not supported; metrics.jsonl has every metric"),
    ("cluster.num_nodes", &["1"], "runs over several nodes are not implemented"),
    ("data_plane", &["null"], "there is no data plane between processes"),
    ("on_policy_distillation", &["null"], "distillation is not implemented"),
];

/// Enforces both lists on a resolved tree and takes their keys out of it; what is left is `RunConfig`.
/// `usual` gives the value that a key has where it follows the defaults, as many of these follow other keys.
pub(crate) fn enforce(tree: &mut Node, usual: impl Fn(&str) -> Option<Node>) -> Result<Effectless, ConfigError> {
    let mut effectless = Effectless::default();
    for (key, reason) in IGNORED {
        if let Some(node) = take(tree, key)
            && node.origin != Origin::Default
        {
            effectless.add(key, &node, usual(key).is_some_and(|usual| usual == node), reason);
        }
    }
    for (key, accepted, reason) in RESTRICTED {
        if let Some(node) = take(tree, key) {
            let found = node.value.to_string();
            if !accepted.contains(&found.as_str()) {
                return Err(ConfigError::Refused {
                    origin: node.origin,
                    key: (*key).to_owned(),
                    found,
                    reason: format!("{reason} (accepted: {})", accepted.join(", ")),
                });
            }
        }
    }
    Ok(effectless)
}

/// What a configuration sets without effect.
#[derive(Default)]
pub(crate) struct Effectless {
    changed: Vec<ConfigWarning>,
    /// Keys at their usual values, and where the first of them is written.
    usual: Vec<(String, Origin)>,
}

impl Effectless {
    /// Notes a key unless it only comes from the defaults.
    pub fn add(&mut self, key: &str, node: &Node, is_usual: bool, reason: &str) {
        match (&node.origin, is_usual) {
            (Origin::Default, _) => {}
            (origin, true) => self.usual.push((key.to_owned(), origin.clone())),
            (origin, false) => self.changed.push(ConfigWarning {
                key: key.to_owned(),
                origin: origin.clone(),
                message: format!("`{key}: {}` is ignored: {reason}", shortened(&node.value.to_string())),
            }),
        }
    }

    /// One warning for each key that was changed, and one for all the others together.
    pub fn into_warnings(self) -> Vec<ConfigWarning> {
        let mut warnings = self.changed;
        if let Some((_, origin)) = self.usual.first() {
            let key = by_block(self.usual.iter().map(|(key, _)| key.as_str()));
            warnings.push(ConfigWarning {
                message: format!("{} key(s) have their usual values and no effect here: {key}", self.usual.len()),
                origin: origin.clone(),
                key,
            });
        }
        warnings
    }
}

/// Keys as `block.{a, b}, other.c`, in the order of their blocks' first keys.
fn by_block<'a>(keys: impl Iterator<Item = &'a str>) -> String {
    let mut blocks: Vec<(&str, Vec<&str>)> = Vec::new();
    for key in keys {
        let (block, name) = key.rsplit_once('.').unwrap_or(("", key));
        match blocks.iter_mut().find(|(known, _)| *known == block) {
            Some((_, names)) => names.push(name),
            None => blocks.push((block, vec![name])),
        }
    }
    let texts: Vec<String> = blocks
        .into_iter()
        .map(|(block, names)| match names.as_slice() {
            [name] => format!("{block}.{name}"),
            names => format!("{block}.{{{}}}", names.join(", ")),
        })
        .collect();
    texts.join(", ")
}

/// Removes the value at a dotted key; blocks that become empty by it stay, which decoding does not mind.
fn take(tree: &mut Node, key: &str) -> Option<Node> {
    let (parent, last) = match key.rsplit_once('.') {
        Some((parents, last)) => (parents.split('.').try_fold(tree, |node, part| node.child_mut(part))?, last),
        None => (tree, key),
    };
    parent.remove(last).map(|entry| entry.node)
}
