//! Trains a small byte-level BPE tokenizer in the family's format.
//!
//! Same texts, same bytes: words are counted in sorted maps, and of equally frequent pairs the one with the lower ids
//! is merged, so neither hashing nor threads can show. Digits stand alone, as in the family, so that ids and dates
//! are spelled and can be copied digit by digit.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::path::Path;

use rayon::prelude::*;
use serde_json::{Map, Value, json};
use tokenizers::{OffsetReferential, OffsetType, PreTokenizer};

use super::error::TextError;
use super::tokenizer::{TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, Tokenizer, TokenizerSettings};
use crate::checkpoint::SidecarFile;

/// Where texts are cut before merging: domains of mail addresses, words and identifiers, pairs of digits, full stops,
/// runs of other punctuation, spaces.
///
/// The family's own pattern joins a word to the space or quote before it. A small model has to copy words from requests
/// into JSON, where they follow other characters; here a word has the same tokens wherever it stands. Pairs of digits
/// halve dates and ids, and in an id like `00000207` tell its zeros apart, which single ones do not.
const SPLIT_PATTERN: &str =
    r"@[\p{L}\p{N}.\-]+|[\p{L}\p{M}_]+|\p{N}{1,2}|\.| ?[^\s\p{L}\p{M}\p{N}._]+[\r\n/]*|\s*[\r\n]+|\s";

/// Special tokens of the family, in id order. Decoding may leave them out.
const SPECIAL_TOKENS: [&str; 6] = ["<unk>", "<s>", "</s>", "<SPECIAL_10>", "<SPECIAL_11>", "<SPECIAL_12>"];

/// Tokens of the tool format, next in id order. They are text, so decoding always shows them.
pub const TOOL_TOKENS: [&str; 8] = [
    "<TOOLCALL>",
    "</TOOLCALL>",
    "<TOOL_RESPONSE>",
    "</TOOL_RESPONSE>",
    "<AVAILABLE_TOOLS>",
    "</AVAILABLE_TOOLS>",
    "<think>",
    "</think>",
];

const NUM_BYTES: usize = 256;

/// Settings of a training.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BpeTraining {
    /// Size of the vocabulary, special tokens and bytes included. Fewer tokens result if the texts have no more pairs.
    pub vocab_size: usize,
    /// Pairs rarer than this are not merged.
    pub min_frequency: u64,
    /// Longest token in bytes.
    pub max_token_bytes: usize,
    /// Chat template to save with the tokenizer.
    pub chat_template: Option<String>,
}

impl Default for BpeTraining {
    fn default() -> Self {
        Self { vocab_size: 2048, min_frequency: 2, max_token_bytes: 48, chat_template: None }
    }
}

/// A trained tokenizer and its files.
#[derive(Clone, Debug)]
pub struct TrainedTokenizer {
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// `tokenizer.json`, `tokenizer_config.json` and, if given, `chat_template.jinja`.
    pub files: Vec<SidecarFile>,
}

impl TrainedTokenizer {
    /// Writes the files into a folder.
    ///
    /// # Errors
    /// [`TextError::Unwritable`].
    pub fn write(&self, folder: &Path) -> Result<(), TextError> {
        for file in &self.files {
            let path = folder.join(&file.name);
            std::fs::write(&path, &file.contents).map_err(|source| TextError::Unwritable { path, source })?;
        }
        Ok(())
    }
}

/// Trains a tokenizer on texts, which may contain the special and tool tokens.
///
/// # Errors
/// [`TextError::VocabularyTooSmall`]; [`TextError::Tokenizer`] if a text cannot be split.
pub fn train_bpe<S: AsRef<str> + Sync>(texts: &[S], training: &BpeTraining) -> Result<TrainedTokenizer, TextError> {
    let minimum = SPECIAL_TOKENS.len() + TOOL_TOKENS.len() + NUM_BYTES;
    if training.vocab_size < minimum {
        return Err(TextError::VocabularyTooSmall { requested: training.vocab_size, minimum });
    }
    let mut vocabulary: Vec<String> =
        SPECIAL_TOKENS.iter().chain(&TOOL_TOKENS).map(|token| (*token).to_owned()).collect();
    vocabulary.extend((0..=u8::MAX).map(|byte| byte_char(byte).to_string()));
    let untrained = Tokenizer::from_json_text(&tokenizer_json(&vocabulary, &[]), TokenizerSettings::default())?;
    let words = count_words(texts, untrained.inner())?;
    let merges = learn_merges(&words, &mut vocabulary, training);
    let tokenizer_json = tokenizer_json(&vocabulary, &merges);
    let settings = TokenizerSettings {
        bos_token: Some("<s>".to_owned()),
        eos_token: Some("<SPECIAL_12>".to_owned()),
        pad_token: Some("<unk>".to_owned()),
        unk_token: Some("<unk>".to_owned()),
        ..TokenizerSettings::default()
    };
    let tokenizer = Tokenizer::from_json_text(&tokenizer_json, settings.clone())?;
    let file = |name: &str, text: String| SidecarFile { name: name.to_owned(), contents: text.into_bytes() };
    let mut files =
        vec![file(TOKENIZER_FILE, tokenizer_json), file(TOKENIZER_CONFIG_FILE, tokenizer_config_json(&settings))];
    files.extend(training.chat_template.clone().map(|template| file("chat_template.jinja", template)));
    Ok(TrainedTokenizer { tokenizer, files })
}

/// Occurrences of each word (in byte characters) outside special and tool tokens.
fn count_words<S: AsRef<str> + Sync>(
    texts: &[S],
    tokenizer: &tokenizers::Tokenizer,
) -> Result<BTreeMap<String, u64>, TextError> {
    const TEXTS_PER_TASK: usize = 16;
    let failed = |error: tokenizers::Error| TextError::Tokenizer { problem: error.to_string() };
    let count = |texts: &[S]| {
        let mut words: BTreeMap<String, u64> = BTreeMap::new();
        for text in texts {
            let normalizer = tokenizer.get_normalizer();
            let mut pieces = tokenizer.get_added_vocabulary().extract_and_normalize(normalizer, text.as_ref());
            if let Some(splitter) = tokenizer.get_pre_tokenizer() {
                splitter.pre_tokenize(&mut pieces).map_err(failed)?;
            }
            for (word, _, tokens) in pieces.get_splits(OffsetReferential::Original, OffsetType::None) {
                if tokens.is_none() {
                    *words.entry(word.to_owned()).or_default() += 1;
                }
            }
        }
        Ok(words)
    };
    texts.par_chunks(TEXTS_PER_TASK).map(count).try_reduce(BTreeMap::new, |mut sum, part| {
        for (word, occurrences) in part {
            *sum.entry(word).or_default() += occurrences;
        }
        Ok(sum)
    })
}

type Pair = (u32, u32);

struct Word {
    symbols: Vec<u32>,
    occurrences: u64,
}

/// Merges the most frequent pair until the vocabulary is full; new tokens are appended to `vocabulary`.
fn learn_merges(words: &BTreeMap<String, u64>, vocabulary: &mut Vec<String>, training: &BpeTraining) -> Vec<Pair> {
    let mut ids: HashMap<String, u32> = (0..).zip(vocabulary.iter()).map(|(id, token)| (token.clone(), id)).collect();
    let mut words: Vec<Word> = words
        .iter()
        .map(|(word, occurrences)| Word {
            symbols: word
                .chars()
                .filter_map(|letter| ids.get(letter.encode_utf8(&mut [0; 4]) as &str).copied())
                .collect(),
            occurrences: *occurrences,
        })
        .collect();
    let mut frequency: HashMap<Pair, u64> = HashMap::new();
    let mut places: HashMap<Pair, BTreeSet<usize>> = HashMap::new();
    for (index, word) in words.iter().enumerate() {
        for pair in pairs(&word.symbols) {
            *frequency.entry(pair).or_default() += word.occurrences;
            places.entry(pair).or_default().insert(index);
        }
    }
    // Entries go stale when frequencies change; the current frequency is compared when one is taken.
    let mut queue: BinaryHeap<(u64, Reverse<Pair>)> =
        frequency.iter().map(|(pair, frequency)| (*frequency, Reverse(*pair))).collect();
    let mut merges = Vec::new();
    while vocabulary.len() < training.vocab_size {
        let Some((expected, Reverse(pair))) = queue.pop() else { break };
        if expected < training.min_frequency.max(1) {
            break;
        }
        if frequency.get(&pair) != Some(&expected) {
            continue;
        }
        let token = format!("{}{}", vocabulary[pair.0 as usize], vocabulary[pair.1 as usize]);
        if token.chars().count() > training.max_token_bytes {
            continue;
        }
        let merged = *ids.entry(token.clone()).or_insert(vocabulary.len() as u32);
        if merged as usize == vocabulary.len() {
            vocabulary.push(token);
        }
        merges.push(pair);
        let mut changed = BTreeSet::new();
        for index in places.remove(&pair).unwrap_or_default() {
            let word = &mut words[index];
            for old in pairs(&word.symbols) {
                if let Some(frequency) = frequency.get_mut(&old) {
                    *frequency -= word.occurrences;
                }
                changed.insert(old);
            }
            merge_pair(&mut word.symbols, pair, merged);
            for new in pairs(&word.symbols) {
                *frequency.entry(new).or_default() += word.occurrences;
                places.entry(new).or_default().insert(index);
                changed.insert(new);
            }
        }
        frequency.remove(&pair);
        for pair in changed {
            if let Some(frequency) = frequency.get(&pair) {
                queue.push((*frequency, Reverse(pair)));
            }
        }
    }
    merges
}

fn pairs(symbols: &[u32]) -> impl Iterator<Item = Pair> + '_ {
    symbols.windows(2).map(|pair| (pair[0], pair[1]))
}

/// Replaces each occurrence of `pair`, left to right, by `merged`.
fn merge_pair(symbols: &mut Vec<u32>, pair: Pair, merged: u32) {
    let mut kept = 0;
    let mut next = 0;
    while next < symbols.len() {
        let found = next + 1 < symbols.len() && (symbols[next], symbols[next + 1]) == pair;
        symbols[kept] = if found { merged } else { symbols[next] };
        next += if found { 2 } else { 1 };
        kept += 1;
    }
    symbols.truncate(kept);
}

/// The printable character byte-level BPE writes for a byte: itself if printable, else one from U+0100 on.
fn byte_char(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(byte) {
        return char::from(byte);
    }
    let rank = (0..byte).filter(|lower| !printable(*lower)).count() as u32;
    char::from_u32(0x100 + rank).unwrap_or(char::REPLACEMENT_CHARACTER)
}

fn tokenizer_json(vocabulary: &[String], merges: &[Pair]) -> String {
    let added = SPECIAL_TOKENS.len() + TOOL_TOKENS.len();
    let added_tokens: Vec<Value> = vocabulary[..added]
        .iter()
        .enumerate()
        .map(|(id, token)| {
            json!({ "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": id < SPECIAL_TOKENS.len() })
        })
        .collect();
    let vocab: Map<String, Value> = vocabulary.iter().zip(0..).map(|(token, id)| (token.clone(), json!(id))).collect();
    let merges: Vec<Value> =
        merges.iter().map(|(left, right)| json!([vocabulary[*left as usize], vocabulary[*right as usize]])).collect();
    let document = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens,
        "normalizer": null,
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": SPLIT_PATTERN }, "behavior": "Isolated", "invert": false },
            { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false },
        ] },
        "post_processor": null,
        "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": merges,
        },
    });
    format!("{document:#}\n")
}

fn tokenizer_config_json(settings: &TokenizerSettings) -> String {
    let document = json!({
        "add_bos_token": false,
        "add_eos_token": false,
        "bos_token": settings.bos_token,
        "clean_up_tokenization_spaces": false,
        "eos_token": settings.eos_token,
        "pad_token": settings.pad_token,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": settings.unk_token,
    });
    format!("{document:#}\n")
}
