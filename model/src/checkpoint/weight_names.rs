//! Names and shapes of all tensors of a checkpoint, derived from its configuration.
//!
//! The names are those of the published checkpoints. Reading compares a folder against this list and writing follows
//! its order, so the two cannot drift apart.

use crate::config::{LayerKind, ModelConfig};

/// Last parts of the name of a router's selection bias, a buffer that no gradient reaches.
pub const SELECTION_BIAS: &str = "gate.e_score_correction_bias";

/// One tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Full name, such as `backbone.layers.0.mixer.in_proj.weight`.
    pub name: String,
    /// Shape, outermost axis first.
    pub shape: Vec<usize>,
}

/// All tensors a checkpoint with this configuration holds, in model order.
pub fn expected_tensors(config: &ModelConfig) -> Vec<TensorSpec> {
    let mut list = SpecList(Vec::new());
    list.push("backbone.embeddings.weight", &[config.vocab_size, config.hidden_size]);
    for (index, kind) in config.layers.iter().enumerate() {
        let layer = format!("backbone.layers.{index}");
        list.push(format!("{layer}.norm.weight"), &[config.hidden_size]);
        let mixer = format!("{layer}.mixer");
        match kind {
            LayerKind::Mamba2 => list.mamba(&mixer, config),
            LayerKind::Attention => list.attention(&mixer, config),
            LayerKind::Mlp => list.mlp(&mixer, config.hidden_size, config.intermediate_size, config.mlp_bias),
            LayerKind::Moe => list.moe(&mixer, config),
        }
    }
    list.push("backbone.norm_f.weight", &[config.hidden_size]);
    if !config.tie_word_embeddings {
        list.push("lm_head.weight", &[config.vocab_size, config.hidden_size]);
    }
    list.0
}

/// The published name of a tensor, for a name as it may be spelled in a file.
/// `None` for tensors that are not part of the model (multi-token-prediction heads).
pub(super) fn canonical_name(stored: &str) -> Option<String> {
    if stored.starts_with("mtp.") {
        return None;
    }
    match stored.strip_prefix("model.") {
        Some(rest) => Some(format!("backbone.{rest}")),
        None => Some(stored.to_owned()),
    }
}

struct SpecList(Vec<TensorSpec>);

impl SpecList {
    fn push(&mut self, name: impl Into<String>, shape: &[usize]) {
        self.0.push(TensorSpec { name: name.into(), shape: shape.to_vec() });
    }

    /// `weight: [output, input]` and, if there is one, `bias: [output]`.
    fn linear(&mut self, name: &str, output: usize, input: usize, bias: bool) {
        self.push(format!("{name}.weight"), &[output, input]);
        if bias {
            self.push(format!("{name}.bias"), &[output]);
        }
    }

    fn mamba(&mut self, mixer: &str, config: &ModelConfig) {
        let (heads, inner) = (config.mamba_num_heads, config.mamba_inner_size());
        for name in ["A_log", "D", "dt_bias"] {
            self.push(format!("{mixer}.{name}"), &[heads]);
        }
        self.push(format!("{mixer}.conv1d.weight"), &[config.conv_dim(), 1, config.conv_kernel]);
        if config.use_conv_bias {
            self.push(format!("{mixer}.conv1d.bias"), &[config.conv_dim()]);
        }
        self.linear(&format!("{mixer}.in_proj"), config.in_proj_size(), config.hidden_size, config.use_bias);
        self.push(format!("{mixer}.norm.weight"), &[inner]);
        self.linear(&format!("{mixer}.out_proj"), config.hidden_size, inner, config.use_bias);
    }

    fn attention(&mut self, mixer: &str, config: &ModelConfig) {
        let (hidden, bias) = (config.hidden_size, config.attention_bias);
        self.linear(&format!("{mixer}.q_proj"), config.query_size(), hidden, bias);
        self.linear(&format!("{mixer}.k_proj"), config.key_value_size(), hidden, bias);
        self.linear(&format!("{mixer}.v_proj"), config.key_value_size(), hidden, bias);
        self.linear(&format!("{mixer}.o_proj"), hidden, config.query_size(), bias);
    }

    fn mlp(&mut self, name: &str, outer: usize, inner: usize, bias: bool) {
        self.linear(&format!("{name}.up_proj"), inner, outer, bias);
        self.linear(&format!("{name}.down_proj"), outer, inner, bias);
    }

    fn moe(&mut self, mixer: &str, config: &ModelConfig) {
        let hidden = config.hidden_size;
        self.push(format!("{mixer}.gate.weight"), &[config.n_routed_experts, hidden]);
        self.push(format!("{mixer}.{SELECTION_BIAS}"), &[config.n_routed_experts]);
        let width = config.moe_latent_size.unwrap_or(hidden);
        if config.moe_latent_size.is_some() {
            self.linear(&format!("{mixer}.fc1_latent_proj"), width, hidden, config.mlp_bias);
        }
        for expert in 0..config.n_routed_experts {
            let name = format!("{mixer}.experts.{expert}");
            self.mlp(&name, width, config.moe_intermediate_size, config.mlp_bias);
        }
        if config.moe_latent_size.is_some() {
            self.linear(&format!("{mixer}.fc2_latent_proj"), hidden, width, config.mlp_bias);
        }
        let shared = config.moe_shared_expert_intermediate_size;
        self.mlp(&format!("{mixer}.shared_experts"), hidden, shared, config.mlp_bias);
    }
}
