//! A model's configuration: `config.json` of a Hugging Face folder, in every spelling the family is published in.
//!
//! Field names are the file's key names. Reading accepts the published style (`hybrid_override_pattern`),
//! transformers 5's (`layers_block_type`) and the names of older releases; writing uses the published one. Keys that do not bear on the arithmetic
//! are kept in [`ModelConfig::extra`] and written back, so loading and saving loses nothing.

mod error;
mod fields;
mod generation;
mod json_text;
mod parse;
mod pattern;
#[cfg(test)]
mod tests;
mod validate;
mod write;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

pub use error::ConfigError;
pub use generation::{GENERATION_CONFIG_FILE, GenerationConfig, end_token_ids};
pub use json_text::parse as parse_lenient_json;
pub use pattern::{HybridPattern, LayerKind, UnknownLayer};

/// File name of the configuration in a Hugging Face folder.
pub const CONFIG_FILE: &str = "config.json";

/// Floating-point type a checkpoint's weights are declared in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WeightDtype {
    /// 32-bit IEEE.
    #[default]
    Float32,
    /// 16-bit brain float.
    BFloat16,
    /// 16-bit IEEE.
    Float16,
    /// 64-bit IEEE.
    Float64,
}

impl WeightDtype {
    /// The name configuration files use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::BFloat16 => "bfloat16",
            Self::Float16 => "float16",
            Self::Float64 => "float64",
        }
    }

    /// The type called `name`, with or without the prefix `torch.`.
    pub fn from_name(name: &str) -> Option<Self> {
        let kinds = [Self::Float32, Self::BFloat16, Self::Float16, Self::Float64];
        let name = name.strip_prefix("torch.").unwrap_or(name);
        kinds.into_iter().find(|kind| kind.name() == name)
    }
}

/// Configuration of one Nemotron-H model. All sizes count elements.
///
/// Mixture-of-experts fields are zero (or their neutral value) when no block is a mixture of experts.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Kinds of the blocks, first to last.
    pub layers: HybridPattern,
    /// Rows of the embedding and of the head.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Longest sequence the model was made for; not enforced by the arithmetic.
    pub max_position_embeddings: usize,
    /// Epsilon of every RMS norm.
    pub layer_norm_epsilon: f64,
    /// Whether the residual stream is kept in 32 bits whatever the weights' type.
    pub residual_in_fp32: bool,
    /// Whether the head is the embedding matrix.
    pub tie_word_embeddings: bool,
    /// Type the weights are stored in.
    pub dtype: WeightDtype,

    /// Heads of a Mamba-2 mixer.
    pub mamba_num_heads: usize,
    /// Channels per Mamba-2 head.
    pub mamba_head_dim: usize,
    /// State size per channel.
    pub ssm_state_size: usize,
    /// Groups of heads that share B and C; also groups of the gated norm.
    pub n_groups: usize,
    /// Taps of the causal convolution.
    pub conv_kernel: usize,
    /// Chunk length of the published kernels; changes rounding only.
    pub chunk_size: usize,
    /// Whether the convolution has a bias.
    pub use_conv_bias: bool,
    /// Whether `in_proj` and `out_proj` have biases.
    pub use_bias: bool,
    /// Present in published files and without effect there: `use_bias` decides.
    pub mamba_proj_bias: bool,
    /// Bounds of the time step after softplus.
    pub time_step_limit: (f64, f64),
    /// Smallest initial time step. Initialisation only; written under a key of its own, see [`Self::to_json`].
    pub time_step_min: f64,
    /// Largest initial time step. Initialisation only.
    pub time_step_max: f64,
    /// Floor of the initial time step. Initialisation only.
    pub time_step_floor: f64,

    /// Query heads of an attention block.
    pub num_attention_heads: usize,
    /// Key and value heads of an attention block.
    pub num_key_value_heads: usize,
    /// Channels per attention head.
    pub head_dim: usize,
    /// Whether the projections of attention have biases.
    pub attention_bias: bool,

    /// Inner width of an MLP block.
    pub intermediate_size: usize,
    /// Whether MLPs (experts included) have biases.
    pub mlp_bias: bool,

    /// Experts among which the router chooses.
    pub n_routed_experts: usize,
    /// Shared experts; together they are one MLP.
    pub n_shared_experts: usize,
    /// Experts a token is sent to.
    pub num_experts_per_tok: usize,
    /// Inner width of one routed expert.
    pub moe_intermediate_size: usize,
    /// Inner width of the shared expert.
    pub moe_shared_expert_intermediate_size: usize,
    /// Width the routed experts work at when it differs from the residual stream's.
    pub moe_latent_size: Option<usize>,
    /// Groups the routed experts are ranked in.
    pub n_group: usize,
    /// Groups kept.
    pub topk_group: usize,
    /// Whether the chosen experts' weights are normalised to sum to one.
    pub norm_topk_prob: bool,
    /// Factor on the chosen experts' weights.
    pub routed_scaling_factor: f64,

    /// Standard deviation of initial embeddings. Fresh linear maps and convolutions follow their fan-in, as in the
    /// family's own code.
    pub initializer_range: f64,
    /// Whether Mamba-2 output projections start smaller the deeper the model is.
    pub rescale_prenorm_residual: bool,

    /// Begin-of-text token.
    pub bos_token_id: Option<u32>,
    /// Padding token.
    pub pad_token_id: Option<u32>,
    /// End tokens named by `config.json`; see [`end_token_ids`] for the full set.
    pub eos_token_ids: Vec<u32>,

    /// Every other key of the file, written back on saving.
    pub extra: Map<String, Value>,
}

impl ModelConfig {
    /// Reads `config.json` of a model folder.
    ///
    /// # Errors
    /// [`ConfigError`] naming file and key.
    pub fn load(folder: &Path) -> Result<Self, ConfigError> {
        Self::from_file(&folder.join(CONFIG_FILE))
    }

    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`ConfigError`] naming file and key.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        Self::from_json_text(&read_text(path)?, path)
    }

    /// Parses a configuration file's text; `path` is named in errors.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key at fault.
    pub fn from_json_text(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let document =
            json_text::parse(text).map_err(|source| ConfigError::NotJson { path: PathBuf::from(path), source })?;
        let config = parse::parse(path, &document)?;
        validate::validate(&config, path)?;
        Ok(config)
    }

    /// The configuration in the published key style.
    ///
    /// `time_step_min` is written as a value that bounds nothing, because transformers takes it for a lower bound of the
    /// time step wherever a prompt is read; the range of initialisation is kept under `initial_time_step_min`.
    pub fn to_json(&self) -> Value {
        write::to_json(self)
    }

    /// [`Self::to_json`] as a file's text: sorted keys, two spaces, final newline.
    pub fn to_json_text(&self) -> String {
        // The alternate form of a JSON value's Display is the indented one.
        format!("{:#}\n", self.to_json())
    }

    /// Number of blocks.
    pub fn num_layers(&self) -> usize {
        self.layers.len()
    }

    /// Number of Mamba-2 blocks.
    pub fn num_mamba_layers(&self) -> usize {
        self.layers.count(LayerKind::Mamba2)
    }

    /// Number of attention blocks.
    pub fn num_attention_layers(&self) -> usize {
        self.layers.count(LayerKind::Attention)
    }

    /// Inner width of a Mamba-2 mixer: heads times channels per head.
    pub fn mamba_inner_size(&self) -> usize {
        self.mamba_num_heads * self.mamba_head_dim
    }

    /// Channels of the convolution: x, B and C together.
    pub fn conv_dim(&self) -> usize {
        self.mamba_inner_size() + 2 * self.n_groups * self.ssm_state_size
    }

    /// Rows of `in_proj`: z, xBC and dt.
    pub fn in_proj_size(&self) -> usize {
        self.mamba_inner_size() + self.conv_dim() + self.mamba_num_heads
    }

    /// Width of the queries of an attention block.
    pub fn query_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of the keys (and of the values) of an attention block.
    pub fn key_value_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Number of stored values, a tied head counted once; as published counts do, it includes routers' selection biases.
    pub fn num_parameters(&self) -> usize {
        let sizes = crate::checkpoint::expected_tensors(self).into_iter().map(|tensor| tensor.shape.iter().product());
        sizes.fold(0, usize::saturating_add)
    }
}

/// Text of a configuration or index file.
pub(crate) fn read_text(path: &Path) -> Result<String, ConfigError> {
    /// The index of the largest releases has a few megabytes.
    const LARGEST_BYTES: u64 = 64 << 20;
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let about = std::fs::metadata(path).map_err(unreadable)?;
    if !about.is_file() {
        // A named pipe would be waited for, a device never ends.
        return Err(unreadable(std::io::Error::other("it is not a regular file")));
    }
    if about.len() > LARGEST_BYTES {
        let size = format!("it has {} bytes, at most {LARGEST_BYTES} are read", about.len());
        return Err(unreadable(std::io::Error::other(size)));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    crate::git_lfs::refuse(text.as_bytes()).map_err(unreadable)?;
    Ok(text)
}
