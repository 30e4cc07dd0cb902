//! Runs that are stopped in every way and continued, with a model that really learns: weights move in every step.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::bad_results::with_disk;
use super::program::{Finished, PROGRAM, contents, copy_folder, run_in};
use super::short_run::{TRAIN, workspace};

/// The supervised job of the same model.
const SFT: [&str; 10] = [
    "sft",
    "policy.model_name=model",
    "policy.init.model_config=null",
    "sft.batch_size=2",
    "sft.curriculum=[]",
    "data.train.generate.count=16",
    "data.validation.generate.count=0",
    "checkpointing.checkpoint_dir=results",
    "checkpointing.save_period=1",
    "checkpointing.keep_top_k=null",
];

fn job(job: &[&str], more: &[&str]) -> Vec<String> {
    job.iter().chain(more).map(|word| (*word).to_owned()).collect()
}

fn go(folder: &Path, base: &[&str], more: &[&str]) -> Finished {
    run_in(folder, &job(base, more))
}

/// A job in the background, which no failure of a test outlives.
struct Started(Child);

impl Started {
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(folder: &Path, base: &[&str], more: &[&str]) -> Started {
    let mut command = Command::new(PROGRAM);
    command.current_dir(folder).args(job(base, more)).stdin(Stdio::null());
    Started(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

/// Files of a checkpoint below its own folder.
fn checkpoint(folder: &Path, step: u64) -> Vec<(PathBuf, Vec<u8>)> {
    let root = folder.join(format!("results/step_{step}"));
    contents(&root).into_iter().map(|(path, bytes)| (path.strip_prefix(&root).unwrap().to_owned(), bytes)).collect()
}

/// Checks that a run of `steps` steps did something in each.
fn assert_that_it_learned(folder: &Path, steps: u64) {
    let metrics = fs::read_to_string(folder.join("results/metrics.jsonl")).unwrap();
    let lines: Vec<Value> = metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let norms: Vec<f64> = lines.iter().filter_map(|line| line["train/grad_norm"].as_f64()).collect();
    assert!(norms.len() as u64 == steps && norms.iter().all(|norm| *norm > 0.0), "{norms:?}");
    let weights = |step| {
        let policy = folder.join(format!("results/step_{step}/policy"));
        fs::read(policy.join("model.safetensors"))
            .or_else(|_| fs::read(policy.join("adapter_model.safetensors")))
            .unwrap()
    };
    assert!(weights(1) != weights(steps), "the weights have not moved");
}

/// Kills a job before its first checkpoint and soon after each but the last, and compares its end with that of one never
/// killed.
fn killed_anywhere(dtype: &str, base: &[&str], more: &[&str], steps: u64) {
    let (whole, parts) = (workspace(dtype), workspace(dtype));
    let began = Instant::now();
    go(whole.path(), base, more).succeeded();
    // With the start of the program, so that a quarter of it is surely less than a step.
    let a_step = began.elapsed().div_f64(steps as f64);
    assert_that_it_learned(whole.path(), steps);
    let mut draw = 7u64;
    for saved in 0..steps {
        draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut child = start(parts.path(), base, more);
        let checkpoint = parts.path().join(format!("results/step_{saved}"));
        while saved > 0 && !checkpoint.exists() {
            assert!(child.0.try_wait().unwrap().is_none(), "ended before {}", checkpoint.display());
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(a_step.mul_f64((draw >> 40) as f64 / (1u64 << 26) as f64));
        child.kill();
        assert!(!parts.path().join(format!("results/step_{steps}")).exists(), "killed too late");
    }
    go(parts.path(), base, more).succeeded();
    assert!(checkpoint(parts.path(), steps) == checkpoint(whole.path(), steps), "{dtype} {base:?}");
    // What is in the checkpoint is a model for everybody.
    let policy = format!("results/step_{steps}/policy");
    let model: &[&str] = match parts.path().join(&policy).join("adapter_config.json").exists() {
        true => &["--model=model", "--adapter", &policy],
        false => &["--model", &policy],
    };
    let generate = ["generate", "--prompt=Hello", "--max-new-tokens=4", "--greedy"];
    run_in(parts.path(), &[&generate[..], model].concat()).succeeded();
}

#[test]
fn training_killed_anywhere_ends_in_the_same_bytes() {
    // With the shipped penalty: the reference is the starting policy after a resume too.
    killed_anywhere("bfloat16", &TRAIN, &["grpo.max_num_steps=3"], 3);
}

#[test]
fn training_in_bf16_killed_anywhere_ends_in_the_same_bytes() {
    killed_anywhere("float32", &TRAIN, &["grpo.max_num_steps=3", "policy.precision=bfloat16"], 3);
}

/// The base is read from its own folder again, and the penalty holds to it.
#[test]
fn an_adapter_killed_anywhere_ends_in_the_same_bytes() {
    let adapter = ["grpo.max_num_steps=3", "policy.megatron_cfg.peft.enabled=true", "policy.megatron_cfg.peft.dim=4"];
    killed_anywhere("float32", &TRAIN, &[&adapter[..], &["policy.precision=bfloat16"]].concat(), 3);
    killed_anywhere("bfloat16", &TRAIN, &[&adapter[..], &["policy.megatron_cfg.peft.base_dtype=int8"]].concat(), 3);
}

#[test]
fn a_warm_start_killed_anywhere_ends_in_the_same_bytes_and_is_published() {
    let more = ["sft.max_num_steps=4", "sft.output_dir=published"];
    killed_anywhere("float32", &SFT, &more, 4);
    // Before the last checkpoint, so that there is no end without it.
    let folder = workspace("bfloat16");
    go(folder.path(), &SFT, &more).succeeded();
    let (published, saved) = (folder.path().join("published"), folder.path().join("results/step_4/policy"));
    for (path, bytes) in contents(&saved) {
        assert!(fs::read(published.join(path.strip_prefix(&saved).unwrap())).unwrap() == bytes, "{}", path.display());
    }
}

#[test]
fn a_full_disk_costs_no_more_than_the_step() {
    let whole = workspace("bfloat16");
    go(whole.path(), &SFT, &["sft.max_num_steps=3"]).succeeded();
    assert_that_it_learned(whole.path(), 3);
    let folder = workspace("bfloat16");
    let script = format!(
        "run() {{ $PROGRAM {} checkpointing.checkpoint_dir=disk/results sft.max_num_steps=$1; }}
        run 1 || exit 78
        head -c 40000000 /dev/zero > disk/fill
        run 3 2> errors
        code=$?
        rm disk/fill
        run 3 || exit 79
        cp -a disk/results .
        cat errors >&2
        exit $code",
        SFT.iter()
            .filter(|word| !word.contains("checkpoint_dir"))
            .map(|word| format!("'{word}'"))
            .collect::<Vec<_>>()
            .join(" ")
    );
    // One checkpoint takes 14 MB.
    let Some(finished) = with_disk(folder.path(), "size=64m", &script) else { return };
    let errors = fs::read_to_string(folder.path().join("errors")).unwrap();
    Finished { code: finished.code, stdout: String::new(), stderr: errors }.refused(&["disk/results", "space"]);
    let weights = |files: Vec<(PathBuf, Vec<u8>)>| {
        files
            .into_iter()
            .filter(|(path, _)| path.extension().is_some_and(|end| end == "safetensors"))
            .collect::<Vec<_>>()
    };
    assert!(weights(checkpoint(folder.path(), 3)) == weights(checkpoint(whole.path(), 3)));
}

#[test]
fn a_second_process_is_told_whose_the_folder_is() {
    let folder = workspace("float32");
    let more = ["grpo.max_num_steps=100000", "checkpointing.save_period=100000"];
    let mut first = start(folder.path(), &TRAIN, &more);
    let lock = folder.path().join("results/.lock");
    let began = Instant::now();
    while fs::read_to_string(&lock).unwrap_or_default().is_empty() {
        assert!(began.elapsed() < Duration::from_secs(60), "no lock");
        std::thread::sleep(Duration::from_millis(20));
    }
    let process = format!("process {}", first.0.id());
    go(folder.path(), &TRAIN, &more).refused(&["results", &process, "checkpointing.checkpoint_dir", "--fresh"]);
    go(folder.path(), &SFT, &[]).refused(&["results", &process]);
    go(folder.path(), &TRAIN, &["--dry-run"]).refused(&["results", &process]);
    first.kill();
    // The lock is gone with its process, whatever the file says.
    go(folder.path(), &TRAIN, &["grpo.max_num_steps=1"]).succeeded();
}

#[test]
fn a_finished_run_of_the_shipped_schedule_goes_on_with_more_steps() {
    let folder = workspace("bfloat16");
    let shipped: Vec<&str> = TRAIN.into_iter().filter(|word| !word.contains("scheduler")).collect();
    let text = go(folder.path(), &shipped, &["grpo.max_num_steps=2"]).succeeded();
    assert!(text.contains("step_2"), "{text}");
    let again = go(folder.path(), &shipped, &["grpo.max_num_steps=2"]).succeeded();
    assert!(again.contains("already finished") && again.contains("a higher grpo.max_num_steps"), "{again}");
    let on = go(
        folder.path(),
        &shipped,
        &["grpo.max_num_steps=3", "grpo.val_period=5", "logger.num_val_samples_to_print=1"],
    );
    let line = on.stderr.lines().filter(|line| line.contains("changed since")).collect::<Vec<_>>();
    assert_eq!(line.len(), 1, "{}", on.stderr);
    for word in ["results/step_2", "max_num_steps: then 2, now 3", "lr_decay_iters", "val_period", "logger"] {
        assert!(line[0].contains(word), "{word}: {line:?}");
    }
    on.succeeded();
    assert_that_it_learned(folder.path(), 3);
}

#[test]
fn files_that_hold_something_else_are_refused_like_other_files() {
    let folder = workspace("float32");
    for (seed, name) in [("1", "a"), ("99", "b")] {
        let arguments =
            ["env", "generate", "--split=train", "--count=8", "--num-offices=1", "--seed", seed, "--output", name];
        run_in(folder.path(), &arguments).succeeded();
    }
    let office = fs::read_dir(folder.path().join("a/offices")).unwrap().next().unwrap().unwrap().path();
    copy_folder(&folder.path().join("a"), &folder.path().join("tables"));
    copy_folder(&office, &folder.path().join("tables"));
    fs::copy(folder.path().join("a/train.jsonl"), folder.path().join("data.jsonl")).unwrap();
    let base: Vec<&str> = TRAIN.into_iter().filter(|word| !word.contains("train.generate")).collect();
    let more = ["data.train.generate.count=0", "data.train.data_path=data.jsonl", "env.tables_dir=tables"];
    go(folder.path(), &base, &[&more[..], &["grpo.max_num_steps=1"]].concat()).succeeded();
    let on = |last: &[&str]| go(folder.path(), &base, &[&more[..], &["grpo.max_num_steps=2"], last].concat());
    let changes = [
        ("data.jsonl", "data.train.data_path", "a record"),
        ("tables/processed/emails.csv", "env.tables_dir", "a letter"),
        ("model/tokenizer.json", "policy.tokenizer.name", "a space"),
        ("model/model.safetensors", "policy.model_name", "a byte"),
    ];
    for (file, key, change) in changes {
        let path = folder.path().join(file);
        let before = fs::read(&path).unwrap();
        let after = match change {
            "a record" => fs::read(folder.path().join("b/train.jsonl")).unwrap(),
            "a space" => [&before[..], b" "].concat(),
            _ => {
                let mut bytes = before.clone();
                // In the middle of the weights stands neither the embedding nor the head, which have to be equal.
                let letter = match change {
                    "a byte" => bytes.len() / 2,
                    _ => bytes.iter().rposition(|byte| *byte == b'e').unwrap(),
                };
                bytes[letter] ^= 1;
                bytes
            }
        };
        assert_ne!(before, after);
        fs::write(&path, after).unwrap();
        on(&[]).refused(&[key, "SHA-256", "--fresh", "files"]);
        on(&["--dry-run"]).refused(&[key, "SHA-256", "--fresh", "files"]);
        fs::write(&path, before).unwrap();
    }
    let foreseen = on(&["--dry-run"]);
    for line in ["max_num_steps: then 1, now 2", "results goes on after step 1, up to 2"] {
        assert!(foreseen.stderr.contains(line), "{}", foreseen.stderr);
    }
    foreseen.succeeded();
    assert!(!folder.path().join("results/step_2").exists());
    on(&[]).succeeded();
    assert!(folder.path().join("results/step_2").exists());
}

#[test]
fn weights_gone_wild_are_not_saved() {
    let folder = workspace("float32");
    go(folder.path(), &SFT, &["sft.max_num_steps=1"]).succeeded();
    let before = checkpoint(folder.path(), 1);
    let wild = ["sft.max_num_steps=2", "sft.lr=1e30", "sft.lr_warmup_iters=0", "sft.output_dir=published"];
    go(folder.path(), &SFT, &wild).refused(&["backbone.", "step 2", "not saved", "results/step_1", "intact"]);
    assert!(!folder.path().join("results/step_2").exists() && !folder.path().join("published").exists());
    assert!(checkpoint(folder.path(), 1) == before);
    go(folder.path(), &SFT, &["sft.max_num_steps=2"]).succeeded();
    // Where no checkpoint is due, what fails first is the next rollout. The weights are named all the same.
    let wild = ["grpo.max_num_steps=3", "checkpointing.save_period=3", "policy.megatron_cfg.optimizer.lr=1e30"];
    let more = ["checkpointing.checkpoint_dir=wild"];
    go(folder.path(), &TRAIN, &[&wild[..], &more].concat()).refused(&[
        "backbone.",
        "step 1",
        "not saved",
        "starts anew",
    ]);
}

#[test]
fn a_finished_model_replaces_no_other() {
    let folder = workspace("float32");
    let model = contents(&folder.path().join("model"));
    let over = ["sft.max_num_steps=1", "--output=model"];
    for more in [&[][..], &["--dry-run"]] {
        go(folder.path(), &SFT, &[&over[..], more].concat()).refused(&["model", "--output", "another folder"]);
    }
    assert!(contents(&folder.path().join("model")) == model && !folder.path().join("results").exists());
    // What the run has made itself is replaced when it goes on.
    go(folder.path(), &SFT, &["sft.max_num_steps=1", "--output=new"]).succeeded();
    let first = contents(&folder.path().join("new"));
    go(folder.path(), &SFT, &["sft.max_num_steps=2", "--output=new"]).succeeded();
    assert!(contents(&folder.path().join("new")) != first);
}
