//! The project's own rules, as far as a program can check them. ARCHITECTURE.md says why they are.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::program::repository;

/// Lines of a source file at most.
const MAX_LINES: usize = 500;

/// Names of files and folders that say nothing about what is inside.
const EMPTY_NAMES: [&str; 7] = ["util", "utils", "helpers", "common", "base", "manager", "misc"];

/// Crates and what they may depend on, besides crates for errors, logging and data formats.
const ALLOWED: [(&str, &[&str]); 7] = [
    ("kernels", &["burn", "burn-flex", "burn-cubecl", "burn-cuda", "cubecl", "cubek", "rayon"]),
    (
        "model",
        &[
            "burn",
            "nemo-kernels",
            "tokenizers",
            "safetensors",
            "memmap2",
            "minijinja",
            "minijinja-contrib",
            "bytes",
            "half",
            "rayon",
            "strsim",
            "zmij",
        ],
    ),
    (
        "env",
        &[
            "csv", "jiff", "rand", "regex", "sha2", // The real tables and tasks.
            "nemo-hub", "ureq", "zip", "zmij",
        ],
    ),
    (
        "env/server",
        &[
            "nemo-env",
            "axum",
            "getrandom",
            "hmac",
            "http-body",
            "http-body-util",
            "hyper",
            "hyper-util",
            "percent-encoding",
            "sha2",
            "tokio",
        ],
    ),
    ("model/hub", &["httpdate", "sha2", "tempfile", "ureq", "url"]),
    ("rl/config", &["nemo-env", "serde-saphyr", "strsim"]),
    ("rl", &["burn", "nemo-kernels", "nemo-model", "nemo-env", "nemo-config", "nemo-hub", "sha2"]),
];
const ALLOWED_EVERYWHERE: [&str; 4] = ["serde", "serde_json", "thiserror", "tracing"];

/// Every Rust file of the libraries and the program.
fn sources() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    for folder in ["kernels", "model", "env", "rl", "cli", "tests", "benches"] {
        collect(&repository().join(folder), &mut files);
    }
    assert!(files.len() > 100, "the search found {} files", files.len());
    files
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            (path.strip_prefix(repository()).unwrap().to_owned(), text)
        })
        .collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target" && name != "fixtures") {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Lines outside tests with their numbers; comments are left out.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    code.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(index, line)| (index + 1, line))
}

/// Whether a file holds tests only: fuzz targets are tests that happen to be programs.
fn is_test(path: &Path) -> bool {
    path.components().any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "benches" | "fuzz" | "tests.rs")))
}

fn starts_with_any(path: &Path, starts: &[&str]) -> bool {
    starts.iter().any(|start| path.starts_with(start))
}

/// Fails with all findings at once.
#[track_caller]
fn none(findings: Vec<String>) {
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

/// Lines of library and program code that contain one of `words`, outside the files that may.
fn places(words: &[&str], may: impl Fn(&Path) -> bool) -> Vec<String> {
    let mut findings = Vec::new();
    for (path, text) in sources().iter().filter(|(path, _)| !is_test(path) && !may(path)) {
        for (number, line) in code_lines(text) {
            if let Some(word) = words.iter().find(|word| line.contains(*word)) {
                findings.push(format!("{}:{number}: {word}", path.display()));
            }
        }
    }
    findings
}

#[test]
fn crates_depend_on_what_they_may() {
    let mut findings = Vec::new();
    for (name, allowed) in ALLOWED {
        let manifest = fs::read_to_string(repository().join(name).join("Cargo.toml")).unwrap();
        let section = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
        let dependencies: BTreeSet<&str> = section
            .lines()
            .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
            .map(|line| line.split(['.', '=', ' ']).next().unwrap())
            .collect();
        assert!(!dependencies.is_empty());
        for dependency in dependencies {
            if !allowed.contains(&dependency) && !ALLOWED_EVERYWHERE.contains(&dependency) {
                findings.push(format!("{name} depends on {dependency}"));
            }
        }
    }
    none(findings);
}

#[test]
fn files_are_short_and_named_for_what_they_do() {
    let mut findings = Vec::new();
    for (path, text) in sources() {
        let lines = text.lines().count();
        if lines > MAX_LINES {
            findings.push(format!("{}: {lines} lines, at most {MAX_LINES}", path.display()));
        }
        for part in path.with_extension("").iter().filter_map(|part| part.to_str()) {
            if EMPTY_NAMES.contains(&part) {
                findings.push(format!("{}: `{part}` says nothing", path.display()));
            }
        }
        if !is_test(&path) && !text.starts_with("//!") {
            findings.push(format!("{}: no header that says why the file exists", path.display()));
        }
    }
    none(findings);
}

#[test]
fn unsafe_code_is_where_it_is_looked_for() {
    let may = |path: &Path| {
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        let in_kernels = path.starts_with("kernels/src")
            && (name.starts_with("cpu")
                || name.starts_with("launch")
                || starts_with_any(
                    path,
                    &["kernels/src/simd", "kernels/src/simd.rs", "kernels/src/cube", "kernels/src/flex_slices.rs"],
                )
                || path.iter().any(|part| part == "cpu")
                || path == Path::new("kernels/src/sample/draw.rs"));
        in_kernels || [Path::new("model/src/checkpoint/tensor_file.rs"), Path::new("cli/allocator.rs")].contains(&path)
    };
    none(places(&["unsafe {", "unsafe fn", "unsafe impl"], may));
}

#[test]
fn only_the_program_touches_the_outside_world() {
    let cli = |path: &Path| path.starts_with("cli");
    none(places(&["env::var", "env::args", "std::process::", "tracing_subscriber", "io::stdout", "io::stderr"], cli));
    none(places(&["println!", "eprintln!", "print!(", "eprint!(", "dbg!("], |_| false));
}

#[test]
fn features_stop_at_kernels_and_devices() {
    let may = |path: &Path| starts_with_any(path, &["kernels", "cli/device.rs"]);
    none(places(&["cfg(feature", "cfg!(feature", "cfg(not(feature"], may));
}

#[test]
fn nothing_is_global_and_mutable() {
    none(places(
        &["static mut", "thread_local!", "OnceCell<", ": AtomicBool = ", ": AtomicUsize = ", ": Mutex<"],
        |path| {
            // A field of this type is state of one value, not of the module.
            let text = fs::read_to_string(repository().join(path)).unwrap();
            !text
                .lines()
                .any(|line| line.trim_start().starts_with("static ") || line.trim_start().starts_with("pub static "))
        },
    ));
    // The SIMD level and TF32 are chosen at most once, by the program or by the first operation.
    let once = ["kernels/src/simd.rs", "kernels/src/cube/product.rs"];
    let sources = sources();
    let others = sources.iter().filter(|(path, _)| !is_test(path) && !starts_with_any(path, &once));
    none(
        others
            .flat_map(|(path, text)| {
                code_lines(text)
                    .filter(|(_, line)| line.trim_start().starts_with("static ") && line.contains("OnceLock<"))
                    .map(|(number, _)| format!("{}:{number}: OnceLock", path.display()))
            })
            .collect(),
    );
}

/// Burn's features that join operations or choose a kernel by timing it stay off, so that the same call has the same bits.
#[test]
fn nothing_is_chosen_by_timing() {
    let manifests = ["Cargo.toml", "kernels/Cargo.toml", "model/Cargo.toml", "rl/Cargo.toml"];
    let text = manifests.map(|path| fs::read_to_string(repository().join(path)).unwrap()).concat();
    let ours = |line: &&str| (line.starts_with("burn") || line.starts_with("cube")) && line.contains("version = ");
    let lines: Vec<&str> = text.lines().filter(ours).collect();
    assert!(lines.len() >= 6, "{lines:?}");
    assert!(lines.iter().all(|line| line.contains("default-features = false")), "{lines:?}");
    assert!(!text.contains("autotune") && !text.contains("fusion"));
}

/// A kernel's optional input has a buffer of its own where it is absent: with another tensor in its place that one's buffer
/// would be bound twice.
#[test]
fn no_tensor_stands_in_for_an_absent_one() {
    let launches: Vec<_> =
        sources().into_iter().filter(|(path, _)| path.file_name().is_some_and(|name| name == "launch.rs")).collect();
    assert!(launches.len() > 5);
    let stand_ins = ["map_or_else(||", "map_or(", "unwrap_or_else(||", "unwrap_or("];
    let found = launches.iter().flat_map(|(path, text)| {
        // Without the breaks and blanks that depend on the length of a line.
        let text: String = text.split_whitespace().collect();
        let places = stand_ins.iter().flat_map(|call| {
            let after =
                text.split(call).skip(1).map(|rest| rest.split([',', ')']).next().unwrap_or_default().to_owned());
            after.filter(|first| first.ends_with(".clone(")).collect::<Vec<_>>()
        });
        let else_branches = text.matches(".clone()}else{").map(|_| ".clone() before `else`".to_owned());
        places.chain(else_branches).map(|found| format!("{}: {found}", path.display())).collect::<Vec<_>>()
    });
    none(found.collect());
}

#[test]
fn kernels_know_no_model_and_the_office_no_tensors() {
    none(places(&["ModelConfig", "NemotronH", "nemo_model", "nemo_rl", "nemo_env"], |path| {
        !path.starts_with("kernels")
    }));
    none(places(&["burn::", "Tensor<"], |path| !path.starts_with("env")));
    // Whoever trains has no use for a web server.
    none(places(&["nemo_env_server"], |path| starts_with_any(path, &["env/server", "cli"])));
    none(places(&["async ", "Instant::now", "SystemTime", "axum", "tokio"], |path| {
        !path.starts_with("env") || path.starts_with("env/server")
    }));
    none(places(&["reward", "Optimizer", "nemo_rl", "nemo_env"], |path| !path.starts_with("model")));
    none(places(&["cubecl", "burn_flex"], |path| !starts_with_any(path, &["rl", "model"])));
}

#[test]
fn nothing_is_left_to_do_in_the_code() {
    let words = ["todo!(", "unimplemented!(", "FIXME", "TODO"];
    let mut findings = places(&words, |_| false);
    for (path, text) in sources() {
        // Built here, so that this file does not contain what it looks for.
        for word in [["/wo", "rk/"].concat(), ["TO", "DO"].concat()] {
            if text.contains(&word) && !path.ends_with("tidy.rs") {
                findings.push(format!("{}: {word}", path.display()));
            }
        }
    }
    none(findings);
}
