//! The keyword arguments of one call.

use std::sync::Arc;

use crate::python_compat::{Exception, Value};

/// Arguments in the order the model wrote them; their names have been checked.
pub(crate) struct Arguments(pub(crate) Vec<(Arc<str>, Value)>);

static NONE: Value = Value::None;

impl Arguments {
    /// The argument as given; `None` if it is absent.
    pub(crate) fn given(&self, name: &str) -> Option<&Value> {
        self.0.iter().find_map(|(key, value)| (&**key == name).then_some(value))
    }

    /// The argument, Python's `None` if it is absent.
    pub(crate) fn get(&self, name: &str) -> &Value {
        self.given(name).unwrap_or(&NONE)
    }

    /// The argument unless it is absent, null, empty, zero or false: the tools' test of "provided".
    pub(crate) fn provided(&self, name: &str) -> Option<&Value> {
        self.given(name).filter(|value| value.is_truthy())
    }
}

/// Python's `value.lower()`.
pub(crate) fn lower(value: &Value) -> Result<Value, Exception> {
    match value {
        Value::Str(text) => Ok(text.to_lowercase().into()),
        other => Err(Exception::no_attribute(other, "lower")),
    }
}

/// Python's `value in [..]` for a list of strings.
pub(crate) fn is_one_of(value: &Value, choices: &[&str]) -> bool {
    value.as_str().is_some_and(|text| choices.contains(&text))
}
