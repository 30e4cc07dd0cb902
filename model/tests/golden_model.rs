//! The model against an independent float64 oracle: every case of every model folder, both config styles.
//!
//! `NEMO_BURN_FIXTURES` names a folder with `model/<name>/{config.json, model*.safetensors, cases.*, grads.safetensors}`;
//! without it `../shared/fixtures` beside the repository is used when present, and `tests/fixtures` always.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and reports what it skipped"
)]

mod fixture;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use fixture::{Cases, model_folders};
use nemo_model::config::ModelConfig;
use nemo_model::generate::{Engine, EngineOptions, SampleKey, SamplingParams};
use nemo_model::parallel::ForwardContext;
use nemo_model::{HybridState, LayerState, NemotronH};

/// Largest absolute difference allowed for float32 logits, hidden values and states.
const TOLERANCE: f64 = 1e-4;
/// Largest relative L2 difference allowed for a float32 gradient.
const GRADIENT_TOLERANCE: f64 = 1e-4;
/// Largest difference allowed for the mean loss.
const LOSS_TOLERANCE: f64 = 1e-5;

fn device() -> Device {
    Device::flex()
}

fn load(folder: &std::path::Path, config_file: &str) -> NemotronH {
    let config = ModelConfig::from_file(&folder.join(config_file)).expect("the config parses");
    nemo_model::load_with_config(folder, &config, &device(), DType::F32).expect("the checkpoint loads")
}

fn ids(values: &[i64]) -> Tensor<2, Int> {
    Tensor::from_data(TensorData::new(values.to_vec(), [1, values.len()]), &device())
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

#[track_caller]
fn assert_close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) -> f64 {
    assert_eq!(found.len(), expected.len(), "{what}: lengths differ");
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(worst <= tolerance, "{what}: differs by {worst:e}, allowed {tolerance:e}");
    worst
}

/// Compares a state with the stored one after `length` tokens.
///
/// States are stored for some lengths only; the caller counts how many were compared.
fn check_state(name: &str, cases: &Cases, prefix: &str, state: &HybridState) -> usize {
    let stored = cases.keys().iter().any(|key| key.starts_with(&format!("{prefix}.state.")));
    if !stored {
        return 0;
    }
    for (index, layer) in state.layers.iter().enumerate() {
        match layer {
            LayerState::Mamba2 { window, ssm } => {
                let expected = cases.floats(&format!("{prefix}.state.{index}.conv"));
                assert_close(&format!("{name} {prefix} conv {index}"), &values(window.clone()), &expected, TOLERANCE);
                let expected = cases.floats(&format!("{prefix}.state.{index}.ssm"));
                assert_close(&format!("{name} {prefix} ssm {index}"), &values(ssm.clone()), &expected, TOLERANCE);
            }
            LayerState::Attention { keys_values } => {
                let (keys, values_) = keys_values.clone().expect("keys after a forward pass");
                for (key, tensor) in [("k", keys), ("v", values_)] {
                    let expected = cases.floats(&format!("{prefix}.state.{index}.{key}"));
                    // Stored [kv_heads, tokens, dim]; ours is [1, tokens, kv_heads, dim].
                    let found = values(tensor.swap_dims(1, 2));
                    assert_close(&format!("{name} {prefix} {key} {index}"), &found, &expected, TOLERANCE);
                }
            }
            LayerState::Stateless => {}
        }
    }
    1
}

#[test]
fn forward_matches_at_every_length_and_config_style() {
    let (mut checks, mut states) = (0, 0);
    for folder in model_folders() {
        let cases = Cases::open(&folder);
        for config_file in ["config.json", "config_as_saved_by_transformers5.json"] {
            if !folder.join(config_file).exists() {
                continue;
            }
            let model = load(&folder, config_file);
            let name = format!("{} ({config_file})", folder.display());
            for length in cases.lengths() {
                let prefix = format!("fwd_len{length}");
                let tokens = cases.ints(&format!("{prefix}.input_ids"));
                let (hidden, state) = model.forward(ids(&tokens), model.empty_state(), ForwardContext::default());
                let normed = model.normalize(hidden.clone());
                let logits = values(model.logits(normed.clone()));
                assert_close(
                    &format!("{name} {prefix} logits"),
                    &logits,
                    &cases.floats(&format!("{prefix}.logits")),
                    TOLERANCE,
                );
                states += check_state(&name, &cases, &prefix, &state);
                // Block by block the residual is added by itself, in one pass together with the next norm.
                let stream = residual_stream(&model, &tokens);
                let hidden = values(hidden);
                assert!(stream.ends_with(&hidden), "{name} {prefix}: another stream block by block");
                if let Some(expected) = cases.try_floats(&format!("{prefix}.final_norm")) {
                    assert_close(&format!("{name} {prefix} final_norm"), &values(normed), &expected, TOLERANCE);
                    let expected = cases.floats(&format!("{prefix}.hidden"));
                    assert_close(&format!("{name} {prefix} hidden"), &stream, &expected, TOLERANCE);
                }
                if length > 1 {
                    let vocab = logits.len() / length;
                    let found: Vec<f64> = (0..length - 1)
                        .map(|t| log_prob(&logits[t * vocab..(t + 1) * vocab], tokens[t + 1] as usize))
                        .collect();
                    let expected = cases.floats(&format!("{prefix}.token_logprobs"));
                    assert_close(&format!("{name} {prefix} token_logprobs"), &found, &expected, TOLERANCE);
                    two_pieces_equal_one(&name, &model, &tokens, &logits, &state);
                }
                checks += 1;
            }
        }
    }
    assert!(checks == 0 || states > 0, "no case stores a state");
    println!("golden_model: {checks} forward cases ran, {states} of them with states");
}

fn log_prob(logits: &[f64], id: usize) -> f64 {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    logits[id] - max - logits.iter().map(|l| (l - max).exp()).sum::<f64>().ln()
}

/// Embeddings and the residual stream after every block, concatenated.
fn residual_stream(model: &NemotronH, tokens: &[i64]) -> Vec<f64> {
    let mut hidden = model.embed(ids(tokens));
    let mut all = values(hidden.clone());
    for (block, state) in model.blocks().iter().zip(model.empty_state().layers) {
        hidden = block.forward(hidden, state, ForwardContext::default()).0;
        all.extend(values(hidden.clone()));
    }
    all
}

/// Two-piece prefill through a state equals one piece, wherever it is cut.
fn two_pieces_equal_one(name: &str, model: &NemotronH, tokens: &[i64], logits: &[f64], state: &HybridState) {
    let mut cuts = vec![1, tokens.len() / 2, tokens.len() - 1];
    cuts.dedup();
    for cut in cuts.into_iter().filter(|&cut| cut > 0) {
        let (first, middle) = model.forward(ids(&tokens[..cut]), model.empty_state(), ForwardContext::default());
        let (second, last) = model.forward(ids(&tokens[cut..]), middle, ForwardContext::default());
        let mut found = values(model.logits(model.normalize(first)));
        found.extend(values(model.logits(model.normalize(second))));
        assert_close(&format!("{name} cut at {cut} of {}", tokens.len()), &found, logits, TOLERANCE);
        for (a, b) in last.layers.iter().zip(&state.layers) {
            if let (LayerState::Mamba2 { ssm: a, .. }, LayerState::Mamba2 { ssm: b, .. }) = (a, b) {
                assert_close(&format!("{name} state cut at {cut}"), &values(a.clone()), &values(b.clone()), TOLERANCE);
            }
        }
    }
}

#[test]
fn padded_batches_match() {
    let mut checks = 0;
    for folder in model_folders() {
        let cases = Cases::open(&folder);
        let model = load(&folder, "config.json");
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
            let context = ForwardContext { lengths: Some(&lengths), ..ForwardContext::default() };
            let (hidden, state) = model.forward(batch, model.empty_state(), context);
            let logits = values(model.logits(model.normalize(hidden)));
            let vocab = logits.len() / (2 * length);
            for row in 0..2 {
                let positions: Vec<usize> = (0..length).filter(|&t| mask[row][t] == 1).collect();
                for (ours, &theirs) in positions.iter().enumerate() {
                    let found = &logits[(row * length + ours) * vocab..][..vocab];
                    let expected = &expected[(row * length + theirs) * vocab..][..vocab];
                    assert_close(&format!("{} {side} row {row}", folder.display()), found, expected, TOLERANCE);
                }
                // The row's state goes on as if it had been alone.
                let single = ids(&rows[row].iter().map(|&id| i64::from(id)).collect::<Vec<_>>());
                let (_, alone) = model.forward(single, model.empty_state(), ForwardContext::default());
                let next = |state| values(model.forward(ids(&[7]), state, ForwardContext::default()).0);
                assert_close("state after padding", &next(state.row(row)), &next(alone), TOLERANCE);
            }
            checks += 1;
        }
    }
    println!("golden_model: {checks} padded batches ran");
}

#[test]
fn gradients_match() {
    let mut checks = 0;
    for folder in model_folders() {
        let cases = Cases::open(&folder);
        let expected = Cases::open_file(&folder.join("grads.safetensors"));
        let tokens = cases.ints("grad.input_ids");
        let mut model = load(&folder, "config.json").tracked();
        let state = model.empty_state();
        let (hidden, _) = model.forward(ids(&tokens[..tokens.len() - 1]), state, ForwardContext::default());
        let normed = model.normalize(hidden);
        let [_, rows, width] = normed.dims();
        let targets = TensorData::new(tokens[1..].to_vec(), [rows]);
        let output = nemo_kernels::linear_log_prob(
            normed.reshape([rows, width]),
            model.head_weight(),
            Tensor::from_data(targets, &device()),
            1.0,
        );
        let loss = output.log_prob.mean().neg();
        assert_close("loss", &values(loss.clone()), &cases.floats("grad.loss"), LOSS_TOLERANCE);
        let mut gradients = loss.backward();
        model.visit_mut(&mut |name, parameter| {
            let Some(expected) = expected.try_floats(name) else { return };
            let found = match parameter.take_gradient(&mut gradients) {
                Some(gradient) => values(gradient),
                None => vec![0.0; expected.len()],
            };
            assert_eq!(found.len(), expected.len(), "{name}");
            let norm = expected.iter().map(|e| e * e).sum::<f64>().sqrt();
            let error = found.iter().zip(&expected).map(|(f, e)| (f - e).powi(2)).sum::<f64>().sqrt();
            assert!(
                error <= GRADIENT_TOLERANCE * norm || (norm == 0.0 && error == 0.0),
                "{} {name}: relative L2 {:e}",
                folder.display(),
                error / norm
            );
            checks += 1;
        });
    }
    println!("golden_model: {checks} gradients ran");
}

#[test]
fn greedy_generation_is_exact() {
    let mut checks = 0;
    for folder in model_folders() {
        let cases = Cases::open(&folder);
        let mut engine = Engine::new(load(&folder, "config.json"), EngineOptions::default());
        let mut expected = Vec::new();
        // Together in one batch: continuous batching must not change a single token.
        for case in 0..3 {
            let prompt: Vec<u32> = cases.ints(&format!("gen_{case}.prompt")).iter().map(|&t| t as u32).collect();
            let tokens: Vec<u32> = cases.ints(&format!("gen_{case}.tokens")).iter().map(|&t| t as u32).collect();
            let id = engine.begin(&prompt, 1).expect("the prompt fits")[0];
            let sampling =
                SamplingParams { temperature: 0.0, top_p: 1.0, min_p: 0.0, top_k: None, max_new_tokens: tokens.len() };
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
    println!("golden_model: {checks} greedy continuations ran");
}
