//! The corner of Python that the reference's behaviour rests on. The simulated office was first
//! written in Python with pandas; which calls fail, what the error says and which rows match follows
//! from the rules of those two, so they are kept here, away from the office itself.

pub(crate) mod array;
pub(crate) mod float_text;
pub(crate) mod integer;
pub mod json;
pub mod json_text;
pub(crate) mod keyword;
pub(crate) mod pattern;
pub(crate) mod sort;
pub(crate) mod text;
pub(crate) mod timestamp;
mod timestamp_date;
mod timestamp_iso;
mod timestamp_tokens;
mod timestamp_words;
pub mod validation;
pub(crate) mod value;

pub use value::Value;

/// A Python exception that ends a tool call; `text` is what `str(exception)` would give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exception {
    pub kind: ExceptionKind,
    pub text: String,
}

/// The exception classes that the tools tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExceptionKind {
    /// `ValueError` and its subclasses, which some tools turn into a message of their own.
    Value,
    /// Everything else.
    Other,
}

impl Exception {
    pub(crate) fn value(text: impl Into<String>) -> Self {
        Self { kind: ExceptionKind::Value, text: text.into() }
    }

    pub(crate) fn other(text: impl Into<String>) -> Self {
        Self { kind: ExceptionKind::Other, text: text.into() }
    }

    pub(crate) fn no_attribute(value: &Value, attribute: &str) -> Self {
        Self::other(format!("'{}' object has no attribute '{attribute}'", value.type_name()))
    }

    pub(crate) fn unhashable(value: &Value) -> Self {
        Self::other(format!("unhashable type: '{}'", value.type_name()))
    }

    pub(crate) fn unordered(operator: &str, left: &str, right: &str) -> Self {
        Self::other(format!("'{operator}' not supported between instances of '{left}' and '{right}'"))
    }
}
