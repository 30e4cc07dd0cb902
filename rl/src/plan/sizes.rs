//! What one device holds of a model: numbers of elements, before anything is said of bytes.

use nemo_model::adapter::LinearMap;
use nemo_model::checkpoint::{TensorSpec, expected_tensors};
use nemo_model::config::{LayerKind, ModelConfig};
use nemo_model::{Dtypes, NemotronH};

/// Bytes of one element, by what it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ElementBytes {
    /// Weights as the forward pass reads them, but for embedding and head.
    pub parameters: usize,
    /// Those of embedding and head.
    pub tables: usize,
    /// Hidden values and their gradients.
    pub activations: usize,
    /// Keys and values in the engine's pages.
    pub keys_values: usize,
    /// Recurrent states, windows of convolutions included.
    pub states: usize,
}

impl ElementBytes {
    /// Everything in four bytes.
    pub const FLOAT32: Self = Self { parameters: 4, tables: 4, activations: 4, keys_values: 4, states: 4 };
    /// Weights in two bytes, everything else in four: what is narrow is widened on the way into a product.
    pub const BFLOAT16: Self = Self { parameters: 2, tables: 2, ..Self::FLOAT32 };

    /// Those of a model of these types.
    pub fn of(dtypes: Dtypes) -> Self {
        let activations = dtypes.activations.size();
        // Eight bits have no float type.
        let of = |storage| dtypes.float_of(storage).map_or(1, |dtype| dtype.size());
        Self {
            parameters: of(dtypes.matrices),
            tables: of(dtypes.tables),
            activations,
            keys_values: dtypes.keys_values.size(),
            states: dtypes.states.size(),
        }
    }
}

/// What is trained beside a model that stays as it is, in elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterSizes {
    /// Numbers in the factors of each block.
    pub blocks: Vec<usize>,
    /// Numbers in the largest factor.
    pub largest: usize,
}

impl AdapterSizes {
    /// Of an adapter of this rank beside some maps of a model.
    pub fn new(config: &ModelConfig, rank: usize, maps: &[LinearMap]) -> Self {
        let of_block = |index: usize| {
            let path = format!("{}.", NemotronH::block_path(index));
            let maps = maps.iter().filter(|map| map.path.starts_with(&path));
            maps.map(|map| map.num_factor_parameters(rank)).sum()
        };
        Self {
            blocks: (0..config.layers.len()).map(of_block).collect(),
            largest: maps.iter().map(|map| rank * map.outputs.max(map.inputs)).max().unwrap_or(0),
        }
    }
}

/// Bytes of a gradient sum, of a master weight and of each of the optimizer's moments, whatever the weights are.
pub const FLOAT32_BYTES: usize = 4;

/// What training changes of a model's part, in elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trained {
    /// All of it.
    pub all: usize,
    /// What belongs to each block.
    pub blocks: Vec<usize>,
    /// What belongs to the head.
    pub head: usize,
    /// The largest tensor.
    pub largest: usize,
}

/// The part of a model that one of several devices holds, in elements. Heads, groups and widths are cut over the devices;
/// the residual stream and its norms are whole on each of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// The blocks, first to last.
    pub layers: Vec<LayerKind>,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Rows of the embedding and of the head.
    pub vocabulary: usize,
    /// Parameters.
    pub parameters: usize,
    /// Those that a token is multiplied with: matrices of the blocks and the head. Of experts only the chosen ones.
    pub multiplied: usize,
    /// Parameters of embedding and head.
    pub tables: usize,
    /// What is trained: all parameters, or the factors of an adapter.
    pub trained: Trained,
    /// Width of a Mamba block's x, z and y.
    pub inner: usize,
    /// Width of a Mamba block's B, and of its C.
    pub group_width: usize,
    /// Heads of a Mamba block.
    pub mamba_heads: usize,
    /// Width of a Mamba head.
    pub mamba_head_dim: usize,
    /// Width of the state per channel of a Mamba head.
    pub state_size: usize,
    /// Inputs that the convolution of a Mamba block remembers.
    pub window: usize,
    /// Query heads.
    pub query_heads: usize,
    /// Width of a query, key or value head.
    pub head_dim: usize,
    /// Width of the keys, and of the values, of a token.
    pub key_width: usize,
    /// Width of an MLP block.
    pub mlp: usize,
    /// Routed experts, and how many of them a token goes through.
    pub experts: [usize; 2],
    /// What goes into a routed expert, and the width inside it.
    pub expert_widths: [usize; 2],
    /// Width of all shared experts together.
    pub shared_experts: usize,
}

impl Shard {
    /// The part of each of `devices`; `None` if the model cannot be cut into so many.
    ///
    /// Key heads that are fewer than the devices are held by several of them.
    pub fn new(config: &ModelConfig, devices: usize) -> Option<Self> {
        let has = |kind| config.layers.iter().any(|layer| layer == kind);
        let divides = |size: usize| size.is_multiple_of(devices);
        let fits = devices > 0
            && divides(config.vocab_size)
            && (!has(LayerKind::Mamba2) || divides(config.mamba_num_heads) && divides(config.n_groups))
            && (!has(LayerKind::Attention)
                || divides(config.num_attention_heads)
                    && (divides(config.num_key_value_heads)
                        || devices.is_multiple_of(config.num_key_value_heads.max(1))))
            && (!has(LayerKind::Mlp) || divides(config.intermediate_size))
            && (!has(LayerKind::Moe) || divides(config.moe_intermediate_size));
        fits.then(|| Self::part_of(config, devices))
    }

    /// The same part of a model beside which an adapter is trained, if there is one.
    #[must_use]
    pub fn beside(mut self, adapter: Option<&AdapterSizes>, devices: usize) -> Self {
        if let Some(adapter) = adapter {
            let local = |count: &usize| count.div_ceil(devices.max(1));
            self.trained = Trained {
                all: adapter.blocks.iter().map(local).sum(),
                blocks: adapter.blocks.iter().map(local).collect(),
                head: 0,
                largest: adapter.largest,
            };
        }
        self
    }

    /// The whole model.
    pub fn whole(config: &ModelConfig) -> Self {
        Self::part_of(config, 1)
    }

    fn part_of(config: &ModelConfig, devices: usize) -> Self {
        let key_heads = config.num_key_value_heads.div_ceil(devices);
        let tensors = expected_tensors(config);
        let elements = |tensor: &TensorSpec| tensor.shape.iter().product::<usize>();
        let local = |tensor: &TensorSpec| {
            let whole = elements(tensor);
            let is_key = ["k_proj.", "v_proj."].iter().any(|name| tensor.name.contains(name));
            let is_whole = !tensor.name.contains(".mixer.") && tensor.shape.len() == 1 || tensor.name.contains("gate.");
            match (is_whole, is_key) {
                (true, _) => whole,
                (_, true) => whole / config.num_key_value_heads.max(1) * key_heads,
                _ => whole.div_ceil(devices),
            }
        };
        let is_expert = |tensor: &TensorSpec| tensor.name.contains(".experts.");
        let is_matrix = |tensor: &&TensorSpec| tensor.shape.len() == 2 && !tensor.name.contains("embeddings");
        let experts = [config.n_routed_experts, config.num_experts_per_tok];
        let head = if config.tie_word_embeddings { config.vocab_size * config.hidden_size / devices } else { 0 };
        let sum = |of_experts: bool| {
            tensors.iter().filter(is_matrix).filter(|tensor| is_expert(tensor) == of_experts).map(local).sum::<usize>()
        };
        let of_block = |index: usize| {
            let path = format!("{}.", NemotronH::block_path(index));
            tensors.iter().filter(|tensor| tensor.name.starts_with(&path)).map(local).sum()
        };
        let multiplied = sum(false) + head + sum(true) / experts[0].max(1) * experts[1];
        Self {
            layers: config.layers.iter().collect(),
            hidden: config.hidden_size,
            vocabulary: config.vocab_size / devices,
            parameters: tensors.iter().map(local).fold(0, usize::saturating_add),
            multiplied,
            tables: tensors.iter().filter(|tensor| !tensor.name.contains(".layers.")).map(local).sum(),
            trained: Trained {
                all: tensors.iter().map(local).fold(0, usize::saturating_add),
                blocks: (0..config.layers.len()).map(of_block).collect(),
                head: config.vocab_size / devices * config.hidden_size,
                largest: tensors.iter().map(local).max().unwrap_or(0),
            },
            inner: config.mamba_inner_size() / devices,
            group_width: config.n_groups * config.ssm_state_size / devices,
            mamba_heads: config.mamba_num_heads / devices,
            mamba_head_dim: config.mamba_head_dim,
            state_size: config.ssm_state_size,
            window: config.conv_kernel.saturating_sub(1),
            query_heads: config.num_attention_heads / devices,
            head_dim: config.head_dim,
            key_width: key_heads * config.head_dim,
            mlp: config.intermediate_size / devices,
            experts,
            expert_widths: [
                config.moe_latent_size.unwrap_or(config.hidden_size),
                config.moe_intermediate_size / devices,
            ],
            shared_experts: config.n_shared_experts * config.moe_shared_expert_intermediate_size / devices,
        }
    }

    /// Number of blocks of a kind.
    pub fn count(&self, kind: LayerKind) -> usize {
        self.layers.iter().filter(|&&layer| layer == kind).count()
    }

    /// Channels of a Mamba block's convolution: x, B and C.
    pub fn channels(&self) -> usize {
        self.inner + 2 * self.group_width
    }

    /// Elements that one Mamba block remembers of a sequence: its window and its state.
    pub fn state_of_block(&self) -> usize {
        self.channels() * self.window + self.inner * self.state_size
    }

    /// Elements that all Mamba blocks remember of a sequence.
    pub fn state(&self) -> usize {
        self.count(LayerKind::Mamba2) * self.state_of_block()
    }

    /// Elements that all attention blocks remember of a token: its keys and its values.
    pub fn keys_values(&self) -> usize {
        2 * self.count(LayerKind::Attention) * self.key_width
    }
}
