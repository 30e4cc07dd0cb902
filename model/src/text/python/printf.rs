//! `format % values`.

use std::iter::Peekable;
use std::str::Chars;

use minijinja::Error;
use minijinja::value::{Value, ValueKind};

use super::format::{Spec, converted, format_number, format_text, integer_of};
use super::text::PythonText;
use super::{Charge, refused};

/// Formats `values`: a tuple gives one value for each conversion, a dict the named ones, anything else is the only value.
///
/// # Errors
/// As Python: too few or too many values, unknown conversions, values that do not fit theirs.
pub fn printf(format: &str, values: &Value, charge: Charge<'_>) -> Result<String, Error> {
    let mut positional = match values.is_tuple() {
        true => values.try_iter()?.collect::<Vec<_>>(),
        false => vec![values.clone()],
    }
    .into_iter();
    let mut next = || positional.next().ok_or_else(|| refused("not enough values for the format"));
    let is_map = values.kind() == ValueKind::Map;
    let mut out = PythonText::new(charge);
    let mut rest = format.chars().peekable();
    while let Some(character) = rest.next() {
        if character != '%' {
            out.push_char(character)?;
            continue;
        }
        let named = match rest.next_if_eq(&'(') {
            Some(_) if !is_map => return Err(refused("the format names a value, but there is no dict of values")),
            Some(_) => {
                let name = name(&mut rest)?;
                let value = values.get_item(&Value::from(name.as_str()))?;
                if value.is_undefined() {
                    return Err(refused(format!("the format names '{name}', which the dict of values lacks")));
                }
                Some(value)
            }
            None => None,
        };
        let mut spec = Spec::default();
        while let Some(flag) = rest.next_if(|character| "-+ #0".contains(*character)) {
            match flag {
                '-' => spec.align = Some('<'),
                '+' => spec.sign = Some('+'),
                ' ' => spec.sign = spec.sign.or(Some(' ')),
                '#' => spec.alternate = true,
                _ => spec.zero = true,
            }
        }
        match size(&mut rest, &mut next)? {
            Some(width) if width < 0 => (spec.align, spec.width) = (Some('<'), width.unsigned_abs() as usize),
            width => spec.width = width.unwrap_or(0) as usize,
        }
        if rest.next_if_eq(&'.').is_some() {
            spec.precision = Some(size(&mut rest, &mut next)?.unwrap_or(0).max(0) as usize);
        }
        while rest.next_if(|character| "hlL".contains(*character)).is_some() {}
        let conversion = rest.next().ok_or_else(|| refused("the format ends within a conversion"))?;
        if conversion == '%' {
            if !spec.is_plain() {
                return Err(refused("%% takes no width or flags"));
            }
            out.push("%")?;
            continue;
        }
        let value = match named {
            Some(value) => value,
            None => next()?,
        };
        out.push(&convert(&value, conversion, spec, charge)?)?;
    }
    if !is_map && positional.next().is_some() {
        return Err(refused("not all values were used by the format"));
    }
    Ok(out.finish())
}

fn convert(value: &Value, conversion: char, mut spec: Spec, charge: Charge<'_>) -> Result<String, Error> {
    match conversion {
        's' | 'r' | 'a' => {
            spec.zero = false;
            spec.align = spec.align.or(Some('>'));
            format_text(&converted(value, conversion, charge)?, &spec, charge)
        }
        'c' => {
            spec.zero = false;
            spec.align = spec.align.or(Some('>'));
            match value.as_str() {
                Some(text) if text.chars().count() == 1 => format_text(text, &Spec { precision: None, ..spec }, charge),
                Some(_) => Err(refused("%c needs one character")),
                None => format_number(value, &Spec { kind: Some('c'), precision: None, ..spec }, charge),
            }
        }
        'd' | 'i' | 'u' => {
            // A fraction is cut off.
            let whole = match (integer_of(value), f64::try_from(value.clone())) {
                (Some(integer), _) => Value::from(integer),
                (None, Ok(float)) if float.is_finite() && value.kind() == ValueKind::Number => match float.abs() < 1e38
                {
                    true => Value::from(float.trunc() as i128),
                    // Beyond the whole numbers there are, all floats are whole.
                    false => {
                        spec.precision = Some(0);
                        return format_number(value, &zero_filled(spec, 'f'), charge);
                    }
                },
                _ => return Err(refused(format!("%{conversion} needs a number"))),
            };
            format_number(&whole, &zero_filled(spec, 'd'), charge)
        }
        'o' | 'x' | 'X' if integer_of(value).is_some() => format_number(value, &zero_filled(spec, conversion), charge),
        'o' | 'x' | 'X' => Err(refused(format!("%{conversion} needs a whole number"))),
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' if matches!(value.kind(), ValueKind::Number | ValueKind::Bool) => {
            format_number(value, &zero_filled(spec, conversion), charge)
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => Err(refused(format!("%{conversion} needs a number"))),
        other => Err(refused(format!("unknown conversion '%{other}'"))),
    }
}

/// The flag `-` wins over `0`.
fn zero_filled(mut spec: Spec, kind: char) -> Spec {
    spec.zero &= spec.align.is_none();
    Spec { kind: Some(kind), ..spec }
}

fn name(rest: &mut Peekable<Chars<'_>>) -> Result<String, Error> {
    let mut name = String::new();
    let mut depth = 1;
    for character in rest {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Ok(name);
        }
        name.push(character);
    }
    Err(refused("the format ends within a name"))
}

/// A number written in the format, or taken from the values for `*`.
fn size(rest: &mut Peekable<Chars<'_>>, next: &mut impl FnMut() -> Result<Value, Error>) -> Result<Option<i64>, Error> {
    if rest.next_if_eq(&'*').is_some() {
        let size = integer_of(&next()?).and_then(|size| i64::try_from(size).ok());
        return size.map(Some).ok_or_else(|| refused("* needs a whole number"));
    }
    let mut size: Option<i64> = None;
    while let Some(digit) = rest.peek().and_then(|character| character.to_digit(10)) {
        rest.next();
        size = Some(size.unwrap_or(0).saturating_mul(10).saturating_add(i64::from(digit)));
    }
    Ok(size)
}
