//! The plan of a run's memory, before the run and on its own.

use super::program::{repository, run};

const RECIPE: &str = "--config=configs/grpo_workplace_assistant_nemotron_nano_v2_9b.yaml";

/// What fits ends with 0, what does not with 2, after the same table, and says what would help.
#[test]
fn a_plan_says_whether_a_run_fits() {
    let text = run(&["plan", "--gpu=h100"]).succeeded();
    for word in ["weights", "generation", "backward", "gradient sums", "a step, at least", "The run fits."] {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
    let tight = run(&["plan", "--gpu=h100", "--device-memory=20MiB"]);
    tight.refused(&["does not fit", "generation", "of memory on each device"]);
    assert!(tight.stdout.contains("gradient sums"), "{}", tight.stdout);
    run(&["plan", "--devices=3"]).refused(&["3 equal parts"]);
}

/// A shape is enough, in a file of any name; of the shipped recipe too.
#[test]
fn a_plan_needs_a_shape_alone() {
    let shape = "policy.model_name=configs/models/hybrid_103m.json";
    let whole = run(&["plan", RECIPE, shape, "--gpu=h200"]).succeeded();
    let half = run(&["plan", RECIPE, shape, "--gpu=h200", "--devices=2"]).succeeded();
    assert!(whole.contains("The run fits.") && whole != half, "{whole}\n{half}");
    run(&["plan", "policy.model_name=nobody/nothing"]).refused(&["nobody/nothing", "no such folder"]);
}

/// A run that does not fit is refused before it begins, and the settings of memory act.
#[test]
fn runs_are_planned() {
    assert!(repository().join("configs/models/tiny").exists());
    let dry = |more: &[&str]| run(&[&["train", "--dry-run"][..], more].concat());
    dry(&["--device-memory=20MiB"]).refused(&["does not fit", "generation", "16.0 MiB"]);
    run(&["generate", "--model=configs/models/tiny", "--prompt=a", "--device-memory=1MiB"]).refused(&["does not fit"]);
    let said = |more: &[&str]| dry(more).stderr;
    assert!(said(&["--device-memory=4GiB"]).contains("every block's graph kept"));
    let twice = "policy.megatron_cfg.activation_checkpointing=true";
    assert!(said(&["--device-memory=4GiB", twice]).contains("every block run twice"));
    let little = "policy.generation.vllm_cfg.gpu_memory_utilization=0.1";
    assert!(said(&["--device-memory=4GiB"]).contains("room for 128 sequences"));
    assert!(!said(&["--device-memory=4GiB", little]).contains("room for 128 sequences"));
}
