//! A Python value as JSON can express it: what arguments and table cells are made of.
//!
//! A missing table cell is `Float(NaN)` (as pandas reads it from CSV) or `None` (an argument left
//! out); both are written as JSON `null` and count as equal when tables are compared.
//!
//! Whatever may be large is shared: a copy of a value costs the same whatever is inside, so a call that sets many cells
//! takes no more memory than its arguments do.

use std::cmp::Ordering;
use std::sync::Arc;

use serde_json::{Map, Number};

use super::float_text::float_repr;
use super::text::string_repr;

#[derive(Clone, Debug)]
pub enum Value {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Arc<str>),
    List(Arc<Vec<Value>>),
    Dict(Arc<Vec<(Arc<str>, Value)>>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Str(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Str(text.into())
    }
}

impl Value {
    pub(crate) const MISSING: Self = Self::Float(f64::NAN);

    pub fn is_null(&self) -> bool {
        match self {
            Self::None => true,
            Self::Float(number) => number.is_nan(),
            _ => false,
        }
    }

    /// Python's `bool(value)`.
    pub fn is_truthy(&self) -> bool {
        match self {
            Self::None => false,
            Self::Bool(flag) => *flag,
            Self::Int(number) => *number != 0,
            Self::Float(number) => *number != 0.0,
            Self::Str(text) => !text.is_empty(),
            Self::List(items) => !items.is_empty(),
            Self::Dict(entries) => !entries.is_empty(),
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(text) => Some(text),
            _ => None,
        }
    }

    /// The value as a number, if it is one; booleans are 0 and 1.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Self::Bool(flag) => Some(f64::from(u8::from(*flag))),
            Self::Int(number) => Some(*number as f64),
            Self::Float(number) => Some(*number),
            _ => None,
        }
    }

    /// The value where Python wants an index: an integer or a boolean.
    pub fn as_index(&self) -> Option<i128> {
        match self {
            Self::Bool(flag) => Some(i128::from(*flag)),
            Self::Int(number) => Some(*number),
            _ => None,
        }
    }

    /// Memory behind the value, as if it shared nothing with others.
    pub fn num_bytes(&self) -> usize {
        let inside = match self {
            Self::Str(text) => text.len(),
            Self::List(items) => items.iter().map(Self::num_bytes).sum(),
            Self::Dict(entries) => {
                entries.iter().map(|(key, value)| size_of::<Arc<str>>() + key.len() + value.num_bytes()).sum()
            }
            Self::None | Self::Bool(_) | Self::Int(_) | Self::Float(_) => 0,
        };
        size_of::<Self>() + inside
    }

    pub fn is_hashable(&self) -> bool {
        !matches!(self, Self::List(_) | Self::Dict(_))
    }

    pub fn type_name(&self) -> &'static str {
        match self {
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Str(_) => "str",
            Self::List(_) => "list",
            Self::Dict(_) => "dict",
        }
    }

    /// Python's `repr(value)`.
    pub fn repr(&self) -> String {
        match self {
            Self::None => "None".into(),
            Self::Bool(true) => "True".into(),
            Self::Bool(false) => "False".into(),
            Self::Int(number) => number.to_string(),
            Self::Float(number) => float_repr(*number),
            Self::Str(text) => string_repr(text),
            Self::List(items) => {
                let items: Vec<_> = items.iter().map(Self::repr).collect();
                format!("[{}]", items.join(", "))
            }
            Self::Dict(entries) => {
                let entries: Vec<_> =
                    entries.iter().map(|(key, value)| format!("{}: {}", string_repr(key), value.repr())).collect();
                format!("{{{}}}", entries.join(", "))
            }
        }
    }

    /// Python's `str(value)`.
    pub fn text(&self) -> String {
        match self {
            Self::Str(text) => text.to_string(),
            other => other.repr(),
        }
    }

    /// Python's `==`: numbers compare by value across their types, NaN equals nothing.
    pub fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::None, Self::None) => true,
            (Self::Str(a), Self::Str(b)) => a == b,
            (Self::List(a), Self::List(b)) => a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.equals(b)),
            (Self::Dict(a), Self::Dict(b)) => {
                a.len() == b.len()
                    && a.iter()
                        .all(|(key, value)| b.iter().any(|(other_key, other)| key == other_key && value.equals(other)))
            }
            (a, b) => a.compare_numbers(b) == Some(Ordering::Equal),
        }
    }

    /// Python's ordering of two strings or two numbers; `None` where Python raises.
    pub fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            // UTF-8 bytes sort like code points.
            (Self::Str(a), Self::Str(b)) => Some(a.as_bytes().cmp(b.as_bytes())),
            (a, b) => a.compare_numbers(b),
        }
    }

    /// The order of two numbers, exact whatever their types; `None` if one is no number or NaN.
    fn compare_numbers(&self, other: &Self) -> Option<Ordering> {
        match (self.as_index(), other.as_index()) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            (Some(a), None) => compare_to_float(a, other.as_number()?),
            (None, Some(b)) => compare_to_float(b, self.as_number()?).map(Ordering::reverse),
            (None, None) => self.as_number()?.partial_cmp(&other.as_number()?),
        }
    }

    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match self {
            Self::None => Json::Null,
            Self::Bool(flag) => Json::Bool(*flag),
            Self::Int(number) => Number::from_i128(*number).map_or(Json::Null, Json::Number),
            // JSON has no NaN and no infinities.
            Self::Float(number) => Number::from_f64(*number).map_or(Json::Null, Json::Number),
            Self::Str(text) => Json::String(text.to_string()),
            Self::List(items) => Json::Array(items.iter().map(Self::to_json).collect()),
            Self::Dict(entries) => Json::Object(
                entries.iter().map(|(key, value)| (key.to_string(), value.to_json())).collect::<Map<_, _>>(),
            ),
        }
    }
}

/// The order of an integer and a float. As a float the integer might be another one.
fn compare_to_float(integer: i128, float: f64) -> Option<Ordering> {
    // Beyond its range the conversion gives the last integer, which is further out than those that a value holds.
    (!float.is_nan()).then(|| integer.cmp(&(float as i128)).then_with(|| 0.0_f64.total_cmp(&(float.fract() + 0.0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_equal_across_types_and_nan_equals_nothing() {
        assert!(Value::Bool(true).equals(&Value::Int(1)));
        assert!(Value::Int(5).equals(&Value::Float(5.0)));
        assert!(!Value::MISSING.equals(&Value::MISSING));
        assert!(!Value::Int(1).equals(&"1".into()));
        let large = 1_i128 << 53;
        assert!(!Value::Int(large + 1).equals(&Value::Float(large as f64)));
    }

    #[test]
    fn numbers_are_ordered_exactly_across_types() {
        let large = 1_i128 << 53;
        for (a, b, expected) in [
            (Value::Int(large), Value::Int(large + 1), Some(Ordering::Less)),
            (Value::Int(large + 1), Value::Float(large as f64), Some(Ordering::Greater)),
            (Value::Float(large as f64), Value::Int(large + 1), Some(Ordering::Less)),
            (Value::Int(1), Value::Float(1.5), Some(Ordering::Less)),
            (Value::Int(-1), Value::Float(-1.5), Some(Ordering::Greater)),
            (Value::Int(0), Value::Float(-0.0), Some(Ordering::Equal)),
            (Value::Bool(true), Value::Float(0.5), Some(Ordering::Greater)),
            (Value::Int(u64::MAX.into()), Value::Float(f64::INFINITY), Some(Ordering::Less)),
            (Value::Float(f64::NEG_INFINITY), Value::Int(i64::MIN.into()), Some(Ordering::Less)),
            (Value::Int(1), Value::MISSING, None),
            ("a".into(), "b".into(), Some(Ordering::Less)),
            ("1".into(), Value::Int(1), None),
        ] {
            assert_eq!(a.compare(&b), expected, "{a:?} {b:?}");
        }
    }

    #[test]
    fn values_are_weighed_with_all_they_hold() {
        let own = size_of::<Value>();
        assert_eq!(Value::from("12345").num_bytes(), own + 5);
        let list = Value::List(vec![Value::Int(1), Value::List(vec![Value::Int(2)].into())].into());
        assert_eq!(list.num_bytes(), 4 * own);
        assert!(Value::Dict(vec![("key".into(), Value::None)].into()).num_bytes() > 2 * own + 3);
    }

    #[test]
    fn repr_follows_python() {
        let value = Value::List(vec!["a".into(), Value::Int(1), Value::None, Value::Bool(true)].into());
        assert_eq!(value.repr(), "['a', 1, None, True]");
        let value = Value::Dict(vec![("it's".into(), Value::Float(1.0))].into());
        assert_eq!(value.repr(), "{\"it's\": 1.0}");
    }
}
