//! The memory of a run as a plan that holds: what every phase of a step takes on each device, and what is left.
//!
//! ```text
//! resident    weights + masters + two moments, as the optimizer keeps them (+ the reference policy's weights)
//! generation  resident + pages of keys and values + slots of states + a pass through the model
//! backward    resident + gradient sums + residual streams + kept graphs + one block's graph with its gradients
//!             + states, keys and values of the path, and their gradients
//! update      resident + gradient sums
//! save        resident + one tensor on its way to the file, twice
//! ```
//!
//! Where an adapter is trained, its factors have the moments and the gradient sums, and nobody has masters; weights that a host
//! reads from a file as they are stay there.
//!
//! Generation and backward take turns: the engine's pools are given back before the backward pass. All of it is arithmetic on
//! sizes; no tensor is made. `rl/tests/memory.rs` holds the backward pass to these figures.

mod backward;
mod cells;
mod configured;
mod engine;
mod remedy;
mod sizes;
#[cfg(test)]
mod tests;
mod work;

use nemo_model::config::ModelConfig;

pub use self::backward::PassShape;
pub use self::cells::{CellSizes, Run};
pub use self::engine::EngineRoom;
pub use self::remedy::{remedies, size_text};
pub use self::sizes::{AdapterSizes, ElementBytes, FLOAT32_BYTES, Shard};
pub use self::work::{Rates, StepSeconds, StepWork};

use self::backward::TreeShape;
use crate::config::{MomentDtype, Precision};
use crate::optimizer::OptimizerDtypes;

/// Name of the phase in which gradients are computed.
const BACKWARD: &str = "backward";

/// What a step has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Tokens that all prompts begin with.
    pub shared_prefix: usize,
    /// Tokens of a prompt, the shared ones included.
    pub prompt: usize,
    /// Tokens of the longest sequence, prompt included.
    pub longest_sequence: usize,
    /// Tokens that the shortest sequences have behind their prompt; a padded batch has as many such rows as have room.
    pub leaf_tokens: usize,
    /// Sequences that are generated at the same time.
    pub max_open_sequences: usize,
    /// Tokens of a padded training batch of several rows.
    pub max_batch_tokens: usize,
    /// Most tokens of a segment that go through the model at once in training. It is never chosen by memory, as it changes
    /// the order in which gradients are summed.
    pub chunk_tokens: usize,
    /// Prompts of a step.
    pub prompts_per_step: usize,
    /// Sequences of a step, all prompts' samples together.
    pub sequences_per_step: usize,
}

/// Where the step is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Bytes of each device that the run may use.
    pub device_memory: usize,
    /// Devices that each hold a part of every layer.
    pub devices: usize,
    /// Host threads that compute; 0 where a device does.
    pub threads: usize,
}

/// What the configuration decides.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Sizes of elements.
    pub element_bytes: ElementBytes,
    /// What the optimizer keeps its state in.
    pub optimizer: OptimizerDtypes,
    /// Bytes of the weights that lie in a mapped file, all devices together: their memory is the system's, and the plan leaves
    /// it out.
    pub mapped_bytes: usize,
    /// Whether the model is trained; otherwise it only generates.
    pub trains: bool,
    /// Whether the starting weights are kept beside those that are trained.
    pub keeps_reference: bool,
    /// Share of the device's memory that weights and caches may fill while sequences are generated
    /// (`policy.generation.vllm_cfg.gpu_memory_utilization`).
    pub memory_utilization: f64,
    /// Whether every block runs twice, so that no graph is kept (`policy.megatron_cfg.activation_checkpointing`).
    pub activation_checkpointing: bool,
}

impl Settings {
    /// Bytes of both moments of so many parameters.
    pub fn moment_bytes(&self, parameters: usize) -> usize {
        let of_moment = |dtype| match dtype {
            MomentDtype::Float32 => parameters.saturating_mul(FLOAT32_BYTES),
            MomentDtype::Bfloat16 => parameters.saturating_mul(2),
            // Codes, and the largest magnitude of each block.
            MomentDtype::Uint8 => {
                parameters.saturating_add(nemo_kernels::adamw::num_blocks(parameters).saturating_mul(FLOAT32_BYTES))
            }
        };
        of_moment(self.optimizer.exp_avg).saturating_add(of_moment(self.optimizer.exp_avg_sq))
    }
}

/// All that a plan is made from.
#[derive(Clone, Debug)]
pub struct PlanInput<'a> {
    /// The model.
    pub model: &'a ModelConfig,
    /// What a step has to do.
    pub workload: Workload,
    /// Where.
    pub machine: Machine,
    /// How.
    pub settings: Settings,
    /// What is trained in place of the model, if it is an adapter.
    pub adapter: Option<AdapterSizes>,
}

impl PlanInput<'_> {
    /// Bytes of what is trained as the forward pass reads it: factors are in f32.
    pub fn trained_bytes(&self) -> usize {
        if self.adapter.is_some() { FLOAT32_BYTES } else { self.settings.element_bytes.parameters }
    }

    /// Bytes of a trained parameter's master weight: weights that are narrower than f32 have one, unless the optimizer does
    /// without.
    pub fn master_bytes(&self) -> usize {
        let is_narrow = self.trained_bytes() < FLOAT32_BYTES;
        if is_narrow && self.settings.optimizer.main_params == Precision::Float32 { FLOAT32_BYTES } else { 0 }
    }

    /// The part of each device; `None` where the model cannot be cut into so many.
    fn shard(&self) -> Option<Shard> {
        let devices = self.machine.devices;
        Some(Shard::new(self.model, devices)?.beside(self.adapter.as_ref(), devices))
    }
}

/// Something that takes memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// What it is.
    pub name: &'static str,
    /// Its size.
    pub bytes: usize,
}

impl Item {
    fn new(name: &'static str, bytes: usize) -> Self {
        Self { name, bytes }
    }
}

/// A part of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phase {
    /// What is done.
    pub name: &'static str,
    /// What it takes beside what is resident.
    pub items: Vec<Item>,
}

impl Phase {
    /// Bytes beside what is resident.
    pub fn bytes(&self) -> usize {
        total(&self.items)
    }
}

/// What a run takes of each device, and what it may be set to.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Bytes of each device that the run may use.
    pub device_memory: usize,
    /// Devices.
    pub devices: usize,
    /// What is there from the first step to the last.
    pub resident: Vec<Item>,
    /// The parts of a step.
    pub phases: Vec<Phase>,
    /// Bytes that graphs of first passes may take: `PassOptions::kept_bytes`.
    pub kept_bytes: usize,
    /// Pages and slots of the engine.
    pub engine: EngineRoom,
    /// Bytes that the engine's pools may take, and need at least.
    engine_bytes: [usize; 2],
    /// The work of a step.
    pub work: StepWork,
}

impl Plan {
    /// The plan for `input`; `None` where the model cannot be cut into so many devices.
    pub fn new(input: &PlanInput<'_>) -> Option<Self> {
        let shard = input.shard()?;
        let Settings { element_bytes, trains, keeps_reference, .. } = input.settings;
        let of_blocks = (shard.parameters - shard.tables).saturating_mul(element_bytes.parameters);
        let weights = of_blocks.saturating_add(shard.tables.saturating_mul(element_bytes.tables));
        let of_trained = |bytes: usize| shard.trained.all.saturating_mul(bytes);
        let mapped = input.settings.mapped_bytes / input.machine.devices.max(1);
        let mut resident = vec![Item::new("weights", weights.saturating_sub(mapped))];
        if input.adapter.is_some() {
            resident.push(Item::new("factors of the adapter", of_trained(FLOAT32_BYTES)));
        }
        if trains {
            resident.push(Item::new("master weights", of_trained(input.master_bytes())));
            resident.push(Item::new("moments of the optimizer", input.settings.moment_bytes(shard.trained.all)));
        }
        // Without its adapter a model is the policy that training started from.
        if keeps_reference && input.adapter.is_none() {
            resident.push(Item::new("weights of the reference policy", weights));
        }
        let of_resident = total(&resident);

        let pass = engine::pass_bytes(&shard, input);
        let for_engine = utilized(input).saturating_sub(of_resident).saturating_sub(pass);
        let engine = EngineRoom::new(&shard, input, for_engine);
        let mut generation = engine.items(&shard).to_vec();
        generation.push(Item::new("a pass through the model", pass));
        let mut phases = vec![Phase { name: "generation", items: generation }];

        let for_backward = input.machine.device_memory.saturating_sub(of_resident);
        let chunk_tokens = input.workload.chunk_tokens;
        let backward = |kept_bytes| backward_items(&shard, input, PassShape { chunk_tokens, kept_bytes });
        let kept_bytes = match input.settings.activation_checkpointing {
            true => 0,
            false => for_backward.saturating_sub(total(&backward(0))),
        };
        let mut rerun = 0.0;
        if trains {
            let sums = Item::new("gradient sums", of_trained(FLOAT32_BYTES));
            let largest = shard.trained.largest.saturating_mul(FLOAT32_BYTES);
            phases.push(Phase { name: BACKWARD, items: backward(kept_bytes) });
            phases.push(Phase { name: "update", items: vec![sums] });
            phases.push(Phase { name: "save", items: vec![Item::new("one tensor, twice", 2 * largest)] });
            let cells = cell_sizes(&shard, input);
            let trees = tree_shapes(&input.workload, chunk_tokens).into_iter();
            let runs = trees.map(|tree| Run { rows: tree.rows, tokens: tree.tokens, num_keys: 0 });
            let fewest_kept = runs.map(|run| cells.kept(run, kept_bytes).0).min().unwrap_or(0);
            rerun = 1.0 - fewest_kept as f64 / shard.layers.len().max(1) as f64;
        }
        let work = StepWork::new(&shard, input, engine.num_sequences, rerun);
        let engine_bytes = [for_engine, engine.bytes(&shard)];
        let (device_memory, devices) = (input.machine.device_memory, input.machine.devices);
        Some(Self { device_memory, devices, resident, phases, kept_bytes, engine, engine_bytes, work })
    }

    /// The plan for `input`, if it fits.
    ///
    /// # Errors
    /// What does not fit, and what would make it fit.
    pub fn fitting(input: &PlanInput<'_>) -> Result<Self, PlanError> {
        let devices = input.machine.devices;
        let plan = Self::new(input).ok_or(PlanError::Devices { devices })?;
        if plan.fits() {
            return Ok(plan);
        }
        let [for_pools, pools] = plan.engine_bytes;
        let (phase, needed, available) = match pools > for_pools {
            true => ("generation", plan.phase_bytes("generation"), utilized(input)),
            false => (plan.peak_phase(), plan.peak_bytes(), plan.device_memory),
        };
        let remedies = remedies(input).join("; ");
        Err(PlanError::NoRoom { phase, needed, available, remedies })
    }

    /// Bytes of a phase with what is resident.
    pub fn phase_bytes(&self, name: &str) -> usize {
        self.resident_bytes().saturating_add(self.phase(name).map_or(0, Phase::bytes))
    }

    /// Bytes of what is resident.
    pub fn resident_bytes(&self) -> usize {
        total(&self.resident)
    }

    /// The phase of this name.
    pub fn phase(&self, name: &str) -> Option<&Phase> {
        self.phases.iter().find(|phase| phase.name == name)
    }

    /// Bytes of the phase that takes most, with what is resident.
    pub fn peak_bytes(&self) -> usize {
        self.resident_bytes().saturating_add(self.phases.iter().map(Phase::bytes).max().unwrap_or(0))
    }

    /// The name of the phase that takes most.
    pub fn peak_phase(&self) -> &'static str {
        self.phases.iter().max_by_key(|phase| phase.bytes()).map_or("", |phase| phase.name)
    }

    /// Whether every phase has room.
    pub fn fits(&self) -> bool {
        self.engine_bytes[1] <= self.engine_bytes[0] && self.peak_bytes() <= self.device_memory
    }
}

/// Why a run is refused before it allocates anything.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A phase takes more than there is.
    #[error(
        "the run does not fit: {phase} takes {} of each device and may use {} (set by --device-memory, else by what is free); \
         what would make it fit: {remedies}",
        size_text(*needed), size_text(*available)
    )]
    NoRoom {
        /// The phase.
        phase: &'static str,
        /// Bytes it takes.
        needed: usize,
        /// Bytes there are.
        available: usize,
        /// What would make it fit.
        remedies: String,
    },
    /// The model's heads, groups or widths do not divide.
    #[error(
        "the model cannot be cut into {devices} equal parts: heads, groups, widths and the vocabulary have to be multiples of \
         the number of devices; give another number"
    )]
    Devices {
        /// The number.
        devices: usize,
    },
}

/// Sizes of cells on one device.
pub(crate) fn cell_sizes<'s>(shard: &'s Shard, input: &PlanInput<'_>) -> CellSizes<'s> {
    CellSizes { shard, activation: input.settings.element_bytes.activations, threads: input.machine.threads }
}

/// Bytes that generation may fill.
fn utilized(input: &PlanInput<'_>) -> usize {
    (input.machine.device_memory as f64 * input.settings.memory_utilization) as usize
}

/// The token trees of a step that can take most: the longest leaf alone, and a padded batch of the shortest leaves, unless
/// those are longer than a chunk, as such leaves are never put together.
fn tree_shapes(workload: &Workload, chunk_tokens: usize) -> Vec<TreeShape> {
    let longest = workload.longest_sequence.saturating_sub(workload.prompt).max(1);
    let of_prompt = [workload.shared_prefix, workload.prompt.saturating_sub(workload.shared_prefix)];
    let inner: Vec<usize> = of_prompt.into_iter().filter(|&tokens| tokens > 0).collect();
    let shortest = workload.leaf_tokens.clamp(1, longest);
    let rows = (workload.max_batch_tokens / shortest).clamp(1, workload.sequences_per_step.max(1));
    let whole = |rows: usize| inner.is_empty() && rows >= workload.sequences_per_step;
    let mut shapes = vec![TreeShape { inner: inner.clone(), rows: 1, tokens: longest, is_whole_step: whole(1) }];
    if rows > 1 && shortest <= chunk_tokens {
        let tokens = rows.saturating_mul(longest.min(chunk_tokens)).min(workload.max_batch_tokens);
        let is_whole_step = whole(rows);
        shapes.push(TreeShape { inner, rows, tokens, is_whole_step });
    }
    shapes
}

/// What the backward pass takes of each device in the largest of a step's trees, beside what is resident; `None` where the
/// model cannot be cut into so many parts.
pub fn backward_phase(input: &PlanInput<'_>, pass: PassShape) -> Option<Phase> {
    let shard = input.shard()?;
    Some(Phase { name: BACKWARD, items: backward_items(&shard, input, pass) })
}

fn backward_items(shard: &Shard, input: &PlanInput<'_>, pass: PassShape) -> Vec<Item> {
    let cells = cell_sizes(shard, input);
    let trees = tree_shapes(&input.workload, pass.chunk_tokens).into_iter();
    trees.map(|tree| backward::items(&cells, &tree, pass)).max_by_key(|items| total(items)).unwrap_or_default()
}

fn total(items: &[Item]) -> usize {
    items.iter().map(|item| item.bytes).fold(0, usize::saturating_add)
}
