//! Python's `int(value)`, of any length, as far as new row ids and durations need it.

use super::text::{decimal_digit, is_space, string_repr};
use super::{Exception, Value};

/// A decimal integer of any length; `digits` has no leading zeros and is "0" for zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Integer {
    negative: bool,
    digits: String,
}

impl Integer {
    fn new(negative: bool, digits: &str) -> Self {
        let digits = digits.trim_start_matches('0');
        if digits.is_empty() {
            Self { negative: false, digits: "0".into() }
        } else {
            Self { negative, digits: digits.into() }
        }
    }

    /// Python's `int(value)`.
    pub(crate) fn from_value(value: &Value) -> Result<Self, Exception> {
        match value {
            Value::Str(text) => Self::from_text(text),
            Value::Bool(flag) => Ok(Self::from_number(i128::from(*flag))),
            Value::Int(number) => Ok(Self::from_number(*number)),
            Value::Float(number) if number.is_nan() => Err(Exception::value("cannot convert float NaN to integer")),
            Value::Float(number) if number.is_infinite() => {
                Err(Exception::other("cannot convert float infinity to integer"))
            }
            Value::Float(number) => {
                let text = format!("{:.0}", number.trunc());
                let digits = text.trim_start_matches('-');
                Ok(Self::new(text.starts_with('-'), digits))
            }
            other => Err(Exception::other(format!(
                "int() argument must be a string, a bytes-like object or a real number, not '{}'",
                other.type_name()
            ))),
        }
    }

    fn from_number(number: i128) -> Self {
        Self::new(number < 0, &number.unsigned_abs().to_string())
    }

    /// Python's `int(text)`.
    pub(crate) fn from_text(text: &str) -> Result<Self, Exception> {
        let invalid = || Exception::value(format!("invalid literal for int() with base 10: {}", string_repr(text)));
        let trimmed = text.trim_matches(is_space);
        let (negative, body) = match trimmed.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, trimmed.strip_prefix('+').unwrap_or(trimmed)),
        };
        let mut digits = String::with_capacity(body.len());
        // An underscore may only stand between two digits.
        let mut after_digit = false;
        for c in body.chars() {
            if c == '_' && after_digit {
                after_digit = false;
            } else {
                let digit = decimal_digit(c).ok_or_else(invalid)?;
                digits.push(char::from(b'0' + digit));
                after_digit = true;
            }
        }
        if after_digit { Ok(Self::new(negative, &digits)) } else { Err(invalid()) }
    }

    pub(crate) fn is_positive(&self) -> bool {
        !self.negative && self.digits != "0"
    }

    /// This integer plus one.
    pub(crate) fn successor(&self) -> Self {
        let mut digits: Vec<u8> = self.digits.bytes().collect();
        let (wrap, edge, step): (u8, u8, i8) = if self.negative { (b'9', b'0', -1) } else { (b'0', b'9', 1) };
        let mut carry = true;
        for digit in digits.iter_mut().rev() {
            if *digit == edge {
                *digit = wrap;
            } else {
                *digit = digit.wrapping_add_signed(step);
                carry = false;
                break;
            }
        }
        if carry {
            digits.insert(0, b'1');
        }
        let digits: String = digits.into_iter().map(char::from).collect();
        Self::new(self.negative, &digits)
    }
}

impl std::fmt::Display for Integer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.negative { "-" } else { "" };
        write!(f, "{sign}{}", self.digits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<String> {
        Integer::from_value(&text.into()).ok().map(|i| i.to_string())
    }

    #[test]
    fn accepts_what_python_accepts() {
        for (text, expected) in [
            (" 30 ", Some("30")),
            ("3_0", Some("30")),
            ("+7", Some("7")),
            ("-0", Some("0")),
            ("٣", Some("3")),
            ("00000499", Some("499")),
            ("3__0", None),
            ("_3", None),
            ("3_", None),
            ("30.5", None),
            ("", None),
            ("- 3", None),
        ] {
            assert_eq!(parse(text).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn successor_carries_and_crosses_zero() {
        for (text, expected) in [
            ("99999999", "100000000"),
            ("499", "500"),
            ("-1", "0"),
            ("-100", "-99"),
            ("-10", "-9"),
            ("340282366920938463463374607431768211455", "340282366920938463463374607431768211456"),
        ] {
            let value = Integer::from_value(&text.into());
            assert_eq!(value.map(|i| i.successor().to_string()), Ok(expected.to_owned()));
        }
    }
}
