//! Arguments of Python's methods, by place or by name.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};

/// What a method was called with.
pub struct Arguments<'a> {
    method: &'a str,
    positional: &'a [Value],
    named: Option<Value>,
}

impl<'a> Arguments<'a> {
    /// Arguments of which at most `most` are by place.
    pub fn new(method: &'a str, positional: &'a [Value], named: Option<Value>, most: usize) -> Result<Self, Error> {
        if positional.len() > most {
            return Err(Error::new(
                ErrorKind::TooManyArguments,
                format!("{method} takes at most {most} arguments, there are {}", positional.len()),
            ));
        }
        Ok(Self { method, positional, named })
    }

    /// Values by place, and the dict of those with a name, which the library hands over as the last value.
    pub fn split(values: &'a [Value]) -> (&'a [Value], Option<Value>) {
        match values.split_last() {
            Some((last, before)) if last.is_kwargs() => (before, Some(last.clone())),
            _ => (values, None),
        }
    }

    /// The argument, unless it is absent.
    pub fn given(&self, index: usize, name: &str) -> Option<Value> {
        let named = || self.named.as_ref()?.get_attr(name).ok().filter(|value| !value.is_undefined());
        self.positional.get(index).cloned().or_else(named)
    }

    /// The argument, unless it is absent or None.
    pub fn get(&self, index: usize, name: &str) -> Option<Value> {
        self.given(index, name).filter(|value| !value.is_none() && !value.is_undefined())
    }

    /// Whether the argument is there and true.
    pub fn flag(&self, index: usize, name: &str) -> bool {
        self.get(index, name).is_some_and(|value| value.is_true())
    }

    /// The argument, which there must be.
    pub fn required(&self, index: usize, name: &str) -> Result<Value, Error> {
        self.get(index, name).ok_or_else(|| {
            Error::new(ErrorKind::MissingArgument, format!("{} needs an argument '{name}'", self.method))
        })
    }

    /// A text that there must be.
    pub fn text(&self, index: usize, name: &str) -> Result<String, Error> {
        let value = self.required(index, name)?;
        self.as_text(&value)
    }

    /// A text that may be absent.
    pub fn optional_text(&self, index: usize, name: &str) -> Result<Option<String>, Error> {
        self.get(index, name).map(|value| self.as_text(&value)).transpose()
    }

    /// A whole number that may be absent.
    pub fn integer(&self, index: usize, name: &str) -> Result<Option<i64>, Error> {
        let refuse = |value: Value| self.refuse(&format!("a whole number for '{name}', found a {}", value.kind()));
        match self.get(index, name) {
            None => Ok(None),
            Some(value) if value.kind() == ValueKind::Bool => Ok(Some(i64::from(value.is_true()))),
            Some(value) if value.is_integer() => i64::try_from(value.clone()).map(Some).map_err(|_| refuse(value)),
            Some(value) => Err(refuse(value)),
        }
    }

    /// The error of an argument that is of the wrong kind.
    pub fn refuse(&self, expected: &str) -> Error {
        Error::new(ErrorKind::InvalidOperation, format!("{} needs {expected}", self.method))
    }

    fn as_text(&self, value: &Value) -> Result<String, Error> {
        let text = value.as_str().map(str::to_owned);
        text.ok_or_else(|| self.refuse(&format!("a string, found a {}", value.kind())))
    }
}
