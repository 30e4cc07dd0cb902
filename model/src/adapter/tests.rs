//! Adapters on small models: what is made, what is written and read back, and what is refused.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::checkpoint::{SaveOptions, StoredDtype, TensorFile, TensorHeader, TensorValues, write_tensor_file};
use crate::parallel::ForwardContext;
use crate::parameters::{Dtypes, WeightStorage, load, random, save};

/// Every kind of block.
const CONFIG: &str = r#"{
    "model_type": "nemotron_h", "hybrid_override_pattern": "M*-EM", "num_hidden_layers": 5, "vocab_size": 67,
    "hidden_size": 24, "mamba_num_heads": 4, "mamba_head_dim": 8, "ssm_state_size": 8, "n_groups": 2, "conv_kernel": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 40, "n_routed_experts": 2,
    "num_experts_per_tok": 1, "moe_intermediate_size": 16, "n_shared_experts": 1, "use_bias": true,
    "moe_shared_expert_intermediate_size": 24, "initializer_range": 0.3, "torch_dtype": "bfloat16"
}"#;

fn config() -> ModelConfig {
    ModelConfig::from_json_text(CONFIG, Path::new("config.json")).unwrap()
}

fn fresh(rank: usize, targets: &[TargetModule]) -> FreshAdapter {
    FreshAdapter {
        settings: LoraSettings { rank, alpha: 12.0 },
        targets: targets.iter().copied().collect(),
        initialization: FactorInitialization::Kaiming,
        seed: 3,
    }
}

fn model() -> NemotronH {
    random(&config(), 5, &Device::flex(), Dtypes::F32).unwrap()
}

/// An adapter that changes what the model says.
fn adapted(targets: &[TargetModule]) -> NemotronH {
    let mut model = model();
    model.add_adapter(&fresh(3, targets)).unwrap();
    let mut seed = 0;
    model.visit_trained_mut(&mut |name, mut parameter| {
        seed += 1;
        if name.ends_with("lora_B.weight") {
            let shape = parameter.shape();
            let values = RandomWeights { seed }.values(name, &shape, Initialization::Normal(0.1)).unwrap();
            parameter
                .update_flat(|old| Tensor::from_data(TensorData::new(values, [shape[0] * shape[1]]), &old.device()));
        }
    });
    model
}

fn logits(model: &NemotronH) -> Vec<f32> {
    let ids: Vec<i64> = (0..19).map(|t| (t * 11 + 5) % 67).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, 19]), &Device::flex());
    let (hidden, _) = model.forward(ids, model.empty_state(), ForwardContext::default());
    model.logits(model.normalize(hidden)).into_data().try_to_vec().unwrap()
}

fn trained(model: &NemotronH) -> BTreeMap<String, Vec<f32>> {
    let mut all = BTreeMap::new();
    model.clone().visit_trained_mut(&mut |name, parameter| {
        all.insert(name.to_owned(), parameter.flat().into_data().iter::<f32>().collect());
    });
    all
}

#[test]
fn a_fresh_adapter_changes_nothing_and_is_all_that_is_trained() {
    let base = logits(&model());
    for initialization in [FactorInitialization::Kaiming, FactorInitialization::Xavier, FactorInitialization::Normal] {
        let mut model = model();
        model.add_adapter(&FreshAdapter { initialization, ..fresh(4, &TargetModule::ALL) }).unwrap();
        assert_eq!(logits(&model), base);
        let factors = trained(&model);
        let maps = linear_maps(&config());
        assert_eq!(factors.len(), 2 * maps.len());
        for LinearMap { path, inputs, outputs, .. } in maps {
            let (a, b) = (&factors[&format!("{path}.lora_A.weight")], &factors[&format!("{path}.lora_B.weight")]);
            assert_eq!((a.len(), b.len()), (4 * inputs, 4 * outputs), "{path}");
            assert!(b.iter().all(|value| *value == 0.0));
            let deviation = (a.iter().map(|value| f64::from(value * value)).sum::<f64>() / a.len() as f64).sqrt();
            let expected = match initialization {
                FactorInitialization::Kaiming => (1.0 / (3.0 * inputs as f64)).sqrt(),
                FactorInitialization::Xavier => (2.0 / (inputs + 4) as f64).sqrt(),
                FactorInitialization::Normal => 0.2,
            };
            assert!((deviation / expected - 1.0).abs() < 0.4, "{path}: {deviation}, expected about {expected}");
        }
        // The base is the model's own, whoever asks for it.
        assert_eq!(trained(&model.without_adapter()).len(), trained(&super::tests::model()).len());
    }
    let seeds = [3, 3, 4].map(|seed| {
        let mut model = model();
        model.add_adapter(&FreshAdapter { seed, ..fresh(4, &TargetModule::ALL) }).unwrap();
        trained(&model)
    });
    assert!(seeds[0] == seeds[1] && seeds[0] != seeds[2]);
}

#[test]
fn a_saved_adapter_comes_back_whole_on_any_base() {
    for targets in [&TargetModule::ALL[..], &[TargetModule::InProj, TargetModule::KProj]] {
        let original = adapted(targets);
        let folder = tempfile::tempdir().unwrap();
        let (path, base) = (folder.path().join("adapter"), folder.path().join("base"));
        save_adapter(&original, &path, "org/base").unwrap();
        assert!(save_adapter(&original, &path, "org/base").is_err(), "what is there is not written over");
        assert_ne!(logits(&original), logits(&original.without_adapter()));
        let mut again = model();
        again.load_adapter(&path).unwrap();
        assert_eq!(trained(&again), trained(&original));
        assert_eq!(logits(&again), logits(&original));
        assert_eq!(again.adapter(), original.adapter());

        // Beside eight bits the adapter is the same, and the base is all that differs.
        save(&model(), &base, &SaveOptions::default()).unwrap();
        let dtypes = Dtypes::stored(WeightStorage::Int8).beside_adapter();
        let mut narrow = load(&base, &Device::flex(), dtypes).unwrap();
        assert!(narrow.check_trainable().is_err());
        narrow.load_adapter(&path).unwrap();
        narrow.check_trainable().unwrap();
        assert_eq!(trained(&narrow), trained(&original));
        let distance =
            |left: &[f32], right: &[f32]| left.iter().zip(right).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let (with, without) = (logits(&narrow), logits(&narrow.without_adapter()));
        assert!(distance(&with, &logits(&original)) < distance(&with, &without), "the adapter acts in eight bits");
        // The head in eight bits is for generation only.
        let mut generates = load(&base, &Device::flex(), Dtypes::stored(WeightStorage::Int8)).unwrap();
        generates.load_adapter(&path).unwrap();
        assert!(generates.check_trainable().is_err());
    }
}

#[test]
fn a_model_with_an_adapter_is_not_saved_as_its_base() {
    let folder = tempfile::tempdir().unwrap();
    let error = save(&adapted(&TargetModule::ALL), &folder.path().join("model"), &SaveOptions::default()).unwrap_err();
    assert!(error.to_string().contains("save the adapter, or merge it"), "{error}");
    assert!(save_adapter(&model(), &folder.path().join("adapter"), "base").is_err());
}

#[test]
fn only_the_same_adapter_takes_the_place_of_one() {
    let folder = tempfile::tempdir().unwrap();
    let save_as = |name: &str, model: &NemotronH| -> PathBuf {
        let path = folder.path().join(name);
        save_adapter(model, &path, "base").unwrap();
        path
    };
    let original = adapted(&TargetModule::ALL);
    let same = save_as("same", &original);
    let fewer = save_as("fewer", &adapted(&[TargetModule::InProj]));
    let mut other = model();
    other.add_adapter(&fresh(2, &TargetModule::ALL)).unwrap();
    let other = save_as("other", &other);
    let mut start = model();
    start.add_adapter(&fresh(3, &TargetModule::ALL)).unwrap();
    assert!(start.reload_adapter(&fewer).unwrap_err().to_string().contains("linear maps"));
    assert!(start.reload_adapter(&other).unwrap_err().to_string().contains("found rank 2, alpha 12, expected rank 3"));
    start.reload_adapter(&same).unwrap();
    assert_eq!(trained(&start), trained(&original));
    assert!(model().reload_adapter(&same).is_err());
}

#[test]
fn coverage_counts_blocks_maps_and_numbers() {
    let mut model = model();
    model.add_adapter(&fresh(3, &[TargetModule::InProj, TargetModule::UpProj])).unwrap();
    let coverage = AdapterCoverage::of(&model).unwrap();
    assert_eq!(coverage.blocks, [4, 5]);
    assert_eq!(coverage.maps[&TargetModule::InProj], [2, 2]);
    assert_eq!(coverage.maps[&TargetModule::UpProj], [4, 4]);
    assert_eq!(coverage.num_trained, trained(&model).values().map(Vec::len).sum::<usize>());
    assert_eq!(coverage.num_base, config().num_parameters());
    assert!(coverage.notices.len() == 1 && coverage.notices[0].contains("single experts"), "{:?}", coverage.notices);
    let text = coverage.to_string();
    assert!(text.contains("LoRA of rank 3 and alpha 12 (scale 4) in 4 of 5 blocks (2 in_proj, 4 up_proj)"), "{text}");
    let all = AdapterCoverage::of(&adapted(&TargetModule::ALL)).unwrap();
    assert!(all.notices.len() == 2 && all.notices[0].contains("out_proj"), "{:?}", all.notices);
}

#[test]
fn targets_that_the_model_lacks_and_a_rank_of_zero_are_refused() {
    let mut attention = config();
    attention.layers = crate::config::HybridPattern::from_letters("**").unwrap();
    let error = fresh(3, &[TargetModule::InProj]).maps(&attention).unwrap_err().to_string();
    assert!(error.contains("no block of the model (**) has a linear map called in_proj"), "{error}");
    assert!(fresh(0, &TargetModule::ALL).maps(&config()).is_err());
}

/// A folder of an adapter, its configuration and its tensors changed.
fn changed(
    change: impl FnOnce(&mut serde_json::Map<String, Value>),
    rename: impl Fn(&str) -> Option<String>,
) -> (TempDir, Result<Vec<String>, AdapterError>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter");
    save_adapter(&adapted(&[TargetModule::InProj, TargetModule::UpProj]), &path, "base").unwrap();
    let config = path.join(ADAPTER_CONFIG_FILE);
    let mut document: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    change(document.as_object_mut().unwrap());
    std::fs::write(&config, document.to_string()).unwrap();
    let weights = path.join(ADAPTER_FILE);
    let tensors: BTreeMap<String, (Vec<f32>, Vec<usize>)> = {
        let file = TensorFile::open(&weights).unwrap();
        let named = file.tensors().keys().filter_map(|name| Some((rename(name)?, file.read_f32(name).unwrap())));
        named.collect()
    };
    let header = |(name, (_, shape)): (&String, &(Vec<f32>, Vec<usize>))| TensorHeader {
        name: name.clone(),
        shape: shape.clone(),
        dtype: StoredDtype::F32,
    };
    let headers: Vec<_> = tensors.iter().map(header).collect();
    write_tensor_file(&weights, &headers, &[], |header| {
        Ok::<_, crate::checkpoint::CheckpointError>(TensorValues::F32(tensors[&header.name].0.clone()))
    })
    .unwrap();
    let result = model().load_adapter(&path);
    (folder, result)
}

fn as_it_is(name: &str) -> Option<String> {
    Some(name.to_owned())
}

#[test]
fn both_prefixes_load_and_an_unknown_one_is_an_error() {
    let replace = |to: &'static str| move |name: &str| Some(name.replace("base_model.model.model.", to));
    changed(|_| (), as_it_is).1.unwrap();
    changed(|_| (), replace("base_model.model.backbone.")).1.unwrap();
    for prefix in ["base_model.model.transformer.", "base_model.model.model.model.", "model.", ""] {
        let error = changed(|_| (), replace(prefix)).1.unwrap_err().to_string();
        assert!(error.contains("belongs to no module that is known here"), "{prefix}: {error}");
    }
    let of_another_kind = |name: &str| Some(name.replace("lora_A.weight", "lora_magnitude_vector"));
    assert!(changed(|_| (), of_another_kind).1.unwrap_err().to_string().contains("is no factor of a linear map"));
    let of_another_block = |name: &str| Some(name.replace("layers.4.", "layers.9."));
    let error = changed(|_| (), of_another_block).1.unwrap_err().to_string();
    assert!(error.contains("layers.4.mixer.in_proj.lora_A.weight is missing"), "{error}");
    let foreign = |name: &str| Some(name.replace("layers.0.mixer.in_proj", "layers.0.mixer.q_proj"));
    assert!(
        changed(|keys| drop(keys.insert("target_modules".into(), json!(".*"))), foreign)
            .1
            .unwrap_err()
            .to_string()
            .contains("the model has no linear map backbone.layers.0.mixer.q_proj")
    );
    let lost = |name: &str| (!name.ends_with("0.mixer.in_proj.lora_B.weight")).then(|| name.to_owned());
    let error = changed(|_| (), lost).1.unwrap_err().to_string();
    assert!(error.contains("layers.0.mixer.in_proj.lora_B.weight is missing"), "{error}");
    // PEFT's own pattern: the tensors say what is adapted, and each needs both factors.
    let error = changed(|keys| drop(keys.insert("target_modules".into(), json!("all-linear"))), lost).1.unwrap_err();
    assert!(error.to_string().contains("layers.0.mixer.in_proj.lora_B.weight is missing"), "{error}");
    let shape = |keys: &mut serde_json::Map<String, Value>| drop(keys.insert("r".into(), json!(2)));
    let error = changed(shape, as_it_is).1.unwrap_err().to_string();
    assert!(error.contains("has shape [3, 24], its map and the rank of adapter_config.json give [2, 24]"), "{error}");
    let one =
        |keys: &mut serde_json::Map<String, Value>| drop(keys.insert("target_modules".into(), json!(["in_proj"])));
    assert!(changed(one, as_it_is).1.unwrap_err().to_string().contains("does not name its map"));
}

#[test]
fn settings_that_change_what_is_computed_are_refused_and_others_are_not() {
    for (key, value, reason) in [
        ("peft_type", json!("LOHA"), "the only kind"),
        ("r", json!(0), "expected a whole number above 0"),
        ("r", json!("8"), "expected a whole number above 0"),
        ("lora_alpha", json!(null), "expected a number"),
        ("target_modules", json!(null), "expected a list of names"),
        ("bias", json!("all"), "biases that were trained"),
        ("use_dora", json!(true), "DoRA"),
        ("use_rslora", json!(true), "alpha * sqrt(r)"),
        ("rank_pattern", json!({"in_proj": 4}), "one rank"),
        ("alpha_pattern", json!({"in_proj": 4}), "one rank"),
        ("modules_to_save", json!(["lm_head"]), "whole modules"),
        ("fan_in_fan_out", json!(true), "[out, in]"),
        ("init_lora_weights", json!("pissa"), "whose weights were changed"),
        ("layer_replication", json!([[0, 4]]), "not known here"),
        ("a_key_of_the_future", json!(1), "not known here"),
    ] {
        let error = changed(|keys| drop(keys.insert(key.into(), value.clone())), as_it_is).1.unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains(key) && error.contains(ADAPTER_CONFIG_FILE), "{key}: {error}");
    }
    for (key, value) in [
        ("a_key_of_the_future", json!(null)),
        ("peft_version", json!("9.9")),
        ("init_lora_weights", json!("gaussian")),
        ("layers_to_transform", json!([0, 2, 3, 4])),
        ("use_dora", json!(false)),
    ] {
        let notices = changed(|keys| drop(keys.insert(key.into(), value)), as_it_is).1.unwrap();
        assert!(notices.len() == 1 && notices[0].contains("single experts"), "{key}: {notices:?}");
    }
    let notices = changed(|keys| drop(keys.insert("lora_dropout".into(), json!(0.1))), as_it_is).1.unwrap();
    assert!(notices[0].contains("lora_dropout"), "{notices:?}");
}

#[test]
fn a_folder_that_is_no_adapter_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let error = model().load_adapter(folder.path()).unwrap_err().to_string();
    assert!(error.contains("is no adapter: it has no adapter_config.json"), "{error}");
    std::fs::write(folder.path().join(ADAPTER_CONFIG_FILE), "[]").unwrap();
    let error = model().load_adapter(folder.path()).unwrap_err().to_string();
    assert!(error.contains("it has no adapter_model.safetensors"), "{error}");
    std::fs::write(folder.path().join(ADAPTER_FILE), "").unwrap();
    let error = model().load_adapter(folder.path()).unwrap_err().to_string();
    assert!(error.contains("it is no JSON object"), "{error}");
}

#[test]
fn a_part_of_the_maps_is_named_by_whole_paths() {
    let (folder, result) = changed(
        |keys| {
            keys.insert("target_modules".into(), json!(["layers.0.mixer.in_proj", "model.layers.2.mixer.up_proj"]));
        },
        |name| ["layers.0.mixer.in_proj", "layers.2."].iter().any(|part| name.contains(part)).then(|| name.to_owned()),
    );
    result.unwrap();
    let mut model = model();
    model.load_adapter(&folder.path().join("adapter")).unwrap();
    let again = folder.path().join("again");
    save_adapter(&model, &again, "base").unwrap();
    let document: Value = serde_json::from_slice(&std::fs::read(again.join(ADAPTER_CONFIG_FILE)).unwrap()).unwrap();
    assert_eq!(document["target_modules"], json!(["model.layers.0.mixer.in_proj", "model.layers.2.mixer.up_proj"]));
    let mut second = super::tests::model();
    second.load_adapter(&again).unwrap();
    assert_eq!(trained(&second), trained(&model));
}

#[test]
fn a_merge_that_is_stopped_or_finds_something_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (base, adapter, output) =
        (folder.path().join("base"), folder.path().join("adapter"), folder.path().join("out"));
    save(&model(), &base, &SaveOptions::default()).unwrap();
    save_adapter(&adapted(&TargetModule::ALL), &adapter, "base").unwrap();
    let stopped = merge_adapter(&base, &adapter, &output, |_| std::ops::ControlFlow::Break(()));
    assert!(matches!(stopped, Err(ModelError::Stopped { .. })) && !output.exists());
    merge_adapter(&base, &adapter, &output, |_| std::ops::ControlFlow::Continue(())).unwrap();
    assert!(merge_adapter(&base, &adapter, &output, |_| std::ops::ControlFlow::Continue(())).is_err());
    // In bf16, experts included: within a rounding of every weight.
    let merged = load(&output, &Device::flex(), Dtypes::F32).unwrap();
    let mut beside = load(&base, &Device::flex(), Dtypes::F32).unwrap();
    let plain = logits(&beside);
    beside.load_adapter(&adapter).unwrap();
    let distance = |left: &[f32], right: &[f32]| left.iter().zip(right).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let (with, found) = (logits(&beside), logits(&merged));
    assert!(
        distance(&found, &with) < 0.2 * distance(&with, &plain),
        "{} of {}",
        distance(&found, &with),
        distance(&with, &plain)
    );
}
