//! JSON as Python's `json` reads it: NaN and infinities are accepted, and errors have Python's texts.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::Value;

/// Deeper nesting than this is refused rather than risking the stack.
const MAX_DEPTH: usize = 256;

/// The keys of an object with more of them than this are found through an index.
const MAX_SCANNED_KEYS: usize = 16;

/// Where and why a text is not JSON; shown as the text of Python's `JSONDecodeError`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    pub message: String,
    line: usize,
    column: usize,
    /// Characters before the fault.
    pub position: usize,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: line {} column {} (char {})", self.message, self.line, self.column, self.position)
    }
}

/// Why a text is not usable as JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JsonError {
    /// Not JSON.
    Syntax(SyntaxError),
    /// JSON whose value cannot travel: an unpaired surrogate, an integer beyond 64 bits, or nesting
    /// beyond `MAX_DEPTH`.
    Unrepresentable(String),
}

/// Python's `json.loads`.
pub fn parse(text: &str) -> Result<Value, JsonError> {
    let mut parser = Parser { text, at: 0 };
    if text.starts_with('\u{feff}') {
        return Err(parser.error("Unexpected UTF-8 BOM (decode using utf-8-sig)", 0));
    }
    parser.skip_space();
    let value = parser.value(0)?;
    parser.skip_space();
    if parser.at < text.len() {
        return Err(parser.error("Extra data", parser.at));
    }
    Ok(value)
}

/// The entries of an object while it is read.
#[derive(Default)]
struct Entries {
    list: Vec<(Arc<str>, Value)>,
    /// Places in `list`, once it is too long to search.
    index: HashMap<Arc<str>, usize>,
}

impl Entries {
    /// A repeated key keeps its first place and takes the last value.
    fn insert(&mut self, key: Arc<str>, value: Value) {
        let known = if self.index.is_empty() {
            self.list.iter().position(|(name, _)| *name == key)
        } else {
            self.index.get(&key).copied()
        };
        if let Some(place) = known {
            self.list[place].1 = value;
            return;
        }
        if !self.index.is_empty() {
            self.index.insert(Arc::clone(&key), self.list.len());
        }
        self.list.push((key, value));
        if self.index.is_empty() && self.list.len() > MAX_SCANNED_KEYS {
            self.index = self.list.iter().enumerate().map(|(place, (key, _))| (Arc::clone(key), place)).collect();
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    /// Byte offset of the next character.
    at: usize,
}

impl<'a> Parser<'a> {
    fn error(&self, message: &str, at: usize) -> JsonError {
        let before = &self.text[..at];
        let line = before.matches('\n').count() + 1;
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let column = before[line_start..].chars().count() + 1;
        let position = before.chars().count();
        JsonError::Syntax(SyntaxError { message: message.to_owned(), line, column, position })
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, JsonError> {
        if depth > MAX_DEPTH {
            return Err(JsonError::Unrepresentable(format!("nested deeper than {MAX_DEPTH} levels")));
        }
        match self.peek() {
            Some(b'"') => Ok(Value::Str(self.string()?)),
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => self.word(),
        }
    }

    fn word(&mut self) -> Result<Value, JsonError> {
        for (word, value) in [
            ("null", Value::None),
            ("true", Value::Bool(true)),
            ("false", Value::Bool(false)),
            ("NaN", Value::Float(f64::NAN)),
            ("Infinity", Value::Float(f64::INFINITY)),
            ("-Infinity", Value::Float(f64::NEG_INFINITY)),
        ] {
            if self.rest().starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(self.error("Expecting value", self.at))
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        self.at - start
    }

    fn number(&mut self) -> Result<Value, JsonError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else if self.digits() == 0 {
            self.at = start;
            return self.word();
        }
        let mut is_float = false;
        let whole_end = self.at;
        if self.peek() == Some(b'.') {
            self.at += 1;
            if self.digits() > 0 {
                is_float = true;
            } else {
                self.at = whole_end;
            }
        }
        let mantissa_end = self.at;
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if self.digits() > 0 {
                is_float = true;
            } else {
                self.at = mantissa_end;
            }
        }
        let text = &self.text[start..self.at];
        let too_large = || JsonError::Unrepresentable(format!("integer beyond 64 bits ({text})"));
        if is_float {
            let number: f64 = text.parse().map_err(|_| self.error("Expecting value", start))?;
            return Ok(Value::Float(number));
        }
        let number: i128 = text.parse().map_err(|_| too_large())?;
        if (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(&number) {
            Ok(Value::Int(number))
        } else {
            Err(too_large())
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value, JsonError> {
        self.at += 1;
        self.skip_space();
        let mut items = Vec::new();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Value::List(items.into()));
        }
        loop {
            items.push(self.value(depth + 1)?);
            if self.end_of_item(b']', "array")? {
                return Ok(Value::List(items.into()));
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, JsonError> {
        self.at += 1;
        self.skip_space();
        let mut entries = Entries::default();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Value::Dict(entries.list.into()));
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.error("Expecting property name enclosed in double quotes", self.at));
            }
            let key = self.string()?;
            self.skip_space();
            if self.peek() != Some(b':') {
                return Err(self.error("Expecting ':' delimiter", self.at));
            }
            self.at += 1;
            self.skip_space();
            let value = self.value(depth + 1)?;
            entries.insert(key, value);
            if self.end_of_item(b'}', "object")? {
                return Ok(Value::Dict(entries.list.into()));
            }
        }
    }

    /// After an item: true at the closing bracket, false after a comma.
    fn end_of_item(&mut self, close: u8, container: &str) -> Result<bool, JsonError> {
        self.skip_space();
        if self.peek() == Some(close) {
            self.at += 1;
            return Ok(true);
        }
        if self.peek() != Some(b',') {
            return Err(self.error("Expecting ',' delimiter", self.at));
        }
        let comma = self.at;
        self.at += 1;
        self.skip_space();
        if self.peek() == Some(close) {
            let message = format!("Illegal trailing comma before end of {container}");
            return Err(self.error(&message, comma));
        }
        Ok(false)
    }

    fn string(&mut self) -> Result<Arc<str>, JsonError> {
        let start = self.at;
        self.at += 1;
        let mut out = String::new();
        loop {
            let Some(c) = self.rest().chars().next() else {
                return Err(self.error("Unterminated string starting at", start));
            };
            let at = self.at;
            self.at += c.len_utf8();
            match c {
                '"' => return Ok(out.into()),
                '\\' => out.push(self.escape(start)?),
                c if u32::from(c) < 0x20 => {
                    return Err(self.error("Invalid control character at", at));
                }
                c => out.push(c),
            }
        }
    }

    /// The character of an escape whose backslash has been read.
    fn escape(&mut self, string_start: usize) -> Result<char, JsonError> {
        let backslash = self.at - 1;
        let Some(c) = self.rest().chars().next() else {
            return Err(self.error("Unterminated string starting at", string_start));
        };
        self.at += c.len_utf8();
        Ok(match c {
            '"' | '\\' | '/' => c,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => return self.unicode_escape(),
            _ => return Err(self.error("Invalid \\escape", backslash)),
        })
    }

    fn four_hex_digits(&mut self) -> Option<u32> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4)?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let code = u32::from_str_radix(self.text.get(self.at..self.at + 4)?, 16).ok()?;
        self.at += 4;
        Some(code)
    }

    fn unicode_escape(&mut self) -> Result<char, JsonError> {
        let start = self.at;
        let Some(code) = self.four_hex_digits() else {
            return Err(self.error("Invalid \\uXXXX escape", start));
        };
        if let Some(c) = char::from_u32(code) {
            return Ok(c);
        }
        if code < 0xdc00 && self.rest().starts_with("\\u") {
            self.at += 2;
            if let Some(low @ 0xdc00..=0xdfff) = self.four_hex_digits()
                && let Some(c) = char::from_u32(0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00))
            {
                return Ok(c);
            }
        }
        Err(JsonError::Unrepresentable(format!("unpaired surrogate \\u{code:04x}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn syntax_error(text: &str) -> String {
        match parse(text) {
            Err(JsonError::Syntax(error)) => error.to_string(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn errors_have_pythons_texts() {
        for (text, expected) in [
            ("", "Expecting value: line 1 column 1 (char 0)"),
            ("{'a': 1}", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
            ("{\"a\" 1}", "Expecting ':' delimiter: line 1 column 6 (char 5)"),
            ("{\"a\": 1\n \"b\"}", "Expecting ',' delimiter: line 2 column 2 (char 9)"),
            ("{\"a\": 1,}", "Illegal trailing comma before end of object: line 1 column 8 (char 7)"),
            ("{\"a\": \"x", "Unterminated string starting at: line 1 column 7 (char 6)"),
            ("{} x", "Extra data: line 1 column 4 (char 3)"),
            ("\"\\q\"", "Invalid \\escape: line 1 column 2 (char 1)"),
            ("nul", "Expecting value: line 1 column 1 (char 0)"),
            ("-", "Expecting value: line 1 column 1 (char 0)"),
        ] {
            assert_eq!(syntax_error(text), expected, "{text}");
        }
    }

    #[test]
    fn values_that_cannot_travel_are_told_apart() {
        for text in ["\"\\ud800\"", "\"\\udc00\"", "\"\\ud800\\u0041\"", "99999999999999999999"] {
            assert!(matches!(parse(text), Err(JsonError::Unrepresentable(_))));
        }
        let deep = "[".repeat(2000);
        assert!(matches!(parse(&deep), Err(JsonError::Unrepresentable(_))));
        assert_eq!(parse("\"\\ud83d\\ude80\"").map(|v| v.text()), Ok("🚀".into()));
        assert_eq!(parse("18446744073709551615").map(|v| v.text()), Ok("18446744073709551615".into()));
    }

    #[test]
    fn repeated_keys_take_the_last_value() {
        let value = parse("{\"a\": 1, \"b\": NaN, \"a\": 2.0}");
        assert_eq!(value.map(|v| v.repr()), Ok("{'a': 2.0, 'b': nan}".into()));
        // The same in objects with many keys.
        let entry = |key: usize, value: usize| format!("\"{key}\": {value}");
        let written: Vec<String> = (0..100).map(|key| entry(key, 0)).chain((0..100).map(|key| entry(key, 1))).collect();
        let expected: Vec<String> = (0..100).map(|key| format!("'{key}': 1")).collect();
        let value = parse(&format!("{{{}}}", written.join(", ")));
        assert_eq!(value.map(|v| v.repr()), Ok(format!("{{{}}}", expected.join(", "))));
    }
}
