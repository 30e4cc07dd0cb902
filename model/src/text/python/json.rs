//! `json.dumps(value, …)` with the options transformers' `tojson` has.

use minijinja::Error;
use minijinja::value::{Serde, Value, ValueKind};

use super::float::{float_repr, special};
use super::text::{PythonText, check_depth, number_text};
use super::{Charge, refused};

/// The options of `json.dumps`.
pub struct JsonStyle {
    /// Text of one level of indentation; `None` writes one line.
    pub indent: Option<String>,
    /// Between items.
    pub item_separator: String,
    /// Between key and value.
    pub key_separator: String,
    /// Whether keys are written in their order.
    pub sort_keys: bool,
    /// Whether other characters than ASCII are escaped.
    pub ensure_ascii: bool,
}

impl JsonStyle {
    /// The defaults: one line with blanks after commas and colons.
    pub fn new(indent: Option<String>) -> Self {
        let item_separator = if indent.is_some() { "," } else { ", " }.to_owned();
        Self { indent, item_separator, key_separator: ": ".to_owned(), sort_keys: false, ensure_ascii: false }
    }
}

/// `json.dumps(value, ensure_ascii=False)`: one line, `", "` and `": "` between items, keys in their given order.
pub fn to_python_json(value: &serde_json::Value) -> String {
    let style = JsonStyle::new(None);
    // Nothing is charged, and values that were read from JSON text have no greater depth than may be written.
    write_json(&Value::from(Serde(value)), &style, &|_| Ok(())).unwrap_or_default()
}

/// `json.dumps` of a template's value.
///
/// # Errors
/// When the payment fails, or the value is undefined, nested too deeply or no data.
pub fn write_json(value: &Value, style: &JsonStyle, charge: Charge<'_>) -> Result<String, Error> {
    let mut out = PythonText::new(charge);
    write(&mut out, value, style, 0)?;
    Ok(out.finish())
}

fn write(out: &mut PythonText<'_>, value: &Value, style: &JsonStyle, depth: usize) -> Result<(), Error> {
    check_depth(depth)?;
    out.visit()?;
    if let Some(text) = value.as_str() {
        return write_string(out, text, style);
    }
    match value.kind() {
        ValueKind::None => out.push("null"),
        ValueKind::Bool => out.push(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push(&json_number(value)),
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter()?.collect();
            if style.sort_keys {
                keys.sort();
            }
            write_items(out, style, depth, ("{", "}"), keys.into_iter(), |out, key| {
                write_string(out, &key_text(&key)?, style)?;
                out.push(&style.key_separator)?;
                write(out, &value.get_item(&key)?, style, depth + 1)
            })
        }
        ValueKind::Seq | ValueKind::Iterable => {
            write_items(out, style, depth, ("[", "]"), value.try_iter()?, |out, item| {
                write(out, &item, style, depth + 1)
            })
        }
        ValueKind::Undefined => Err(refused("tojson: the value is undefined")),
        kind => Err(refused(format!("tojson: a {kind} cannot be written as JSON"))),
    }
}

fn write_items(
    out: &mut PythonText<'_>,
    style: &JsonStyle,
    depth: usize,
    (open, close): (&str, &str),
    items: impl Iterator<Item = Value>,
    mut write_item: impl FnMut(&mut PythonText<'_>, Value) -> Result<(), Error>,
) -> Result<(), Error> {
    let new_line = |out: &mut PythonText<'_>, depth: usize| match &style.indent {
        Some(indent) => {
            out.push("\n")?;
            (0..depth).try_for_each(|_| out.push(indent))
        }
        None => Ok(()),
    };
    out.push(open)?;
    let mut is_empty = true;
    for item in items {
        if !is_empty {
            out.push(&style.item_separator)?;
        }
        is_empty = false;
        new_line(out, depth + 1)?;
        write_item(out, item)?;
    }
    if !is_empty {
        new_line(out, depth)?;
    }
    out.push(close)
}

fn json_number(number: &Value) -> String {
    match f64::try_from(number.clone()) {
        Ok(float) if !float.is_finite() => match special(float) {
            "nan" => "NaN".to_owned(),
            text => text.replace("inf", "Infinity"),
        },
        Ok(float) if !number.is_integer() => float_repr(float),
        _ => number_text(number),
    }
}

fn key_text(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::None => Ok("null".to_owned()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_owned()),
        ValueKind::Number => Ok(json_number(key)),
        kind => Err(refused(format!("tojson: a {kind} cannot be a key"))),
    }
}

fn write_string(out: &mut PythonText<'_>, text: &str, style: &JsonStyle) -> Result<(), Error> {
    out.push("\"")?;
    for character in text.chars() {
        match character {
            '"' => out.push("\\\"")?,
            '\\' => out.push("\\\\")?,
            '\n' => out.push("\\n")?,
            '\r' => out.push("\\r")?,
            '\t' => out.push("\\t")?,
            '\u{8}' => out.push("\\b")?,
            '\u{c}' => out.push("\\f")?,
            ..' ' => out.push(&format!("\\u{:04x}", u32::from(character)))?,
            '\u{7f}'.. if style.ensure_ascii => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    out.push(&format!("\\u{unit:04x}"))?;
                }
            }
            _ => out.push_char(character)?,
        }
    }
    out.push("\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_escapes_and_numbers_are_pythons() {
        let text = r#"{"b":[1,2.0,1e-5,1e16,123456.75,-0.0,1e-4],"a":{"é<&>'":"\"\\\n\t\u0001\u007f/"},"c":[],"d":{},"e":[null,true]}"#;
        let value: serde_json::Value = serde_json::from_str(text).unwrap();
        // Printed by Python's json.dumps(json.loads(text), ensure_ascii=False).
        let expected = "{\"b\": [1, 2.0, 1e-05, 1e+16, 123456.75, -0.0, 0.0001], \"a\": {\"é<&>'\": \"\\\"\\\\\\n\\t\\u0001\u{7f}/\"}, \"c\": [], \"d\": {}, \"e\": [null, true]}";
        assert_eq!(to_python_json(&value), expected);
    }
}
