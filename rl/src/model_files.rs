//! Whether the files of a model folder fit each other. What cannot work is an error, what may surprise a warning.

use std::path::Path;

use nemo_model::config::{GENERATION_CONFIG_FILE, GenerationConfig, ModelConfig};
use nemo_model::text::Tokenizer;

use crate::assemble::AssembleError;

/// The tokenizer's ids need embeddings, and its special tokens should be those of `config.json`.
///
/// # Errors
/// When the tokenizer has ids at or beyond the model's vocabulary.
pub fn check_tokenizer(
    config: &ModelConfig,
    tokenizer: &Tokenizer,
    folder: &Path,
) -> Result<Vec<String>, AssembleError> {
    let (size, vocabulary) = (tokenizer.vocab_size(), config.vocab_size);
    if size > vocabulary {
        return Err(AssembleError::ForeignTokenizer { folder: folder.to_owned(), largest: size - 1, vocabulary });
    }
    let mut warnings = Vec::new();
    let special = [
        ("bos_token", config.bos_token_id.as_slice(), tokenizer.bos_id()),
        ("eos_token", &config.eos_token_ids, tokenizer.eos_id()),
        ("pad_token", config.pad_token_id.as_slice(), tokenizer.pad_id()),
    ];
    for (name, ids, own) in special {
        if let Some(own) = own
            && !ids.is_empty()
            && !ids.contains(&own)
        {
            let both = if name == "eos_token" { "; either ends a turn" } else { "; the tokenizer's is used" };
            warnings.push(format!(
                "{}: the tokenizer's {name} is {own}, config.json says \"{name}_id\" {}{both}",
                folder.display(),
                ids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
            ));
        }
    }
    Ok(warnings)
}

/// Settings of `generation_config.json` that are not followed, and end tokens that cannot be.
///
/// # Errors
/// When an end token is at or beyond the model's vocabulary.
pub fn check_generation(
    config: &ModelConfig,
    generation: &GenerationConfig,
    folder: &Path,
) -> Result<Option<String>, AssembleError> {
    let path = folder.join(GENERATION_CONFIG_FILE);
    let vocabulary = config.vocab_size;
    if let Some(&id) = generation.eos_token_ids.iter().find(|id| **id as usize >= vocabulary) {
        return Err(AssembleError::EndToken { path, id, vocabulary });
    }
    let ignored = generation.without_effect();
    Ok((!ignored.is_empty()).then(|| format!("{}: without effect here: {}", path.display(), ignored.join(", "))))
}

/// What is said of a folder that holds no chat template.
pub fn no_template(folder: &Path) -> String {
    format!(
        "{} holds no chat template (chat_template.jinja, or \"chat_template\" in tokenizer_config.json); the format of \
         Nemotron Nano v2, which is built in, is used",
        folder.display()
    )
}

/// The family has no position embeddings, so a longer sequence can be computed; how well is another question.
pub fn check_length(config: &ModelConfig, max_length: usize, folder: &Path) -> Option<String> {
    let made_for = config.max_position_embeddings;
    (max_length > made_for).then(|| {
        format!(
            "{}: sequences of up to {max_length} tokens are asked for, the model was made for {made_for} \
             (\"max_position_embeddings\"); longer ones are computed, but the model has not learned from any",
            folder.display()
        )
    })
}
