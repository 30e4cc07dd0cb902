//! `key=value` arguments, in the grammar of NeMo RL's command line.
//!
//! | written | means |
//! |---|---|
//! | `a.b=c` | set |
//! | `+a.b=c` | set; an error when the configuration already sets it |
//! | `++a.b=c` | set, whether or not it was set |
//! | `~a.b`, `~a.b=c` | take out of the configuration (if it is `c`), so that the default holds |
//!
//! Values are YAML: `[1, 2]`, `null`, `"text"`, `${policy.precision}`. Unknown keys are found later, by the check that
//! files go through too.

use std::sync::Arc;

use crate::error::{ConfigError, Origin};
use crate::limits::MAX_NESTING;
use crate::node::{Entry, Node, Source, Value, parse};

#[derive(Clone, Copy, PartialEq)]
enum Action {
    Set,
    Add,
    Force,
    Remove,
}

/// Applies one override to the user's part of the configuration.
pub(crate) fn apply(tree: &mut Node, text: &str) -> Result<(), ConfigError> {
    let fail = |reason: String| ConfigError::Override { text: text.to_owned(), reason };
    let (action, body) = match text {
        _ if text.starts_with("++") => (Action::Force, &text[2..]),
        _ if text.starts_with('+') => (Action::Add, &text[1..]),
        _ if text.starts_with('~') => (Action::Remove, &text[1..]),
        _ => (Action::Set, text),
    };
    let (key, value) = match body.split_once('=') {
        Some((key, value)) => (key.trim(), Some(value)),
        None => (body.trim(), None),
    };
    let path: Vec<&str> = key.split('.').collect();
    if path.iter().any(|part| part.is_empty()) {
        return Err(fail("expected `key=value` with a key such as `grpo.max_num_steps`".to_owned()));
    }
    if path.len() > MAX_NESTING {
        return Err(fail(format!("a key has at most {MAX_NESTING} parts")));
    }
    let value = match value {
        Some("") => Some(Node { value: Value::Text(String::new()), origin: Origin::Override(Arc::from(text)) }),
        Some(value) => Some(parse(value, &Source::Override(text))?),
        None => None,
    };
    let existing = tree.at(path.iter().copied()).map(|node| node.value.clone());
    match (action, value) {
        (Action::Remove, expected) => {
            let found = existing.ok_or_else(|| fail(format!("the configuration does not set `{key}`")))?;
            if let Some(expected) = expected
                && expected.value != found
            {
                return Err(fail(format!("`{key}` is `{found}`, not `{}`", expected.value)));
            }
            let (last, parents) = path.split_last().ok_or_else(|| fail("no key".to_owned()))?;
            let parent = parents.iter().try_fold(tree, |node, part| node.child_mut(part));
            parent.and_then(|parent| parent.remove(last));
            Ok(())
        }
        (_, None) => Err(fail(format!("expected `{key}=value`"))),
        (Action::Add, Some(_)) if existing.as_ref().is_some_and(|value| *value != Value::Null) => {
            let found = existing.unwrap_or(Value::Null);
            Err(fail(format!("`{key}` is already set to `{found}`; write `{key}=...` or `++{key}=...` to change it")))
        }
        (_, Some(node)) => set(tree, &path, node)
            .map_err(|part| fail(format!("`{part}` is a list or a single value, so it has no key below it"))),
    }
}

/// Sets a path, making the blocks on the way. On failure names the part that is not a block.
fn set(tree: &mut Node, path: &[&str], node: Node) -> Result<(), String> {
    let Some((last, parents)) = path.split_last() else {
        return Ok(());
    };
    let mut current = tree;
    for (depth, part) in parents.iter().enumerate() {
        current = descend(current, part, &node.origin).ok_or_else(|| path[..=depth].join("."))?;
    }
    let target = descend(current, last, &node.origin).ok_or_else(|| parents.join("."))?;
    *target = node;
    Ok(())
}

/// The child of a block, made when missing; a null becomes a block.
fn descend<'a>(node: &'a mut Node, key: &str, origin: &Origin) -> Option<&'a mut Node> {
    if node.value == Value::Null {
        *node = Node::map(origin.clone());
    }
    match &mut node.value {
        Value::Map(entries) => {
            let index = match entries.iter().position(|entry| entry.key == key) {
                Some(index) => index,
                None => {
                    entries.push(Entry {
                        key: key.to_owned(),
                        origin: origin.clone(),
                        node: Node { value: Value::Null, origin: origin.clone() },
                    });
                    entries.len() - 1
                }
            };
            entries.get_mut(index).map(|entry| &mut entry.node)
        }
        Value::List(items) => items.get_mut(key.parse::<usize>().ok()?),
        _ => None,
    }
}
