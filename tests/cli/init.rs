//! `nemo-burn init`: folders of random weights hold the values of fresh models, whole or not at all.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use burn::tensor::Device;
use nemo_model::checkpoint::{CheckpointReader, HEAD, StoredDtype, TensorValues};
use nemo_model::config::ModelConfig;
use nemo_model::{Dtypes, RANDOM_SEED_KEY, RandomOptions, random, save_random};
use serde_json::Value;

use super::program::{PROGRAM, contents, finish, repository, run_in};

/// Every kind of block. The embedding is larger than the pieces that values are written in.
const SHAPE: &str = r#"{
  "model_type": "nemotron_h", "hybrid_override_pattern": "M*-E", "vocab_size": 20000, "hidden_size": 64,
  "mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 2, "conv_kernel": 4,
  "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 96, "n_routed_experts": 4,
  "num_experts_per_tok": 2, "moe_intermediate_size": 32, "moe_shared_expert_intermediate_size": 48,
  "tie_word_embeddings": TIED, "torch_dtype": "bfloat16"
}"#;

fn shape(tied: bool) -> String {
    SHAPE.replace("TIED", &tied.to_string())
}

fn config(tied: bool) -> ModelConfig {
    ModelConfig::from_json_text(&shape(tied), Path::new("shape.json")).unwrap()
}

/// A folder with `shape.json`.
fn workspace() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("shape.json"), shape(false)).unwrap();
    folder
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The parameters of a fresh model.
fn fresh(config: &ModelConfig, seed: u64) -> BTreeMap<String, Vec<f32>> {
    let mut values = BTreeMap::new();
    let mut model = random(config, seed, &Device::flex(), Dtypes::F32).unwrap();
    model.visit_mut(&mut |name, parameter| {
        values.insert(name.to_owned(), parameter.flat().to_data().iter::<f32>().collect());
    });
    values
}

/// Checks that a folder holds the parameters of a fresh model, rounded to `dtype`.
#[track_caller]
fn assert_fresh(folder: &Path, config: &ModelConfig, seed: u64, dtype: StoredDtype) {
    let reader = CheckpointReader::open(folder).unwrap();
    let expected = fresh(config, seed);
    assert!(reader.names().eq(expected.keys().map(String::as_str)));
    for (name, values) in expected {
        let stored = reader.info(&name).unwrap().dtype;
        // Routers' selection biases are never rounded.
        assert!(stored == dtype || stored == StoredDtype::F32 && name.ends_with("e_score_correction_bias"), "{name}");
        assert!(reader.raw(&name).unwrap() == TensorValues::F32(values).to_bytes(stored), "{name}");
    }
    let text = fs::read_to_string(folder.join("config.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()[RANDOM_SEED_KEY], seed);
}

#[test]
fn folders_hold_the_values_of_fresh_models() {
    let folder = workspace();
    for (dtype, stored) in
        [("float32", StoredDtype::F32), ("bfloat16", StoredDtype::Bf16), ("float16", StoredDtype::F16)]
    {
        let output = format!("--output=models/{dtype}");
        let text = run_in(folder.path(), &["init", "--config=shape.json", "--seed=3", "--dtype", dtype, &output]);
        let text = text.succeeded();
        let made = folder.path().join("models").join(dtype);
        assert_eq!(names(&made), ["config.json", "model.safetensors"]);
        assert_fresh(&made, &config(false), 3, stored);
        let config = ModelConfig::load(&made).unwrap();
        assert_eq!(config.dtype.name(), dtype);
        let num_bytes = fs::metadata(made.join("model.safetensors")).unwrap().len();
        for part in [
            &format!("models/{dtype}: {} random parameters in {dtype} from seed 3", config.num_parameters())[..],
            &format!("{num_bytes} bytes in 1 file(s)"),
            " seconds\n",
        ] {
            assert!(text.contains(part), "`{part}` is not in: {text}");
        }
    }
    run_in(folder.path(), &["init", "--config=shape.json", "--output=models/plain"]).succeeded();
    assert_fresh(&folder.path().join("models/plain"), &config(false), 0, StoredDtype::Bf16);
}

#[test]
fn a_model_with_random_weights_runs() {
    let folder = workspace();
    run_in(folder.path(), &["init", "--config=shape.json", "--seed=1", "--output=model"]).succeeded();
    fs::write(folder.path().join("ids.jsonl"), "[1, 2, 3]\n").unwrap();
    let generate = ["generate", "--model=model", "--input-ids=ids.jsonl", "--max-new-tokens=3", "--ignore-eos"];
    let text = run_in(folder.path(), &generate).succeeded();
    assert_eq!(text.split_whitespace().count(), 3, "{text}");
}

#[test]
fn large_models_are_spread_over_files() {
    const MAX_SHARD_BYTES: u64 = 20_000;
    for tied in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let (model, config) = (folder.path().join("model"), config(tied));
        let options = RandomOptions { max_shard_bytes: MAX_SHARD_BYTES, ..RandomOptions::of_seed(5) };
        let saved = save_random(&model, &config, options, |_| ControlFlow::Continue(())).unwrap();
        assert_fresh(&model, &config, 5, StoredDtype::Bf16);

        let text = fs::read_to_string(model.join("model.safetensors.index.json")).unwrap();
        let index: Value = serde_json::from_str(&text).unwrap();
        let places = index["weight_map"].as_object().unwrap();
        assert!(places.contains_key(HEAD), "a tied head is written out");
        let count = saved.num_files;
        let shards: Vec<String> =
            (1..=count).map(|shard| format!("model-{shard:05}-of-{count:05}.safetensors")).collect();
        assert!(count > 5, "{count}");
        assert_eq!(
            names(&model),
            [&["config.json".to_owned()], &shards[..], &["model.safetensors.index.json".to_owned()]].concat()
        );
        let (mut num_bytes, mut total_size) = (0, 0);
        for shard in &shards {
            let bytes = fs::read(model.join(shard)).unwrap();
            num_bytes += bytes.len() as u64;
            let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            let size: usize = file.tensors().iter().map(|(_, tensor)| tensor.data().len()).sum();
            assert!(size as u64 <= MAX_SHARD_BYTES || file.len() == 1, "{shard} has {size} bytes");
            assert!(file.names().iter().all(|name| places[*name] == shard.as_str()), "{shard}");
            total_size += size;
        }
        assert_eq!(num_bytes, saved.num_bytes);
        assert_eq!(index["metadata"]["total_size"], total_size);
    }
}

#[test]
fn threads_change_no_byte() {
    let folder = workspace();
    let of_threads = |threads: &str| {
        let mut command = Command::new(PROGRAM);
        command.current_dir(folder.path()).env("RAYON_NUM_THREADS", threads);
        command.args(["init", "--config=shape.json", "--seed=9", "--output=model"]);
        finish(command).succeeded();
        let model = folder.path().join("model");
        let files = contents(&model);
        fs::remove_dir_all(model).unwrap();
        files
    };
    let one = of_threads("1");
    assert_eq!(one.len(), 2);
    for threads in ["2", "3", "8"] {
        assert!(of_threads(threads) == one, "{threads} threads");
    }
}

#[test]
fn what_cannot_be_written_is_refused_and_leaves_nothing() {
    let folder = workspace();
    let init = |output: &str| run_in(folder.path(), &["init", "--config=shape.json", "--output", output]);
    fs::create_dir(folder.path().join("full")).unwrap();
    fs::write(folder.path().join("full/notes.txt"), "mine").unwrap();
    fs::create_dir(folder.path().join("empty")).unwrap();
    let before = contents(folder.path());
    init("full").refused(&["full already exists", "nothing was written", "choose another folder"]);
    init("shape.json").refused(&["shape.json already exists", "choose another folder"]);
    init("shape.json/model").refused(&["shape.json", "choose another folder"]);
    init("empty/..").refused(&["empty/.. does not end in the name of a folder", "give the path of the folder to make"]);
    init("/proc/nemo-burn-test/model").refused(&["/proc/nemo-burn-test", "cannot write"]);
    init("").refused(&["--output"]);
    assert_eq!(contents(folder.path()), before);
    assert_eq!(names(folder.path()), ["empty", "full", "shape.json"]);
    init("empty").succeeded();
    assert_fresh(&folder.path().join("empty"), &config(false), 0, StoredDtype::Bf16);
}

#[test]
fn shapes_that_are_none_are_refused() {
    let folder = workspace();
    let init = |config: &str| run_in(folder.path(), &["init", "--output=model", "--config", config]);
    init("nothing.json").refused(&["nothing.json", "cannot read"]);
    init(".").refused(&["cannot read .", "not a regular file"]);
    for (text, words) in [
        ("{", &["bad.json", "not valid JSON"][..]),
        ("{}", &["bad.json", "hybrid_override_pattern", "missing"]),
        (&shape(false).replace("M*-E", "MX"), &["bad.json", "\"X\"", "allowed"]),
        (&shape(false).replace("bfloat16", "int4"), &["bad.json", "torch_dtype", "int4", "float32"]),
    ] {
        fs::write(folder.path().join("bad.json"), text).unwrap();
        init("bad.json").refused(words);
    }
    assert_eq!(names(folder.path()), ["bad.json", "shape.json"]);
}

/// The model would fill many gigabytes; it is stopped when its first file is there.
#[test]
#[cfg(unix)]
fn what_is_stopped_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let shape = repository().join("configs/models/nemotron_nano_9b_v2.json");
    let mut command = Command::new(PROGRAM);
    command.current_dir(folder.path()).args(["init", "--output=model", "--config"]).arg(shape).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let began = Instant::now();
    while !folder.path().join(".model.incomplete/model-00001-of-00004.safetensors").exists() {
        assert!(began.elapsed() < Duration::from_secs(60), "nothing is written");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(text.contains("stopped before model was whole; nothing of it was kept"), "{text}");
    assert!(names(folder.path()).is_empty());
}
