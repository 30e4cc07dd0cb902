//! JSON as Python writes it: `Infinity`, `-Infinity` and `NaN` may stand where numbers do.
//!
//! Published Mamba-2 configurations contain such text, transformers 5 tags the same values as
//! `{"__float__": "Infinity"}`. Both are read; what is written is always strict JSON.

use std::borrow::Cow;

use serde_json::Value;

/// Key of the tagged form of a number that JSON cannot write.
pub const FLOAT_TAG: &str = "__float__";

const BARE_NUMBERS: [(&str, &str); 3] = [
    ("-Infinity", r#"{"__float__":"-Infinity"}"#),
    ("Infinity", r#"{"__float__":"Infinity"}"#),
    ("NaN", r#"{"__float__":"NaN"}"#),
];

/// Parses JSON text, replacing bare `Infinity`, `-Infinity` and `NaN` by their tagged form.
///
/// # Errors
/// What `serde_json` says; line numbers are those of `text`.
pub fn parse(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str(&tag_bare_numbers(text.strip_prefix('\u{feff}').unwrap_or(text)))
}

/// The number of a JSON value, plain or tagged.
pub fn as_f64(value: &Value) -> Option<f64> {
    if let Some(number) = value.as_f64() {
        return Some(number);
    }
    match value.get(FLOAT_TAG)?.as_str()? {
        "Infinity" | "inf" => Some(f64::INFINITY),
        "-Infinity" | "-inf" => Some(f64::NEG_INFINITY),
        "NaN" | "nan" => Some(f64::NAN),
        _ => None,
    }
}

/// The JSON value of a number: plain if finite, else tagged.
pub fn from_f64(number: f64) -> Value {
    match serde_json::Number::from_f64(number) {
        Some(plain) => Value::Number(plain),
        None => {
            let name = if number.is_nan() {
                "NaN"
            } else if number > 0.0 {
                "Infinity"
            } else {
                "-Infinity"
            };
            serde_json::json!({ FLOAT_TAG: name })
        }
    }
}

/// A value's text as Python writes it, the inverse of [`parse`].
pub fn to_text(value: &Value) -> String {
    BARE_NUMBERS.iter().fold(value.to_string(), |text, (bare, tagged)| text.replace(tagged, bare))
}

/// Replaces bare special numbers outside strings. Text without any is returned as it is.
fn tag_bare_numbers(text: &str) -> Cow<'_, str> {
    if !BARE_NUMBERS.iter().any(|(bare, _)| text.contains(bare)) {
        return Cow::Borrowed(text);
    }
    let mut tagged = String::with_capacity(text.len() + 64);
    let mut rest = text;
    let mut in_string = false;
    while let Some(first) = rest.chars().next() {
        if !in_string && let Some((bare, tag)) = BARE_NUMBERS.iter().find(|(bare, _)| rest.starts_with(bare)) {
            tagged.push_str(tag);
            rest = &rest[bare.len()..];
            continue;
        }
        let mut length = first.len_utf8();
        if first == '"' {
            in_string = !in_string;
        } else if first == '\\' && in_string {
            // The escaped character cannot end the string.
            length += rest[length..].chars().next().map_or(0, char::len_utf8);
        }
        tagged.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    Cow::Owned(tagged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_numbers_become_tags_outside_strings_only() {
        let value = parse(r#"{"a": [0.0, Infinity], "b": "Infinity \" NaN", "c": -Infinity, "d": NaN}"#).unwrap();
        assert_eq!(as_f64(&value["a"][1]), Some(f64::INFINITY));
        assert_eq!(value["b"], "Infinity \" NaN");
        assert_eq!(as_f64(&value["c"]), Some(f64::NEG_INFINITY));
        assert!(as_f64(&value["d"]).unwrap().is_nan());
    }

    #[test]
    fn numbers_round_trip() {
        for number in [0.0, 1e-5, 0.4, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(as_f64(&from_f64(number)), Some(number));
        }
        assert!(as_f64(&from_f64(f64::NAN)).unwrap().is_nan());
        assert_eq!(as_f64(&serde_json::json!({ "__float__": "seven" })), None);
    }

    #[test]
    fn broken_text_is_an_error() {
        for text in ["", "{", "{\"a\": Infinit}", "\"abc", "\"\\", "[1,]"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
