//! Finds tool calls in what the model wrote.
//!
//! The family writes `<TOOLCALL>[{"name": …, "arguments": {…}}, …]</TOOLCALL>`. The rules are those of the parser
//! its serving stack uses: the first complete block counts, missing outer brackets are supplied, and one bad entry
//! spoils the block. Every text has a result: a model under training writes anything.

use serde_json::Value;

use super::python::to_python_json;
use crate::config::parse_lenient_json;

const OPEN: &str = "<TOOLCALL>";
const CLOSE: &str = "</TOOLCALL>";

/// One call of a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    /// Name of the tool, as the model wrote it.
    pub name: String,
    /// Arguments as JSON text. Not checked further if the model wrote them as a string.
    pub arguments: String,
}

/// What an assistant turn says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParsedReply {
    /// Text before the tool calls; the whole text if there are none or they are malformed.
    pub content: String,
    /// The calls, in order.
    pub tool_calls: Vec<ToolCall>,
    /// Why a text that opens a tool call holds none, if so.
    pub malformed: Option<String>,
}

/// Reads the tool calls of an assistant turn. Never fails: a text without calls is content, a text with a broken
/// block is content and marked as malformed.
pub fn parse_tool_calls(text: &str) -> ParsedReply {
    let Some((before, rest)) = text.split_once(OPEN) else {
        return ParsedReply { content: text.to_owned(), ..ParsedReply::default() };
    };
    let parsed = match rest.split_once(CLOSE) {
        Some((block, _)) => parse_block(block),
        None => Err(format!("{OPEN} without {CLOSE}")),
    };
    match parsed {
        Ok(tool_calls) => ParsedReply { content: before.to_owned(), tool_calls, malformed: None },
        Err(reason) => ParsedReply { content: text.to_owned(), tool_calls: Vec::new(), malformed: Some(reason) },
    }
}

fn parse_block(block: &str) -> Result<Vec<ToolCall>, String> {
    let mut list = block.trim().to_owned();
    if !list.starts_with('[') {
        list.insert(0, '[');
    }
    if !list.ends_with(']') {
        list.push(']');
    }
    let entries = match parse_lenient_json(&list) {
        Ok(Value::Array(entries)) => entries,
        Ok(_) => return Err("the block is not a list".to_owned()),
        Err(error) => return Err(format!("the block is not JSON: {error}")),
    };
    entries.into_iter().enumerate().map(|(index, entry)| parse_entry(index, &entry)).collect()
}

fn parse_entry(index: usize, entry: &Value) -> Result<ToolCall, String> {
    let field = |key: &str| entry.get(key).ok_or_else(|| format!("call {index} has no \"{key}\""));
    let Value::String(name) = field("name")? else {
        return Err(format!("the \"name\" of call {index} is not a string"));
    };
    let arguments = match field("arguments")? {
        Value::String(text) => text.clone(),
        object @ Value::Object(_) => to_python_json(object),
        _ => return Err(format!("the \"arguments\" of call {index} are neither an object nor a string")),
    };
    Ok(ToolCall { name: name.clone(), arguments })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(name: &str, arguments: &str) -> ToolCall {
        ToolCall { name: name.to_owned(), arguments: arguments.to_owned() }
    }

    #[test]
    fn plain_text_is_content() {
        for text in ["", "Done.", "</TOOLCALL>", "<toolcall>[]", "[{\"name\": 1}]"] {
            let reply = parse_tool_calls(text);
            assert_eq!(reply, ParsedReply { content: text.to_owned(), ..ParsedReply::default() });
        }
    }

    #[test]
    fn calls_are_read_with_and_without_brackets() {
        let entry = r#"{"name": "f", "arguments": {"b":1,"a":[2, "é"]}}"#;
        for block in [format!("[{entry}]"), entry.to_owned(), format!("[{entry}"), format!(" \n{entry}]\n")] {
            let reply = parse_tool_calls(&format!("<think>x</think>ok {OPEN}{block}{CLOSE}\ntrailing"));
            assert_eq!(reply.tool_calls, [call("f", r#"{"b": 1, "a": [2, "é"]}"#)]);
            assert_eq!(reply.content, "<think>x</think>ok ");
            assert_eq!(reply.malformed, None);
        }
    }

    #[test]
    fn several_calls_keep_their_order_and_string_arguments_their_text() {
        let text =
            r#"<TOOLCALL>[{"name":"f","arguments":"{\"x\":  1}"}, {"arguments":{},"name":"g","id":7}]</TOOLCALL>"#;
        assert_eq!(parse_tool_calls(text).tool_calls, [call("f", r#"{"x":  1}"#), call("g", "{}")]);
        assert_eq!(parse_tool_calls("<TOOLCALL>[]</TOOLCALL>"), ParsedReply::default());
        assert_eq!(parse_tool_calls("<TOOLCALL></TOOLCALL>"), ParsedReply::default());
    }

    #[test]
    fn only_the_first_block_counts() {
        let text = r#"a<TOOLCALL>[{"name":"f","arguments":{}}]</TOOLCALL>b<TOOLCALL>junk</TOOLCALL>"#;
        let reply = parse_tool_calls(text);
        assert_eq!((reply.content.as_str(), reply.tool_calls.len()), ("a", 1));
    }

    #[test]
    fn broken_blocks_return_the_text_and_a_reason() {
        for (block, reason) in [
            ("junk</TOOLCALL>", "not JSON"),
            ("[{\"name\": \"f\"}]</TOOLCALL>", "no \"arguments\""),
            ("[{\"arguments\": {}}]</TOOLCALL>", "no \"name\""),
            ("[{\"name\": 3, \"arguments\": {}}]</TOOLCALL>", "not a string"),
            ("[{\"name\": \"f\", \"arguments\": [1]}]</TOOLCALL>", "neither"),
            ("[{\"name\": \"f\", \"arguments\": null}]</TOOLCALL>", "neither"),
            ("[1, 2]</TOOLCALL>", "no \"name\""),
            ("[{\"name\": \"f\", \"arguments\": {}}]", "without"),
            ("[{\"name\": \"f\", \"arguments\": {}}, {\"name\": \"g\"}]</TOOLCALL>", "call 1"),
        ] {
            let text = format!("content {OPEN}{block}");
            let reply = parse_tool_calls(&text);
            assert_eq!((reply.content.as_str(), reply.tool_calls.len()), (text.as_str(), 0));
            assert!(reply.malformed.as_ref().unwrap().contains(reason), "{reply:?}");
        }
    }

    #[test]
    fn deep_nesting_is_malformed_not_a_crash() {
        for bracket in ["[", "{\"a\":", "[{\"name\":\"f\",\"arguments\":{\"a\":"] {
            let text = format!("{OPEN}{}{CLOSE}", bracket.repeat(100_000));
            assert!(parse_tool_calls(&text).malformed.is_some());
        }
    }

    /// Random concatenations of the pieces calls are made of, plus bytes that could upset slicing.
    #[test]
    fn any_text_has_a_result() {
        let pieces = [
            OPEN,
            CLOSE,
            "[",
            "]",
            "{",
            "}",
            "\"name\"",
            "\"arguments\"",
            ":",
            ",",
            "\"f\"",
            "{}",
            "\"",
            "\\",
            "\\u12",
            "é",
            "\u{1F600}",
            "NaN",
            "-Infinity",
            "Inf",
            "1e999",
            "null",
            " ",
            "\n",
            "<TOOL",
            "CALL>",
            "\u{0}",
            "__float__",
        ];
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut found = 0;
        for _ in 0..50_000 {
            let mut text = String::new();
            for _ in 0..state % 24 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                text.push_str(pieces[(state >> 33) as usize % pieces.len()]);
            }
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let reply = parse_tool_calls(&text);
            assert!(text.starts_with(&reply.content));
            assert!(reply.malformed.is_none() || reply.content == text && reply.tool_calls.is_empty());
            found += usize::from(text.contains(OPEN));
        }
        assert!(found > 1000, "the generator must reach the parser, it did {found} times");
    }

    #[test]
    fn every_cut_of_a_valid_call_has_a_result() {
        let text = r#"ok <TOOLCALL>[{"name": "é", "arguments": {"x": "\u00e9\n", "y": [1, 2]}}]</TOOLCALL>"#;
        for (cut, _) in text.char_indices() {
            assert!(parse_tool_calls(&text[..cut]).tool_calls.is_empty());
        }
        assert_eq!(parse_tool_calls(text).tool_calls.len(), 1);
    }
}
