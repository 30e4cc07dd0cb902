//! `str(value)` and `repr(value)`.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};

use super::float::float_repr;
use super::{Charge, refused};

/// Deepest nesting of lists and dicts that is written, so that no value can exhaust the stack.
const MAX_DEPTH: usize = 200;
/// Bytes between two payments.
const PORTION: usize = 1 << 12;

/// Text under construction; every byte is paid for, so that values that hold one list many times cannot grow without end.
pub struct PythonText<'a> {
    text: String,
    paid: usize,
    charge: Charge<'a>,
}

impl<'a> PythonText<'a> {
    /// Empty text, paid for through `charge`.
    pub fn new(charge: Charge<'a>) -> Self {
        Self { text: String::new(), paid: 0, charge }
    }

    /// Appends.
    ///
    /// # Errors
    /// What the payment says.
    pub fn push(&mut self, piece: &str) -> Result<(), Error> {
        if self.text.len() + piece.len() - self.paid > PORTION {
            (self.charge)(self.text.len() + piece.len() - self.paid)?;
            self.paid = self.text.len() + piece.len();
        }
        self.text.push_str(piece);
        Ok(())
    }

    /// Pays for looking at one value, which may write next to nothing.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn visit(&self) -> Result<(), Error> {
        (self.charge)(1)
    }

    /// Appends one character.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn push_char(&mut self, character: char) -> Result<(), Error> {
        self.push(character.encode_utf8(&mut [0; 4]))
    }

    /// The text.
    pub fn finish(self) -> String {
        self.text
    }
}

/// `str(value)`; an undefined value is the empty text, as in Jinja2.
///
/// # Errors
/// When the payment fails or the value is nested too deeply.
pub fn text_of(value: &Value, charge: Charge<'_>) -> Result<String, Error> {
    let mut text = PythonText::new(charge);
    write_text(&mut text, value)?;
    Ok(text.finish())
}

/// Appends `str(value)`; see [`text_of`].
///
/// # Errors
/// As [`text_of`].
pub fn write_text(out: &mut PythonText<'_>, value: &Value) -> Result<(), Error> {
    match (value.as_str(), value.kind()) {
        (Some(text), _) => out.push(text),
        (None, ValueKind::Undefined) => Ok(()),
        (None, _) => write_repr(out, value, 0),
    }
}

/// Appends `repr(value)`.
///
/// # Errors
/// As [`text_of`].
pub fn write_repr(out: &mut PythonText<'_>, value: &Value, depth: usize) -> Result<(), Error> {
    check_depth(depth)?;
    out.visit()?;
    if let Some(text) = value.as_str() {
        return out.push(&str_repr(text));
    }
    match value.kind() {
        ValueKind::Undefined => out.push("Undefined"),
        ValueKind::Number => out.push(&number_text(value)),
        ValueKind::Map => {
            out.push("{")?;
            for (index, key) in value.try_iter()?.enumerate() {
                if index > 0 {
                    out.push(", ")?;
                }
                write_repr(out, &key, depth + 1)?;
                out.push(": ")?;
                write_repr(out, &value.get_item(&key)?, depth + 1)?;
            }
            out.push("}")
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let (open, close) = if value.is_tuple() { ("(", ")") } else { ("[", "]") };
            out.push(open)?;
            let mut count = 0;
            for item in value.try_iter()? {
                if count > 0 {
                    out.push(", ")?;
                }
                write_repr(out, &item, depth + 1)?;
                count += 1;
            }
            if value.is_tuple() && count == 1 {
                out.push(",")?;
            }
            out.push(close)
        }
        ValueKind::Invalid => Err(Error::new(ErrorKind::InvalidOperation, value.to_string())),
        // None, True and False are written as Python does; of other objects there is nothing to see.
        ValueKind::None | ValueKind::Bool => out.push(&value.to_string()),
        _ => out.push("<object>"),
    }
}

pub(super) fn check_depth(depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH { Err(refused(format!("a value is nested more than {MAX_DEPTH} deep"))) } else { Ok(()) }
}

/// `str` of a number.
pub(super) fn number_text(number: &Value) -> String {
    match f64::try_from(number.clone()) {
        Ok(float) if !number.is_integer() => float_repr(float),
        _ => number.to_string(),
    }
}

/// `repr` of a string: single quotes unless only they occur in it, and escapes for what cannot be printed.
pub(super) fn str_repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for character in text.chars() {
        match character {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            _ if character == quote => out.extend(['\\', quote]),
            ' '..='~' => out.push(character),
            _ if is_printable(character) => out.push(character),
            _ => out.push_str(&escape(character)),
        }
    }
    out.push(quote);
    out
}

/// A character as `\xNN`, `\uNNNN` or `\UNNNNNNNN`.
pub(super) fn escape(character: char) -> String {
    match u32::from(character) {
        code @ ..=0xff => format!("\\x{code:02x}"),
        code @ ..=0xffff => format!("\\u{code:04x}"),
        code => format!("\\U{code:08x}"),
    }
}

/// `str.isprintable` of a character, by the tables of Rust's own `Debug`. Combining marks are printable in Python;
/// `Debug` escapes them in front, so the question is put with a letter before.
pub fn is_printable(character: char) -> bool {
    !format!("{:?}", String::from_iter(['a', character])).contains('\\')
}

/// `str.isspace` of a character.
pub fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}
