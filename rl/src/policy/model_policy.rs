//! The policy that is a model: generation by the engine, learning by the tree pass, one copy of the weights
//! (and of the starting ones where a penalty holds to them).
//!
//! Of a model with an adapter the policy is the adapter: it is what is updated, saved and loaded. Such a model is its own
//! starting policy, without the adapter.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Tensor;
use nemo_kernels::{DeviceError, WriteCheck};
use nemo_model::adapter::{AdapterError, save_adapter};
use nemo_model::checkpoint::{SaveOptions, SidecarFile, StoredDtype};
use nemo_model::generate::{Engine, EngineOptions};
use nemo_model::{Dtypes, EngineError, NemotronH};

use super::api::{
    Policy, PolicyError, SampleKey, SamplingParams, SequenceId, SupervisedBatch, SupervisedReport, TokenId, TrainBatch,
    TurnEnd, UpdateParams, UpdateReport,
};
use super::pass::{ParameterGradients, PassOptions, Scoring, TrainedRows, TreePass};
use super::usable;
use crate::loss::{
    LossInputs, LossNormalizers, LossTermValues, LossTokens, clipped_policy_gradient_loss, has_gradient, loss_metrics,
    merge_loss_metrics, sum_in_order,
};
use crate::optimizer::{AdamW, OptimizerDtypes};
use crate::token_tree::TokenTree;

/// Runs of tokens shorter than this are not worth a segment of their own.
const MIN_SHARED_TOKENS: usize = 16;

/// What the policy needs beside the model.
#[derive(Clone, Debug)]
pub struct ModelPolicyOptions {
    /// Sizes of the engine.
    pub engine: EngineOptions,
    /// How batches are differentiated.
    pub pass: PassOptions,
    /// What the optimizer keeps its state in.
    pub optimizer: OptimizerDtypes,
    /// Seed of the numbers by which updates are rounded at random.
    pub rounding_seed: u64,
    /// Tokenizer and other files saved with the weights; an adapter has none, its base has them.
    pub sidecar_files: Vec<SidecarFile>,
    /// What the folder of an adapter calls the model that it belongs to.
    pub base_name: String,
}

/// A Nemotron-H model that acts and learns.
#[derive(Debug)]
pub struct ModelPolicy {
    engine: Engine,
    /// The policy that a Kullback-Leibler penalty holds to.
    reference: Option<NemotronH>,
    optimizer: AdamW,
    options: ModelPolicyOptions,
}

impl ModelPolicy {
    /// A policy with a fresh optimizer.
    pub fn new(model: NemotronH, options: ModelPolicyOptions) -> Self {
        let optimizer = AdamW::new(trained_dtypes(&model), options.optimizer, options.rounding_seed);
        let engine = Engine::new(model, options.engine.clone());
        Self { engine, reference: None, optimizer, options }
    }

    /// Keeps the present weights as the reference policy, which a loss with a Kullback-Leibler penalty needs.
    #[must_use]
    pub fn with_reference(mut self) -> Self {
        self.reference = Some(self.model().without_adapter());
        self
    }

    /// The model.
    pub fn model(&self) -> &NemotronH {
        self.engine.model()
    }

    /// Changes the weights from outside (tests of fidelity do); cached states are dropped.
    pub fn update_model<R>(&mut self, change: impl FnOnce(&mut NemotronH) -> R) -> R {
        self.engine.update_model(change)
    }

    /// Log-probs of the trained tokens under the reference policy; entry t of a row belongs to token t, others are 0.
    fn reference_log_probs(
        &self,
        tree: &TokenTree,
        sequences: &[&[TokenId]],
        masks: &[Vec<bool>],
        temperature: f64,
    ) -> Result<Vec<Vec<f32>>, PolicyError> {
        let reference = self.reference.as_ref().ok_or(PolicyError::NoReference)?;
        let mut log_probs: Vec<Vec<f32>> = sequences.iter().map(|tokens| vec![0.0; tokens.len()]).collect();
        let ungraded = vec![false; sequences.len()];
        let scoring = Scoring { temperature, spread: false };
        let pass = TreePass::new(reference, tree, sequences, masks, &ungraded, self.options.pass, scoring);
        pass.run(&mut |rows| {
            for (&(sequence, t), value) in rows.places.iter().zip(read(rows.log_prob.clone())) {
                log_probs[sequence][t] = value;
            }
            rows.log_prob
        });
        Ok(log_probs)
    }

    /// The type that the model's own file rounds its weights to, if it does. The file of an adapter has f32.
    fn stored_narrow(&self) -> Option<StoredDtype> {
        if self.model().adapter().is_some() {
            return None;
        }
        let stored = StoredDtype::from(self.model().config().dtype);
        (stored.size_bytes() < StoredDtype::F32.size_bytes()).then_some(stored)
    }

    /// The weights by name, flat, where the model's own file rounds them and they are not bf16 numbers in memory.
    fn unrounded_weights(&self) -> BTreeMap<String, Tensor<1>> {
        let mut masters = BTreeMap::new();
        if self.stored_narrow().is_some() && !self.optimizer.rounds_to_bf16() {
            // The copy shares storage; only the traversal is asked for.
            self.model().clone().visit_mut(&mut |name, parameter| {
                masters.insert(name.to_owned(), parameter.flat());
            });
        }
        masters
    }

    /// Weights that were quantised for generation are not trained.
    fn check_trainable(&self) -> Result<(), PolicyError> {
        self.model().check_trainable().map_err(|error| PolicyError::Model(Box::new(error)))
    }

    /// Updates the weights; returns the gradient's norm before clipping.
    ///
    /// # Errors
    /// When the gradient is not finite, or the device failed or lost a weight or a moment: nobody reads them before the next
    /// step.
    fn apply(&mut self, gradients: ParameterGradients, params: &UpdateParams) -> Result<f64, PolicyError> {
        let optimizer = &mut self.optimizer;
        let norm = self.engine.update_model(|model| optimizer.update(model, gradients, params))?;
        let synced = self.model().device().sync();
        synced.map_err(|error| DeviceError::from_message(&error.to_string()))?;
        let mut check = WriteCheck::default();
        self.optimizer.add_to(&mut check);
        // The copy shares storage; only the traversal is asked for.
        self.model().clone().visit_trained_mut(&mut |_, parameter| parameter.add_to(&mut check));
        check.finish()?;
        Ok(norm)
    }
}

impl Policy for ModelPolicy {
    fn begin(&mut self, prompt: &[TokenId], samples: usize) -> Result<Vec<SequenceId>, PolicyError> {
        self.engine.begin(prompt, samples).map_err(engine_error)
    }

    fn begin_turn(
        &mut self,
        id: SequenceId,
        append: &[TokenId],
        key: SampleKey,
        sampling: &SamplingParams,
    ) -> Result<(), PolicyError> {
        self.engine.begin_turn(id, append, key, sampling).map_err(engine_error)
    }

    fn step(&mut self) -> Result<Vec<TurnEnd>, PolicyError> {
        self.engine.step().map_err(engine_error)
    }

    fn finish(&mut self, id: SequenceId) {
        self.engine.finish(id);
    }

    fn train(
        &mut self,
        batch: &TrainBatch,
        params: &UpdateParams,
        on_tokens: &mut dyn FnMut(usize),
    ) -> Result<UpdateReport, PolicyError> {
        self.check_trainable()?;
        // Backward takes the place of the engine's caches, which the new weights make worthless anyway.
        self.engine.release_caches();
        let sequences: Vec<&[TokenId]> = batch.sequences.iter().map(|s| s.tokens.as_slice()).collect();
        let masks: Vec<Vec<bool>> = batch.sequences.iter().map(|s| s.mask.clone()).collect();
        let tree = TokenTree::build_within(&sequences, &shareable(&masks), MIN_SHARED_TOKENS);
        let normalizers = LossNormalizers {
            valid_tokens: batch.global_valid_tokens as f64,
            valid_sequences: batch.global_valid_sequences as f64,
        };
        let mut report = UpdateReport {
            log_probs: sequences.iter().map(|tokens| vec![0.0; tokens.len()]).collect(),
            ..UpdateReport::default()
        };
        let mut entropy = 0.0;
        let reference = match params.loss.reference_policy_kl_penalty == 0.0 {
            true => None,
            false => Some(self.reference_log_probs(&tree, &sequences, &masks, params.temperature)?),
        };
        let graded: Vec<bool> = batch.sequences.iter().map(|s| has_gradient(&params.loss, s.advantage)).collect();
        let mut num_tokens = 0;
        let gradients = {
            let model = self.engine.model();
            let scoring = Scoring { temperature: params.temperature, spread: false };
            let pass = TreePass::new(model, &tree, &sequences, &masks, &graded, self.options.pass, scoring);
            pass.run(&mut |TrainedRows { log_prob, entropy: entropies, places, .. }| {
                num_tokens += places.len();
                on_tokens(num_tokens);
                let values = read(log_prob.clone());
                for (&(sequence, t), &value) in places.iter().zip(&values) {
                    report.log_probs[sequence][t] = value;
                }
                entropy += read(entropies).iter().map(|&e| f64::from(e)).sum::<f64>();
                let mut tokens = loss_tokens(batch, &places);
                tokens.reference_log_probs = reference
                    .as_ref()
                    .map(|reference| places.iter().map(|&(sequence, t)| reference[sequence][t]).collect());
                let terms = clipped_policy_gradient_loss(
                    &params.loss,
                    LossInputs { log_probs: log_prob, unfiltered_log_probs: None, tokens: &tokens },
                    normalizers,
                );
                let scalar = |tensor: &Tensor<1>| f64::from(read(tensor.clone()).first().copied().unwrap_or(0.0));
                let values_of_terms = LossTermValues {
                    loss: scalar(&terms.loss),
                    kl: terms.kl.as_ref().map(scalar),
                    positive_nll: terms.positive_nll.as_ref().map(scalar),
                };
                let metrics =
                    loss_metrics(&params.loss, &tokens, &values, values_of_terms, normalizers, tokens.num_sequences);
                merge_loss_metrics(&mut report.metrics, &metrics);
                terms.loss
            })
        };
        report.loss = report.metrics.get("loss").copied().unwrap_or(0.0);
        report.entropy = entropy / (batch.global_valid_tokens as f64).max(1.0);
        if !report.loss.is_finite() {
            return Err(PolicyError::NotFinite { what: "the loss", value: report.loss });
        }
        report.grad_norm = self.apply(gradients, params)?;
        Ok(report)
    }

    fn train_supervised(
        &mut self,
        batch: &SupervisedBatch,
        params: &UpdateParams,
        on_tokens: &mut dyn FnMut(usize),
    ) -> Result<SupervisedReport, PolicyError> {
        self.check_trainable()?;
        // Backward takes the place of the engine's caches, which the new weights make worthless anyway.
        self.engine.release_caches();
        let sequences: Vec<&[TokenId]> = batch.sequences.iter().map(|s| s.tokens.as_slice()).collect();
        let masks: Vec<Vec<bool>> =
            batch.sequences.iter().map(|s| s.weights.iter().map(|&weight| weight > 0.0).collect()).collect();
        let tree = TokenTree::build_within(&sequences, &shareable(&masks), MIN_SHARED_TOKENS);
        let total: f64 = batch.sequences.iter().flat_map(|s| &s.weights).map(|&w| f64::from(w)).sum();
        let smoothing = batch.label_smoothing;
        let mut report = SupervisedReport {
            log_probs: sequences.iter().map(|tokens| vec![0.0; tokens.len()]).collect(),
            ..SupervisedReport::default()
        };
        let graded = vec![true; sequences.len()];
        let mut num_tokens = 0;
        let gradients = {
            let model = self.engine.model();
            let scoring = Scoring { temperature: 1.0, spread: smoothing > 0.0 };
            let pass = TreePass::new(model, &tree, &sequences, &masks, &graded, self.options.pass, scoring);
            pass.run(&mut |TrainedRows { log_prob, spread, places, .. }| {
                num_tokens += places.len();
                on_tokens(num_tokens);
                let weights: Vec<f32> = places
                    .iter()
                    .map(|&(sequence, t)| (f64::from(batch.sequences[sequence].weights[t]) / total) as f32)
                    .collect();
                let values = read(log_prob.clone());
                let mut share = 0.0;
                for ((&(sequence, t), &value), &weight) in places.iter().zip(&values).zip(&weights) {
                    report.log_probs[sequence][t] = value;
                    share -= f64::from(value) * f64::from(weight);
                }
                report.loss += share;
                let weights = Tensor::<1>::from_floats(weights.as_slice(), &log_prob.device());
                let log_likelihood = match spread {
                    Some(spread) => log_prob + spread * smoothing,
                    None => log_prob,
                };
                sum_in_order(log_likelihood * weights).neg()
            })
        };
        if !report.loss.is_finite() {
            return Err(PolicyError::NotFinite { what: "the loss", value: report.loss });
        }
        report.grad_norm = self.apply(gradients, params)?;
        Ok(report)
    }

    fn check_usable(&self) -> Result<(), PolicyError> {
        usable::check(self.model())
    }

    fn save_weights(&self, dir: &Path) -> Result<(), PolicyError> {
        if self.model().adapter().is_some() {
            return save_adapter(self.model(), dir, &self.options.base_name).map_err(adapter_error);
        }
        let options = SaveOptions { sidecar_files: self.options.sidecar_files.clone(), ..SaveOptions::default() };
        nemo_model::save(self.engine.model(), dir, &options).map_err(|error| PolicyError::Model(Box::new(error)))
    }

    fn save_optimizer(&self, path: &Path) -> Result<(), PolicyError> {
        self.optimizer.save(path, &self.unrounded_weights()).map_err(|error| PolicyError::Model(Box::new(error)))
    }

    fn load_weights(&mut self, dir: &Path) -> Result<(), PolicyError> {
        if self.model().adapter().is_some() {
            return self.update_model(|model| model.reload_adapter(dir)).map_err(adapter_error);
        }
        let model = self.engine.model();
        let loaded = nemo_model::load_with_config(dir, model.config(), &model.device(), model.dtypes())
            .map_err(|error| PolicyError::Model(Box::new(error)))?;
        self.update_model(|model| *model = loaded);
        Ok(())
    }

    fn load_optimizer(&mut self, path: &Path) -> Result<Option<String>, PolicyError> {
        let (optimizer, mut masters) = AdamW::load(
            path,
            &self.model().device(),
            trained_dtypes(self.model()),
            self.options.optimizer,
            self.options.rounding_seed,
        )?;
        self.optimizer = optimizer;
        let mut missing = None;
        if self.optimizer.rounds_to_bf16() && !self.optimizer.has_masters() {
            return Ok(None);
        }
        if self.optimizer.has_masters() {
            let lengths: BTreeMap<&String, usize> =
                self.optimizer.masters().map(|(name, master)| (name, master.dims()[0])).collect();
            // The copy shares storage; only the traversal is asked for.
            self.model().clone().visit_mut(&mut |name, parameter| {
                let length = parameter.shape().iter().product::<usize>();
                if lengths.get(&name.to_owned()) != Some(&length) {
                    missing = Some(format!("no {length} f32 weights of {name}"));
                }
            });
            masters.clear();
            if !lengths.is_empty() {
                return absent(path, missing);
            }
        }
        if masters.is_empty() {
            return Ok(self.stored_narrow().map(|stored| {
                format!(
                    "{} holds no f32 weights, and the model is stored in {}: the run continues from rounded weights, not \
                     exactly where it was",
                    path.display(),
                    stored.name()
                )
            }));
        }
        self.update_model(|model| {
            model.visit_mut(&mut |name, mut parameter| {
                let length = parameter.shape().iter().product::<usize>();
                match masters.remove(name).filter(|master| master.dims() == [length]) {
                    Some(master) => parameter.update_flat(|_| master),
                    None => missing = Some(format!("no {length} f32 weights of {name}")),
                }
            });
        });
        absent(path, missing)
    }
}

/// The error of a file without the weights of some parameter.
fn absent(path: &Path, missing: Option<String>) -> Result<Option<String>, PolicyError> {
    match missing {
        None => Ok(None),
        Some(found) => {
            let expected = "the weights of every parameter".to_owned();
            Err(PolicyError::Malformed { path: path.to_owned(), found, expected })
        }
    }
}

/// How many leading tokens of each sequence may be shared: up to the position that predicts its first trained token.
fn shareable(masks: &[Vec<bool>]) -> Vec<usize> {
    masks
        .iter()
        .map(|mask| mask.iter().position(|&trained| trained).map_or(usize::MAX, |first| first.saturating_sub(1)))
        .collect()
}

/// The host's view of the trained tokens at `places`, which are grouped by sequence.
fn loss_tokens(batch: &TrainBatch, places: &[(usize, usize)]) -> LossTokens {
    let mut tokens = LossTokens::default();
    let mut last = None;
    for &(sequence, t) in places {
        if last != Some(sequence) {
            last = Some(sequence);
            tokens.num_sequences += 1;
        }
        tokens.sequences.push(tokens.num_sequences - 1);
        tokens.advantages.push(batch.sequences[sequence].advantage);
        tokens.generation_log_probs.push(batch.sequences[sequence].generation_log_probs[t]);
    }
    tokens
}

fn read(tensor: Tensor<1>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

/// The types in which the parameters that training changes are kept: an adapter's factors are in f32 whatever lies beside
/// them.
fn trained_dtypes(model: &NemotronH) -> Dtypes {
    if model.adapter().is_some() { Dtypes::F32 } else { model.dtypes() }
}

fn adapter_error(error: AdapterError) -> PolicyError {
    PolicyError::Model(Box::new(error))
}

fn engine_error(error: EngineError) -> PolicyError {
    match error {
        EngineError::UnknownSequence(id) => PolicyError::UnknownSequence(id),
        EngineError::TurnOpen(id) => PolicyError::TurnOpen(id),
        EngineError::PromptTooLong { length, limit } => PolicyError::PromptTooLong { length, limit },
        EngineError::Device(error) => PolicyError::Device(error),
        other => PolicyError::Model(Box::new(other)),
    }
}
