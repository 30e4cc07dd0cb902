//! Three operators that the library has other rules for than Python.
//!
//! `~` and `%` write Python's texts. `+` copies lists where the library keeps them as a sum of sums, which, doubled often
//! enough, has more items than can be counted before anybody pays for them.

use minijinja::value::{Tuple, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

use super::charge;
use crate::text::python::{PythonText, printf, write_text};

/// Bytes that an item of a list is paid for with.
const ITEM_BYTES: usize = 32;

/// `left ~ right`
pub fn concatenate(state: &State<'_, '_>, left: &Value, right: &Value) -> Result<String, Error> {
    let charge = charge(state);
    let mut text = PythonText::new(&charge);
    write_text(&mut text, left)?;
    write_text(&mut text, right)?;
    Ok(text.finish())
}

/// `left + right`: texts, lists, tuples or numbers.
pub fn add(state: &State<'_, '_>, left: &Value, right: &Value) -> Result<Value, Error> {
    if let (Some(first), Some(second)) = (left.as_str(), right.as_str()) {
        charge(state)(first.len() + second.len())?;
        return Ok(Value::from([first, second].concat()));
    }
    let is_list = |value: &Value| matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable);
    if is_list(left) && is_list(right) && left.is_tuple() == right.is_tuple() {
        let mut items = Vec::new();
        for item in left.try_iter()?.chain(right.try_iter()?) {
            charge(state)(ITEM_BYTES)?;
            items.push(item);
        }
        return Ok(if left.is_tuple() { Value::from(Tuple::from(items)) } else { Value::from(items) });
    }
    match (Number::of(left), Number::of(right)) {
        (Some(Number::Integer(first)), Some(Number::Integer(second))) => {
            first.checked_add(second).map(integer).ok_or_else(|| refuse("+", left, right, "the sum is too large"))
        }
        (Some(first), Some(second)) => Ok(Value::from(first.float() + second.float())),
        _ => Err(refuse("+", left, right, "these do not add up")),
    }
}

/// `left % right`: formatting for strings, the remainder with the divisor's sign for numbers.
pub fn remainder(state: &State<'_, '_>, left: &Value, right: &Value) -> Result<Value, Error> {
    if let Some(format) = left.as_str() {
        return printf(format, right, &charge(state)).map(Value::from);
    }
    let by_zero = || refuse("%", left, right, "division by zero");
    match (Number::of(left), Number::of(right)) {
        // Rust's remainder has the dividend's sign.
        (Some(Number::Integer(dividend)), Some(Number::Integer(divisor))) => match dividend.checked_rem(divisor) {
            Some(rest) if rest != 0 && (rest < 0) != (divisor < 0) => Ok(integer(rest + divisor)),
            Some(rest) => Ok(integer(rest)),
            None => Err(by_zero()),
        },
        (Some(dividend), Some(divisor)) => {
            let (dividend, divisor) = (dividend.float(), divisor.float());
            let rest = dividend % divisor;
            match rest {
                _ if divisor == 0.0 => Err(by_zero()),
                _ if rest == 0.0 => Ok(Value::from(0.0_f64.copysign(divisor))),
                _ if (rest < 0.0) != (divisor < 0.0) => Ok(Value::from(rest + divisor)),
                _ => Ok(Value::from(rest)),
            }
        }
        _ => Err(refuse("%", left, right, "these are no two numbers")),
    }
}

#[derive(Clone, Copy)]
enum Number {
    Integer(i128),
    Float(f64),
}

impl Number {
    /// Booleans are 0 and 1.
    fn of(value: &Value) -> Option<Self> {
        match value.kind() {
            ValueKind::Bool => Some(Self::Integer(i128::from(value.is_true()))),
            ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok().map(Self::Integer),
            ValueKind::Number => f64::try_from(value.clone()).ok().map(Self::Float),
            _ => None,
        }
    }

    fn float(self) -> f64 {
        match self {
            Self::Integer(integer) => integer as f64,
            Self::Float(float) => float,
        }
    }
}

/// The library compares and indexes by its narrowest form.
fn integer(value: i128) -> Value {
    i64::try_from(value).map_or_else(|_| Value::from(value), Value::from)
}

fn refuse(operator: &str, left: &Value, right: &Value, problem: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("{} {operator} {}: {problem}", left.kind(), right.kind()))
}
