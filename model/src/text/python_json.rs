//! JSON text exactly as Python's `json.dumps(value, ensure_ascii=False)` writes it.
//!
//! Chat templates were written against that output and models were trained on it, so separators, number spelling
//! and escapes matter.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{Formatter, Serializer};

/// `value` on one line, with `", "` and `": "` between items, keys in their given order.
pub fn to_python_json(value: &Value) -> String {
    dump(value, None)
}

/// `value` with line breaks and `indent` spaces per level, as `json.dumps(value, indent=indent)`.
pub(super) fn to_python_json_indented(value: &Value, indent: usize) -> String {
    dump(value, Some(indent))
}

fn dump(value: &Value, indent: Option<usize>) -> String {
    let mut bytes = Vec::new();
    let formatter = PythonFormatter { indent, depth: 0, has_items: false };
    // Writing a JSON value into memory cannot fail.
    let written = value.serialize(&mut Serializer::with_formatter(&mut bytes, formatter));
    debug_assert!(written.is_ok());
    String::from_utf8(bytes).unwrap_or_default()
}

struct PythonFormatter {
    indent: Option<usize>,
    depth: usize,
    /// Whether the innermost list or object has an item, which decides where its closing bracket goes.
    has_items: bool,
}

impl PythonFormatter {
    fn open<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.has_items = false;
        writer.write_all(bracket)
    }

    fn close<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if self.has_items {
            self.new_line(writer)?;
        }
        self.has_items = true;
        writer.write_all(bracket)
    }

    fn separate<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if !first {
            writer.write_all(if self.indent.is_some() { b"," } else { b", " })?;
        }
        self.new_line(writer)
    }

    fn new_line<W: ?Sized + Write>(&self, writer: &mut W) -> io::Result<()> {
        match self.indent {
            Some(indent) => write!(writer, "\n{:width$}", "", width = indent * self.depth),
            None => Ok(()),
        }
    }
}

impl Formatter for PythonFormatter {
    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(python_float(value).as_bytes())
    }

    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.separate(writer, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.has_items = true;
        Ok(())
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.separate(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.has_items = true;
        Ok(())
    }
}

/// Python's `repr` of a float: shortest digits that read back, exponent form below 1e-4 and from 1e16 on.
fn python_float(value: f64) -> String {
    let magnitude = value.abs();
    if value != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let text = format!("{value:e}");
        return match text.split_once('e') {
            Some((digits, exponent)) => {
                let (sign, exponent) = match exponent.strip_prefix('-') {
                    Some(exponent) => ('-', exponent),
                    None => ('+', exponent),
                };
                format!("{digits}e{sign}{exponent:0>2}")
            }
            None => text,
        };
    }
    let text = format!("{value}");
    if text.contains('.') { text } else { format!("{text}.0") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_escapes_and_numbers_are_pythons() {
        let text = r#"{"b":[1,2.0,1e-5,1e16,123456.75,-0.0,1e-4],"a":{"é<&>'":"\"\\\n\t\u0001\u007f/"},"c":[],"d":{},"e":[null,true]}"#;
        let value: Value = serde_json::from_str(text).unwrap();
        // Printed by Python's json.dumps(json.loads(text), ensure_ascii=False).
        let expected = "{\"b\": [1, 2.0, 1e-05, 1e+16, 123456.75, -0.0, 0.0001], \"a\": {\"é<&>'\": \"\\\"\\\\\\n\\t\\u0001\u{7f}/\"}, \"c\": [], \"d\": {}, \"e\": [null, true]}";
        assert_eq!(to_python_json(&value), expected);
    }

    #[test]
    fn indentation_is_pythons() {
        let value: Value = serde_json::from_str(r#"{"a":[1,{"b":2}],"c":[],"d":{}}"#).unwrap();
        let expected = "{\n  \"a\": [\n    1,\n    {\n      \"b\": 2\n    }\n  ],\n  \"c\": [],\n  \"d\": {}\n}";
        assert_eq!(to_python_json_indented(&value, 2), expected);
    }
}
