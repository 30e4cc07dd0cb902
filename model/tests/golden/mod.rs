//! The checks of the golden tests, on a device of choice. Each prints what it compared and how far apart it was.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use nemo_model::config::ModelConfig;
use nemo_model::generate::{Engine, EngineOptions, SampleKey, SamplingParams};
use nemo_model::parallel::ForwardContext;
use nemo_model::{Dtypes, HybridState, LayerState, NemotronH};

use crate::fixture::Cases;

/// How far a device's float32 results may be from the stored float64 ones.
#[derive(Clone, Copy)]
pub struct Tolerances {
    /// Largest absolute difference of logits, hidden values and states.
    pub values: f64,
    /// Largest relative L2 difference of a gradient.
    pub gradients: f64,
    /// Largest difference of the mean loss.
    pub loss: f64,
}

/// The checks of some model folders on one device.
pub struct Golden {
    device: Device,
    folders: Vec<PathBuf>,
    tolerances: Tolerances,
    /// Largest difference of each kind so far.
    values: Cell<f64>,
    gradients: Cell<f64>,
    loss: Cell<f64>,
}

/// Loads a model folder in float32 onto `device`, under one of its configuration files.
pub fn load(folder: &Path, config_file: &str, device: &Device) -> NemotronH {
    let config = ModelConfig::from_file(&folder.join(config_file)).expect("the config parses");
    nemo_model::load_with_config(folder, &config, device, Dtypes::F32).expect("the checkpoint loads")
}

pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

/// L2 norm of the difference over that of the expected values; zero when both are zero.
pub fn relative_error(found: &[f64], expected: &[f64]) -> f64 {
    let norm = expected.iter().map(|e| e * e).sum::<f64>().sqrt();
    let error = found.iter().zip(expected).map(|(f, e)| (f - e).powi(2)).sum::<f64>().sqrt();
    if error == 0.0 { 0.0 } else { error / norm }
}

fn log_prob(logits: &[f64], id: usize) -> f64 {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    logits[id] - max - logits.iter().map(|l| (l - max).exp()).sum::<f64>().ln()
}

#[track_caller]
fn assert_close(what: &str, found: &[f64], expected: &[f64], tolerance: f64, largest: &Cell<f64>) {
    assert_eq!(found.len(), expected.len(), "{what}: lengths differ");
    assert!(found.iter().all(|value| value.is_finite()), "{what}: not finite");
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(worst <= tolerance, "{what}: differs by {worst:e}, allowed {tolerance:e}");
    largest.set(largest.get().max(worst));
}

impl Golden {
    pub fn new(device: Device, folders: Vec<PathBuf>, tolerances: Tolerances) -> Self {
        let zero = Cell::default;
        Self { device, folders, tolerances, values: zero(), gradients: zero(), loss: zero() }
    }

    fn ids(&self, values: &[i64]) -> Tensor<2, Int> {
        Tensor::from_data(TensorData::new(values.to_vec(), [1, values.len()]), &self.device)
    }

    #[track_caller]
    fn close(&self, what: &str, found: &[f64], expected: &[f64]) {
        assert_close(what, found, expected, self.tolerances.values, &self.values);
    }

    /// Compares a state with the stored one after `length` tokens.
    ///
    /// States are stored for some lengths only; the caller counts how many were compared.
    fn check_state(&self, name: &str, cases: &Cases, prefix: &str, state: &HybridState) -> usize {
        let stored = cases.keys().iter().any(|key| key.starts_with(&format!("{prefix}.state.")));
        if !stored {
            return 0;
        }
        for (index, layer) in state.layers.iter().enumerate() {
            match layer {
                LayerState::Mamba2 { window, ssm } => {
                    let expected = cases.floats(&format!("{prefix}.state.{index}.conv"));
                    self.close(&format!("{name} {prefix} conv {index}"), &values(window.clone()), &expected);
                    let expected = cases.floats(&format!("{prefix}.state.{index}.ssm"));
                    self.close(&format!("{name} {prefix} ssm {index}"), &values(ssm.clone()), &expected);
                }
                LayerState::Attention { keys_values } => {
                    let (keys, values_) = keys_values.clone().expect("keys after a forward pass");
                    for (key, tensor) in [("k", keys), ("v", values_)] {
                        let expected = cases.floats(&format!("{prefix}.state.{index}.{key}"));
                        // Stored [kv_heads, tokens, dim]; ours is [1, tokens, kv_heads, dim].
                        let found = values(tensor.swap_dims(1, 2));
                        self.close(&format!("{name} {prefix} {key} {index}"), &found, &expected);
                    }
                }
                LayerState::Stateless => {}
            }
        }
        1
    }

    /// Logits, hidden values and states at every stored length, under both styles of configuration, in one piece and
    /// in two.
    pub fn forward_matches_at_every_length_and_config_style(&self) {
        let (mut checks, mut states) = (0, 0);
        for folder in &self.folders {
            let cases = Cases::open(folder);
            for config_file in ["config.json", "config_as_saved_by_transformers5.json"] {
                if !folder.join(config_file).exists() {
                    continue;
                }
                let model = load(folder, config_file, &self.device);
                let name = format!("{} ({config_file})", folder.display());
                for length in cases.lengths() {
                    let prefix = format!("fwd_len{length}");
                    let tokens = cases.ints(&format!("{prefix}.input_ids"));
                    let (hidden, state) =
                        model.forward(self.ids(&tokens), model.empty_state(), ForwardContext::default());
                    let normed = model.normalize(hidden.clone());
                    let logits = values(model.logits(normed.clone()));
                    self.close(&format!("{name} {prefix} logits"), &logits, &cases.floats(&format!("{prefix}.logits")));
                    states += self.check_state(&name, &cases, &prefix, &state);
                    // Block by block the residual is added by itself, in one pass together with the next norm.
                    let stream = self.residual_stream(&model, &tokens);
                    let hidden = values(hidden);
                    assert!(stream.ends_with(&hidden), "{name} {prefix}: another stream block by block");
                    if let Some(expected) = cases.try_floats(&format!("{prefix}.final_norm")) {
                        self.close(&format!("{name} {prefix} final_norm"), &values(normed), &expected);
                        let expected = cases.floats(&format!("{prefix}.hidden"));
                        self.close(&format!("{name} {prefix} hidden"), &stream, &expected);
                    }
                    if length > 1 {
                        let vocab = logits.len() / length;
                        let found: Vec<f64> = (0..length - 1)
                            .map(|t| log_prob(&logits[t * vocab..(t + 1) * vocab], tokens[t + 1] as usize))
                            .collect();
                        let expected = cases.floats(&format!("{prefix}.token_logprobs"));
                        self.close(&format!("{name} {prefix} token_logprobs"), &found, &expected);
                        self.two_pieces_equal_one(&name, &model, &tokens, &logits, &state);
                    }
                    checks += 1;
                }
            }
        }
        assert!(checks == 0 || states > 0, "no case stores a state");
        println!("golden_model on {:?}: {checks} forward cases ran, {states} of them with states", self.device);
        println!("  values within {:.1e}", self.values.get());
    }

    /// Embeddings and the residual stream after every block, concatenated.
    fn residual_stream(&self, model: &NemotronH, tokens: &[i64]) -> Vec<f64> {
        let mut hidden = model.embed(self.ids(tokens));
        let mut all = values(hidden.clone());
        for (block, state) in model.blocks().iter().zip(model.empty_state().layers) {
            hidden = block.forward(hidden, state, ForwardContext::default()).0;
            all.extend(values(hidden.clone()));
        }
        all
    }

    /// Two-piece prefill through a state equals one piece, wherever it is cut.
    fn two_pieces_equal_one(&self, name: &str, model: &NemotronH, tokens: &[i64], logits: &[f64], state: &HybridState) {
        let mut cuts = vec![1, tokens.len() / 2, tokens.len() - 1];
        cuts.dedup();
        for cut in cuts.into_iter().filter(|&cut| cut > 0) {
            let (first, middle) =
                model.forward(self.ids(&tokens[..cut]), model.empty_state(), ForwardContext::default());
            let (second, last) = model.forward(self.ids(&tokens[cut..]), middle, ForwardContext::default());
            let mut found = values(model.logits(model.normalize(first)));
            found.extend(values(model.logits(model.normalize(second))));
            self.close(&format!("{name} cut at {cut} of {}", tokens.len()), &found, logits);
            for (a, b) in last.layers.iter().zip(&state.layers) {
                if let (LayerState::Mamba2 { ssm: a, .. }, LayerState::Mamba2 { ssm: b, .. }) = (a, b) {
                    self.close(&format!("{name} state cut at {cut}"), &values(a.clone()), &values(b.clone()));
                }
            }
        }
    }

    /// Rows padded on either side have the stored logits, and their states go on as if they had been alone.
    pub fn padded_batches_match(&self) {
        let mut checks = 0;
        for folder in &self.folders {
            let cases = Cases::open(folder);
            let model = load(folder, "config.json", &self.device);
            for side in ["pad_left", "pad_right"] {
                let tokens = cases.rows(&format!("{side}.input_ids"), 2);
                let mask = cases.rows(&format!("{side}.attention_mask"), 2);
                let expected = cases.floats(&format!("{side}.logits"));
                let length = tokens[0].len();
                let rows: Vec<Vec<u32>> = (0..2)
                    .map(|r| (0..length).filter(|&t| mask[r][t] == 1).map(|t| tokens[r][t] as u32).collect())
                    .collect();
                let lengths: Vec<usize> = rows.iter().map(Vec::len).collect();
                let views: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
                let batch = model.token_tensor(&views, length, 0);
                let context = ForwardContext { lengths: Some(&lengths) };
                let (hidden, state) = model.forward(batch, model.empty_state(), context);
                let logits = values(model.logits(model.normalize(hidden)));
                let vocab = logits.len() / (2 * length);
                for row in 0..2 {
                    let positions: Vec<usize> = (0..length).filter(|&t| mask[row][t] == 1).collect();
                    for (ours, &theirs) in positions.iter().enumerate() {
                        let found = &logits[(row * length + ours) * vocab..][..vocab];
                        let expected = &expected[(row * length + theirs) * vocab..][..vocab];
                        self.close(&format!("{} {side} row {row}", folder.display()), found, expected);
                    }
                    // The row's state goes on as if it had been alone.
                    let single = self.ids(&rows[row].iter().map(|&id| i64::from(id)).collect::<Vec<_>>());
                    let (_, alone) = model.forward(single, model.empty_state(), ForwardContext::default());
                    let next = |state| values(model.forward(self.ids(&[7]), state, ForwardContext::default()).0);
                    self.close("state after padding", &next(state.row(row)), &next(alone));
                }
                checks += 1;
            }
        }
        println!("golden_model on {:?}: {checks} padded batches ran", self.device);
        println!("  values within {:.1e}", self.values.get());
    }

    /// The loss of a run of tokens and its gradient by every parameter.
    pub fn gradients_match(&self) {
        let mut checks = 0;
        for folder in &self.folders {
            let cases = Cases::open(folder);
            let expected = Cases::open_file(&folder.join("grads.safetensors"));
            let tokens = cases.ints("grad.input_ids");
            let mut model = load(folder, "config.json", &self.device).tracked();
            let state = model.empty_state();
            let (hidden, _) = model.forward(self.ids(&tokens[..tokens.len() - 1]), state, ForwardContext::default());
            let normed = model.normalize(hidden);
            let [_, rows, width] = normed.dims();
            let targets = TensorData::new(tokens[1..].to_vec(), [rows]);
            let output = nemo_kernels::linear_log_prob(
                normed.reshape([rows, width]),
                model.head_weight(),
                Tensor::from_data(targets, &self.device),
                1.0,
            );
            let loss = output.log_prob.mean().neg();
            assert_close(
                &format!("{} loss", folder.display()),
                &values(loss.clone()),
                &cases.floats("grad.loss"),
                self.tolerances.loss,
                &self.loss,
            );
            let mut gradients = loss.backward();
            model.visit_mut(&mut |name, parameter| {
                let Some(expected) = expected.try_floats(name) else { return };
                let found = match parameter.take_gradient(&mut gradients) {
                    Some(gradient) => values(gradient.add_to(None)),
                    None => vec![0.0; expected.len()],
                };
                assert_eq!(found.len(), expected.len(), "{name}");
                let error = relative_error(&found, &expected);
                assert!(error <= self.tolerances.gradients, "{} {name}: relative L2 {error:e}", folder.display());
                self.gradients.set(self.gradients.get().max(error));
                checks += 1;
            });
        }
        println!("golden_model on {:?}: {checks} gradients ran", self.device);
        println!("  gradients within {:.1e}, losses within {:.1e}", self.gradients.get(), self.loss.get());
    }

    /// Greedy continuations of three prompts together are the stored ones.
    pub fn greedy_generation_is_exact(&self) {
        let mut checks = 0;
        for folder in &self.folders {
            let cases = Cases::open(folder);
            let mut engine = Engine::new(load(folder, "config.json", &self.device), EngineOptions::default());
            let mut expected = Vec::new();
            // Together in one batch: continuous batching must not change a single token.
            for case in 0..3 {
                let prompt: Vec<u32> = cases.ints(&format!("gen_{case}.prompt")).iter().map(|&t| t as u32).collect();
                let tokens: Vec<u32> = cases.ints(&format!("gen_{case}.tokens")).iter().map(|&t| t as u32).collect();
                let id = engine.begin(&prompt, 1).expect("the prompt fits")[0];
                let max_new_tokens = tokens.len();
                let sampling = SamplingParams { temperature: 0.0, top_p: 1.0, min_p: 0.0, top_k: None, max_new_tokens };
                engine.begin_turn(id, &[], SampleKey::default(), &sampling).expect("the turn starts");
                expected.push((id, tokens));
            }
            let mut ended = Vec::new();
            while engine.has_open_turns() {
                ended.extend(engine.step().expect("the engine steps"));
            }
            for (id, tokens) in expected {
                let turn = ended.iter().find(|turn| turn.sequence == id).expect("the turn ended");
                assert_eq!(turn.tokens, tokens, "{}", folder.display());
                checks += 1;
            }
        }
        println!("golden_model on {:?}: {checks} greedy continuations ran", self.device);
    }
}
