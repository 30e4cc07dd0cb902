//! JSON as Python's `json` writes it: floats as `repr` has them, text unescaped.

use std::fmt::Write;

use super::Value;
use super::float_text::float_repr;

/// [`write()`] for a value that is not JSON yet, at the end of a text. Numbers that JSON does not have become
/// null.
pub fn append(value: &Value, out: &mut String) {
    match value {
        Value::Float(number) if number.is_finite() => out.push_str(&float_repr(*number)),
        Value::None | Value::Float(_) => out.push_str("null"),
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        // Writing into a string cannot fail.
        Value::Int(number) => drop(write!(out, "{number}")),
        Value::Str(text) => write_string(text, out),
        Value::List(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                append(item, out);
            }
            out.push(']');
        }
        Value::Dict(entries) => {
            out.push('{');
            for (i, (key, item)) in entries.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_string(key, out);
                out.push(':');
                append(item, out);
            }
            out.push('}');
        }
    }
}

/// Python's `json.dumps` without blanks and without escaping of non-ASCII text.
pub fn write(value: &serde_json::Value) -> String {
    let mut out = String::new();
    write_into(value, &mut out);
    out
}

fn write_into(value: &serde_json::Value, out: &mut String) {
    use serde_json::Value as Json;
    match value {
        Json::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => out.push_str(&float_repr(float)),
            _ => out.push_str(&number.to_string()),
        },
        Json::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_into(item, out);
            }
            out.push(']');
        }
        Json::Object(entries) => {
            out.push('{');
            for (i, (key, item)) in entries.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_string(key, out);
                out.push(':');
                write_into(item, out);
            }
            out.push('}');
        }
        Json::String(text) => write_string(text, out),
        Json::Null | Json::Bool(_) => out.push_str(&value.to_string()),
    }
}

fn write_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if u32::from(c) < 0x20 => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python_compat::json;

    #[test]
    fn a_value_is_written_as_its_json_is() {
        let text = "{\"a\": [1, -2.50, 1e300, NaN, Infinity, null, true, false], \"é\\n\": {\"\": \"\\u0001\\\"\"}, \"b\": []}";
        let value = json::parse(text).unwrap();
        let mut found = String::new();
        append(&value, &mut found);
        assert_eq!(found, write(&value.to_json()));
        assert!(found.starts_with("{\"a\":[1,-2.5,1e+300,null,null,null,true,false]"), "{found}");
    }
}
