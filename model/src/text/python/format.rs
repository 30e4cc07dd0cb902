//! What `%` formatting and `str.format` share: sign, digits, grouping, padding.

use minijinja::Error;
use minijinja::value::{Value, ValueKind};

use super::float::{convert, float_repr, special};
use super::text::{number_text, str_repr, text_of};
use super::{Charge, refused};

/// Most digits after the point; more are an error in place of a text of that size.
const MAX_PRECISION: usize = 1000;

/// How one value is written.
#[derive(Default)]
pub(super) struct Spec {
    pub fill: Option<char>,
    /// `<`, `>`, `^` or `=`; `None` leaves it to the value's kind.
    pub align: Option<char>,
    /// `+` or a blank in front of numbers that are not negative.
    pub sign: Option<char>,
    pub alternate: bool,
    pub zero: bool,
    pub width: usize,
    /// `,` or `_` between groups of digits.
    pub grouping: Option<char>,
    pub precision: Option<usize>,
    /// The conversion's letter; `None` leaves it to the value's kind.
    pub kind: Option<char>,
}

/// A text, cut to the precision and padded.
pub(super) fn format_text(text: &str, spec: &Spec, charge: Charge<'_>) -> Result<String, Error> {
    let text = match spec.precision.and_then(|precision| text.char_indices().nth(precision)) {
        Some((end, _)) => &text[..end],
        None => text,
    };
    let align = spec.align.unwrap_or('<');
    let fill = spec.fill.unwrap_or(if spec.zero { '0' } else { ' ' });
    pad("", text, align, fill, spec.width, charge)
}

/// A number by the conversion `d b o x X c e E f F g G %`, or its own text if the spec names none.
pub(super) fn format_number(value: &Value, spec: &Spec, charge: Charge<'_>) -> Result<String, Error> {
    let integer = integer_of(value);
    let kind = spec.kind.unwrap_or(if integer.is_some() { 'd' } else { ' ' });
    let (negative, prefix, digits) = match (kind, integer) {
        ('d' | 'n' | 'b' | 'o' | 'x' | 'X', Some(integer)) => integer_digits(integer, kind, spec),
        ('c', Some(code)) => {
            let character = u32::try_from(code).ok().and_then(char::from_u32);
            let character = character.ok_or_else(|| refused(format!("{code} is no character")))?;
            return format_text(&character.to_string(), &Spec { precision: None, ..spec.clone_padding() }, charge);
        }
        ('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%' | ' ' | 'n', _) => float_digits(value, kind, spec)?,
        _ => return Err(refused(format!("conversion '{kind}' does not fit {value}"))),
    };
    let digits = match spec.grouping {
        Some(separator) => grouped(&digits, separator, if matches!(kind, 'b' | 'o' | 'x' | 'X') { 4 } else { 3 }),
        None => digits,
    };
    let sign = if negative { "-".to_owned() } else { spec.sign.map(String::from).unwrap_or_default() };
    let (align, fill) = match (spec.align, spec.zero) {
        (Some(align), zero) => (align, spec.fill.unwrap_or(if zero { '0' } else { ' ' })),
        (None, true) => ('=', '0'),
        (None, false) => ('>', ' '),
    };
    pad(&(sign + prefix), &digits, align, fill, spec.width, charge)
}

impl Spec {
    /// Whether nothing but the conversion is asked for.
    pub fn is_plain(&self) -> bool {
        self.fill.is_none()
            && self.align.is_none()
            && self.sign.is_none()
            && self.precision.is_none()
            && self.grouping.is_none()
            && self.width == 0
            && !self.alternate
            && !self.zero
    }

    fn clone_padding(&self) -> Self {
        Self { fill: self.fill, align: self.align, zero: self.zero, width: self.width, ..Self::default() }
    }
}

/// The value as a whole number, if it is one; booleans are 0 and 1.
pub(super) fn integer_of(value: &Value) -> Option<i128> {
    match value.kind() {
        ValueKind::Bool => Some(i128::from(value.is_true())),
        ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok(),
        _ => None,
    }
}

fn integer_digits(integer: i128, kind: char, spec: &Spec) -> (bool, &'static str, String) {
    let magnitude = integer.unsigned_abs();
    let (prefix, digits) = match kind {
        'b' => ("0b", format!("{magnitude:b}")),
        'o' => ("0o", format!("{magnitude:o}")),
        'x' => ("0x", format!("{magnitude:x}")),
        'X' => ("0X", format!("{magnitude:X}")),
        _ => ("", magnitude.to_string()),
    };
    let least = spec.precision.unwrap_or(0).min(MAX_PRECISION);
    (integer < 0, if spec.alternate { prefix } else { "" }, format!("{digits:0>least$}"))
}

fn float_digits(value: &Value, kind: char, spec: &Spec) -> Result<(bool, &'static str, String), Error> {
    let float = match (value.kind(), f64::try_from(value.clone())) {
        (ValueKind::Bool, _) => f64::from(u8::from(value.is_true())),
        (_, Ok(float)) => float,
        _ => return Err(refused(format!("{} is no number", text_of(value, &|_| Ok(()))?))),
    };
    let precision = spec.precision.unwrap_or(6);
    if precision > MAX_PRECISION {
        return Err(refused(format!("a precision of {precision} digits; at most {MAX_PRECISION} are written")));
    }
    let negative = float.is_sign_negative() && !float.is_nan();
    let magnitude = float.abs();
    if !magnitude.is_finite() {
        let text = special(magnitude).to_owned() + if kind == '%' { "%" } else { "" };
        return Ok((negative, "", if kind.is_ascii_uppercase() { text.to_uppercase() } else { text }));
    }
    let text = match kind {
        '%' => convert(magnitude * 100.0, 'f', precision, spec.alternate) + "%",
        ' ' => match spec.precision {
            None => float_repr(magnitude),
            Some(precision) => short(magnitude, precision.max(1)),
        },
        'n' => convert(magnitude, 'g', precision, spec.alternate),
        _ => convert(magnitude, kind.to_ascii_lowercase(), precision, spec.alternate),
    };
    Ok((negative, "", if kind.is_ascii_uppercase() { text.to_uppercase() } else { text }))
}

/// `format(value, ".N")`: like `g`, but a number without exponent keeps a digit after the point.
fn short(value: f64, precision: usize) -> String {
    let text = convert(value, 'g', precision, false);
    if text.contains(['.', 'e']) {
        return text;
    }
    // A whole number that takes all the digits is written with an exponent instead.
    match text.len() < precision || value == 0.0 {
        true => text + ".0",
        false => match convert(value, 'e', precision - 1, false).split_once('e') {
            Some((digits, exponent)) => {
                let digits =
                    if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits };
                format!("{digits}e{exponent}")
            }
            None => text,
        },
    }
}

/// Separators between groups of digits left of the point.
fn grouped(digits: &str, separator: char, size: usize) -> String {
    let end = digits.find(|character: char| !character.is_ascii_hexdigit()).unwrap_or(digits.len());
    let (whole, rest) = digits.split_at(end);
    let mut out = String::with_capacity(digits.len() * 2);
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(size) {
            out.push(separator);
        }
        out.push(digit);
    }
    out + rest
}

/// Fills up to `width` characters; `=` puts the filling behind the sign.
fn pad(sign: &str, text: &str, align: char, fill: char, width: usize, charge: Charge<'_>) -> Result<String, Error> {
    let missing = width.saturating_sub(sign.chars().count() + text.chars().count());
    charge(missing.saturating_mul(fill.len_utf8()))?;
    let filling = |count: usize| fill.to_string().repeat(count);
    Ok(match align {
        '<' => format!("{sign}{text}{}", filling(missing)),
        '^' => format!("{}{sign}{text}{}", filling(missing / 2), filling(missing - missing / 2)),
        '=' => format!("{sign}{}{text}", filling(missing)),
        _ => format!("{}{sign}{text}", filling(missing)),
    })
}

/// `str(value)`, `repr(value)` (`r`) or `ascii(value)` (`a`).
pub(super) fn converted(value: &Value, conversion: char, charge: Charge<'_>) -> Result<String, Error> {
    let repr = |value: &Value| match value.as_str() {
        Some(text) => Ok(str_repr(text)),
        None if value.kind() == ValueKind::Number => Ok(number_text(value)),
        None => text_of(value, charge),
    };
    match conversion {
        'r' => repr(value),
        'a' => {
            let ascii = |character: char| match character.is_ascii() {
                true => character.to_string(),
                false => super::text::escape(character),
            };
            Ok(repr(value)?.chars().map(ascii).collect())
        }
        _ => text_of(value, charge),
    }
}
