//! The folder that a target starts from.

use std::path::Path;

use super::seeds;

/// Writes the seeds to `corpus/TARGET` and the words to `corpus/words.dict`, where libFuzzer's arguments name them.
pub fn write(target: &str, inputs: &[Vec<u8>]) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    std::fs::create_dir_all(corpus.join(target)).unwrap();
    for (number, input) in inputs.iter().enumerate() {
        std::fs::write(corpus.join(target).join(format!("seed-{number:04}")), input).unwrap();
    }
    let escaped = |word: &String| -> String { word.bytes().map(|byte| format!("\\x{byte:02x}")).collect() };
    let lines: String = seeds::words().iter().map(|word| format!("\"{}\"\n", escaped(word))).collect();
    std::fs::write(corpus.join("words.dict"), lines).unwrap();
}
