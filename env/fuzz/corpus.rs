//! The folder that a target starts from.

use std::path::Path;
use std::{fs, io, process};

/// Writes the seeds to `corpus/TARGET` and the words to `corpus/TARGET.dict`, where libFuzzer's arguments name them; ends
/// the program with one line if that fails, since a fuzzer without seeds would look as if it worked.
pub fn write(target: &str, inputs: &[Vec<u8>], words: &[String]) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    if let Err(error) = try_write(&corpus, target, inputs, words) {
        eprintln!("error: {}: the seeds could not be written: {error}", corpus.display());
        process::exit(2);
    }
}

fn try_write(corpus: &Path, target: &str, inputs: &[Vec<u8>], words: &[String]) -> io::Result<()> {
    fs::create_dir_all(corpus.join(target))?;
    for (number, input) in inputs.iter().enumerate() {
        fs::write(corpus.join(target).join(format!("seed-{number:04}")), input)?;
    }
    let escaped = |word: &String| -> String { word.bytes().map(|byte| format!("\\x{byte:02x}")).collect() };
    let lines: String = words.iter().map(|word| format!("\"{}\"\n", escaped(word))).collect();
    fs::write(corpus.join(format!("{target}.dict")), lines)
}
