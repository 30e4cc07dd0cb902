//! How large a configuration and what it asks for may be.
//!
//! Every number that something is allocated by has an upper bound here, checked where the number is decoded, so that
//! the answer to a slip of the keyboard is an error with the key and its place and never a program that runs out of
//! memory. The bounds are far above what anyone trains with and far below what breaks.

use nemo_env::generate::MAX_DIFFICULTY;
use serde::de::{Deserialize, Deserializer, Error, Unexpected};

/// Bytes of a configuration file or an override.
pub(crate) const MAX_FILE_BYTES: u64 = 1 << 20;
/// Values of a file, those that aliases repeat included.
pub(crate) const MAX_FILE_NODES: usize = 10_000;
/// Blocks within blocks.
pub(crate) const MAX_NESTING: usize = 64;
/// Files that a configuration inherits from, one counted as often as it is read.
pub(crate) const MAX_INHERITED_FILES: usize = 64;
/// Values that come of resolving the references of a configuration.
pub(crate) const MAX_RESOLVED_NODES: usize = 100_000;
/// Bytes of text that come of resolving them.
pub(crate) const MAX_RESOLVED_BYTES: usize = 4 << 20;

/// Rollouts of one prompt, which are all open at the same time.
pub(crate) const GENERATIONS_PER_PROMPT: usize = 4096;
/// Sequences of one optimizer step.
pub(crate) const BATCH: usize = 1 << 18;
/// Tokens of one sequence; the longest contexts that models are made for.
pub(crate) const SEQUENCE_TOKENS: usize = 1 << 20;
/// Tasks that are generated, which are all in memory; the generator's own bound.
pub(crate) const TASKS: usize = nemo_env::generate::MAX_TASKS;
/// Generated offices; each is made when a task plays in it, and stays. The generator's own bound.
pub(crate) const OFFICES: usize = nemo_env::generate::MAX_OFFICES;
/// Rank of an adapter, which has so many rows and columns beside every matrix.
pub(crate) const ADAPTER_RANK: usize = 1 << 13;
/// Ids of a tokenizer.
pub(crate) const VOCABULARY: usize = 1 << 20;
/// Steps and other counts that nothing is allocated by, but that are added and multiplied.
pub(crate) const COUNT: usize = 1 << 40;

/// Decodes a whole number of at most `MAX`.
pub(crate) fn at_most<'de, const MAX: usize, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    let value = usize::deserialize(deserializer)?;
    match value <= MAX {
        true => Ok(value),
        false => {
            let expected = format!("a whole number of at most {MAX}");
            Err(D::Error::invalid_value(Unexpected::Unsigned(value as u64), &expected.as_str()))
        }
    }
}

/// Decodes the difficulty of a template, 1 (one call) to 4.
pub(crate) fn difficulty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    let value = u64::deserialize(deserializer)?;
    u8::try_from(value).ok().filter(|value| (1..=MAX_DIFFICULTY).contains(value)).ok_or_else(|| {
        let expected = format!("a difficulty of 1 (one call) to {MAX_DIFFICULTY}");
        D::Error::invalid_value(Unexpected::Unsigned(value), &expected.as_str())
    })
}

/// The same, or null for all difficulties.
pub(crate) fn optional_difficulty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u8>, D::Error> {
    struct Difficulty(u8);
    impl<'de> Deserialize<'de> for Difficulty {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            difficulty(deserializer).map(Difficulty)
        }
    }
    Ok(Option::<Difficulty>::deserialize(deserializer)?.map(|Difficulty(value)| value))
}
