//! From files and overrides to a checked `RunConfig`.
//!
//! Order: files along `defaults:`, `key=value` overrides, unknown keys, built-in defaults below it all, `${...}`,
//! ignored and refused keys, types, contradictions. Unknown keys come before `${...}` so that a misspelt key is reported
//! as such, not as a reference that leads nowhere.

use std::path::{Path, PathBuf};

use crate::error::{ConfigError, Origin, did_you_mean};
use crate::interpolate::interpolate;
use crate::node::{Entry, Node, Source, Value, parse};
use crate::{LoadedConfig, RunConfig, check, decode, key_policy, overrides, unsupported};

const DEFAULTS: &str = include_str!("defaults.yaml");

/// Loads a configuration file and applies `key=value` overrides to it.
///
/// # Errors
/// The first thing found wrong, with file, line and key.
pub fn load(path: &Path, overrides: &[String]) -> Result<LoadedConfig, ConfigError> {
    let tree = read_with_parents(path, &mut Vec::new())?;
    finish(tree, overrides)
}

/// Loads a configuration from text; `name` stands for the file in messages, and `defaults:` paths start beside it.
///
/// # Errors
/// As [`load`].
pub fn load_text(text: &str, name: &Path, overrides: &[String]) -> Result<LoadedConfig, ConfigError> {
    let tree = inherit(parse(text, &Source::File(name))?, name, &mut Vec::new())?;
    finish(tree, overrides)
}

fn read_with_parents(path: &Path, chain: &mut Vec<PathBuf>) -> Result<Node, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    inherit(parse(&text, &Source::File(path))?, path, chain)
}

/// Lays a file over the files its `defaults:` names, in their order.
fn inherit(mut tree: Node, path: &Path, chain: &mut Vec<PathBuf>) -> Result<Node, ConfigError> {
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
    chain.push(path.canonicalize().unwrap_or_else(|_| path.to_owned()));
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
        if chain.contains(&identity) {
            let mut names: Vec<String> = chain.iter().map(|file| file.display().to_string()).collect();
            names.push(identity.display().to_string());
            return Err(ConfigError::InheritanceCircle { origin: parent.origin.clone(), chain: names });
        }
        merged.merge(read_with_parents(&file, chain)?);
    }
    chain.pop();
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
    let mut resolved = interpolate(&tree)?;
    let unchanged = interpolate(&key_policy::with_ignored_keys_at_default(&tree, &defaults))?;
    let mut warnings = key_policy::enforce(&mut resolved, &unchanged)?;
    let config: RunConfig = decode::decode(&resolved)?;
    let origin = |key: &str| origin_of(&resolved, key);
    check::check(&config, &origin)?;
    unsupported::refuse(&config, &origin)?;
    warnings.extend(unsupported::notices(&config, &origin));
    Ok(LoadedConfig { config, warnings })
}

fn origin_of(tree: &Node, key: &str) -> Origin {
    tree.at(key.split('.')).map_or(Origin::Default, |node| node.origin.clone())
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
