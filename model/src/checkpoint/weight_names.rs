//! Names and shapes of all tensors of a checkpoint, derived from its configuration.
//!
//! The names are those of the published checkpoints. Reading compares a folder against this list and writing follows
//! its order, so the two cannot drift apart.

use crate::config::{LayerKind, ModelConfig};

/// Name of the embedding.
pub const EMBEDDINGS: &str = "backbone.embeddings.weight";
/// Name of the head; in the list of a model's tensors only if it is not tied to the embedding.
pub const HEAD: &str = "lm_head.weight";
/// Path of the norm before the head; its parameter is called `weight`.
pub const FINAL_NORM: &str = "backbone.norm_f";
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
    list.push(EMBEDDINGS, &table_shape(config));
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
    list.push(format!("{FINAL_NORM}.weight"), &[config.hidden_size]);
    if !config.tie_word_embeddings {
        list.push(HEAD, &table_shape(config));
    }
    list.0
}

/// Shape of the embedding and of the head.
pub(super) fn table_shape(config: &ModelConfig) -> Vec<usize> {
    vec![config.vocab_size, config.hidden_size]
}

/// The published name of a tensor, for a name as it may be spelled in a file: under `model.` as transformers names it in
/// memory, inside a wrapper's `model.backbone.`, or with the embedding and the shared experts in the singular, as the
/// first Mamba checkpoints and other mixtures of experts have them.
///
/// `None` for tensors that are not part of the model (multi-token-prediction heads).
pub(super) fn canonical_name(stored: &str) -> Option<String> {
    let inner = stored.strip_prefix("model.").unwrap_or(stored);
    if inner.starts_with("mtp.") {
        return None;
    }
    let is_inner_whole = inner.starts_with("backbone.") || inner.starts_with("lm_head.");
    let name = if inner == stored || is_inner_whole { inner.to_owned() } else { format!("backbone.{inner}") };
    Some(match name.as_str() {
        "backbone.embedding.weight" | "backbone.embed_tokens.weight" => EMBEDDINGS.to_owned(),
        _ => name.replace(".mixer.shared_expert.", ".mixer.shared_experts."),
    })
}

/// A projection of all experts of a block in one tensor, as transformers keeps them in memory and writes them if it is
/// asked not to restore the published format: expert `e` of it is the tensor that [`Self::expert_name`] gives.
pub(super) struct FusedExperts<'a> {
    mixer: &'a str,
    projection: &'static str,
}

impl<'a> FusedExperts<'a> {
    /// What a canonical name without an expert's number stands for, if it is one.
    pub fn of(name: &'a str) -> Option<Self> {
        let stem = name.strip_suffix(".weight").unwrap_or(name);
        ["up_proj", "down_proj"].into_iter().find_map(|projection| {
            let mixer = stem.strip_suffix(projection)?.strip_suffix(".experts.")?;
            Some(Self { mixer, projection })
        })
    }

    /// Shape of the fused tensor: experts, outputs, inputs.
    pub fn shape(&self, config: &ModelConfig) -> [usize; 3] {
        let (outer, inner) = (config.moe_latent_size.unwrap_or(config.hidden_size), config.moe_intermediate_size);
        let [outputs, inputs] = if self.projection == "up_proj" { [inner, outer] } else { [outer, inner] };
        [config.n_routed_experts, outputs, inputs]
    }

    /// The published name of one expert's weight.
    pub fn expert_name(&self, expert: usize) -> String {
        format!("{}.experts.{expert}.{}.weight", self.mixer, self.projection)
    }
}

/// Whether a tensor belongs to a quantisation scheme: what it holds scales, shifts or packs another tensor.
pub(super) fn is_of_quantisation(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let known = ["qweight", "qzeros", "scales", "g_idx", "absmax", "quant_map", "SCB", "zero_point", "weight_packed"];
    known.contains(&last)
        || ["_scale", "_scale_inv", "_scale_2", "_zero_point", "_g_idx"].iter().any(|ending| last.ends_with(ending))
        || name.contains(".quant_state.")
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
