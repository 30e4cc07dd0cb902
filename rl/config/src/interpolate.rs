//! `${...}` in values: references to other keys and the four arithmetic resolvers of NeMo RL's recipes.
//!
//! | written | means |
//! |---|---|
//! | `${a.b}` | the value at `a.b` from the root |
//! | `${.x}`, `${..x}` | `x` beside this key, beside its parent |
//! | `${mul:a,b}` | product; also `add`, `div`, `max`; arguments are numbers or further `${...}` |
//!
//! A text that is one reference and nothing else takes the target's type; otherwise values are spliced into the text.
//! What references come to is bounded: ten lines that each name the line before ten times would be ten billion values.

use std::cell::{Cell, RefCell};

use crate::error::{ConfigError, Origin};
use crate::limits::{MAX_RESOLVED_BYTES, MAX_RESOLVED_NODES};
use crate::node::{Entry, Node, Source, Value, parse};

/// Marks a value that has to be given.
const MANDATORY: &str = "???";
/// Bound of references that lead to references, and of `${` inside `${`.
const MAX_DEPTH: usize = 32;

/// Resolves every reference of a tree.
pub(crate) fn interpolate(root: &Node) -> Result<Node, ConfigError> {
    Resolver::new(root).resolve(root, &mut Vec::new(), 0)
}

/// What `node` would come to at a dotted key of the tree `root`.
pub(crate) fn interpolate_one(root: &Node, node: &Node, key: &str) -> Result<Node, ConfigError> {
    Resolver::new(root).resolve(node, &mut key.split('.').map(str::to_owned).collect(), 0)
}

/// The keys that a configuration sets and that the value at a dotted key of the tree `root` comes from by references, the
/// nearest first, with their places.
pub(crate) fn sources(root: &Node, key: &str) -> Vec<(String, Origin)> {
    let mut path: Vec<String> = key.split('.').map(str::to_owned).collect();
    let resolver = Resolver::new(root);
    if let Some(node) = nearest(root, &mut path) {
        // What fails to resolve is reported where it is resolved.
        let _ = resolver.resolve(node, &mut path, 0);
    }
    resolver.sources.into_inner()
}

/// The node at `path`, or at the beginning of it that is written: the rest lies in a block that is referred to.
pub(crate) fn nearest<'a>(root: &'a Node, path: &mut Vec<String>) -> Option<&'a Node> {
    loop {
        match root.at(path.iter().map(String::as_str)) {
            Some(node) => return Some(node),
            None => path.pop()?,
        };
    }
}

struct Resolver<'a> {
    root: &'a Node,
    /// Single values that references led to and that the built-in defaults do not set.
    sources: RefCell<Vec<(String, Origin)>>,
    /// Values and bytes of text that were made so far.
    num_nodes: Cell<usize>,
    num_bytes: Cell<usize>,
}

/// The text being resolved and where it stands, for error messages.
struct Site<'a> {
    path: &'a [String],
    origin: &'a Origin,
    text: &'a str,
}

impl Site<'_> {
    fn fail(&self, reason: impl Into<String>) -> ConfigError {
        ConfigError::Interpolation {
            origin: self.origin.clone(),
            key: self.path.join("."),
            text: self.text.to_owned(),
            reason: reason.into(),
        }
    }
}

impl<'a> Resolver<'a> {
    fn new(root: &'a Node) -> Self {
        Resolver { root, sources: RefCell::default(), num_nodes: Cell::new(0), num_bytes: Cell::new(0) }
    }

    /// Counts a value and its text; an error once there are too many.
    fn charge(&self, num_bytes: usize, origin: &Origin) -> Result<(), ConfigError> {
        self.num_nodes.set(self.num_nodes.get().saturating_add(1));
        self.num_bytes.set(self.num_bytes.get().saturating_add(num_bytes));
        let too_much = |what, limit| Err(ConfigError::TooMuch { origin: origin.clone(), what, limit });
        match () {
            () if self.num_nodes.get() > MAX_RESOLVED_NODES => {
                too_much("references lead to more values", MAX_RESOLVED_NODES)
            }
            () if self.num_bytes.get() > MAX_RESOLVED_BYTES => {
                too_much("references lead to more bytes of text", MAX_RESOLVED_BYTES)
            }
            () => Ok(()),
        }
    }

    fn resolve(&self, node: &Node, path: &mut Vec<String>, depth: usize) -> Result<Node, ConfigError> {
        let text_bytes = if let Value::Text(text) = &node.value { text.len() } else { 0 };
        self.charge(text_bytes, &node.origin)?;
        let mut child = |key: String, node: &Node| -> Result<Node, ConfigError> {
            path.push(key);
            let resolved = self.resolve(node, path, depth);
            path.pop();
            resolved
        };
        let value = match &node.value {
            Value::Map(entries) => {
                let mut resolved = Vec::with_capacity(entries.len());
                for entry in entries {
                    resolved.push(Entry {
                        key: entry.key.clone(),
                        origin: entry.origin.clone(),
                        node: child(entry.key.clone(), &entry.node)?,
                    });
                }
                Value::Map(resolved)
            }
            Value::List(items) => {
                let mut resolved = Vec::with_capacity(items.len());
                for (index, item) in items.iter().enumerate() {
                    resolved.push(child(index.to_string(), item)?);
                }
                Value::List(resolved)
            }
            Value::Text(text) if text == MANDATORY => {
                return Err(ConfigError::Missing { origin: node.origin.clone(), key: path.join(".") });
            }
            Value::Text(text) if text.contains("${") => {
                self.text(text, &Site { path, origin: &node.origin, text }, depth)?
            }
            scalar => scalar.clone(),
        };
        Ok(Node { value, origin: node.origin.clone() })
    }

    /// A text with at least one `${`.
    fn text(&self, text: &str, site: &Site<'_>, depth: usize) -> Result<Value, ConfigError> {
        if depth > MAX_DEPTH {
            return Err(site.fail("references lead back to themselves or are nested too deeply"));
        }
        let mut spliced = String::new();
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            let (before, expression) = rest.split_at(start);
            let end = closing_brace(expression).ok_or_else(|| site.fail("a `${` is not closed"))?;
            let inner = &expression[2..end];
            let value = self.expression(inner, site, depth + 1)?;
            rest = &expression[end + 1..];
            if before.is_empty() && spliced.is_empty() && rest.is_empty() {
                return Ok(value);
            }
            spliced.push_str(before);
            match value {
                Value::Map(_) | Value::List(_) => {
                    return Err(
                        site.fail(format!("`${{{inner}}}` is a block or a list, which cannot stand inside text"))
                    );
                }
                scalar => spliced.push_str(&scalar.to_string()),
            }
            self.charge(spliced.len(), site.origin)?;
        }
        spliced.push_str(rest);
        Ok(Value::Text(spliced))
    }

    /// What stands between `${` and `}`.
    fn expression(&self, inner: &str, site: &Site<'_>, depth: usize) -> Result<Value, ConfigError> {
        match split_top_level(inner, ':').split_first() {
            Some((name, [_, ..])) => {
                let arguments = &inner[name.len() + 1..];
                self.arithmetic(name.trim(), arguments, site, depth)
            }
            _ => self.reference(inner, site, depth),
        }
    }

    fn reference(&self, inner: &str, site: &Site<'_>, depth: usize) -> Result<Value, ConfigError> {
        let inner = match inner.contains("${") {
            true => self.text(inner, site, depth)?.to_string(),
            false => inner.to_owned(),
        };
        let inner = inner.trim();
        let name = inner.trim_start_matches('.');
        let num_dots = inner.len() - name.len();
        if name.is_empty() {
            return Err(site.fail("a reference needs a key, for example `${policy.precision}`"));
        }
        let mut target: Vec<String> = Vec::new();
        if num_dots > 0 {
            let kept = site.path.len().checked_sub(num_dots);
            let kept = kept.ok_or_else(|| site.fail(format!("`{inner}` leads above the root")))?;
            target.extend_from_slice(&site.path[..kept]);
        }
        target.extend(name.split('.').map(str::to_owned));
        let node = self
            .root
            .at(target.iter().map(String::as_str))
            .ok_or_else(|| site.fail(format!("there is no key `{}`", target.join("."))))?;
        if site.path.starts_with(&target) {
            return Err(site.fail("it refers to itself"));
        }
        if depth > MAX_DEPTH {
            return Err(site.fail("references lead back to themselves or are nested too deeply"));
        }
        if node.origin != Origin::Default && !matches!(node.value, Value::Map(_)) {
            self.sources.borrow_mut().push((target.join("."), node.origin.clone()));
        }
        Ok(self.resolve(node, &mut target, depth + 1)?.value)
    }

    fn arithmetic(&self, name: &str, arguments: &str, site: &Site<'_>, depth: usize) -> Result<Value, ConfigError> {
        let mut numbers = Vec::new();
        for argument in split_top_level(arguments, ',') {
            let argument = argument.trim();
            let value = match argument.contains("${") {
                true => self.text(argument, site, depth)?,
                false => parse(argument, &Source::Default).map(|node| node.value).unwrap_or(Value::Null),
            };
            match value {
                Value::Int(_) | Value::Float(_) => numbers.push(value),
                other => {
                    let kind = if matches!(other, Value::Text(_)) { "the text " } else { "" };
                    return Err(site.fail(format!("`{argument}` is {kind}`{other}`, expected a number")));
                }
            }
        }
        let [a, b] = numbers.as_slice() else {
            return Err(site.fail(format!("`{name}` takes 2 numbers, found {}", numbers.len())));
        };
        let result = match name {
            "mul" => binary(a, b, i64::checked_mul, |a, b| a * b),
            "add" => binary(a, b, i64::checked_add, |a, b| a + b),
            "max" => binary(a, b, |a, b| Some(a.max(b)), f64::max),
            // A quotient without remainder stays whole, so that it can be a count.
            "div" => {
                binary(a, b, |a, b| a.checked_rem(b).filter(|rest| *rest == 0).and(a.checked_div(b)), |a, b| a / b)
            }
            _ => {
                return Err(site.fail(format!("unknown function `{name}`, expected mul, add, div or max")));
            }
        };
        match result {
            Value::Float(value) if !value.is_finite() => Err(site.fail(format!("`{name}` gives {value}"))),
            value => Ok(value),
        }
    }
}

/// Whole numbers stay whole where the exact operation is defined, otherwise the operation is done in f64.
fn binary(a: &Value, b: &Value, exact: fn(i64, i64) -> Option<i64>, float: fn(f64, f64) -> f64) -> Value {
    if let (Value::Int(a), Value::Int(b)) = (a, b)
        && let Some(value) = exact(*a, *b)
    {
        return Value::Int(value);
    }
    let as_float = |value: &Value| match value {
        Value::Int(value) => *value as f64,
        Value::Float(value) => *value,
        _ => f64::NAN,
    };
    Value::Float(float(as_float(a), as_float(b)))
}

/// Byte index of the `}` that closes the `${` at the start of `text`.
fn closing_brace(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(index);
                }
            }
            _ => {}
        }
    }
    None
}

/// Splits at separators that are not inside `${...}`.
fn split_top_level(text: &str, separator: char) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0usize, 0usize);
    for (index, character) in text.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ if character == separator && depth == 0 => {
                parts.push(&text[start..index]);
                start = index + character.len_utf8();
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}
