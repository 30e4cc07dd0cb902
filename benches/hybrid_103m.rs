//! Speed of prefill, decode and training of a 103 M parameter hybrid on the CPU, in f32.
//!
//!     cargo bench --bench hybrid_103m [-- PART OF A LINE'S NAME]
//!
//! Beside each rate stands the share of what this machine can do at most (a large read for decode, which reads every
//! weight once per token; a large matrix product for the rest), measured in the same run, and the rate of PyTorch 2.15
//! with transformers 5.23 (pure torch Mamba path, 2 threads, training without an optimizer step) on a quiet machine with 2
//! AVX-512 cores. Machines differ: compare rates measured on the same one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a bench stops when something is wrong and prints what it measures"
)]

#[path = "../cli/allocator.rs"]
mod allocator;
mod machine;

use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData};
use machine::{best_seconds, copy_bytes_per_second, matmul_flops_per_second, read_bytes_per_second};
use nemo_model::config::ModelConfig;
use nemo_model::generate::{Engine, EngineOptions, SampleKey, SamplingParams, TurnEnd};
use nemo_model::parallel::ForwardContext;
use nemo_model::{Dtypes, NemotronH};
use nemo_rl::config::load_text;
use nemo_rl::optimizer::OptimizerDtypes;
use nemo_rl::policy::api::{Policy, SupervisedBatch, SupervisedSequence, UpdateParams};
use nemo_rl::policy::{ModelPolicy, ModelPolicyOptions, PassOptions};

const PREFILL_TOKENS: usize = 512;
const DECODE_TOKENS: usize = 32;
const TRAIN_ROWS: usize = 4;
/// Tokens per second of PyTorch, in the order of the lines.
const PYTORCH: [f64; 5] = [766.0, 33.0, 133.0, 216.0, 216.0];

fn main() {
    // `cargo test` builds and runs benches too, with this argument; there is nothing to test here then.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    allocator::keep_freed_memory();
    // As in the program: the thread that calls the operations is one of those they run on.
    rayon::scope(|_| measure());
}

fn measure() {
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let device = Device::flex();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/models/hybrid_103m.json");
    let config = ModelConfig::from_file(&path).expect("the configuration is the repository's own");
    let num_parameters = config.num_parameters() as f64;
    let model = nemo_model::random(&config, 1, &device, Dtypes::F32).expect("random weights");
    println!("{:.1} M parameters, {} threads, f32", num_parameters / 1e6, rayon::current_num_threads());
    let copy = copy_bytes_per_second();
    let matmul = matmul_flops_per_second(&device);
    let read = read_bytes_per_second();
    println!(
        "copy {:.1} GB/s (read and write together), read {:.1} GB/s, matrix product {:.0} GFLOP/s",
        copy / 1e9,
        read / 1e9,
        matmul / 1e9
    );

    check(&model);
    // The embedding is looked up, not multiplied; the head is as large, and prefill needs it for one token only.
    let head = (config.vocab_size * config.hidden_size) as f64;
    let (blocks, all) = (num_parameters - 2.0 * head, num_parameters - head);
    let bytes = |parameters: f64| 4.0 * parameters;
    let flops = |parameters: f64| 2.0 * parameters;
    // Each with the rate that the machine's limit allows.
    type Line<'a> = (&'a str, &'a dyn Fn(&NemotronH) -> f64, f64, &'a str);
    let lines: [Line; 5] = [
        ("prefill 512", &prefill, matmul / flops(blocks), "product"),
        ("decode, batch 1", &|model| decode(model, 1), read / bytes(all), "read"),
        ("decode, batch 8", &|model| decode(model, 8), 8.0 * read / bytes(all), "read"),
        // Three products of the forward pass's size.
        (
            "train: forward, backward, AdamW 4x512",
            &|model| train(model, usize::MAX),
            matmul / (3.0 * flops(all)),
            "product",
        ),
        ("train, every block run twice", &|model| train(model, 0), matmul / (3.0 * flops(all)), "product"),
    ];
    println!("{:<38} {:>10} {:>12} {:>14} {:>8}", "", "tokens/s", "of machine", "PyTorch tok/s", "ratio");
    for ((name, rate, limit, kind), pytorch) in lines.into_iter().zip(PYTORCH) {
        if wanted.as_deref().is_some_and(|wanted| !name.contains(wanted)) {
            continue;
        }
        let rate = rate(&model);
        let share = format!("{:.0} % {kind}", 100.0 * rate / limit);
        println!("{name:<38} {rate:>10.0} {share:>12} {pytorch:>14.0} {:>8.2}", rate / pytorch);
    }
}

/// Token ids that look like text: anything but a constant.
fn tokens(count: usize, vocabulary: usize, salt: usize) -> Vec<u32> {
    (0..count).map(|i| ((i * 7919 + salt * 104_729 + i * i % 977) % vocabulary) as u32).collect()
}

fn forward(model: &NemotronH, ids: &[u32]) -> Vec<f32> {
    let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
    let length = ids.len();
    let input = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, length]), &model.device());
    let (hidden, _) = model.forward(input, model.empty_state(), ForwardContext::default());
    let last = hidden.slice([0..1, length - 1..length]);
    model.logits(model.normalize(last)).into_data().iter::<f32>().collect()
}

fn engine(model: &NemotronH) -> Engine {
    Engine::new(model.clone(), EngineOptions { num_pages: 1024, num_slots: 24, ..EngineOptions::default() })
}

fn greedy(engine: &mut Engine, prompts: &[Vec<u32>], max_new_tokens: usize) -> Vec<TurnEnd> {
    let sampling = SamplingParams { temperature: 0.0, top_p: 1.0, min_p: 0.0, top_k: None, max_new_tokens };
    for prompt in prompts {
        let id = engine.begin(prompt, 1).expect("the prompt fits")[0];
        engine.begin_turn(id, &[], SampleKey::default(), &sampling).expect("the turn starts");
    }
    let mut ended = Vec::new();
    while engine.has_open_turns() {
        ended.extend(engine.step().expect("the engine steps"));
    }
    for turn in &ended {
        engine.finish(turn.sequence);
    }
    ended
}

/// What is timed below is right: the engine's next token is that of the plain forward pass.
fn check(model: &NemotronH) {
    let prompt = tokens(40, model.config().vocab_size, 5);
    let logits = forward(model, &prompt);
    assert!(logits.iter().all(|value| value.is_finite()));
    let expected = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).expect("a vocabulary") as u32;
    let turn = &greedy(&mut engine(model), &[prompt], 1)[0];
    assert_eq!(turn.tokens, [expected]);
}

fn prefill(model: &NemotronH) -> f64 {
    let prompt = tokens(PREFILL_TOKENS, model.config().vocab_size, 1);
    let seconds = best_seconds(3, || {
        std::hint::black_box(forward(model, &prompt));
    });
    PREFILL_TOKENS as f64 / seconds
}

/// Tokens per second of all sequences together; the prompts' share of the time is taken out.
fn decode(model: &NemotronH, batch: usize) -> f64 {
    let prompts: Vec<Vec<u32>> = (0..batch).map(|row| tokens(16, model.config().vocab_size, row)).collect();
    let mut engine = engine(model);
    let first = best_seconds(3, || drop(greedy(&mut engine, &prompts, 1)));
    let all = best_seconds(3, || drop(greedy(&mut engine, &prompts, 1 + DECODE_TOKENS)));
    (batch * DECODE_TOKENS) as f64 / (all - first)
}

fn train(model: &NemotronH, kept_bytes: usize) -> f64 {
    let vocabulary = model.config().vocab_size;
    let sequence = |row| SupervisedSequence {
        tokens: tokens(PREFILL_TOKENS, vocabulary, row),
        weights: (0..PREFILL_TOKENS).map(|t| if t == 0 { 0.0 } else { 1.0 }).collect(),
    };
    let batch = SupervisedBatch { sequences: (0..TRAIN_ROWS).map(sequence).collect(), label_smoothing: 0.0 };
    let defaults =
        load_text("policy: {model_name: bench}", Path::new("bench"), &["data.train.generate.count=1".to_owned()]);
    let params = UpdateParams {
        learning_rate: 1e-4,
        weight_decay: 0.01,
        betas: (0.9, 0.999),
        epsilon: 1e-8,
        max_grad_norm: 1.0,
        temperature: 1.0,
        loss: defaults.expect("the defaults are a configuration").config.loss_fn,
    };
    let options = ModelPolicyOptions {
        engine: EngineOptions { num_pages: 1, num_slots: 2, ..EngineOptions::default() },
        pass: PassOptions { max_batch_tokens: TRAIN_ROWS * PREFILL_TOKENS, chunk_tokens: PREFILL_TOKENS, kept_bytes },
        optimizer: OptimizerDtypes::default(),
        rounding_seed: 0,
        sidecar_files: Vec::new(),
        base_name: String::new(),
    };
    let mut policy = ModelPolicy::new(model.clone(), options);
    let mut losses = Vec::new();
    let seconds =
        best_seconds(5, || losses.push(policy.train_supervised(&batch, &params, &mut |_| {}).expect("a step").loss));
    assert!(losses.windows(2).all(|pair| pair[1] < pair[0]), "the loss on one batch falls: {losses:?}");
    (TRAIN_ROWS * PREFILL_TOKENS) as f64 / seconds
}
