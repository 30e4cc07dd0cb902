//! Round trips, and what broken folders are told.

mod names;

use std::path::Path;

use super::*;
use crate::config::ModelConfig;

const CONFIG: &str = r#"{"hybrid_override_pattern": "M-", "vocab_size": 7, "hidden_size": 4, "intermediate_size": 6,
    "mamba_num_heads": 2, "mamba_head_dim": 3, "ssm_state_size": 2, "n_groups": 1, "conv_kernel": 4}"#;

fn config() -> ModelConfig {
    ModelConfig::from_json_text(CONFIG, Path::new("config.json")).unwrap()
}

/// Distinct values that bf16 holds exactly.
fn values(tensor: &TensorSpec) -> Result<TensorValues, CheckpointError> {
    let start = tensor.name.len() as f32;
    Ok(TensorValues::F32((0..tensor.shape.iter().product()).map(|index| start + (index % 64) as f32).collect()))
}

fn saved(options: &SaveOptions) -> tempfile::TempDir {
    let parent = tempfile::tempdir().unwrap();
    save_checkpoint(&parent.path().join("model"), &config(), options, values).unwrap();
    parent
}

/// A saved model whose weights lie in five shards, as large releases have them.
fn sharded() -> tempfile::TempDir {
    let parent = saved(&SaveOptions::default());
    let folder = parent.path().join("model");
    let shard_name = |shard: usize| format!("model-{:05}-of-00005.safetensors", shard + 1);
    let mut map = serde_json::Map::new();
    for (shard, specs) in expected_tensors(&config()).chunks(3).enumerate() {
        let headers: Vec<TensorHeader> = specs.iter().cloned().map(f32_header).collect();
        let fill =
            |header: &TensorHeader| values(&TensorSpec { name: header.name.clone(), shape: header.shape.clone() });
        write_tensor_file(&folder.join(shard_name(shard)), &headers, &[], fill).unwrap();
        map.extend(specs.iter().map(|spec| (spec.name.clone(), shard_name(shard).into())));
    }
    let index = serde_json::json!({ "metadata": {}, "weight_map": map });
    std::fs::write(folder.join("model.safetensors.index.json"), format!("{index:#}")).unwrap();
    std::fs::remove_file(folder.join("model.safetensors")).unwrap();
    parent
}

fn f32_header(spec: TensorSpec) -> TensorHeader {
    TensorHeader { name: spec.name, shape: spec.shape, dtype: StoredDtype::F32 }
}

fn added(name: &str, shape: &[usize]) -> TensorHeader {
    f32_header(TensorSpec { name: name.into(), shape: shape.into() })
}

fn error_of(folder: &Path, parts: &[&str]) {
    let message = CheckpointReader::open(folder).unwrap_err().to_string();
    assert!(parts.iter().all(|part| message.contains(part)), "expected {parts:?} in: {message}");
}

#[test]
fn pointers_of_git_lfs_are_named() {
    const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
    for (parent, file) in [
        (saved(&SaveOptions::default()), "model.safetensors"),
        (saved(&SaveOptions::default()), "config.json"),
        (sharded(), "model-00003-of-00005.safetensors"),
        (sharded(), "model.safetensors.index.json"),
    ] {
        let folder = parent.path().join("model");
        std::fs::write(folder.join(file), POINTER).unwrap();
        error_of(&folder, &[file, "a pointer of Git LFS", "`git lfs pull`"]);
    }
}

#[test]
fn an_adapter_is_no_model() {
    let parent = saved(&SaveOptions::default());
    let folder = parent.path().join("model");
    std::fs::rename(folder.join("model.safetensors"), folder.join("adapter_model.safetensors")).unwrap();
    error_of(&folder, &["holds no weights", "adapter_model.safetensors", "a LoRA adapter", "merge the two"]);
    std::fs::remove_file(folder.join("config.json")).unwrap();
    error_of(&folder, &["holds no weights", "adapter_model.safetensors", "a LoRA adapter", "merge the two"]);
}

/// Rewrites the single file of a saved model with other tensors.
fn rewrite(folder: &Path, change: impl FnOnce(&mut Vec<TensorHeader>)) {
    let mut headers: Vec<TensorHeader> = expected_tensors(&config()).into_iter().map(f32_header).collect();
    change(&mut headers);
    let fill = |tensor: &TensorHeader| -> Result<TensorValues, CheckpointError> {
        Ok(TensorValues::F32(vec![1.0; tensor.shape.iter().product()]))
    };
    write_tensor_file(&folder.join("model.safetensors"), &headers, &[], fill).unwrap();
}

#[test]
fn every_dtype_round_trips() {
    for dtype in [StoredDtype::F32, StoredDtype::Bf16, StoredDtype::F16, StoredDtype::F64] {
        let parent = saved(&SaveOptions { dtype: Some(dtype), ..SaveOptions::default() });
        let reader = CheckpointReader::open(&parent.path().join("model")).unwrap();
        for tensor in expected_tensors(&config()) {
            assert_eq!(reader.info(&tensor.name).unwrap().dtype, dtype);
            let TensorValues::F32(expected) = values(&tensor).unwrap() else { unreachable!() };
            let (found, shape) = reader.read_f32(&tensor.name).unwrap();
            assert_eq!((&found, &shape), (&expected, &tensor.shape));
            let wide: Vec<f64> = expected.into_iter().map(f64::from).collect();
            assert_eq!(reader.read_f64(&tensor.name).unwrap().0, wide);
        }
    }
}

#[test]
fn large_tensors_convert_like_small_ones() {
    let values: Vec<f32> = (0..300_001).map(|index| (index as f32).sin() * 1e3).collect();
    for dtype in [StoredDtype::F32, StoredDtype::Bf16, StoredDtype::F16, StoredDtype::F64] {
        let bytes = TensorValues::F32(values.clone()).to_bytes(dtype);
        assert_eq!(bytes.len(), values.len() * dtype.size_bytes());
        let back = dtype::decode_f32(dtype, &bytes).unwrap();
        for (index, (found, value)) in back.iter().zip(&values).enumerate() {
            let one = TensorValues::F32(vec![*value]).to_bytes(dtype);
            assert_eq!(dtype::decode_f32(dtype, &one).unwrap(), [*found], "{index}");
        }
    }
    assert_eq!(dtype::decode_f32(StoredDtype::I64, &[0; 8]), None);
}

#[test]
fn every_truncation_is_an_error_naming_the_file() {
    let parent = saved(&SaveOptions::default());
    let folder = parent.path().join("model");
    let file = folder.join("model.safetensors");
    let whole = std::fs::read(&file).unwrap();
    for length in (0..whole.len()).step_by(37).chain([7, 8, 9, whole.len() - 1]) {
        std::fs::write(&file, &whole[..length]).unwrap();
        error_of(&folder, &["model.safetensors", "truncated", &length.to_string()]);
    }
    std::fs::write(&file, [whole.as_slice(), b"more"].concat()).unwrap();
    error_of(&folder, &["too long", &whole.len().to_string()]);
}

#[test]
fn garbage_is_an_error_and_never_a_panic() {
    let parent = saved(&SaveOptions::default());
    let folder = parent.path().join("model");
    let file = folder.join("model.safetensors");
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, "PK\u{3}\u{4} this is a zip file, or so it says").unwrap();
    error_of(&folder, &["model.safetensors", "no header length"]);
    let mut seed = 1_u64;
    for _ in 0..500 {
        let mut damaged = whole.clone();
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let place = (seed >> 33) as usize % damaged.len().min(900);
        damaged[place] ^= 1 << (seed % 8);
        std::fs::write(&file, &damaged).unwrap();
        if let Err(error) = CheckpointReader::open(&folder) {
            assert!(error.to_string().contains("model"), "{error}");
        }
    }
}

#[test]
fn folders_without_the_needed_files_are_explained() {
    let parent = sharded();
    let folder = parent.path().join("model");
    error_of(&parent.path().join("nowhere"), &["nowhere", "not a folder"]);
    error_of(parent.path(), &["config.json", "cannot read"]);
    let shard = folder.join("model-00002-of-00005.safetensors");
    let index = folder.join("model.safetensors.index.json");
    let text = std::fs::read_to_string(&index).unwrap();
    assert!(shard.exists(), "{text}");
    std::fs::write(&index, text.replace("model-00002", "../model-00002")).unwrap();
    error_of(&folder, &["index.json", "expected a file name"]);
    std::fs::write(&index, "{}").unwrap();
    error_of(&folder, &["index.json", "weight_map"]);
    std::fs::write(&index, "{").unwrap();
    error_of(&folder, &["index.json", "line 1"]);
    std::fs::write(&index, text.replacen("backbone.norm_f.weight", "backbone.other", 1)).unwrap();
    error_of(&folder, &["backbone.other", "does not hold it"]);
    std::fs::write(&index, &text).unwrap();
    std::fs::copy(&shard, folder.join("model-00001-of-00005.safetensors")).unwrap();
    assert!(CheckpointReader::open(&folder).is_err());
    std::fs::remove_file(&shard).unwrap();
    std::fs::remove_file(folder.join("model-00001-of-00005.safetensors")).unwrap();
    error_of(&folder, &["index.json", "model-00001-of-00005.safetensors", "not in the folder"]);
    std::fs::remove_file(&index).unwrap();
    error_of(&folder, &["no weights", "model.safetensors"]);
    std::fs::write(folder.join("pytorch_model.bin"), "").unwrap();
    error_of(&folder, &["pytorch_model.bin", "not supported"]);
}

#[test]
fn saving_overwrites_nothing_and_leaves_nothing_behind_on_failure() {
    let sidecars = ["tokenizer.json", "additional_chat_templates/tool_use.jinja"]
        .map(|name| SidecarFile { name: name.into(), contents: name.into() });
    let parent = saved(&SaveOptions { sidecar_files: sidecars.to_vec(), ..SaveOptions::default() });
    let folder = parent.path().join("model");
    assert_eq!(read_sidecar_files(&folder).unwrap(), sidecars);
    let again = save_checkpoint(&folder, &config(), &SaveOptions::default(), values).unwrap_err();
    assert!(matches!(again, CheckpointError::AlreadyExists { .. }), "{again}");
    let other = parent.path().join("other");
    let short = |_: &TensorSpec| Ok::<_, CheckpointError>(TensorValues::F32(vec![0.0]));
    let error = save_checkpoint(&other, &config(), &SaveOptions::default(), short).unwrap_err();
    assert!(error.to_string().contains("1 values given"), "{error}");
    let mut names: Vec<_> = std::fs::read_dir(parent.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["model"]);
    // What a killed save left behind does not stand in the way.
    std::fs::create_dir(parent.path().join(".other.incomplete")).unwrap();
    save_checkpoint(&other, &config(), &SaveOptions::default(), values).unwrap();
    CheckpointReader::open(&other).unwrap();
}

#[test]
fn saving_twice_gives_the_same_bytes() {
    let (first, second) = (saved(&SaveOptions::default()), saved(&SaveOptions::default()));
    for entry in std::fs::read_dir(first.path().join("model")).unwrap() {
        let name = entry.unwrap().file_name();
        let read = |parent: &tempfile::TempDir| std::fs::read(parent.path().join("model").join(&name)).unwrap();
        assert_eq!(read(&first), read(&second), "{name:?}");
    }
}

/// `/dev/full` answers every write as a full disk does; `/proc` cannot be written to.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_and_an_unwritable_folder_are_explained() {
    let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
    let message = CheckpointError::unwritable(Path::new("x/model.safetensors"), full).to_string();
    assert!(message.contains("x/model.safetensors") && message.contains("the disk is full"), "{message}");
    let folder = Path::new("/proc/nemo-burn-test/model");
    let message = save_checkpoint(folder, &config(), &SaveOptions::default(), values).unwrap_err().to_string();
    assert!(message.contains("/proc/nemo-burn-test") && message.contains("cannot write"), "{message}");
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("out.safetensors");
    std::fs::write(&file, "old").unwrap();
    // The file is written aside first; when that place is a full device, the old file must survive.
    std::os::unix::fs::symlink("/dev/full", parent.path().join(".out.safetensors.incomplete")).unwrap();
    let header = TensorHeader { name: "x".into(), shape: vec![4], dtype: StoredDtype::F32 };
    let fill = |_: &TensorHeader| Ok::<_, CheckpointError>(TensorValues::F32(vec![0.0; 4]));
    let message = write_tensor_file(&file, &[header], &[], fill).unwrap_err().to_string();
    assert!(message.contains("disk is full") && message.contains("nothing already saved"), "{message}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "old");
}
