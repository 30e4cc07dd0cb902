//! Decoding of a resolved tree into typed structs, with the place and full key of every wrong value.

use std::fmt;

use serde::Deserialize;
use serde::de::{
    self, DeserializeSeed, Deserializer, Error as _, Expected, IntoDeserializer, MapAccess, SeqAccess, Unexpected,
    Visitor,
};
use serde::forward_to_deserialize_any;

use crate::error::{ConfigError, Origin, did_you_mean};
use crate::node::{Entry, Node, Value};

/// Decodes a whole tree.
pub(crate) fn decode<'a, T: Deserialize<'a>>(root: &'a Node) -> Result<T, ConfigError> {
    T::deserialize(NodeDeserializer(root)).map_err(|error| ConfigError::WrongValue {
        origin: error.origin.unwrap_or_else(|| root.origin.clone()),
        key: error.path.iter().rev().cloned().collect::<Vec<_>>().join("."),
        found: error.found,
        expected: error.expected,
        suggestion: error.suggestion,
    })
}

/// An error that learns its place while it travels up from the value.
#[derive(Debug)]
struct DecodeError {
    found: String,
    expected: String,
    suggestion: Option<Box<str>>,
    origin: Option<Origin>,
    /// Keys from the value up to the root.
    path: Vec<String>,
}

impl DecodeError {
    fn new(found: impl Into<String>, expected: impl Into<String>) -> Self {
        DecodeError { found: found.into(), expected: expected.into(), suggestion: None, origin: None, path: Vec::new() }
    }

    fn below(mut self, key: &str, origin: &Origin) -> Self {
        self.origin.get_or_insert_with(|| origin.clone());
        self.path.push(key.to_owned());
        self
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, expected {}", self.found, self.expected)
    }
}

impl std::error::Error for DecodeError {}

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        DecodeError::new("not usable", message.to_string())
    }
    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        DecodeError::new(unexpected.to_string(), expected.to_string())
    }
    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        DecodeError::new(unexpected.to_string(), expected.to_string())
    }
    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let mut error = DecodeError::new(format!("`{variant}`"), format!("one of `{}`", expected.join("`, `")));
        error.suggestion = did_you_mean(variant, expected.iter().copied());
        error
    }
    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let mut error = DecodeError::new(
            format!("a block with the unknown key `{field}`"),
            format!("only the keys `{}`", expected.join("`, `")),
        );
        error.suggestion = did_you_mean(field, expected.iter().copied());
        error
    }
    fn missing_field(field: &'static str) -> Self {
        DecodeError::new(format!("without `{field}`"), format!("a value for `{field}`"))
    }
}

struct NodeDeserializer<'a>(&'a Node);

impl NodeDeserializer<'_> {
    fn wrong(&self, expected: &str) -> DecodeError {
        let found = match &self.0.value {
            Value::Null => "null".to_owned(),
            Value::Map(_) => "a block of keys".to_owned(),
            Value::List(_) => "a list".to_owned(),
            Value::Text(text) => format!("the text `{text}`"),
            scalar => format!("`{scalar}`"),
        };
        let mut error = DecodeError::new(found, expected);
        error.origin = Some(self.0.origin.clone());
        error
    }

    /// A whole number; `1e6` counts, as it does in the recipes.
    fn integer(&self, expected: &str) -> Result<i64, DecodeError> {
        // Above 2^53 a float no longer names one integer.
        const LARGEST_EXACT: f64 = 9_007_199_254_740_992.0;
        match self.0.value {
            Value::Int(value) => Ok(value),
            Value::Float(value) if value.fract() == 0.0 && value.abs() <= LARGEST_EXACT => Ok(value as i64),
            _ => Err(self.wrong(expected)),
        }
    }
}

macro_rules! deserialize_signed {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            visitor.visit_i64(self.integer("a whole number")?)
        }
    )*};
}

macro_rules! deserialize_unsigned {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            const EXPECTED: &str = "a whole number of at least 0";
            let value = self.integer(EXPECTED)?;
            visitor.visit_u64(u64::try_from(value).map_err(|_| self.wrong(EXPECTED))?)
        }
    )*};
}

impl<'de> Deserializer<'de> for NodeDeserializer<'de> {
    type Error = DecodeError;

    deserialize_signed! { deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 }
    deserialize_unsigned! { deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.0.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Int(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(value) => visitor.visit_borrowed_str(value),
            Value::List(items) => visitor.visit_seq(Items { items, index: 0 }),
            Value::Map(entries) => visitor.visit_map(Entries { entries: entries.iter(), current: None }),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.0.value {
            Value::Bool(value) => visitor.visit_bool(value),
            _ => Err(self.wrong("true or false")),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.0.value {
            Value::Int(value) => visitor.visit_f64(value as f64),
            Value::Float(value) => visitor.visit_f64(value),
            _ => Err(self.wrong("a number")),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.0.value {
            Value::Text(value) => visitor.visit_borrowed_str(value),
            Value::Bool(_) | Value::Int(_) | Value::Float(_) => Err(self.wrong("text; put it in quotes")),
            _ => Err(self.wrong("text")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.0.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.0.value {
            Value::List(items) => visitor.visit_seq(Items { items, index: 0 }),
            _ => Err(self.wrong("a list")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.0.value {
            Value::Map(entries) => visitor.visit_map(Entries { entries: entries.iter(), current: None }),
            _ => Err(self.wrong("a block of keys")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match &self.0.value {
            Value::Text(name) => visitor.visit_enum(name.as_str().into_deserializer()),
            _ => Err(self.wrong(&format!("one of `{}`", variants.join("`, `")))),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

struct Items<'a> {
    items: &'a [Node],
    index: usize,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, DecodeError> {
        let Some(item) = self.items.get(self.index) else {
            return Ok(None);
        };
        let index = self.index;
        self.index += 1;
        seed.deserialize(NodeDeserializer(item))
            .map(Some)
            .map_err(|error| error.below(&index.to_string(), &item.origin))
    }
}

struct Entries<'a> {
    entries: std::slice::Iter<'a, Entry>,
    current: Option<&'a Entry>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        self.current = self.entries.next();
        match self.current {
            Some(entry) => seed.deserialize(entry.key.as_str().into_deserializer()).map(Some),
            None => Ok(None),
        }
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, DecodeError> {
        let Some(entry) = self.current.take() else {
            return Err(DecodeError::custom("a key before its value"));
        };
        seed.deserialize(NodeDeserializer(&entry.node)).map_err(|error| error.below(&entry.key, &entry.node.origin))
    }
}
