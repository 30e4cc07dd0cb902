//! What a training step allocates, against the plan.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and reports what it measured")]

#[path = "../../kernels/tests/memory/counter.rs"]
mod counter;

use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

use burn::tensor::Device;
use counter::{MOST, NOW};
use nemo_model::NemotronH;
use nemo_model::adapter::{FactorInitialization, FreshAdapter, LoraSettings, TargetModule};
use nemo_model::config::ModelConfig;
use nemo_model::generate::EngineOptions;
use nemo_rl::config::load_text;
use nemo_rl::optimizer::OptimizerDtypes;
use nemo_rl::plan::{
    AdapterSizes, ElementBytes, Machine, PassShape, Phase, PlanInput, Settings, Workload, backward_phase,
};
use nemo_rl::policy::api::{Policy, SupervisedBatch, SupervisedSequence, UpdateParams};
use nemo_rl::policy::{ModelPolicy, ModelPolicyOptions, PassOptions};

/// The blocks of `configs/models/hybrid_103m.json`.
const PATTERN: &str = "M-M-M*-M-M*-M-";

/// A model of that one's proportions, a quarter as wide, with these blocks.
fn model(pattern: &str) -> ModelConfig {
    let text = format!(
        r#"{{
            "architectures": ["NemotronHForCausalLM"], "model_type": "nemotron_h",
            "hybrid_override_pattern": "{pattern}", "num_hidden_layers": {}, "vocab_size": 2048, "hidden_size": 192,
            "mamba_num_heads": 6, "mamba_head_dim": 64, "ssm_state_size": 64, "n_groups": 2, "conv_kernel": 4,
            "chunk_size": 128, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 64,
            "intermediate_size": 672, "n_routed_experts": 8,
            "num_experts_per_tok": 2, "moe_intermediate_size": 192, "n_shared_experts": 1,
            "moe_shared_expert_intermediate_size": 384, "n_group": 1, "topk_group": 1, "initializer_range": 0.02, "tie_word_embeddings": false, "torch_dtype": "float32"
        }}"#,
        pattern.len()
    );
    ModelConfig::from_json_text(&text, Path::new("config.json")).unwrap()
}

/// A batch of conversations that share a prompt.
struct Batch {
    shared: usize,
    own: usize,
    sequences: usize,
    max_batch_tokens: usize,
}

impl Batch {
    fn supervised(&self) -> SupervisedBatch {
        let sequence = |number: usize| {
            let token = |t: usize| (t * 7 + if t < self.shared { 0 } else { 13 * number + 1 }) % 2048;
            let length = self.shared + self.own;
            SupervisedSequence {
                tokens: (0..length).map(|t| token(t) as u32).collect(),
                weights: (0..length).map(|t| if t > self.shared { 1.0 } else { 0.0 }).collect(),
            }
        };
        SupervisedBatch { sequences: (0..self.sequences).map(sequence).collect(), label_smoothing: 0.0 }
    }

    fn workload(&self) -> Workload {
        Workload {
            shared_prefix: self.shared,
            prompt: self.shared,
            longest_sequence: self.shared + self.own,
            leaf_tokens: self.own,
            max_open_sequences: self.sequences,
            max_batch_tokens: self.max_batch_tokens,
            chunk_tokens: usize::MAX,
            prompts_per_step: 1,
            sequences_per_step: self.sequences,
        }
    }
}

/// Factors beside all linear maps.
fn adapter() -> FreshAdapter {
    FreshAdapter {
        settings: LoraSettings { rank: 8, alpha: 32.0 },
        targets: TargetModule::ALL.into_iter().collect(),
        initialization: FactorInitialization::Kaiming,
        seed: 1,
    }
}

/// The most that a step allocates above what was there before, once there are moments.
fn measured(config: &ModelConfig, batch: &Batch, pass: PassShape) -> usize {
    let model = nemo_model::random(config, 7, &Device::flex(), nemo_model::Dtypes::F32).unwrap();
    measured_of(model, batch, pass)
}

fn measured_of(model: NemotronH, batch: &Batch, pass: PassShape) -> usize {
    let PassShape { chunk_tokens, kept_bytes } = pass;
    let options = ModelPolicyOptions {
        engine: EngineOptions { num_pages: 4, num_slots: 4, ..EngineOptions::default() },
        pass: PassOptions { max_batch_tokens: batch.max_batch_tokens, chunk_tokens, kept_bytes },
        optimizer: OptimizerDtypes::default(),
        rounding_seed: 0,
        sidecar_files: Vec::new(),
        base_name: String::new(),
    };
    let mut policy = ModelPolicy::new(model, options);
    let loss = load_text("policy: {model_name: none}", Path::new("none"), &[]).unwrap().config.loss_fn;
    let params = UpdateParams {
        learning_rate: 1e-4,
        weight_decay: 0.0,
        betas: (0.9, 0.999),
        epsilon: 1e-8,
        max_grad_norm: 1.0,
        temperature: 1.0,
        loss,
    };
    let batch = batch.supervised();
    policy.train_supervised(&batch, &params, &mut |_| {}).unwrap();
    let before = NOW.load(Relaxed);
    MOST.store(before, Relaxed);
    policy.train_supervised(&batch, &params, &mut |_| {}).unwrap();
    MOST.load(Relaxed) - before
}

fn planned(config: &ModelConfig, batch: &Batch, pass: PassShape) -> Phase {
    backward_phase(&input(config, batch, pass), pass).unwrap()
}

fn input<'c>(config: &'c ModelConfig, batch: &Batch, pass: PassShape) -> PlanInput<'c> {
    PlanInput {
        model: config,
        workload: batch.workload(),
        machine: Machine {
            device_memory: usize::MAX,
            devices: 1,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
        },
        settings: Settings {
            element_bytes: ElementBytes::FLOAT32,
            optimizer: OptimizerDtypes::default(),
            mapped_bytes: 0,
            trains: true,
            keeps_reference: false,
            memory_utilization: 0.8,
            activation_checkpointing: pass.kept_bytes == 0,
        },
        adapter: None,
    }
}

/// One trajectory that no graph could hold, in chunks: a further token takes its keys and values, their gradients, and its
/// share of the states between chunks.
#[test]
#[ignore = "takes minutes; other tests of this binary must not run beside it"]
fn a_long_trajectory_takes_keys_and_values() {
    let config = model(PATTERN);
    let pass = PassShape { chunk_tokens: 1024, kept_bytes: 0 };
    let sizes = [16_384, 32_768].map(|own| {
        let batch = Batch { shared: 0, own, sequences: 1, max_batch_tokens: 1024 };
        let (measured, planned) = (measured(&config, &batch, pass), planned(&config, &batch, pass).bytes());
        println!("{own} tokens: measured {:.2} MB, planned {:.2} MB", measured as f64 / 1e6, planned as f64 / 1e6);
        [measured as f64, planned as f64]
    });
    let [measured, planned] = [0, 1].map(|which| (sizes[1][which] - sizes[0][which]) / 16_384.0);
    let keys_values = (2 * 2 * config.key_value_size() * size_of::<f32>()) as f64;
    println!("a further token: measured {measured:.0} B, planned {planned:.0} B, keys and values {keys_values:.0} B");
    assert!((measured / planned - 1.0).abs() < 0.1);
}

/// `configs/models/hybrid_103m.json` once, twice and four times as deep. With one batch of 4 x 512 tokens the sums of the
/// gradients come as the streams go; with two of them the peak grows beside the sums by the streams before the further blocks.
#[test]
#[ignore = "takes minutes; other tests of this binary must not run beside it"]
fn depth_costs_the_streams_before_blocks() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/models/hybrid_103m.json");
    let shape = std::fs::read_to_string(path).unwrap();
    let num_blocks = PATTERN.len();
    let pass = PassShape { chunk_tokens: 512, kept_bytes: 0 };
    for sequences in [4, 8] {
        let batch = Batch { shared: 0, own: 512, sequences, max_batch_tokens: 2048 };
        let rests = [1, 2, 4].map(|depth| {
            let count = format!("\"num_hidden_layers\": {}", depth * num_blocks);
            let deep = shape
                .replace(PATTERN, &PATTERN.repeat(depth))
                .replace(&format!("\"num_hidden_layers\": {num_blocks}"), &count);
            let config = ModelConfig::from_json_text(&deep, Path::new("config.json")).unwrap();
            assert_eq!(config.layers.len(), depth * num_blocks);
            let (measured, planned) = (measured(&config, &batch, pass), planned(&config, &batch, pass).bytes());
            println!(
                "{depth} x blocks, {sequences} x 512 tokens: measured {:.1} MB, planned {:.1} MB ({:+.1} %)",
                measured as f64 / 1e6,
                planned as f64 / 1e6,
                100.0 * (planned as f64 / measured as f64 - 1.0)
            );
            assert!((planned as f64 / measured as f64 - 1.0).abs() < 0.1);
            measured as f64 - (config.num_parameters() * size_of::<f32>()) as f64
        });
        let streams = (batch.max_batch_tokens * num_blocks * 768 * size_of::<f32>()) as f64;
        for (rest, depth) in [(rests[1], 1.0), (rests[2], 3.0)] {
            let growth = (rest - rests[0]) / depth;
            println!("further blocks take {:.1} MB, the streams before them {:.1} MB", growth / 1e6, streams / 1e6);
            assert!(growth < 1.1 * streams && (sequences == 4 || growth > 0.9 * streams));
        }
    }
}

/// The plan's backward phase is what a step takes, within a tenth, whatever the depth, the chunks and the graphs that are kept.
#[test]
fn a_step_takes_what_the_plan_says() {
    // Four leaves in two batches, or alone where they are longer than a chunk.
    let batches = [
        Batch { shared: 128, own: 160, sequences: 4, max_batch_tokens: 320 },
        Batch { shared: 0, own: 160, sequences: 4, max_batch_tokens: 320 },
    ];
    let mut wrong = Vec::new();
    // The second batch, without a shared prompt, once; and a model with experts.
    for (blocks, depth, batches) in [
        (PATTERN, 1, &batches[..]),
        (PATTERN, 2, &batches[..1]),
        (PATTERN, 4, &batches[..1]),
        ("MEM*EME", 1, &batches[..1]),
    ] {
        let config = model(&blocks.repeat(depth));
        for batch in batches {
            for (chunk_tokens, kept_bytes) in [(4096, 0), (4096, usize::MAX), (64, 0), (64, usize::MAX)] {
                let pass = PassShape { chunk_tokens, kept_bytes };
                let phase = planned(&config, batch, pass);
                let (measured, planned) = (measured(&config, batch, pass), phase.bytes());
                let ratio = planned as f64 / measured as f64;
                println!(
                    "{depth} x {blocks}, {} + {} tokens, chunks of {chunk_tokens}, graphs {}: measured {:.2} MB, planned {:.2} MB \
                     ({:+.1} %)",
                    batch.shared,
                    batch.own,
                    if kept_bytes == 0 { "run twice" } else { "kept" },
                    measured as f64 / 1e6,
                    planned as f64 / 1e6,
                    100.0 * (ratio - 1.0)
                );
                for item in &phase.items {
                    println!("    {:>10.2} MB  {}", item.bytes as f64 / 1e6, item.name);
                }
                // The sums of the gradients are easily told, and in a deep model most of it: the rest has to agree by itself,
                // if less closely, as the host's threads meet in another way each time.
                let sums = phase.items.iter().find(|item| item.name == "gradient sums").map_or(0, |item| item.bytes);
                let rest = (planned - sums) as f64 / (measured - sums) as f64;
                if (ratio - 1.0).abs() > 0.1 || (rest - 1.0).abs() > 0.15 {
                    wrong.push((blocks, depth, batch.shared, pass, ratio, rest));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
    // In the same test: what is measured is all that the process allocates.
    let wrong = steps_of_an_adapter();
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// The same of an adapter, whose step has neither the sums of the model nor its gradients. Returns what is too far off.
fn steps_of_an_adapter() -> Vec<(PassShape, f64)> {
    let config = model(PATTERN);
    let fresh = adapter();
    let batch = Batch { shared: 128, own: 160, sequences: 4, max_batch_tokens: 320 };
    let mut wrong = Vec::new();
    for (chunk_tokens, kept_bytes) in [(4096, 0), (4096, usize::MAX), (64, 0), (64, usize::MAX)] {
        let pass = PassShape { chunk_tokens, kept_bytes };
        let mut input = input(&config, &batch, pass);
        let maps = fresh.maps(&config).unwrap();
        input.adapter = Some(AdapterSizes::new(&config, fresh.settings.rank, &maps));
        let phase = backward_phase(&input, pass).unwrap();
        let mut model = nemo_model::random(&config, 7, &Device::flex(), nemo_model::Dtypes::F32).unwrap();
        model.add_adapter(&fresh).unwrap();
        let (measured, planned) = (measured_of(model, &batch, pass), phase.bytes());
        let ratio = planned as f64 / measured as f64;
        println!(
            "adapter, chunks of {chunk_tokens}, graphs {}: measured {:.2} MB, planned {:.2} MB ({:+.1} %)",
            if kept_bytes == 0 { "run twice" } else { "kept" },
            measured as f64 / 1e6,
            planned as f64 / 1e6,
            100.0 * (ratio - 1.0)
        );
        for item in &phase.items {
            println!("    {:>10.2} MB  {}", item.bytes as f64 / 1e6, item.name);
        }
        if (ratio - 1.0).abs() > 0.15 {
            wrong.push((pass, ratio));
        }
    }
    wrong
}
