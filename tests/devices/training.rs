//! A whole run on a device is the run on the CPU: rollouts, losses and weights, and either goes on where the other stopped.

use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use serde_json::Value;
use tempfile::TempDir;

use crate::device::named_device;
use crate::program::{Finished, copy_folder, run_in};
use crate::short_run::{TRAIN, workspace};

const STEPS: u64 = 3;

/// What a step of equal rollouts has in common to the last digit.
const EXACT: [&str; 7] = [
    "train/reward",
    "train/total_num_tokens",
    "train/global_valid_toks",
    "train/calls_per_sample",
    "train/malformed_call_rate",
    "train/advantages/sum",
    "train/lr",
];

/// Largest differences allowed, and what was seen on software Vulkan and on CUDA (executed on a processor).
struct Bounds {
    /// Of the loss, beside losses of the order of 0.01.
    loss: f64,
    /// Of the norm of the gradient, relative.
    gradient: f64,
    /// Of the mean of `exp(|trainer's - sampler's log-probability|)` from one.
    fidelity: f64,
    /// Of the weights, as the L2 norm of the difference over that of all that the run has moved them.
    weights: f64,
}

const BOUNDS: Bounds = Bounds { loss: 1e-6, gradient: 2e-4, fidelity: 3e-6, weights: 1e-3 };

/// Fewer rollouts still, since a processor that plays a graphics card is slow; with this seed every step has a gradient.
const FEWER: [&str; 3] = ["grpo.num_prompts_per_step=1", "grpo.num_generations_per_prompt=6", "grpo.seed=2"];

/// Trains up to and including step `steps` in a folder that may hold earlier ones.
fn train(folder: &TempDir, device: &str, steps: u64, more: &[&str]) -> Finished {
    let steps = format!("grpo.max_num_steps={steps}");
    let mut arguments = [&TRAIN[..], &FEWER, more].concat();
    arguments.extend([&steps, "--device", device]);
    let finished = run_in(folder.path(), &arguments);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    finished
}

fn metrics(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("results/metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// All weights of a model, by name.
fn weights(file: &Path) -> Vec<(String, Vec<f32>)> {
    let bytes = fs::read(file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut weights: Vec<_> = tensors
        .iter()
        .map(|(name, view)| {
            assert_eq!(view.dtype(), safetensors::Dtype::F32, "{name}");
            let numbers = view.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
            (name.to_owned(), numbers.collect())
        })
        .collect();
    weights.sort_by(|a, b| a.0.cmp(&b.0));
    weights
}

fn distance(a: &[(String, Vec<f32>)], b: &[(String, Vec<f32>)]) -> f64 {
    assert!(a.iter().map(|(name, _)| name).eq(b.iter().map(|(name, _)| name)));
    let pairs = a.iter().zip(b).flat_map(|(a, b)| a.1.iter().zip(&b.1));
    pairs.map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>().sqrt()
}

/// Compares the end and all steps of a run with those of the one on the CPU.
fn compare(name: &str, found: &TempDir, expected: &TempDir) {
    compare_from(name, found, expected, "model.safetensors", "model");
}

/// The same of what the file `trained` holds, which was that of the folder `start` before.
fn compare_from(name: &str, found: &TempDir, expected: &TempDir, trained: &str, start: &str) {
    let (found_steps, expected_steps) = (metrics(found.path()), metrics(expected.path()));
    assert_eq!(found_steps.len() as u64, STEPS, "{name}");
    let mut largest = [0f64; 3];
    for (found, expected) in found_steps.iter().zip(&expected_steps) {
        for key in EXACT {
            assert!(found[key].is_number() && found[key] == expected[key], "{name}: {key} of {found} and {expected}");
        }
        let number = |line: &Value, key: &str| line[key].as_f64().unwrap();
        let norm = number(expected, "train/grad_norm");
        assert!(norm > 0.0, "{name}: a step without a gradient compares nothing");
        let differences = [
            (number(found, "train/loss") - number(expected, "train/loss")).abs(),
            (number(found, "train/grad_norm") - norm).abs() / norm,
            (number(found, "train/token_mult_prob_error") - 1.0).abs(),
        ];
        largest = std::array::from_fn(|kind| largest[kind].max(differences[kind]));
    }
    let at_end = |folder: &TempDir| weights(&folder.path().join(format!("results/step_{STEPS}/policy")).join(trained));
    let before = weights(&expected.path().join(start).join(trained));
    let (found, expected) = (at_end(found), at_end(expected));
    let moved = distance(&before, &expected);
    let difference = distance(&found, &expected) / moved;
    println!(
        "{name}: losses within {:.1e}, gradient norms within {:.1e}, trainer and sampler within {:.1e}, weights within \
         {difference:.1e} of what {STEPS} steps have moved them",
        largest[0], largest[1], largest[2]
    );
    assert!(moved > 0.0 && difference <= BOUNDS.weights, "{name}: weights {difference:e}");
    let bounds = [BOUNDS.loss, BOUNDS.gradient, BOUNDS.fidelity];
    assert!(
        largest.iter().zip(bounds).all(|(largest, bound)| *largest <= bound),
        "{name}: {largest:?} over {bounds:?}"
    );
}

/// A folder of its own with everything that another holds.
fn copy_of(folder: &TempDir) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for name in ["model", "results"] {
        copy_folder(&folder.path().join(name), &copy.path().join(name));
    }
    copy
}

#[test]
fn a_run_is_the_run_on_the_cpu_and_goes_on_there() {
    let Some((device, _)) = named_device() else { return };
    let [on_cpu, on_device] = [(); 2].map(|()| workspace("float32"));
    train(&on_cpu, "cpu", STEPS - 1, &[]);
    train(&on_device, device, STEPS - 1, &[]);
    let [from_cpu, from_device] = [&on_cpu, &on_device].map(copy_of);
    for (folder, device) in [(&on_cpu, "cpu"), (&on_device, device), (&from_cpu, device), (&from_device, "cpu")] {
        train(folder, device, STEPS, &[]);
    }
    compare(device, &on_device, &on_cpu);
    compare(&format!("cpu, then {device}"), &from_cpu, &on_cpu);
    compare(&format!("{device}, then cpu"), &from_device, &on_cpu);
}

/// What moves an adapter is compared from its first step on: before that it is in no file.
#[test]
fn an_adapter_is_trained_as_on_the_cpu() {
    let Some((device, _)) = named_device() else { return };
    let [on_cpu, on_device] = [(); 2].map(|()| workspace("float32"));
    for (folder, device) in [(&on_cpu, "cpu"), (&on_device, device)] {
        train(folder, device, STEPS, &["policy.megatron_cfg.peft.enabled=true"]);
    }
    let name = format!("{device}, an adapter");
    compare_from(&name, &on_device, &on_cpu, "adapter_model.safetensors", "results/step_1/policy");
}

/// Without the setting the other test finds sampler and trainer closer.
#[test]
fn tf32_rounds_only_where_it_is_allowed() {
    let Some((device, _)) = named_device() else { return };
    if !device.starts_with("cuda") {
        return println!("skipped: {device} has no TF32");
    }
    let folder = workspace("float32");
    let stderr = train(&folder, device, 1, &["policy.allow_tf32=true"]).stderr;
    let step = &metrics(folder.path())[0];
    let error = (step["train/token_mult_prob_error"].as_f64().unwrap() - 1.0).abs();
    println!("{device}: trainer and sampler within {error:.1e} with policy.allow_tf32");
    assert!(!stderr.contains("allow_tf32"), "{stderr}");
    assert!(error > BOUNDS.fidelity && error < 0.02, "{error:e}");
}
