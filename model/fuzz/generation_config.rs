//! Fuzz target for `generation_config.json`: what is read is in range, whatever the file holds.

#![no_main]
#![allow(dead_code, unused_imports, missing_docs, reason = "the sources serve more than this target")]

mod texts;
pub use texts::{checkpoint, config, git_lfs, text};

use std::path::Path;

use config::GenerationConfig;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|source: &[u8]| {
    let Ok(source) = std::str::from_utf8(source) else { return };
    match GenerationConfig::from_json_text(source, Path::new("fuzz/generation_config.json")) {
        Ok(read) => {
            let fits =
                |value: Option<f64>, fits: fn(f64) -> bool| value.is_none_or(|value| value.is_finite() && fits(value));
            assert!(fits(read.temperature, |value| value >= 0.0));
            assert!(fits(read.top_p, |value| value > 0.0 && value <= 1.0));
            assert!(fits(read.min_p, |value| (0.0..=1.0).contains(&value)));
            assert!([read.top_k, read.max_new_tokens, read.max_length].into_iter().flatten().all(|value| value > 0));
            assert!(read.without_effect().len() <= read.document.len());
        }
        Err(error) => assert!(error.to_string().contains("fuzz/generation_config.json")),
    }
});
