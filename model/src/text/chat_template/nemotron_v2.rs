//! The conversation format of Nemotron Nano v2, for checkpoints without a template of their own.
//!
//! A turn is `<SPECIAL_11>` and a role; assistant turns end with `<SPECIAL_12>`. Reasoning is switched by `/think` and
//! `/no_think` in system and user messages; the last one wins. The published template's oddities are kept, because
//! models were trained on its output: the switch words are removed wherever they stand (so `</think>` loses its
//! middle), an assistant message in last place keeps its reasoning but loses its tool calls, and earlier ones lose
//! their reasoning.

use serde_json::Value;

use super::message::{ChatMessage, ChatRole, ChatToolCall};
use crate::text::python::to_python_json;

const ASSISTANT_HEADER: &str = "<SPECIAL_11>Assistant\n";
const USER_HEADER: &str = "<SPECIAL_11>User\n";
const TURN_END: &str = "\n<SPECIAL_12>\n";
const THINK: &str = "/think";
const NO_THINK: &str = "/no_think";
const THINK_END: &str = "</think>";

const TOOLS_INTRODUCTION: &str = "You can use the following tools to assist the user if required:\n";
/// The doubled braces are part of the published text.
const TOOLS_INSTRUCTIONS: &str = concat!(
    "\n\nIf you decide to call any tool(s), use the following format:\n",
    r#"<TOOLCALL>[{{"name": "tool_name1", "arguments": "tool_args1"}}, "#,
    r#"{{"name": "tool_name2", "arguments": "tool_args2"}}]</TOOLCALL>"#,
    "\n\nThe user will execute tool-calls and return responses from tool(s) in this format:\n",
    r#"<TOOL_RESPONSE>[{{"tool_response1"}}, {{"tool_response2"}}]</TOOL_RESPONSE>"#,
    "\n\nBased on the tool responses, you can call additional tools if needed, correct tool calls if any errors are ",
    "found, or just respond to the user.",
);

pub(super) fn render(messages: &[ChatMessage], tools: &[Value], add_generation_prompt: bool) -> String {
    let thinking = thinks(messages);
    let (system, turns) = match messages.split_first() {
        Some((first, rest)) if first.role == ChatRole::System => (without_switches(&first.content), rest),
        _ => (String::new(), messages),
    };
    let (turns, last) = match turns.split_last() {
        Some((last, before)) if last.role == ChatRole::Assistant => (before, last.content.trim()),
        _ => (turns, ""),
    };
    let mut text = format!("<SPECIAL_10>System\n{system}");
    push_tools(&mut text, &system, tools);
    text.push('\n');
    for (index, message) in turns.iter().enumerate() {
        match message.role {
            ChatRole::User => {
                text.push_str(USER_HEADER);
                text.push_str(&without_switches(&message.content));
                text.push('\n');
            }
            ChatRole::Assistant => push_assistant(&mut text, message),
            ChatRole::Tool => {
                let is_tool =
                    |at: Option<usize>| at.and_then(|at| turns.get(at)).is_some_and(|turn| turn.role == ChatRole::Tool);
                if is_tool(index.checked_sub(1)) {
                    text.push_str(", ");
                } else {
                    text.push_str(USER_HEADER);
                    text.push_str("<TOOL_RESPONSE>[");
                }
                text.push_str(&message.content);
                if !is_tool(Some(index + 1)) {
                    text.push_str("]</TOOL_RESPONSE>\n");
                }
            }
            // Only the first system message is shown.
            ChatRole::System => {}
        }
    }
    if add_generation_prompt || !last.is_empty() {
        text.push_str(ASSISTANT_HEADER);
        text.push_str(if thinking { "<think>\n" } else { "<think></think>" });
        text.push_str(last);
        if !add_generation_prompt {
            text.push_str(TURN_END);
        }
    }
    text
}

fn thinks(messages: &[ChatMessage]) -> bool {
    let steers = |message: &&ChatMessage| matches!(message.role, ChatRole::System | ChatRole::User);
    let switch = |message: &ChatMessage| {
        let on = message.content.contains(THINK);
        (on || message.content.contains(NO_THINK)).then_some(on)
    };
    messages.iter().filter(steers).filter_map(switch).next_back().unwrap_or(true)
}

fn without_switches(text: &str) -> String {
    text.replace(THINK, "").replace(NO_THINK, "").trim().to_owned()
}

fn push_tools(text: &mut String, system: &str, tools: &[Value]) {
    if tools.is_empty() {
        return;
    }
    if !system.is_empty() {
        text.push_str("\n\n");
    }
    text.push_str(TOOLS_INTRODUCTION);
    text.push_str("<AVAILABLE_TOOLS>[");
    for (index, tool) in tools.iter().enumerate() {
        if index > 0 {
            text.push_str(", ");
        }
        text.push_str(&to_python_json(tool.get("function").unwrap_or(tool)));
    }
    text.push_str("]</AVAILABLE_TOOLS>");
    text.push_str(TOOLS_INSTRUCTIONS);
}

fn push_assistant(text: &mut String, message: &ChatMessage) {
    let content = match message.content.split(THINK_END).nth(1) {
        Some(answer) => answer.trim(),
        None => message.content.trim(),
    };
    text.push_str(ASSISTANT_HEADER);
    text.push_str(content);
    if !message.tool_calls.is_empty() {
        if !content.is_empty() {
            text.push_str("\n\n");
        }
        text.push_str("<TOOLCALL>[");
        for (index, ChatToolCall { name, arguments }) in message.tool_calls.iter().enumerate() {
            if index > 0 {
                text.push_str(", ");
            }
            text.push_str(&format!("{{\"name\": \"{name}\", \"arguments\": "));
            match arguments {
                Value::String(verbatim) => text.push_str(verbatim),
                other => text.push_str(&to_python_json(other)),
            }
            text.push('}');
        }
        text.push_str("]</TOOLCALL>");
    }
    text.push_str(TURN_END);
}
