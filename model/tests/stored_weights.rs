//! Models whose matrices are kept in fewer bits: what they compute, and what they refuse.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use nemo_kernels::Int8Weight;
use nemo_model::checkpoint::{SaveOptions, StoredDtype};
use nemo_model::config::ModelConfig;
use nemo_model::generate::{Engine, EngineOptions, SampleKey, SamplingParams, TurnEnd};
use nemo_model::parallel::ForwardContext;
use nemo_model::{Dtypes, NemotronH, ParameterMut, WeightStorage, load, random, save};
use tempfile::TempDir;

/// Every kind of block, experts behind a latent projection.
const CONFIG: &str = r#"{
    "model_type": "nemotron_h", "hybrid_override_pattern": "M*-EM", "num_hidden_layers": 5, "vocab_size": 97,
    "hidden_size": 36, "mamba_num_heads": 4, "mamba_head_dim": 8, "ssm_state_size": 8, "n_groups": 2, "conv_kernel": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 50, "n_routed_experts": 4,
    "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_shared_experts": 1,
    "moe_shared_expert_intermediate_size": 24, "moe_latent_size": 20, "use_bias": true, "layer_norm_epsilon": 1e-5,
    "initializer_range": 0.3, "tie_word_embeddings": TIED, "torch_dtype": "float32", "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0, "max_position_embeddings": 512
}"#;

/// A fresh model on disk.
fn folder(tied: bool) -> TempDir {
    let text = CONFIG.replace("TIED", &tied.to_string());
    let config = ModelConfig::from_json_text(&text, Path::new("config.json")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let model = random(&config, 5, &Device::flex(), Dtypes::F32).unwrap();
    save(&model, &folder.path().join("model"), &SaveOptions::default()).unwrap();
    folder
}

fn stored(folder: &TempDir, storage: WeightStorage) -> NemotronH {
    load(&folder.path().join("model"), &Device::flex(), Dtypes::stored(storage)).unwrap()
}

/// The model in full, with matrices that `round` has changed: all but the routers, which are kept in full.
fn rounded(folder: &TempDir, round: impl Fn(Tensor<2>) -> Tensor<2>) -> NemotronH {
    let mut model = load(&folder.path().join("model"), &Device::flex(), Dtypes::F32).unwrap();
    model.visit_mut(&mut |name, parameter| {
        if let ParameterMut::Matrix(weight) = parameter
            && !name.ends_with("gate.weight")
        {
            weight.weight.inplace(&round);
        }
    });
    model
}

fn to_bf16_and_back(weight: Tensor<2>) -> Tensor<2> {
    weight.cast(DType::BF16).cast(DType::F32)
}

fn logits(model: &NemotronH, length: usize) -> Vec<f32> {
    let ids: Vec<i64> = (0..length as i64).map(|t| (t * 11 + 5) % 97).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, length]), &Device::flex());
    let (hidden, _) = model.forward(ids, model.empty_state(), ForwardContext::default());
    model.logits(model.normalize(hidden)).into_data().try_to_vec().unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn continuation(model: NemotronH) -> Vec<TurnEnd> {
    let mut engine = Engine::new(model, EngineOptions::default());
    let prompt: Vec<u32> = (0..37).map(|t| (t * 11 + 5) % 97).collect();
    let sampling = SamplingParams { temperature: 1.0, top_p: 1.0, min_p: 0.0, top_k: None, max_new_tokens: 12 };
    for (sample, id) in engine.begin(&prompt, 3).unwrap().into_iter().enumerate() {
        let key = SampleKey { seed: 3, step: 0, task: 0, sample: sample as u64 };
        engine.begin_turn(id, &[], key, &sampling).unwrap();
    }
    let mut ended = Vec::new();
    while engine.has_open_turns() {
        ended.extend(engine.step().unwrap());
    }
    ended.sort_by_key(|turn| turn.sequence.0);
    ended
}

#[test]
fn bf16_has_the_bits_of_the_rounded_model() {
    for tied in [false, true] {
        let folder = folder(tied);
        let (narrow, wide) = (stored(&folder, WeightStorage::Bf16), rounded(&folder, to_bf16_and_back));
        for length in [1, 5, 40] {
            let found = logits(&narrow, length);
            assert_eq!(bits(&found), bits(&logits(&wide, length)), "{length} tokens");
            assert_ne!(
                bits(&found),
                bits(&logits(&stored(&folder, WeightStorage::Full), length)),
                "nothing was rounded"
            );
        }
        assert_eq!(narrow.dtypes(), Dtypes::stored(WeightStorage::Bf16));
        for (found, expected) in continuation(narrow).iter().zip(continuation(wide)) {
            assert_eq!(found.tokens, expected.tokens);
            assert_eq!(bits(&found.log_probs), bits(&expected.log_probs));
        }
    }
}

#[test]
fn int8_is_the_model_with_rounded_matrices() {
    for tied in [false, true] {
        let folder = folder(tied);
        let narrow = stored(&folder, WeightStorage::Int8);
        let wide = rounded(&folder, |weight| Int8Weight::quantize(weight).dequantize());
        let full = logits(&stored(&folder, WeightStorage::Full), 40);
        let (found, expected) = (logits(&narrow, 40), logits(&wide, 40));
        let distance = |a: &[f32], b: &[f32]| a.iter().zip(b).fold(0.0, |most: f32, (a, b)| most.max((a - b).abs()));
        // The products differ by where the scale is multiplied, far less than by what was rounded away.
        let (rounding, order) = (distance(&full, &expected), distance(&found, &expected));
        assert!(order <= 1e-4 && order < rounding / 100.0, "{order} against {rounding}");
        for (found, expected) in continuation(narrow).iter().zip(continuation(wide)) {
            assert_eq!(found.tokens, expected.tokens);
        }
    }
}

#[test]
fn no_matrix_is_left_in_full() {
    let folder = folder(false);
    // Names, bytes of matrices, and bytes of all else.
    let list = |storage| {
        let (mut matrices, mut bytes, mut rest) = (Vec::new(), 0, 0);
        stored(&folder, storage).visit_mut(&mut |name, parameter| match parameter {
            ParameterMut::Matrix(matrix) if !name.ends_with("gate.weight") => {
                matrices.push(name.to_owned());
                bytes += matrix.weight.dims().iter().product::<usize>() * matrix.weight.dtype().size();
            }
            other => rest += other.flat().dims()[0] * other.flat().dtype().size(),
        });
        (matrices, bytes, rest)
    };
    let (full, bf16, int8) = (list(WeightStorage::Full), list(WeightStorage::Bf16), list(WeightStorage::Int8));
    // Embedding, head, two Mamba blocks, attention, MLP, latent projections, four experts and the shared one.
    assert_eq!(full.0.len(), 2 + 4 + 4 + 2 + 2 + 10);
    assert_eq!(bf16, (full.0, full.1 / 2, full.2));
    assert_eq!(int8, (Vec::new(), 0, full.2));
}

#[test]
fn eight_bits_are_neither_trained_nor_saved() {
    let folder = folder(true);
    let target = folder.path().join("copy");
    assert!(stored(&folder, WeightStorage::Full).check_trainable().is_ok());
    let model = stored(&folder, WeightStorage::Int8);
    let message = model.check_trainable().unwrap_err().to_string();
    assert!(["int8", "float32", "bfloat16"].into_iter().all(|word| message.contains(word)), "{message}");
    let message = save(&model, &target, &SaveOptions::default()).unwrap_err().to_string();
    assert!(message.contains("int8") && message.contains("save"), "{message}");
    assert!(!target.exists());
}

/// A file in the type that matrices are kept in is read where it lies; one in another type gives the same model.
#[test]
fn bf16_is_loaded_from_any_file_and_saved_as_it_is() {
    let folder = folder(true);
    let model = stored(&folder, WeightStorage::Bf16);
    assert!(model.check_trainable().is_ok());
    for dtype in [StoredDtype::F32, StoredDtype::Bf16] {
        let target = folder.path().join(dtype.name());
        save(&model, &target, &SaveOptions { dtype: Some(dtype), ..SaveOptions::default() }).unwrap();
        for storage in [WeightStorage::Full, WeightStorage::Bf16] {
            let again = load(&target, &Device::flex(), Dtypes::stored(storage)).unwrap();
            // A file in bf16 rounds the vectors too.
            let same = bits(&logits(&again, 9)) == bits(&logits(&model, 9));
            assert_eq!(same, dtype == StoredDtype::F32, "{dtype:?} as {storage:?}");
        }
        let [full, narrow, eight] = [WeightStorage::Full, WeightStorage::Bf16, WeightStorage::Int8]
            .map(|storage| logits(&load(&target, &Device::flex(), Dtypes::stored(storage)).unwrap(), 9));
        assert_eq!(bits(&full), bits(&narrow), "{dtype:?}");
        assert_ne!(bits(&full), bits(&eight), "{dtype:?}");
    }
}
