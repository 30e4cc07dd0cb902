mod whole_graph;

use std::collections::BTreeMap;

use burn::tensor::{DType, Device, Int, Tensor};
use nemo_model::Dtypes;
use nemo_model::adapter::{FactorInitialization, FreshAdapter, LoraSettings, TargetModule};
use nemo_model::config::ModelConfig;

use super::*;
use whole_graph::WholeGraph;

/// A small model of the given blocks.
fn model(pattern: &str, tied: bool, dtype: DType) -> NemotronH {
    let config = format!(
        r#"{{
        "model_type": "nemotron_h", "hybrid_override_pattern": "{pattern}", "num_hidden_layers": {}, "vocab_size": 61,
        "hidden_size": 32, "mamba_num_heads": 4, "mamba_head_dim": 8, "ssm_state_size": 8, "n_groups": 2,
        "conv_kernel": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 48,
        "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_shared_experts": 1,
        "moe_shared_expert_intermediate_size": 24, "n_group": 1, "topk_group": 1, "norm_topk_prob": true,
        "routed_scaling_factor": 1.0, "layer_norm_epsilon": 1e-5, "initializer_range": 0.2, "attention_bias": true,
        "mlp_bias": true, "use_bias": true, "tie_word_embeddings": {tied}, "torch_dtype": "float32", "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": 0, "max_position_embeddings": 512
    }}"#,
        pattern.len()
    );
    let config = ModelConfig::from_json_text(&config, std::path::Path::new("config.json")).expect("a config");
    nemo_model::random(&config, 9, &Device::flex(), Dtypes::uniform(dtype)).expect("a model")
}

/// The model with an adapter beside these maps that changes what it says.
fn adapted(mut model: NemotronH, targets: &[TargetModule]) -> NemotronH {
    let adapter = FreshAdapter {
        settings: LoraSettings { rank: 3, alpha: 7.0 },
        targets: targets.iter().copied().collect(),
        initialization: FactorInitialization::Kaiming,
        seed: 4,
    };
    model.add_adapter(&adapter).expect("an adapter");
    model.visit_trained_mut(&mut |_, mut parameter| {
        parameter.update_flat(|values| {
            let count = values.dims()[0] as i64;
            let ramp = Tensor::<1, Int>::arange(0..count, &values.device()).float().cast(values.dtype());
            values + (ramp * 0.7).sin() * 0.05
        });
    });
    model
}

struct Batch {
    sequences: Vec<Vec<TokenId>>,
    masks: Vec<Vec<bool>>,
}

impl Batch {
    /// Sequences whose tree has `depth` levels: two branches at every level but the last, where there are three leaves of
    /// different lengths.
    fn new(depth: usize) -> Self {
        let (mut sequences, mut masks) = (Vec::new(), Vec::new());
        let branches = 1_u32 << (depth - 1);
        for branch in 0..branches {
            for sample in 0..3_u32 {
                let mut tokens: Vec<TokenId> = Vec::new();
                for level in 1..depth as u32 {
                    let way = branch >> (depth as u32 - 1 - level);
                    tokens.extend((0..9 + level * 8 + way % 3).map(|i| (i * 5 + way * 17 + level * 7 + 1) % 61));
                }
                let shared = tokens.len();
                tokens.extend((0..6 + sample * 9).map(|i| (i * (sample + 2) + branch * 3 + 5) % 61));
                // Two trained turns with a tool result between them.
                let mask = (0..tokens.len()).map(|t| t > 0 && t >= shared && (t - shared) % 7 < 5).collect();
                sequences.push(tokens);
                masks.push(mask);
            }
        }
        Self { sequences, masks }
    }

    fn tree(&self, min_shared: usize) -> TokenTree {
        let first = |mask: &Vec<bool>| mask.iter().position(|&m| m).expect("a trained token").saturating_sub(1);
        let shareable: Vec<usize> = self.masks.iter().map(first).collect();
        TokenTree::build_within(&self.sequences, &shareable, min_shared)
    }

    /// Every other sequence has no gradient if `partly`.
    fn weights(&self, partly: bool) -> Vec<f32> {
        (0..self.sequences.len()).map(|s| if partly && s % 2 == 1 { 0.0 } else { 1.3 - 0.4 * (s % 5) as f32 }).collect()
    }
}

/// Loss, log-probabilities by sequence and token, and gradients.
#[derive(Debug)]
struct Outcome {
    loss: f64,
    log_probs: BTreeMap<(usize, usize), f64>,
    gradients: BTreeMap<String, Vec<f64>>,
}

fn row_loss(log_prob: Tensor<1>, places: &[(usize, usize)], weights: &[f32], total: &mut f64) -> Tensor<1> {
    let weights: Vec<f32> = places.iter().map(|&(sequence, _)| weights[sequence]).collect();
    let weights = Tensor::<1>::from_floats(weights.as_slice(), &log_prob.device()).cast(log_prob.dtype());
    // Not linear, so that the gradient depends on the values.
    let loss = crate::loss::sum_in_order((log_prob.clone() + log_prob.powi_scalar(2) * 0.125) * weights);
    *total += loss.to_data().iter::<f64>().sum::<f64>();
    loss
}

fn values(gradients: ParameterGradients) -> BTreeMap<String, Vec<f64>> {
    gradients.into_iter().map(|(name, g)| (name, g.into_data().iter::<f64>().collect())).collect()
}

fn by_cells(model: &NemotronH, batch: &Batch, min_shared: usize, partly: bool, options: PassOptions) -> Outcome {
    let (tree, weights) = (batch.tree(min_shared), batch.weights(partly));
    let graded: Vec<bool> = weights.iter().map(|&weight| weight != 0.0).collect();
    let mut loss = 0.0;
    let mut log_probs = BTreeMap::new();
    let pass = TreePass::new(model, &tree, &batch.sequences, &batch.masks, &graded, options, SCORING);
    let gradients = pass.run(&mut |rows| {
        let values = rows.log_prob.to_data();
        log_probs.extend(rows.places.iter().copied().zip(values.iter::<f64>()));
        row_loss(rows.log_prob, &rows.places, &weights, &mut loss)
    });
    Outcome { loss, log_probs, gradients: values(gradients) }
}

fn by_whole_graph(model: &NemotronH, batch: &Batch, min_shared: usize, partly: bool, options: PassOptions) -> Outcome {
    let (tree, weights) = (batch.tree(min_shared), batch.weights(partly));
    let graded: Vec<bool> = weights.iter().map(|&weight| weight != 0.0).collect();
    let mut loss = 0.0;
    let mut pass = WholeGraph {
        model,
        tree: &tree,
        sequences: &batch.sequences,
        masks: &batch.masks,
        graded: &graded,
        options,
        temperature: SCORING.temperature,
        sums: BTreeMap::new(),
    };
    let mut log_probs = BTreeMap::new();
    pass.run(&mut |log_prob, places| {
        let values = log_prob.to_data();
        log_probs.extend(places.iter().copied().zip(values.iter::<f64>()));
        row_loss(log_prob, places, &weights, &mut loss)
    });
    Outcome { loss, log_probs, gradients: values(pass.sums) }
}

const SCORING: Scoring = Scoring { temperature: 0.9, spread: false };
const WHOLE: PassOptions = PassOptions { max_batch_tokens: 100_000, chunk_tokens: 100_000, kept_bytes: usize::MAX };

/// Cells, kept and rerun, give the bits of the whole graph: every block kind, depth, padding, chunks.
#[test]
fn cells_are_the_whole_graph() {
    let mut compared = 0;
    let models = [("M*-M*E", false), ("-*M", true), ("E*M-", true), ("MM", false), ("*-", false)];
    let models = models.map(|(pattern, tied)| (pattern, model(pattern, tied, DType::F32)));
    // Beside adapters the base has no gradients, and those of adapters come through blocks without any.
    let of_adapters = [
        ("LoRA M*-M*E", adapted(model("M*-M*E", false, DType::F32), &TargetModule::ALL)),
        (
            "LoRA of attention M*-M",
            adapted(model("M*-M", true, DType::F32), &[TargetModule::QProj, TargetModule::VProj]),
        ),
    ];
    for (pattern, model) in models.into_iter().chain(of_adapters) {
        for depth in 1..=4 {
            let batch = Batch::new(depth);
            for (max_batch_tokens, chunk_tokens) in [(100_000, 100_000), (40, 100_000), (100_000, 10), (1, 7)] {
                for partly in [false, true] {
                    let options = PassOptions { max_batch_tokens, chunk_tokens, ..WHOLE };
                    let expected = by_whole_graph(&model, &batch, 8, partly, options);
                    assert!(expected.loss != 0.0 && expected.gradients.values().flatten().any(|&g| g != 0.0));
                    for kept_bytes in [0, 60_000, usize::MAX] {
                        let found = by_cells(&model, &batch, 8, partly, PassOptions { kept_bytes, ..options });
                        let case = format!("{pattern} depth {depth} {options:?} kept {kept_bytes} partly {partly}");
                        assert_eq!(found.loss, expected.loss, "{case}");
                        assert_eq!(found.log_probs, expected.log_probs, "{case}");
                        assert_eq!(
                            found.gradients.keys().collect::<Vec<_>>(),
                            expected.gradients.keys().collect::<Vec<_>>(),
                            "{case}"
                        );
                        for (name, gradient) in &expected.gradients {
                            assert!(found.gradients[name] == *gradient, "{case}: {name}");
                        }
                        compared += 1;
                    }
                }
            }
        }
    }
    println!("{compared} comparisons");
}

/// Any tree, batches and chunks give the loss and every gradient of the separate sequences: to rounding in f32, and in f64,
/// where nothing hides behind it.
#[test]
fn partitions_equal_flat_sequences() {
    for (dtype, whole_bound, tensor_bound) in [(DType::F32, 1e-6, 1e-4), (DType::F64, 1e-13, 1e-11)] {
        let plain = model("M*-M*E", false, dtype);
        let models = [plain.clone(), adapted(plain, &TargetModule::ALL)];
        for (model, depth) in models.iter().flat_map(|model| (1..=4).map(move |depth| (model, depth))) {
            let batch = Batch::new(depth);
            for partly in [false, true] {
                let flat = by_cells(model, &batch, usize::MAX, partly, PassOptions { max_batch_tokens: 1, ..WHOLE });
                for (max_batch_tokens, min_shared, chunk_tokens, kept_bytes) in [
                    (100_000, 8, 100_000, usize::MAX),
                    (64, 8, 11, usize::MAX),
                    (1, 8, 5, 0),
                    (100_000, 24, 16, 100_000),
                    (1, usize::MAX, 9, 0),
                ] {
                    let options = PassOptions { max_batch_tokens, chunk_tokens, kept_bytes };
                    let found = by_cells(model, &batch, min_shared, partly, options);
                    let case = format!("{dtype:?} depth {depth} {options:?}");
                    let difference = (found.loss - flat.loss).abs();
                    assert!(difference <= whole_bound * flat.loss.abs(), "{case}: {} {}", found.loss, flat.loss);
                    if dtype == DType::F32 {
                        // Whatever a token is computed with, it is computed with the same bits.
                        assert_eq!(found.log_probs, flat.log_probs, "{case}");
                    }
                    assert_eq!(found.gradients.keys().collect::<Vec<_>>(), flat.gradients.keys().collect::<Vec<_>>());
                    let (mut total_error, mut total) = (0.0, 0.0);
                    for (name, expected) in &flat.gradients {
                        let square = expected.iter().map(|e| e.powi(2)).sum::<f64>();
                        let errors = found.gradients[name].iter().zip(expected);
                        let square_error = errors.map(|(a, b)| (a - b).powi(2)).sum::<f64>();
                        // A bias of keys moves all scores of a query alike: its gradient is what rounding leaves of zero.
                        let ratio = (square_error / square).sqrt();
                        assert!(name.ends_with("k_proj.bias") || ratio <= tensor_bound, "{case} {name}: {ratio:e}");
                        total_error += square_error;
                        total += square;
                    }
                    let ratio = (total_error / total).sqrt();
                    assert!(ratio <= whole_bound, "{case}: relative L2 {ratio:e}");
                }
            }
        }
    }
}
