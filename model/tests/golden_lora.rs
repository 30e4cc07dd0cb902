//! Adapters against an independent float64 oracle, and folders that PEFT wrote.
//!
//! `NEMO_BURN_FIXTURES` names a folder with `lora/<name>/{base/, adapter/, cases.*, merged.safetensors}`; without it
//! `../shared/fixtures` beside the repository is used when present. Beside `adapter/` a case may have the same tensors under
//! other names, in folders whose names begin with `adapter`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and reports what it skipped"
)]

#[allow(dead_code, reason = "the cases of adapters are of one length")]
mod fixture;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use fixture::{Cases, folders};
use nemo_model::adapter::{AdapterCoverage, linear_maps, merge_adapter, save_adapter};
use nemo_model::checkpoint::{StoredDtype, TensorFile};
use nemo_model::parallel::ForwardContext;
use nemo_model::{Dtypes, NemotronH, WeightStorage, load};

/// Largest difference of logits and log-probabilities in f32, whatever the base is stored in.
const VALUES: f64 = 5e-5;
/// Largest relative L2 difference of a gradient.
const GRADIENTS: f64 = 2e-5;
/// Largest difference of a merged f32 weight, as a part of what was added up.
const MERGED_F32: f64 = 1.0 / (1u64 << 21) as f64;
/// Part of the merged bf16 weights that may be the neighbour of the stored one.
const MERGED_BF16: f64 = 1e-3;

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

/// The largest difference, which has to be within `tolerance`.
#[track_caller]
fn close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) -> f64 {
    assert_eq!(found.len(), expected.len(), "{what}: lengths differ");
    assert!(found.iter().all(|value| value.is_finite()), "{what}: not finite");
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(worst <= tolerance, "{what}: differs by {worst:e}, allowed {tolerance:e}");
    worst
}

/// The folders of a case's adapter, in every style of names.
fn adapters(case: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(case).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<PathBuf> = entries
        .filter(|path| path.is_dir() && path.file_name().unwrap().to_string_lossy().starts_with("adapter"))
        .collect();
    folders.sort();
    assert!(!folders.is_empty(), "{} has no adapter", case.display());
    folders
}

/// The types that the base may be kept in without a loss.
fn storages(case: &Path) -> Vec<Dtypes> {
    let facts: serde_json::Value = serde_json::from_slice(&std::fs::read(case.join("cases.json")).unwrap()).unwrap();
    match facts["base_dtype"].as_str() {
        Some("bfloat16") => vec![Dtypes::F32, Dtypes::stored(WeightStorage::Bf16)],
        _ => vec![Dtypes::F32],
    }
}

fn adapted(case: &Path, adapter: &Path, dtypes: Dtypes) -> NemotronH {
    let mut model = load(&case.join("base"), &Device::flex(), dtypes).expect("the base loads");
    let notices = model.load_adapter(adapter).expect("the adapter loads");
    let changes_out_proj = AdapterCoverage::of(&model).unwrap().maps.keys().any(|target| target.name() == "out_proj");
    assert_eq!(notices.iter().any(|notice| notice.contains("out_proj")), changes_out_proj, "{notices:?}");
    model
}

fn tokens(cases: &Cases) -> Tensor<2, Int> {
    let ids = cases.ints("input_ids");
    let length = ids.len();
    Tensor::from_data(TensorData::new(ids, [1, length]), &Device::flex())
}

fn normed(model: &NemotronH, tokens: Tensor<2, Int>) -> Tensor<3> {
    model.normalize(model.forward(tokens, model.empty_state(), ForwardContext::default()).0)
}

/// Log-probability of every token but the first.
fn log_probs(model: &NemotronH, tokens: &Tensor<2, Int>) -> Tensor<1> {
    let [_, length] = tokens.dims();
    let hidden = normed(model, tokens.clone()).narrow(1, 0, length - 1);
    let width = hidden.dims()[2];
    let targets = tokens.clone().narrow(1, 1, length - 1).reshape([length - 1]);
    nemo_kernels::linear_log_prob(hidden.reshape([length - 1, width]), model.head_weight(), targets, 1.0).log_prob
}

#[test]
fn logits_and_log_probabilities_match_with_and_without_the_adapter() {
    let (mut checks, mut largest) = (0, 0.0f64);
    for case in folders("lora") {
        let cases = Cases::open_file(&case.join("cases.safetensors"));
        let tokens = tokens(&cases);
        let mut bits: Option<Vec<f64>> = None;
        for adapter in adapters(&case) {
            for dtypes in storages(&case) {
                let name = adapter.display().to_string();
                let model = adapted(&case, &adapter, dtypes);
                let logits = values(model.logits(normed(&model, tokens.clone())));
                largest = largest.max(close(&name, &logits, &cases.floats("logits"), VALUES));
                let found = values(log_probs(&model, &tokens));
                largest = largest.max(close(&name, &found, &cases.floats("token_logprobs"), VALUES));

                let base = model.without_adapter();
                let found = values(log_probs(&base, &tokens));
                largest = largest.max(close(&name, &found, &cases.floats("base_token_logprobs"), VALUES));
                let last = values(base.logits(normed(&base, tokens.clone())));
                let expected = cases.floats("base_logits_last");
                let last = &last[last.len() - expected.len()..];
                largest = largest.max(close(&name, last, &expected, VALUES));
                assert_ne!(last, &logits[logits.len() - last.len()..], "{name} changes nothing");

                // Neither the names in the file nor the storage of the base changes a bit.
                assert_eq!(bits.get_or_insert_with(|| logits.clone()), &logits, "{name}");
                checks += 1;
            }
        }
    }
    println!("golden_lora: {checks} models ran, logits and log-probabilities within {largest:.1e}");
}

#[test]
fn gradients_match_and_the_base_has_none() {
    let (mut checks, mut largest) = (0, 0.0f64);
    for case in folders("lora") {
        let cases = Cases::open_file(&case.join("cases.safetensors"));
        let tokens = tokens(&cases);
        for dtypes in storages(&case) {
            let mut model = adapted(&case, &case.join("adapter"), dtypes).tracked();
            let weights: Vec<f32> = cases.floats("loss_weights").iter().map(|&weight| weight as f32).collect();
            let total: f32 = weights.iter().map(|weight| weight.abs()).sum();
            let weights = Tensor::<1>::from_floats(weights.as_slice(), &Device::flex());
            let loss = ((log_probs(&model, &tokens) * weights).sum() / total).neg();
            close("loss", &values(loss.clone()), &cases.floats("loss"), VALUES);
            let mut gradients = loss.backward();
            let mut expected: Vec<String> = cases.keys().into_iter().filter(|key| key.starts_with("grad.")).collect();
            model.visit_trained_mut(&mut |name, parameter| {
                let key = format!("grad.{name}");
                let place = expected.iter().position(|expected| *expected == key);
                expected.swap_remove(place.unwrap_or_else(|| panic!("{key} is trained and not stored")));
                let stored = cases.floats(&key);
                let found = values(parameter.take_gradient(&mut gradients).expect("a gradient").add_to(None));
                let norm = stored.iter().map(|e| e * e).sum::<f64>().sqrt();
                let error = found.iter().zip(&stored).map(|(f, e)| (f - e).powi(2)).sum::<f64>().sqrt();
                assert!(error <= GRADIENTS * norm, "{} {name}: relative L2 {:e}", case.display(), error / norm);
                largest = largest.max(if error == 0.0 { 0.0 } else { error / norm });
                checks += 1;
            });
            assert!(expected.is_empty(), "not trained: {expected:?}");
            model.visit_mut(&mut |name, parameter| {
                assert!(parameter.take_gradient(&mut gradients).is_none(), "{name} of the base has a gradient");
            });
        }
    }
    println!("golden_lora: {checks} gradients ran, within {largest:.1e}");
}

#[test]
fn merged_models_match() {
    let (mut checks, mut largest, mut neighbours) = (0, 0.0f64, 0);
    for case in folders("lora") {
        let cases = Cases::open_file(&case.join("cases.safetensors"));
        let expected = TensorFile::open(&case.join("merged.safetensors")).unwrap();
        let base = TensorFile::open(&case.join("base/model.safetensors")).unwrap();
        let target = tempfile::tempdir().unwrap();
        for (index, adapter) in adapters(&case).into_iter().enumerate() {
            let output = target.path().join(index.to_string());
            merge_adapter(&case.join("base"), &adapter, &output, |_| ControlFlow::Continue(())).expect("it merges");
            let merged = TensorFile::open(&output.join("model.safetensors")).unwrap();
            let model = adapted(&case, &adapter, Dtypes::F32);
            let bounds = merge_bounds(&model, &case);
            for (name, info) in base.tensors() {
                assert_eq!(merged.info(name).unwrap().dtype, info.dtype, "{name}");
                let Ok((stored, _)) = expected.read_f64(name) else {
                    assert_eq!(merged.raw(name).unwrap(), base.raw(name).unwrap(), "{name} has no adapter");
                    continue;
                };
                let (found, _) = merged.read_f64(name).unwrap();
                assert_eq!(found.len(), stored.len());
                checks += 1;
                if info.dtype == StoredDtype::Bf16 {
                    let differ = found.iter().zip(&stored).filter(|(a, b)| a != b).count();
                    assert!(differ as f64 <= MERGED_BF16 * found.len() as f64, "{name}: {differ} of {}", found.len());
                    let bits = |value: f64| i64::from((value as f32).to_bits() >> 16);
                    assert!(found.iter().zip(&stored).all(|(a, b)| (bits(*a) - bits(*b)).abs() <= 1), "{name}");
                    neighbours += differ;
                    continue;
                }
                for ((found, stored), bound) in found.iter().zip(&stored).zip(&bounds[name.as_str()]) {
                    assert!((found - stored).abs() <= MERGED_F32 * bound, "{name}: {found}, stored {stored}");
                    largest = largest.max((found - stored).abs() / bound);
                }
            }
            let model = load(&output, &Device::flex(), Dtypes::F32).expect("the merged model loads");
            let logits = values(model.logits(normed(&model, tokens(&cases))));
            let expected = cases.floats("merged_logits_last");
            close("merged logits", &logits[logits.len() - expected.len()..], &expected, VALUES);
        }
    }
    println!(
        "golden_lora: {checks} merged matrices ran, within {largest:.1e} of what was added, {neighbours} neighbours"
    );
}

/// `|W| + s |B| |A|` of every merged matrix.
fn merge_bounds(model: &NemotronH, case: &Path) -> std::collections::HashMap<String, Vec<f64>> {
    let settings = model.adapter().unwrap();
    let mut factors = std::collections::HashMap::new();
    model.clone().visit_trained_mut(&mut |name, parameter| {
        factors.insert(name.to_owned(), parameter.flat().into_data().iter::<f64>().map(f64::abs).collect::<Vec<_>>());
    });
    let base = TensorFile::open(&case.join("base/model.safetensors")).unwrap();
    let bound = |path: &str| {
        let name = format!("{path}.weight");
        let (weight, shape) = base.read_f64(&name).unwrap();
        let [a, b] = ["lora_A", "lora_B"].map(|factor| &factors[&format!("{path}.{factor}.weight")]);
        let values = (0..weight.len()).map(|index| {
            let (o, i) = (index / shape[1], index % shape[1]);
            let change: f64 = (0..settings.rank).map(|k| b[o * settings.rank + k] * a[k * shape[1] + i]).sum();
            weight[index].abs() + settings.scale() * change
        });
        (name, values.collect())
    };
    let is_adapted = |path: &String| factors.contains_key(&format!("{path}.lora_A.weight"));
    let paths = linear_maps(model.config()).into_iter().map(|map| map.path).filter(is_adapted);
    paths.map(|path| bound(&path)).collect()
}

#[test]
fn a_saved_adapter_is_the_file_that_peft_wrote() {
    let mut checks = 0;
    for case in folders("lora") {
        for adapter in adapters(&case) {
            let model = adapted(&case, &adapter, Dtypes::F32);
            let target = tempfile::tempdir().unwrap();
            save_adapter(&model, &target.path().join("saved"), "../base").expect("it saves");
            let read = |folder: &Path| TensorFile::open(&folder.join("adapter_model.safetensors")).unwrap();
            // Whatever the names were, they are written as transformers has them.
            let (written, by_peft) = (read(&target.path().join("saved")), read(&case.join("adapter")));
            assert_eq!(written.tensors().len(), by_peft.tensors().len());
            for name in by_peft.tensors().keys() {
                assert_eq!(written.info(name).unwrap().shape, by_peft.info(name).unwrap().shape, "{name}");
                assert_eq!(written.raw(name).unwrap(), by_peft.raw(name).unwrap(), "{name}");
            }
            let config = |folder: &Path| -> serde_json::Value {
                serde_json::from_slice(&std::fs::read(folder.join("adapter_config.json")).unwrap()).unwrap()
            };
            let (written, by_peft) = (config(&target.path().join("saved")), config(&case.join("adapter")));
            for (key, value) in written.as_object().unwrap() {
                assert_eq!(by_peft.get(key), Some(value), "{key}");
            }
            checks += 1;
        }
    }
    println!("golden_lora: {checks} saved adapters ran");
}
