//! The seam between the training loop and the model.
//!
//! Everything the loop needs from a policy is in [`Policy`]: continue sequences token by token, train on
//! trajectories, save and load itself. The loop therefore never sees a tensor, and the whole loop can be
//! tested with [`ScriptedPolicy`](super::scripted::ScriptedPolicy), which answers from a table.
//!
//! Two conventions hold everywhere:
//! * *Entry t describes token t.* `mask[t]` says whether token t is trained, `log_probs[t]` is the
//!   log-probability of token t given the tokens before it. Entry 0 is never trained.
//! * *Ids are only appended.* A sequence grows by `begin_turn(append)` and by sampled tokens; nothing is
//!   ever re-tokenised, so what is trained is what was sampled.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::config::LossConfig;

pub use nemo_model::generate::{SampleKey, SamplingParams, SequenceId, StopReason, TokenId, TurnEnd};

/// One trajectory as the update sees it. All three per-token arrays have the same length.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainSequence {
    /// Prompt, sampled tokens and tool results in the order the model saw them.
    pub tokens: Vec<TokenId>,
    /// Entry t: token t was sampled by the policy and is trained. All false for a sample that is filtered
    /// out (it then adds nothing to the loss nor to the denominators).
    pub mask: Vec<bool>,
    /// The advantage of the whole sequence; the same for all its tokens.
    pub advantage: f32,
    /// Entry t: the engine's log-probability of token t when it was sampled; 0 where `mask` is false.
    pub generation_log_probs: Vec<f32>,
}

/// The batch of one optimizer step.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainBatch {
    /// The trajectories. Those of one group are neighbours, which is what prefix sharing likes best, but
    /// nothing depends on the order except the rounding of sums.
    pub sequences: Vec<TrainSequence>,
    /// Trained tokens of the whole optimizer step: the denominator of token-level losses.
    pub global_valid_tokens: usize,
    /// Sequences of the whole optimizer step that are not filtered out: the denominator of sequence-level
    /// losses.
    pub global_valid_sequences: usize,
}

/// The hyper-parameters of one optimizer step.
#[derive(Clone, Debug)]
pub struct UpdateParams {
    /// Learning rate of this step, warm-up and decay already applied.
    pub learning_rate: f64,
    /// Decoupled weight decay, for parameters with at least two axes.
    pub weight_decay: f64,
    /// Decay rates of Adam's first and second moment.
    pub betas: (f64, f64),
    /// Adam's denominator guard.
    pub epsilon: f64,
    /// Gradients are scaled down to this global L2 norm; 0 disables clipping.
    pub max_grad_norm: f64,
    /// Temperature the trajectories were sampled at: log-probabilities are those of the distribution that was
    /// sampled from, so the training forward divides its logits by it too. 1 for supervised steps.
    pub temperature: f64,
    /// The policy-gradient loss; ignored by [`Policy::train_supervised`].
    pub loss: LossConfig,
}

/// What an update did. Everything is measured before the weights change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UpdateReport {
    /// The loss, already divided by its global denominator.
    pub loss: f64,
    /// Global L2 norm of the gradient before clipping.
    pub grad_norm: f64,
    /// The training forward's own log-probabilities: per sequence of the batch one array as long as its
    /// tokens, entry t for token t, 0 where the mask is false. Never a copy of the engine's.
    pub log_probs: Vec<Vec<f32>>,
    /// Mean entropy of the policy's distribution over the trained tokens, in nats.
    pub entropy: f64,
    /// Further metrics of the loss under NeMo RL's names without prefix (`probs_ratio`, …).
    pub metrics: BTreeMap<String, f64>,
}

/// One demonstration. Both arrays have the same length.
#[derive(Clone, Debug, PartialEq)]
pub struct SupervisedSequence {
    /// Prompt, assistant turns and tool results.
    pub tokens: Vec<TokenId>,
    /// Entry t: the weight of token t's cross-entropy; 0 at entry 0.
    pub weights: Vec<f32>,
}

/// The batch of one supervised step. The loss is `Σ weight · cross-entropy / Σ weight`.
#[derive(Clone, Debug, PartialEq)]
pub struct SupervisedBatch {
    /// The demonstrations.
    pub sequences: Vec<SupervisedSequence>,
    /// Probability mass spread evenly over the vocabulary in the target distribution; 0 for plain
    /// cross-entropy.
    pub label_smoothing: f64,
}

impl SupervisedBatch {
    /// Tokens with a weight.
    pub fn num_trained_tokens(&self) -> usize {
        self.sequences.iter().flat_map(|sequence| &sequence.weights).filter(|weight| **weight > 0.0).count()
    }
}

/// What a supervised step did. Everything is measured before the weights change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SupervisedReport {
    /// The weighted mean cross-entropy in nats.
    pub loss: f64,
    /// Global L2 norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Log-probabilities like [`UpdateReport::log_probs`], for the tokens of positive weight. May be left
    /// empty by a policy that does not keep them; how well written tokens fit is then not reported.
    pub log_probs: Vec<Vec<f32>>,
}

/// Why a policy could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The model or the engine failed; its own error says what happened.
    #[error(transparent)]
    Model(Box<dyn std::error::Error + Send + Sync>),
    /// A handle that was never handed out or is already finished.
    #[error("sequence {0:?} is not open")]
    UnknownSequence(SequenceId),
    /// `begin_turn` on a sequence whose turn has not ended.
    #[error("sequence {0:?} is still generating")]
    TurnOpen(SequenceId),
    /// A prompt longer than the longest sequence the policy can hold.
    #[error("a prompt of {length} tokens does not fit: a sequence holds at most {limit} tokens")]
    PromptTooLong {
        /// Tokens of the prompt.
        length: usize,
        /// The longest sequence.
        limit: usize,
    },
    /// The loss or the gradient is not a finite number; the weights were left as they were.
    #[error("{what} is {value}; the weights were left unchanged")]
    NotFinite {
        /// Which number.
        what: &'static str,
        /// Its value.
        value: f64,
    },
    /// The weights are nothing that the policy could act with.
    #[error("{tensor} {reason}")]
    Unusable {
        /// Name of the tensor at fault.
        tensor: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The device failed; what it was computing is lost, the last checkpoint is not.
    #[error(transparent)]
    Device(#[from] nemo_kernels::DeviceError),
    /// The loss has a Kullback-Leibler penalty and the policy keeps no reference.
    #[error("the loss compares with a reference policy, and none was kept when the run was set up")]
    NoReference,
    /// A file of the checkpoint could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file of the checkpoint does not hold what it should.
    #[error("{}: found {found}, expected {expected}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it holds.
        found: String,
        /// What it should hold.
        expected: String,
    },
    /// The scripted policy was asked for something its script does not cover.
    #[error("the script has no answer: {0}")]
    Script(String),
}

/// A language model that acts and learns.
///
/// # Generation
/// `begin` opens sequences that hold a prompt; `begin_turn` appends tokens to one of them and starts
/// sampling; `step` advances all open turns by at least one token and reports those that ended. The
/// sequence then holds every token so far, the stop token included, and waits for the next `begin_turn`
/// or for `finish`. Sequences of one policy are independent of each other: what one samples depends only
/// on its tokens, its [`SampleKey`], its [`SamplingParams`] and the weights.
///
/// # Training
/// No sequence may be open during `train`, `train_supervised` and `load_weights`: they change the weights
/// and drop everything that was cached under the old ones.
pub trait Policy {
    /// Opens `samples` sequences that all hold `prompt`, which is computed once.
    fn begin(&mut self, prompt: &[TokenId], samples: usize) -> Result<Vec<SequenceId>, PolicyError>;

    /// Appends `append` (empty in the first turn) to a sequence and starts sampling its next turn.
    fn begin_turn(
        &mut self,
        id: SequenceId,
        append: &[TokenId],
        key: SampleKey,
        sampling: &SamplingParams,
    ) -> Result<(), PolicyError>;

    /// One engine step for all open turns; the turns that ended, possibly none. Without open turns it
    /// returns nothing.
    fn step(&mut self) -> Result<Vec<TurnEnd>, PolicyError>;

    /// Closes a sequence and frees what it holds; unknown handles are ignored.
    fn finish(&mut self, id: SequenceId);

    /// One optimizer step on trajectories: forward, loss, backward, clipping, AdamW. `on_tokens` is told how many of the
    /// trained tokens have been through the model.
    ///
    /// # Errors
    /// [`PolicyError::NotFinite`] leaves weights and optimizer as they were.
    fn train(
        &mut self,
        batch: &TrainBatch,
        params: &UpdateParams,
        on_tokens: &mut dyn FnMut(usize),
    ) -> Result<UpdateReport, PolicyError>;

    /// One optimizer step on demonstrations; `on_tokens` as in [`Policy::train`].
    ///
    /// # Errors
    /// [`PolicyError::NotFinite`] leaves weights and optimizer as they were.
    fn train_supervised(
        &mut self,
        batch: &SupervisedBatch,
        params: &UpdateParams,
        on_tokens: &mut dyn FnMut(usize),
    ) -> Result<SupervisedReport, PolicyError>;

    /// Checks that the policy can act with its present weights and store them.
    ///
    /// # Errors
    /// [`PolicyError::Unusable`].
    fn check_usable(&self) -> Result<(), PolicyError>;

    /// Writes a Hugging Face folder: configuration, tokenizer and weights, or an adapter in PEFT's format where that is what is
    /// trained. `dir` exists and is empty.
    fn save_weights(&self, dir: &Path) -> Result<(), PolicyError>;

    /// Writes whatever the next step needs beside [`Policy::save_weights`]' folder to one file: moments, step count, and
    /// the weights themselves in f32 where the folder holds them rounded.
    fn save_optimizer(&self, path: &Path) -> Result<(), PolicyError>;

    /// Replaces the weights by those of a Hugging Face folder of the same architecture, or the adapter by one beside the same
    /// maps.
    fn load_weights(&mut self, dir: &Path) -> Result<(), PolicyError>;

    /// Takes up the state written by [`Policy::save_optimizer`], after the weights of the same checkpoint. What the file
    /// lacks to go on exactly, in words.
    fn load_optimizer(&mut self, path: &Path) -> Result<Option<String>, PolicyError>;
}
