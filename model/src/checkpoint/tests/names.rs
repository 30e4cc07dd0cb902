//! Names of tensors: every spelling in use loads, and what does not fit is told about names.

use super::*;

const MIXTURE: &str = r#"{"hybrid_override_pattern": "ME", "vocab_size": 7, "hidden_size": 4, "mamba_num_heads": 2,
    "mamba_head_dim": 3, "ssm_state_size": 2, "n_groups": 1, "conv_kernel": 4, "n_routed_experts": 3,
    "num_experts_per_tok": 2, "moe_intermediate_size": 5, "moe_shared_expert_intermediate_size": 6,
    "moe_latent_size": 2}"#;

/// A folder with the given configuration and one file of tensors, each filled by `value` of its name and position.
fn folder_of(config: &str, headers: &[TensorHeader], value: impl Fn(&str, usize) -> f32) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    write_tensor_file(&folder.path().join("model.safetensors"), headers, &[], |header| {
        let count = header.shape.iter().product();
        Ok::<_, CheckpointError>(TensorValues::F32((0..count).map(|index| value(&header.name, index)).collect()))
    })
    .unwrap();
    folder
}

fn headers_of(config: &str) -> Vec<TensorHeader> {
    let config = ModelConfig::from_json_text(config, Path::new("config.json")).unwrap();
    expected_tensors(&config).into_iter().map(f32_header).collect()
}

#[test]
fn every_spelling_of_a_name_is_read() {
    type Spelling = fn(&str) -> String;
    let spellings: [Spelling; 6] = [
        |name| name.to_owned(),
        |name| name.replace("backbone.", "model."),
        |name| format!("model.{name}"),
        |name| name.replace("embeddings", "embedding"),
        |name| name.replace("backbone.embeddings", "model.embed_tokens").replace("backbone.", "model."),
        |name| name.replace("shared_experts", "shared_expert"),
    ];
    for spelling in spellings {
        let mut headers = headers_of(MIXTURE);
        headers.iter_mut().for_each(|header| header.name = spelling(&header.name));
        headers.push(added("mtp.layers.0.eh_proj.weight", &[3]));
        let folder = folder_of(MIXTURE, &headers, |name, index| (name.len() + index) as f32);
        let reader = CheckpointReader::open(folder.path()).unwrap();
        for tensor in expected_tensors(reader.config()) {
            let first = spelling(&tensor.name).len() as f32;
            let expected: Vec<f32> = (0..tensor.shape.iter().product()).map(|index| first + index as f32).collect();
            assert_eq!(reader.read_f32(&tensor.name).unwrap(), (expected, tensor.shape));
        }
    }
}

/// What `save_pretrained(save_original_format=False)` of transformers 5 writes.
#[test]
fn fused_experts_are_taken_apart() {
    let mut headers = headers_of(MIXTURE);
    headers.retain(|header| !header.name.contains(".experts."));
    for header in &mut headers {
        header.name = header.name.replace("backbone.", "model.");
    }
    headers.push(added("model.layers.1.mixer.experts.up_proj", &[3, 5, 2]));
    headers.push(added("model.layers.1.mixer.experts.down_proj", &[3, 2, 5]));
    let folder = folder_of(MIXTURE, &headers, |_, index| index as f32);
    let reader = CheckpointReader::open(folder.path()).unwrap();
    for (name, first, shape) in [
        ("backbone.layers.1.mixer.experts.0.up_proj.weight", 0, [5, 2]),
        ("backbone.layers.1.mixer.experts.2.up_proj.weight", 20, [5, 2]),
        ("backbone.layers.1.mixer.experts.1.down_proj.weight", 10, [2, 5]),
    ] {
        let expected: Vec<f32> = (first..first + 10).map(|value| value as f32).collect();
        assert_eq!(reader.read_f32(name).unwrap(), (expected, shape.to_vec()), "{name}");
        assert_eq!(reader.raw(name).unwrap().len(), 40);
    }
    for wrong in [[4, 2, 5], [3, 5, 2]] {
        headers.pop();
        headers.push(added("model.layers.1.mixer.experts.down_proj", &wrong));
        error_of(
            folder_of(MIXTURE, &headers, |_, _| 1.0).path(),
            &["model.layers.1.mixer.experts.down_proj", &format!("{wrong:?}"), "[3, 2, 5]"],
        );
    }
}

#[test]
fn names_and_shapes_that_do_not_fit_are_explained_by_name() {
    let parent = saved(&SaveOptions::default());
    let folder = parent.path().join("model");
    let refused = |change: &dyn Fn(&mut Vec<TensorHeader>), parts: &[&str]| {
        rewrite(&folder, change);
        error_of(&folder, parts);
        let message = CheckpointReader::open(&folder).unwrap_err().to_string();
        assert!(!message.contains("use the config.json"), "{message}");
    };
    let dt_bias = "backbone.layers.0.mixer.dt_bias";
    refused(
        &|headers| headers.retain(|header| header.name != dt_bias),
        &["1 tensor(s) missing", dt_bias, "download or save"],
    );
    refused(
        &|headers| {
            headers.retain(|header| header.name != dt_bias);
            headers.push(added("backbone.layers.0.mixer.dt.bias", &[2]));
        },
        &["1 tensor(s) missing", dt_bias, "found backbone.layers.0.mixer.dt.bias", "rename"],
    );
    refused(
        &|headers| {
            headers.retain(|header| header.name != dt_bias);
            headers.push(added("visual.patch", &[2]));
        },
        &["1 tensor(s) missing", dt_bias, "found instead: visual.patch"],
    );
    refused(&|headers| headers.push(added("extra.weight", &[2])), &["1 unexpected", "extra.weight", "M-"]);
    refused(
        &|headers| headers.push(added("model.layers.0.mixer.dt_biass", &[2])),
        &["1 unexpected", "model.layers.0.mixer.dt_biass", "did you mean backbone.layers.0.mixer.dt_bias"],
    );
    refused(
        &|headers| headers.push(added("model.layers.0.mixer.dt_bias", &[2])),
        &["model.layers.0.mixer.dt_bias", "both are backbone.layers.0.mixer.dt_bias"],
    );
    refused(
        &|headers| headers[0].shape = vec![7, 5],
        &["model.safetensors", "backbone.embeddings.weight", "[7, 5]", "[7, 4]"],
    );
    refused(&|headers| headers[0].dtype = StoredDtype::I64, &["backbone.embeddings.weight", "I64", "a float type"]);
    rewrite(&folder, |_| ());
    let reader = CheckpointReader::open(&folder).unwrap();
    assert!(reader.read_f32("nothing").unwrap_err().to_string().contains("no tensor is called nothing"));
}

#[test]
fn quantised_weights_are_refused_by_the_names_of_their_scales() {
    let parent = saved(&SaveOptions::default());
    let folder = parent.path().join("model");
    let linear = "backbone.layers.0.mixer.in_proj";
    for part in
        ["weight_scale", "weight_scale_inv", "weight_scale_2", "input_scale", "weight_packed", "qweight", "scales"]
    {
        rewrite(&folder, |headers| headers.push(added(&format!("{linear}.{part}"), &[1])));
        error_of(&folder, &[&format!("{linear}.{part}"), "quantised", "bf16"]);
    }
    rewrite(&folder, |headers| headers.push(added(&format!("{linear}.weight.quant_state.bitsandbytes__nf4"), &[1])));
    error_of(&folder, &["quant_state", "quantised"]);
}

/// The case of a folder that was saved again, smaller, over an earlier save: other programs never read the index then.
#[test]
fn the_single_file_wins_over_an_index() {
    let parent = sharded();
    let folder = parent.path().join("model");
    rewrite(&folder, |_| ());
    let reader = CheckpointReader::open(&folder).unwrap();
    assert_eq!(reader.read_f32("backbone.norm_f.weight").unwrap().0, vec![1.0; 4]);
    for shard in 1..=5 {
        std::fs::remove_file(folder.join(format!("model-0000{shard}-of-00005.safetensors"))).unwrap();
    }
    CheckpointReader::open(&folder).unwrap();
    std::fs::write(folder.join("model.safetensors.index.json"), "{").unwrap();
    CheckpointReader::open(&folder).unwrap();
}

#[test]
fn a_tied_model_is_saved_with_its_head_and_read_with_an_equal_one_only() {
    let tied = CONFIG.replacen('{', "{\"tie_word_embeddings\": true,", 1);
    let config = ModelConfig::from_json_text(&tied, Path::new("config.json")).unwrap();
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("model");
    save_checkpoint(&folder, &config, &SaveOptions::default(), values).unwrap();
    let file = TensorFile::open(&folder.join("model.safetensors")).unwrap();
    assert_eq!(file.raw("lm_head.weight").unwrap(), file.raw("backbone.embeddings.weight").unwrap());
    let reader = CheckpointReader::open(&folder).unwrap();
    assert!(reader.config().tie_word_embeddings && reader.names().all(|name| name != "lm_head.weight"));

    let mut headers = headers_of(&tied);
    assert!(CheckpointReader::open(folder_of(&tied, &headers, |_, _| 1.0).path()).is_ok(), "without a head");
    headers.push(TensorHeader { dtype: StoredDtype::Bf16, ..added("lm_head.weight", &[7, 4]) });
    assert!(CheckpointReader::open(folder_of(&tied, &headers, |_, _| 1.0).path()).is_ok(), "in another type");
    let other = folder_of(&tied, &headers, |name, _| f32::from(u8::from(name == "lm_head.weight")));
    error_of(other.path(), &["lm_head.weight", "backbone.embeddings.weight", "tie_word_embeddings", "false"]);
    headers.last_mut().unwrap().shape = vec![4, 7];
    error_of(folder_of(&tied, &headers, |_, _| 1.0).path(), &["lm_head.weight", "[4, 7]", "[7, 4]"]);
}

#[test]
fn a_weight_that_cannot_be_used_is_named() {
    for (value, text) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (-1e30, "-1000000000000000000000000000000")] {
        let is_bad = |name: &str, index| name.ends_with("A_log") && index == 1;
        let folder =
            folder_of(CONFIG, &headers_of(CONFIG), |name, index| if is_bad(name, index) { value } else { 1.0 });
        let reader = CheckpointReader::open(folder.path()).unwrap();
        let message = reader.read_usable("backbone.layers.0.mixer.A_log").unwrap_err().to_string();
        for part in ["model.safetensors", "backbone.layers.0.mixer.A_log", "[2]", "position 1", text] {
            assert!(message.contains(part), "{part}: {message}");
        }
        let device = burn::tensor::Device::flex();
        let built = crate::load(folder.path(), &device, crate::Dtypes::F32).unwrap_err().to_string();
        assert!(built.contains("A_log"), "{built}");
        assert_eq!(reader.read_usable("backbone.norm_f.weight").unwrap(), vec![1.0; 4]);
    }
}

/// What other programs look tensors up by, from their sources: vLLM's mapper turns `backbone` into `model`,
/// `embeddings` into `embed_tokens`, `A_log` into `A` and stacks q, k and v (`model_executor/models/nemotron_h.py`);
/// llama.cpp reads these names as they are (`conversion/nemotron.py`, `gguf-py/gguf/tensor_mapping.py`). Both take the
/// experts one by one and do not tie the head.
#[test]
fn what_is_saved_has_the_names_that_vllm_and_llama_cpp_expect() {
    let mamba =
        ["A_log", "D", "dt_bias", "conv1d.weight", "conv1d.bias", "in_proj.weight", "norm.weight", "out_proj.weight"];
    let attention = ["q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight"];
    let mlp = ["up_proj.weight", "down_proj.weight"];
    let mixture = [
        "gate.weight",
        "gate.e_score_correction_bias",
        "experts.0.up_proj.weight",
        "experts.0.down_proj.weight",
        "experts.1.up_proj.weight",
        "experts.1.down_proj.weight",
        "shared_experts.up_proj.weight",
        "shared_experts.down_proj.weight",
        "fc1_latent_proj.weight",
        "fc2_latent_proj.weight",
    ];
    let mut expected =
        vec!["backbone.embeddings.weight".to_owned(), "backbone.norm_f.weight".into(), "lm_head.weight".into()];
    for (layer, parts) in [&mamba[..], &attention, &mlp, &mixture].into_iter().enumerate() {
        expected.push(format!("backbone.layers.{layer}.norm.weight"));
        expected.extend(parts.iter().map(|part| format!("backbone.layers.{layer}.mixer.{part}")));
    }
    expected.sort();
    let text = r#"{"hybrid_override_pattern": "M*-E", "vocab_size": 7, "hidden_size": 4, "intermediate_size": 6,
        "mamba_num_heads": 2, "mamba_head_dim": 3, "ssm_state_size": 2, "n_groups": 1, "conv_kernel": 4,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 2, "n_routed_experts": 2,
        "num_experts_per_tok": 1, "moe_intermediate_size": 5, "moe_shared_expert_intermediate_size": 6,
        "moe_latent_size": 2, "tie_word_embeddings": true}"#;
    let config = ModelConfig::from_json_text(text, Path::new("config.json")).unwrap();
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("model");
    save_checkpoint(&folder, &config, &SaveOptions::default(), values).unwrap();
    let file = TensorFile::open(&folder.join("model.safetensors")).unwrap();
    assert_eq!(file.tensors().keys().cloned().collect::<Vec<_>>(), expected);
    // transformers looks for this when it decides whether the weights are PyTorch's.
    assert_eq!(file.metadata()["format"], "pt");
}
