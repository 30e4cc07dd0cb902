//! From files and overrides to a checked `RunConfig`.
//!
//! Order: files along `defaults:`, `key=value` overrides, unknown keys, built-in defaults below it all, `${...}`,
//! ignored and refused keys, types, contradictions. Unknown keys come before `${...}` so that a misspelt key is reported
//! as such, not as a reference that leads nowhere.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::error::{ConfigError, Origin, did_you_mean, shortened};
use crate::interpolate::{interpolate, interpolate_one, nearest, sources};
use crate::limits::{MAX_FILE_BYTES, MAX_INHERITED_FILES};
use crate::node::{Entry, Node, Source, Value, parse};
use crate::{LoadedConfig, LrDecayStyle, RunConfig, check, decode, key_policy, overrides, unsupported};

const DEFAULTS: &str = include_str!("defaults.yaml");
/// Acts in dynamic batching only.
const TRAIN_MB_TOKENS: &str = "policy.dynamic_batching.train_mb_tokens";

/// Loads a configuration file and applies `key=value` overrides to it.
///
/// # Errors
/// The first thing found wrong, with file, line and key.
pub fn load(path: &Path, overrides: &[String]) -> Result<LoadedConfig, ConfigError> {
    let tree = read_with_parents(path, &mut Ancestry::default())?;
    finish(tree, overrides)
}

/// Loads a configuration from text; `name` stands for the file in messages, and `defaults:` paths start beside it.
///
/// # Errors
/// As [`load`].
pub fn load_text(text: &str, name: &Path, overrides: &[String]) -> Result<LoadedConfig, ConfigError> {
    let tree = inherit(parse(text, &Source::File(name))?, name, &mut Ancestry::default())?;
    finish(tree, overrides)
}

/// The files on the way from the configuration to the one that is read, and how many were read in all: a file that is
/// named twice by a file that is named twice is read four times.
#[derive(Default)]
struct Ancestry {
    chain: Vec<PathBuf>,
    num_read: usize,
}

fn read_with_parents(path: &Path, ancestry: &mut Ancestry) -> Result<Node, ConfigError> {
    let text = read_bounded(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    inherit(parse(&text, &Source::File(path))?, path, ancestry)
}

/// The text of a file of at most [`MAX_FILE_BYTES`]; pipes and devices, which may have no end, are no files.
fn read_bounded(path: &Path) -> io::Result<String> {
    let refused = |reason: String| io::Error::new(io::ErrorKind::InvalidInput, reason);
    // Asked before opening: to open a pipe waits for a writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(refused("it is not a regular file".to_owned()));
    }
    let mut text = String::new();
    let num_bytes = File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)? as u64;
    match num_bytes > MAX_FILE_BYTES {
        true => Err(refused(format!("it is larger than {MAX_FILE_BYTES} bytes"))),
        false => Ok(text),
    }
}

/// Lays a file over the files its `defaults:` names, in their order.
fn inherit(mut tree: Node, path: &Path, ancestry: &mut Ancestry) -> Result<Node, ConfigError> {
    match tree.value {
        Value::Map(_) => {}
        // A file with nothing but comments.
        Value::Null => tree.value = Value::Map(Vec::new()),
        _ => {
            return Err(ConfigError::Syntax {
                origin: tree.origin,
                message: "the top of a configuration is a block of keys such as `grpo:`".to_owned(),
            });
        }
    }
    rename_legacy_keys(&mut tree);
    let Some(entry) = tree.remove("defaults") else {
        return Ok(tree);
    };
    let parents = match &entry.node.value {
        Value::List(items) => items.as_slice(),
        _ => std::slice::from_ref(&entry.node),
    };
    // Compared as given by the file system, so that two spellings of one path count as one file.
    ancestry.chain.push(path.canonicalize().unwrap_or_else(|_| path.to_owned()));
    let mut merged = Node::map(tree.origin.clone());
    for parent in parents {
        let Value::Text(name) = &parent.value else {
            return Err(ConfigError::WrongValue {
                origin: parent.origin.clone(),
                key: "defaults".to_owned(),
                found: format!("`{}`", parent.value),
                expected: "a path of a configuration, or a list of them".to_owned(),
                suggestion: None,
            });
        };
        let file = path.parent().unwrap_or(Path::new("")).join(name);
        let identity = file.canonicalize().unwrap_or_else(|_| file.clone());
        if ancestry.chain.contains(&identity) {
            let mut names: Vec<String> = ancestry.chain.iter().map(|file| file.display().to_string()).collect();
            names.push(identity.display().to_string());
            return Err(ConfigError::InheritanceCircle { origin: parent.origin.clone(), chain: names });
        }
        ancestry.num_read += 1;
        if ancestry.num_read > MAX_INHERITED_FILES {
            return Err(ConfigError::TooMuch {
                origin: parent.origin.clone(),
                what: "`defaults` lead to more files",
                limit: MAX_INHERITED_FILES,
            });
        }
        merged.merge(read_with_parents(&file, ancestry)?);
    }
    ancestry.chain.pop();
    merged.merge(tree);
    Ok(merged)
}

/// NeMo RL 0.4 called the environment library `penguin`.
fn rename_legacy_keys(tree: &mut Node) {
    if let Some(Node { value: Value::Map(entries), .. }) = tree.child_mut("env") {
        for entry in entries {
            match entry.key.as_str() {
                "penguin" => entry.key = "nemo_gym".to_owned(),
                "should_use_penguin" => entry.key = "should_use_nemo_gym".to_owned(),
                _ => {}
            }
        }
    }
}

/// `data.train: tasks.jsonl` is short for `data.train.data_path: tasks.jsonl`, and null for an empty block.
fn expand_dataset_paths(tree: &mut Node) {
    for name in ["train", "validation"] {
        let Some(node) = tree.child_mut("data").and_then(|data| data.child_mut(name)) else {
            continue;
        };
        match node.value {
            Value::Null => *node = Node::map(node.origin.clone()),
            Value::Text(_) => {
                let mut block = Node::map(node.origin.clone());
                let path = std::mem::replace(node, Node::map(node.origin.clone()));
                if let Value::Map(entries) = &mut block.value {
                    entries.push(Entry { key: "data_path".to_owned(), origin: path.origin.clone(), node: path });
                }
                *node = block;
            }
            _ => {}
        }
    }
}

fn finish(mut user: Node, overrides: &[String]) -> Result<LoadedConfig, ConfigError> {
    for text in overrides {
        overrides::apply(&mut user, text)?;
    }
    rename_legacy_keys(&mut user);
    expand_dataset_paths(&mut user);
    let defaults = parse(DEFAULTS, &Source::Default)?;
    check_known(&user, &defaults, &mut Vec::new(), &defaults)?;

    let mut tree = defaults.clone();
    tree.merge(user);
    let mut resolved = interpolate(&tree).map_err(|error| placed(error, &tree, &tree))?;
    let usual = |key: &str| interpolate_one(&tree, defaults.at(key.split('.'))?, key).ok();
    let mut effectless = key_policy::enforce(&mut resolved, usual)?;
    let place = |error: ConfigError| placed(error, &tree, &resolved);
    let config: RunConfig = decode::decode(&resolved).map_err(place)?;
    check::check(&config).map_err(place)?;
    unsupported::refuse(&config).map_err(place)?;
    if let (Some(node), false) = (resolved.at(TRAIN_MB_TOKENS.split('.')), config.policy.dynamic_batching.enabled) {
        let usual = config.policy.dynamic_batching.train_mb_tokens == config.max_batch_tokens();
        effectless.add(TRAIN_MB_TOKENS, node, usual, "policy.dynamic_batching.enabled is false");
    }
    for (key, reason) in unused_settings(&config) {
        if let Some(node) = resolved.at(key.split('.')) {
            let usual = usual(&key).is_some_and(|usual| usual == *node);
            // Of a resolved configuration, which has every key, only what was changed is worth a word.
            if !usual {
                effectless.add(&key, node, usual, &reason);
            }
        }
    }
    let mut warnings = effectless.into_warnings();
    warnings.extend(unsupported::notices(&config, &|key| origin_of(&tree, key).unwrap_or(Origin::Default)));
    Ok(LoadedConfig { config, warnings })
}

/// Settings that others leave without effect, each with the reason.
fn unused_settings(config: &RunConfig) -> Vec<(String, String)> {
    let mut unused = Vec::new();
    for (set, name) in [(&config.data.train, "data.train"), (&config.data.validation, "data.validation")] {
        // A fresh model's tokenizer is trained on tasks of the training set's offices.
        let trains_tokenizer = config.policy.init.model_config.is_some() && name == "data.train";
        let generated_only = ["max_difficulty", "split", "seed", "num_offices", "suite"];
        let generated_only = generated_only.iter().take(if trains_tokenizer { 3 } else { 5 });
        if set.data_path.is_some() {
            let reason = format!("{name}.data_path names the tasks");
            unused.extend(generated_only.map(|setting| (format!("{name}.generate.{setting}"), reason.clone())));
        }
    }
    for (style, style_key, key) in [
        (
            config.policy.megatron_cfg.scheduler.lr_decay_style,
            "policy.megatron_cfg.scheduler.lr_decay_style",
            "policy.megatron_cfg.optimizer.min_lr",
        ),
        (config.sft.lr_decay_style, "sft.lr_decay_style", "sft.min_lr"),
    ] {
        if style == LrDecayStyle::Constant {
            unused.push((key.to_owned(), format!("{style_key} is constant")));
        }
    }
    unused
}

/// Where the value of a key is written, and what it is taken from.
fn origin_of(tree: &Node, key: &str) -> Option<Origin> {
    let mut path = key.split('.').map(str::to_owned).collect();
    let node = nearest(tree, &mut path).filter(|_| !path.is_empty())?;
    Some(Origin::referring(node.origin.clone(), sources(tree, key)))
}

/// The error with the place of its key, and a contradiction with the values and places of what it names.
fn placed(mut error: ConfigError, tree: &Node, resolved: &Node) -> ConfigError {
    if let ConfigError::WrongValue { origin, key, .. }
    | ConfigError::Refused { origin, key, .. }
    | ConfigError::Interpolation { origin, key, .. } = &mut error
        && let Some(place) = origin_of(tree, key)
    {
        *origin = place;
    }
    let ConfigError::Inconsistent { origin, key, found, reason } = &mut error else { return error };
    *found = resolved.at(key.split('.')).map_or_else(String::new, |node| node.value.to_string());
    *origin = origin_of(tree, key).unwrap_or(Origin::Default);
    for word in reason.clone().split(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.'))) {
        let word = word.trim_end_matches('.');
        let node = resolved.at(word.split('.')).filter(|_| word.contains('.') && word != key.as_str());
        if let (Some(node), Some(place)) = (node, origin_of(tree, word)) {
            reason.push_str(&format!("; `{word}` is `{}` ({place})", shortened(&node.value.to_string())));
            if *origin == Origin::Default {
                // The key was left at its default: what was written is what it does not fit.
                *origin = place;
            }
        }
    }
    error
}

/// Finds keys of `user` that the defaults do not know, and values that stand where a block has to be. Blocks that are
/// empty or null in the defaults are open.
fn check_known(user: &Node, known: &Node, path: &mut Vec<String>, root: &Node) -> Result<(), ConfigError> {
    let names: Vec<&str> = known.entries().iter().map(|entry| entry.key.as_str()).collect();
    if names.is_empty() {
        return Ok(());
    }
    match &user.value {
        Value::Map(_) => {}
        // A reference may lead to a block.
        Value::Text(text) if text.contains("${") => {}
        other => {
            return Err(ConfigError::WrongValue {
                origin: user.origin.clone(),
                key: path.join("."),
                found: format!("`{other}`"),
                expected: format!("a block of keys such as `{}`", names[0]),
                suggestion: None,
            });
        }
    }
    for entry in user.entries() {
        if entry.key == "_override_" {
            continue;
        }
        path.push(entry.key.clone());
        match known.child(&entry.key) {
            Some(known) => check_known(&entry.node, known, path, root)?,
            None => {
                let full = path.join(".");
                return Err(ConfigError::UnknownKey {
                    origin: entry.origin.clone(),
                    suggestion: suggest(&entry.key, &full, &names, path, root),
                    key: full,
                });
            }
        }
        path.pop();
    }
    Ok(())
}

/// The same name in another block, nearest first; else a key of the same block that looks like it; else any full key
/// that does.
fn suggest(key: &str, full: &str, siblings: &[&str], path: &[String], root: &Node) -> Option<Box<str>> {
    let mut all = Vec::new();
    collect_keys(root, &mut String::new(), &mut all);
    let shared_parts = |known: &str| known.split('.').zip(path).take_while(|(a, b)| a == b).count();
    let elsewhere = all.iter().filter(|known| known.rsplit('.').next() == Some(key));
    // The first of equals: blocks are listed with the most used first.
    if let Some(found) = elsewhere.rev().max_by_key(|known| shared_parts(known)) {
        return Some(found.as_str().into());
    }
    if let Some(sibling) = did_you_mean(key, siblings.iter().copied()) {
        let parents = &path[..path.len().saturating_sub(1)];
        let parents = parents.iter().map(String::as_str);
        let full: Vec<&str> = parents.chain([sibling.as_ref()]).collect();
        return Some(full.join(".").into());
    }
    did_you_mean(full, all.iter().map(String::as_str))
}

fn collect_keys(node: &Node, prefix: &mut String, keys: &mut Vec<String>) {
    for entry in node.entries() {
        let length = prefix.len();
        if length > 0 {
            prefix.push('.');
        }
        prefix.push_str(&entry.key);
        keys.push(prefix.clone());
        collect_keys(&entry.node, prefix, keys);
        prefix.truncate(length);
    }
}
