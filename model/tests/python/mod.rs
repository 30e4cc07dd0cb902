//! Asks a Python for its view of a model.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use burn::tensor::activation::log_softmax;
use nemo_model::NemotronH;
use nemo_model::parallel::ForwardContext;
use serde_json::Value;

/// The interpreter that NEMO_BURN_PYTHON names, else `python3`, if it has these packages and transformers 5; prints why not
/// otherwise. One that is named has to have the first two, PyTorch and transformers.
pub fn interpreter(packages: &[&str]) -> Option<PathBuf> {
    let named = std::env::var_os("NEMO_BURN_PYTHON").map(PathBuf::from);
    let python = named.clone().unwrap_or_else(|| "python3".into());
    let reason = |packages: &[&str]| {
        let imports = packages.join(", ");
        let check =
            format!("import {imports}; assert transformers.__version__.startswith('5.'), transformers.__version__");
        match Command::new(&python).args(["-c", &check]).output() {
            Ok(output) if output.status.success() => None,
            Ok(output) => {
                Some(String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or("it failed").to_owned())
            }
            Err(error) => Some(error.to_string()),
        }
    };
    let Some(missing) = reason(packages) else { return Some(python) };
    let unusable = reason(&packages[..2]);
    assert!(named.is_none() || unusable.is_none(), "NEMO_BURN_PYTHON={}: {unusable:?}", python.display());
    println!("skipped: no python3 with {} ({missing}); NEMO_BURN_PYTHON names one", packages.join(", "));
    None
}

/// What a script of this folder answers.
pub fn ask(python: &Path, script: &str, request: &Value) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(script);
    let mut child = Command::new(python)
        .arg(script)
        .env("HF_HUB_OFFLINE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the interpreter starts");
    child.stdin.take().expect("a pipe").write_all(request.to_string().as_bytes()).expect("written");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "the oracle failed on {request}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Pseudo-random rows of ids, one longer than a chunk.
pub fn rows(vocab_size: usize) -> Vec<Vec<u32>> {
    let mut seed = 11_u64;
    [2, 9, 75]
        .map(|length| {
            let mut next = || {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (seed >> 33) as u32 % vocab_size as u32
            };
            (0..length).map(|_| next()).collect()
        })
        .into()
}

/// Log-probability of each id but the first.
pub fn log_probs(model: &NemotronH, row: &[u32]) -> Vec<f64> {
    let tokens = model.token_tensor(&[row], row.len(), 0);
    let hidden = model.forward(tokens, model.empty_state(), ForwardContext::default()).0;
    let all: Vec<f64> = log_softmax(model.logits(model.normalize(hidden)), 2).into_data().iter::<f64>().collect();
    let vocab = model.config().vocab_size;
    row[1..].iter().enumerate().map(|(t, id)| all[t * vocab + *id as usize]).collect()
}
