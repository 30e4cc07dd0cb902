//! A configuration before it has types: a tree in which every value remembers where it was written.
//!
//! Inheritance, overrides and interpolation work on this tree, so that an error found much later, when the tree is
//! decoded into `RunConfig`, can still name the file and line of the value.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, MessageFormatter, Spanned, UserMessageFormatter};

use crate::error::{ConfigError, Origin};
use crate::limits::{MAX_FILE_BYTES, MAX_FILE_NODES, MAX_NESTING};

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A value and where it is written; two nodes are equal when their values are.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub value: Value,
    pub origin: Origin,
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub key: String,
    /// Where the key is written.
    pub origin: Origin,
    pub node: Node,
}

impl PartialEq for Node {
    fn eq(&self, other: &Node) -> bool {
        self.value == other.value
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.key == other.key && self.node == other.node
    }
}

impl Node {
    pub fn map(origin: Origin) -> Node {
        Node { value: Value::Map(Vec::new()), origin }
    }

    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    pub fn child(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node),
            Value::List(items) => items.get(key.parse::<usize>().ok()?),
            _ => None,
        }
    }

    pub fn child_mut(&mut self, key: &str) -> Option<&mut Node> {
        match &mut self.value {
            Value::Map(entries) => entries.iter_mut().find(|entry| entry.key == key).map(|entry| &mut entry.node),
            Value::List(items) => items.get_mut(key.parse::<usize>().ok()?),
            _ => None,
        }
    }

    /// The node at a path of keys; the empty path is the node itself.
    pub fn at<'a>(&self, mut path: impl Iterator<Item = &'a str>) -> Option<&Node> {
        path.try_fold(self, |node, key| node.child(key))
    }

    /// Removes a key of a map and returns it.
    pub fn remove(&mut self, key: &str) -> Option<Entry> {
        match &mut self.value {
            Value::Map(entries) => {
                let index = entries.iter().position(|entry| entry.key == key)?;
                Some(entries.remove(index))
            }
            _ => None,
        }
    }

    /// Lays `upper` over this node: maps merge key by key, anything else is replaced.
    /// A map with `_override_: true` replaces instead of merging.
    pub fn merge(&mut self, mut upper: Node) {
        let replaces = upper.remove("_override_").is_some_and(|entry| entry.node.value == Value::Bool(true));
        match (&mut self.value, upper.value) {
            (Value::Map(lower), Value::Map(entries)) if !replaces => {
                self.origin = upper.origin;
                for entry in entries {
                    match lower.iter_mut().find(|existing| existing.key == entry.key) {
                        Some(existing) => {
                            existing.origin = entry.origin;
                            existing.node.merge(entry.node);
                        }
                        None => lower.push(entry),
                    }
                }
            }
            (_, value) => *self = Node { value, origin: upper.origin },
        }
    }
}

/// A short rendering for messages.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => f.write_str("null"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::Int(value) => write!(f, "{value}"),
            Value::Float(value) => write!(f, "{value:?}"),
            Value::Text(value) => f.write_str(value),
            Value::List(items) => {
                f.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    write!(f, "{}{}", if index > 0 { ", " } else { "" }, item.value)?;
                }
                f.write_str("]")
            }
            Value::Map(entries) => {
                f.write_str("{")?;
                for (index, entry) in entries.iter().enumerate() {
                    write!(f, "{}{}: {}", if index > 0 { ", " } else { "" }, entry.key, entry.node.value)?;
                }
                f.write_str("}")
            }
        }
    }
}

/// Where a piece of YAML comes from.
pub(crate) enum Source<'a> {
    File(&'a Path),
    Override(&'a str),
    Default,
}

impl Source<'_> {
    fn origin(&self, location: Option<Location>) -> Origin {
        match self {
            // The parser counts both in u32.
            Source::File(path) => Origin::File {
                path: Arc::from(path.display().to_string()),
                line: location.map_or(1, |at| at.line() as u32),
                column: location.map_or(1, |at| at.column() as u32),
            },
            Source::Override(text) => Origin::Override(Arc::from(*text)),
            Source::Default => Origin::Default,
        }
    }
}

/// Parses one YAML document.
pub(crate) fn parse(text: &str, source: &Source<'_>) -> Result<Node, ConfigError> {
    if text.len() as u64 > MAX_FILE_BYTES {
        let limit = MAX_FILE_BYTES as usize;
        return Err(ConfigError::TooMuch { origin: source.origin(None), what: "it has more bytes", limit });
    }
    let options = serde_saphyr::options! {
        // Otherwise words like `no` and `off` in free text would turn into booleans.
        strict_booleans: true,
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_nodes: MAX_FILE_NODES,
            max_depth: MAX_NESTING,
        },
        // Aliases of aliases double what a few lines stand for.
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_FILE_NODES,
            max_replay_stack_depth: MAX_NESTING,
        },
    };
    let raw: Spanned<Raw> = serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| ConfigError::Syntax { origin: source.origin(error.location()), message: reason(&error) })?;
    Ok(raw.into_node(source))
}

/// What the parser found, without the place, and in a writer's words where its own speak to a programmer.
fn reason(error: &serde_saphyr::Error) -> String {
    match error.without_snippet() {
        serde_saphyr::Error::DuplicateMappingKey { key, .. } => {
            let key = key.as_ref().map(|key| format!("`{key}`"));
            format!("the key {} is written twice in one block; keep one of them", key.unwrap_or_default())
        }
        serde_saphyr::Error::NonFiniteFloat { value, .. } => {
            format!("`{value}` is non-finite, expected a finite number (or text in quotes)")
        }
        serde_saphyr::Error::RecursiveReferencesRequireWeakTypes { .. } => "an alias leads back to itself".to_owned(),
        serde_saphyr::Error::Budget { .. } => format!(
            "it has more values than {MAX_FILE_NODES}, blocks nested deeper than {MAX_NESTING}, or the like; is the file \
             what it should be?"
        ),
        other => UserMessageFormatter.format_message(other).into_owned(),
    }
}

/// A YAML value with the positions the parser reports.
enum Raw {
    Scalar(Value),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

trait IntoNode {
    fn into_node(self, source: &Source<'_>) -> Node;
}

impl IntoNode for Spanned<Raw> {
    fn into_node(self, source: &Source<'_>) -> Node {
        let value = match self.value {
            Raw::Scalar(value) => value,
            Raw::List(items) => Value::List(items.into_iter().map(|item| item.into_node(source)).collect()),
            Raw::Map(pairs) => Value::Map(
                pairs
                    .into_iter()
                    .map(|(key, value)| Entry {
                        origin: source.origin(Some(key.referenced)),
                        key: key.value,
                        node: value.into_node(source),
                    })
                    .collect(),
            ),
        };
        Node { value, origin: source.origin(Some(self.referenced)) }
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyValue;
        impl<'de> Visitor<'de> for AnyValue {
            type Value = Raw;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a YAML value")
            }
            fn visit_unit<E>(self) -> Result<Raw, E> {
                Ok(Raw::Scalar(Value::Null))
            }
            fn visit_none<E>(self) -> Result<Raw, E> {
                Ok(Raw::Scalar(Value::Null))
            }
            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
                Raw::deserialize(deserializer)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
                Ok(Raw::Scalar(Value::Bool(value)))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
                Ok(Raw::Scalar(Value::Int(value)))
            }
            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Raw, E> {
                i64::try_from(value)
                    .map(|value| Raw::Scalar(Value::Int(value)))
                    .map_err(|_| E::custom(format!("{value} is beyond the largest integer, {}", i64::MAX)))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
                Ok(Raw::Scalar(Value::Float(value)))
            }
            fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
                Ok(Raw::Scalar(Value::Text(value.to_owned())))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Raw::List(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
                let mut pairs: Vec<(Spanned<String>, Spanned<Raw>)> = Vec::new();
                while let Some((key, value)) = map.next_entry::<Spanned<String>, _>()? {
                    if pairs.iter().any(|(existing, _)| existing.value == key.value) {
                        return Err(A::Error::custom(format!("the key `{}` is written twice in one block", key.value)));
                    }
                    pairs.push((key, value));
                }
                Ok(Raw::Map(pairs))
            }
        }
        deserializer.deserialize_any(AnyValue)
    }
}
