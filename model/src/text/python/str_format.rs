//! `format.format(*values, **named)`.

use minijinja::Error;
use minijinja::value::{Value, ValueKind};

use super::format::{Spec, converted, format_number, format_text, integer_of};
use super::text::PythonText;
use super::{Charge, refused};

/// Formats `positional` and `named` values into the fields of `format`.
///
/// # Errors
/// As Python: missing values, unbalanced braces, specifications that do not fit their value.
pub fn str_format(
    format: &str,
    positional: &[Value],
    named: Option<&Value>,
    charge: Charge<'_>,
) -> Result<String, Error> {
    let mut fields = Fields { positional, named, next: 0, is_numbered: false, charge };
    fields.format(format, 2)
}

struct Fields<'a> {
    positional: &'a [Value],
    named: Option<&'a Value>,
    /// The next value of fields without number.
    next: usize,
    /// Whether a field had a number. Both kinds do not go together.
    is_numbered: bool,
    charge: Charge<'a>,
}

impl Fields<'_> {
    fn format(&mut self, format: &str, depth: usize) -> Result<String, Error> {
        let mut out = PythonText::new(self.charge);
        let mut rest = format;
        while let Some(at) = rest.find(['{', '}']) {
            out.push(&rest[..at])?;
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                out.push(brace)?;
                rest = after;
                continue;
            }
            if brace == "}" || depth == 0 {
                return Err(refused("single brace in the format"));
            }
            let end = closing(rest).ok_or_else(|| refused("the format has a '{' without '}'"))?;
            let text = self.field(&rest[..end], depth)?;
            out.push(&text)?;
            rest = &rest[end + 1..];
        }
        out.push(rest)?;
        Ok(out.finish())
    }

    fn field(&mut self, field: &str, depth: usize) -> Result<String, Error> {
        let (target, spec) = field.split_once(':').unwrap_or((field, ""));
        let (target, conversion) = match target.split_once('!') {
            Some((target, conversion)) if matches!(conversion, "s" | "r" | "a") => (target, conversion.chars().next()),
            Some(_) => return Err(refused("the conversion of a field is '!s', '!r' or '!a'")),
            None => (target, None),
        };
        let value = self.value(target)?;
        let spec = parse_spec(&self.format(spec, depth - 1)?)?;
        if let Some(conversion) = conversion {
            return format_text(&converted(&value, conversion, self.charge)?, &spec, self.charge);
        }
        let is_plain = spec.kind.is_none() && spec.is_plain();
        match value.kind() {
            ValueKind::Number | ValueKind::Bool
                if spec.precision.is_some()
                    && integer_of(&value).is_some()
                    && matches!(spec.kind, None | Some('d')) =>
            {
                Err(refused("a whole number is written without precision"))
            }
            ValueKind::Number => format_number(&value, &spec, self.charge),
            ValueKind::Bool if !is_plain => {
                format_number(&value, &Spec { kind: spec.kind.or(Some('d')), ..spec }, self.charge)
            }
            ValueKind::String if matches!(spec.kind, None | Some('s')) => {
                format_text(value.as_str().unwrap_or_default(), &spec, self.charge)
            }
            _ if is_plain => converted(&value, 's', self.charge),
            kind => Err(refused(format!("a format specification does not fit a {kind}"))),
        }
    }

    /// `name`, `0`, nothing; then `.attribute` and `[key]`.
    fn value(&mut self, target: &str) -> Result<Value, Error> {
        let end = target.find(['.', '[']).unwrap_or(target.len());
        let (first, mut rest) = target.split_at(end);
        let mut value = match first.parse::<usize>() {
            _ if first.is_empty() && !self.is_numbered => {
                self.next += 1;
                self.at(self.next - 1)?
            }
            Ok(index) if self.next == 0 => {
                self.is_numbered = true;
                self.at(index)?
            }
            Ok(_) => return Err(refused("the format mixes fields with and without numbers")),
            Err(_) if first.is_empty() => return Err(refused("the format mixes fields with and without numbers")),
            Err(_) => {
                let found = self.named.map(|named| named.get_item(&Value::from(first))).transpose()?;
                let found = found.filter(|value| !value.is_undefined());
                found.ok_or_else(|| refused(format!("no value is named '{first}'")))?
            }
        };
        while !rest.is_empty() {
            (value, rest) = match rest.strip_prefix('[') {
                Some(inner) => {
                    let (key, after) = inner.split_once(']').ok_or_else(|| refused("a field has a '[' without ']'"))?;
                    let key = key.parse::<usize>().map_or_else(|_| Value::from(key), Value::from);
                    (value.get_item(&key)?, after)
                }
                None => {
                    let inner = rest.strip_prefix('.').ok_or_else(|| refused("a field's name is malformed"))?;
                    let end = inner.find(['.', '[']).unwrap_or(inner.len());
                    (value.get_attr(&inner[..end])?, &inner[end..])
                }
            };
        }
        Ok(value)
    }

    fn at(&self, index: usize) -> Result<Value, Error> {
        self.positional.get(index).cloned().ok_or_else(|| refused(format!("the format has no value {index}")))
    }
}

/// Where the brace that opened before `text` closes.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, character) in text.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// `[[fill]align][sign][#][0][width][grouping][.precision][type]`
fn parse_spec(text: &str) -> Result<Spec, Error> {
    let mut spec = Spec::default();
    let mut rest: Vec<char> = text.chars().collect();
    rest.reverse();
    let is_align = |character: Option<&char>| character.is_some_and(|character| "<>^=".contains(*character));
    if rest.len() > 1 && is_align(rest.get(rest.len() - 2)) {
        spec.fill = rest.pop();
        spec.align = rest.pop();
    } else if is_align(rest.last()) {
        spec.align = rest.pop();
    }
    spec.sign = rest.pop_if(|character| "+- ".contains(*character)).filter(|sign| *sign != '-');
    spec.alternate = rest.pop_if(|character| *character == '#').is_some();
    spec.zero = rest.pop_if(|character| *character == '0').is_some();
    spec.width = number(&mut rest).unwrap_or(0);
    spec.grouping = rest.pop_if(|character| ",_".contains(*character));
    if rest.pop_if(|character| *character == '.').is_some() {
        spec.precision = Some(number(&mut rest).ok_or_else(|| refused("a format specification lacks its precision"))?);
    }
    spec.kind = rest.pop();
    if !rest.is_empty() || spec.kind.is_some_and(|kind| !"bcdeEfFgGnosxX%".contains(kind)) {
        return Err(refused(format!("'{text}' is no format specification")));
    }
    Ok(spec)
}

fn number(rest: &mut Vec<char>) -> Option<usize> {
    let mut number: Option<usize> = None;
    while let Some(digit) = rest.pop_if(|character| character.is_ascii_digit()) {
        let digit = digit as usize - '0' as usize;
        number = Some(number.unwrap_or(0).saturating_mul(10).saturating_add(digit));
    }
    number
}
