//! `generate --weight-dtype`: fewer bits a weight, the same answers on every machine.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::program::{PROGRAM, finish, run, run_in};
use super::small_model::workspace;

const ARGUMENTS: [&str; 7] =
    ["generate", "--model=model", "--prompt=Hello", "--samples=3", "--max-new-tokens=8", "--ignore-eos", "--json"];

fn generate(folder: &Path, dtype: &str) -> String {
    run_in(folder, &[&ARGUMENTS[..], &["--weight-dtype", dtype]].concat()).succeeded()
}

#[test]
fn every_type_generates_and_rounds_as_much_as_it_says() {
    let folder = workspace();
    let full = generate(folder.path(), "float32");
    assert_eq!(run_in(folder.path(), &ARGUMENTS).succeeded(), full, "the default");
    // The first token's log-probability comes from the same prompt, whatever follows.
    let first = |text: &str| {
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.map(|line| line["log_probs"][0].as_f64().unwrap()).collect::<Vec<_>>()
    };
    for dtype in ["bfloat16", "int8"] {
        let text = generate(folder.path(), dtype);
        assert_ne!(text, full, "{dtype} rounds nothing");
        let (found, expected) = (first(&text), first(&full));
        assert_eq!(found.len(), 3);
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 0.1, "{dtype}: {found} against {expected}");
        }
    }
}

#[test]
fn neither_threads_nor_instructions_change_a_bit() {
    let folder = workspace();
    for dtype in ["bfloat16", "int8"] {
        let expected = generate(folder.path(), dtype);
        for (threads, level) in [("2", "portable"), ("1", "avx2"), ("3", "avx512")] {
            let mut command = Command::new(PROGRAM);
            command.current_dir(folder.path()).args(ARGUMENTS).args(["--weight-dtype", dtype]);
            command.env("RAYON_NUM_THREADS", threads).env("NEMO_BURN_SIMD", level);
            let finished = finish(command);
            if finished.stderr.contains("no SIMD level") {
                println!("skipped: {}", finished.stderr.trim());
                continue;
            }
            assert_eq!(finished.succeeded(), expected, "{dtype}, {threads} threads, {level}");
        }
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let generate = ["generate", "--model=configs/models/tiny", "--prompt=x"];
    run(&[&generate[..], &["--weight-dtype=int4"]].concat()).refused(&["int4", "bfloat16", "int8"]);
    for device in ["wgpu", "cuda:0"] {
        run(&[&generate[..], &["--weight-dtype=int8", "--device", device]].concat()).refused(&[
            "--weight-dtype int8",
            device,
            "--device cpu",
        ]);
    }
}
