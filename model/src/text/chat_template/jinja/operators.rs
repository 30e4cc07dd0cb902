//! Operators that the library has other rules for than Python.
//!
//! `~` and `%` write Python's texts. Values of different kinds have no order. `+` copies lists where the library keeps them as a sum of sums, which, doubled often
//! enough, has more items than can be counted before anybody pays for them.

use std::cmp::Ordering;

use minijinja::value::{Tuple, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

use super::charge;
use crate::text::python::{Charge, PythonText, printf, write_text};

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

/// `-value`
pub fn negate(value: &Value) -> Result<Value, Error> {
    let problem = |problem: &str| Error::new(ErrorKind::InvalidOperation, format!("-{}: {problem}", value.kind()));
    match Number::of(value) {
        Some(Number::Integer(number)) => {
            number.checked_neg().map(integer).ok_or_else(|| problem("the number is too large"))
        }
        Some(Number::Float(number)) => Ok(Value::from(-number)),
        None => Err(problem("this is no number")),
    }
}

/// `left < right`
pub fn less(state: &State<'_, '_>, left: &Value, right: &Value) -> Result<bool, Error> {
    Ok(compare(left, right, &charge(state))?.is_some_and(Ordering::is_lt))
}

/// `left <= right`
pub fn less_or_equal(state: &State<'_, '_>, left: &Value, right: &Value) -> Result<bool, Error> {
    Ok(compare(left, right, &charge(state))?.is_some_and(Ordering::is_le))
}

/// `left > right`
pub fn greater(state: &State<'_, '_>, left: &Value, right: &Value) -> Result<bool, Error> {
    Ok(compare(left, right, &charge(state))?.is_some_and(Ordering::is_gt))
}

/// `left >= right`
pub fn greater_or_equal(state: &State<'_, '_>, left: &Value, right: &Value) -> Result<bool, Error> {
    Ok(compare(left, right, &charge(state))?.is_some_and(Ordering::is_ge))
}

/// The order of two values, none if one is no number; only values of one kind have an order. What is compared is paid for:
/// lists may hold one list many times.
pub fn compare(left: &Value, right: &Value, charge: Charge<'_>) -> Result<Option<Ordering>, Error> {
    if let (Some(first), Some(second)) = (left.as_str(), right.as_str()) {
        charge(first.len().min(second.len()))?;
        return Ok(Some(first.cmp(second)));
    }
    match (Number::of(left), Number::of(right)) {
        (Some(Number::Integer(first)), Some(Number::Integer(second))) => return Ok(Some(first.cmp(&second))),
        (Some(first), Some(second)) => return Ok(first.float().partial_cmp(&second.float())),
        _ => {}
    }
    if !is_list(left) || !is_list(right) || left.is_tuple() != right.is_tuple() {
        return Err(refuse("<", left, right, "these have no order"));
    }
    for (first, second) in left.try_iter()?.zip(right.try_iter()?) {
        charge(ITEM_BYTES)?;
        // Values without an order may still be equal.
        if !is_list(&first) && first == second {
            continue;
        }
        match compare(&first, &second, charge)? {
            Some(Ordering::Equal) => {}
            order => return Ok(order),
        }
    }
    Ok(Some(left.len().cmp(&right.len())))
}

fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}

/// `value[start:stop:step]`; what cannot be sliced gives an undefined value.
pub fn slice(state: &State<'_, '_>, value: &Value, start: &Value, stop: &Value, step: &Value) -> Result<Value, Error> {
    if value.is_undefined() {
        return Err(Error::new(ErrorKind::UndefinedError, "an undefined value cannot be sliced"));
    }
    let place = |given: &Value| match Number::of(given) {
        _ if given.is_none() => Some(None),
        Some(Number::Integer(place)) => Some(Some(place)),
        _ => None,
    };
    let (Some(start), Some(stop), Some(step)) = (place(start), place(stop), place(step)) else {
        return Ok(Value::UNDEFINED);
    };
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(Error::new(ErrorKind::InvalidOperation, "a slice's step cannot be 0"));
    }
    if let Some(text) = value.as_str() {
        charge(state)(text.len())?;
        let characters: Vec<char> = text.chars().collect();
        return Ok(Value::from(sliced(&characters, start, stop, step).into_iter().collect::<String>()));
    }
    if !is_list(value) {
        return Ok(Value::UNDEFINED);
    }
    let mut items = Vec::new();
    for item in value.try_iter()? {
        charge(state)(ITEM_BYTES)?;
        items.push(item);
    }
    let items = sliced(&items, start, stop, step);
    Ok(if value.is_tuple() { Value::from(Tuple::from(items)) } else { Value::from(items) })
}

fn sliced<T: Clone>(items: &[T], start: Option<i128>, stop: Option<i128>, step: i128) -> Vec<T> {
    let length = items.len() as i128;
    // Backwards, a slice begins at the last item and ends in front of the first.
    let (first, last) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let bound = |place: Option<i128>, default: i128| match place {
        Some(place) if place < 0 => place.saturating_add(length).clamp(first, last),
        Some(place) => place.clamp(first, last),
        None => default,
    };
    let (mut place, stop) =
        if step > 0 { (bound(start, first), bound(stop, last)) } else { (bound(start, last), bound(stop, first)) };
    let mut taken = Vec::new();
    while if step > 0 { place < stop } else { place > stop } {
        taken.extend(items.get(place as usize).cloned());
        place = place.saturating_add(step);
    }
    taken
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
