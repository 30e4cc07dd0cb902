//! The chat format of real models: ids that are appended spell the same conversation as the template.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and reports what it skipped"
)]

use std::sync::Arc;

use nemo_env::{EnvError, EnvSession, Environment, Message, Outcome, Role, Task, ToolCall, ToolSchema};
use nemo_model::text::{
    BpeTraining, ChatMessage, ChatRole, ChatTemplate, ChatToolCall, RenderOptions, Tokenizer, TokenizerSettings,
    train_bpe,
};
use nemo_rl::rollout::chat::{Chat, messages, tools};
use nemo_rl::rollout::episode::EpisodeLimits;
use nemo_rl::rollout::{RenderError, Renderer};
use nemo_rl::sft::demonstrate;
use serde_json::{Map, Value, json};

const STOP: &str = "<SPECIAL_12>";

fn task(system: &str, user: &str) -> Task {
    let tool = |name: &str| {
        ToolSchema(json!({
            "type": "function", "name": name, "description": "Does it.",
            "parameters": {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]},
            "strict": false
        }))
    };
    Task {
        id: 1,
        messages: vec![Message::new(Role::System, system), Message::new(Role::User, user)],
        tools: Arc::new(vec![tool("email_delete_email"), tool("email_search_emails")]),
        parallel_tool_calls: false,
        temperature: None,
        ground_truth: Vec::new(),
        category: String::new(),
        environment_name: String::new(),
        office: None,
        provenance: None,
        demonstration: None,
    }
}

fn tokenizer() -> Tokenizer {
    let texts = [
        "You work in an office. Delete the email \"id\": \"00000123\", please. Done. output",
        "<TOOLCALL>[]</TOOLCALL>",
    ];
    let training = BpeTraining { vocab_size: 400, ..BpeTraining::default() };
    train_bpe(&texts, &training).unwrap().tokenizer
}

fn chat(template: ChatTemplate) -> Chat {
    Chat::new(tokenizer(), template, STOP, Map::new()).unwrap()
}

fn call(name: &str, arguments: &str) -> ToolCall {
    ToolCall { name: name.to_owned(), arguments: arguments.to_owned() }
}

fn text(chat: &Chat, ids: &[u32]) -> String {
    chat.tokenizer().decode(ids, false).unwrap()
}

#[test]
fn appended_ids_spell_what_the_template_renders() {
    let template = ChatTemplate::compact().unwrap();
    let task = task("You work in an office.", "Delete the email.");
    let calls = [call("email_search_emails", "{\"id\":\"7\"}"), call("email_delete_email", "{\"id\": \"é\"}")];
    let results = ["{\"output\":[\"7\"]}", "{\"output\":\"Done\\n\"}"];
    let mut conversation = messages(&task);
    let prompt = template.render(&conversation, &tools(&task.tools), &RenderOptions::prompt()).unwrap();
    for (call, result) in calls.iter().zip(results) {
        let calls = vec![ChatToolCall { name: call.name.clone(), arguments: json!(call.arguments) }];
        conversation.push(ChatMessage::calling("", calls));
        conversation.push(ChatMessage::new(ChatRole::Tool, result));
    }
    conversation.push(ChatMessage::new(ChatRole::Assistant, "Done."));
    let whole = template.render(&conversation, &tools(&task.tools), &RenderOptions::default()).unwrap();

    let chat = chat(template);
    let mut ids = chat.prompt_ids(&task).unwrap();
    assert_eq!(text(&chat, &ids), prompt);
    for (call, result) in calls.iter().zip(results) {
        ids.extend(chat.assistant_turn_ids(&task, "", std::slice::from_ref(call)).unwrap());
        ids.extend(chat.tool_results_ids(&task, &[result.to_owned()]).unwrap());
    }
    ids.extend(chat.assistant_turn_ids(&task, "Done.", &[]).unwrap());
    assert_eq!(text(&chat, &ids), whole.trim_end());
}

#[test]
fn turns_are_read_back_as_they_were_written() {
    let task = task("You work in an office. /no_think", "Delete the email.");
    for template in [ChatTemplate::compact().unwrap(), ChatTemplate::nemotron_v2()] {
        let chat = chat(template);
        let calls = [call("email_delete_email", r#"{"id": "a\"b"}"#), call("f\"g", "{}")];
        for (content, calls) in [("", &calls[..1]), ("I will.", &calls[..]), ("Done.", &[])] {
            let ids = chat.assistant_turn_ids(&task, content, calls).unwrap();
            assert_eq!(chat.tokenizer().token_text(*ids.last().unwrap()).unwrap(), STOP);
            let turn = chat.parse(&chat.decode(&ids));
            assert_eq!((turn.content.as_str(), turn.calls.as_slice(), turn.malformed), (content, calls, false));
        }
        assert!(chat.parse("<TOOLCALL>[{]</TOOLCALL>").malformed);
    }
}

#[test]
fn the_reasoning_switch_of_a_message_decides_what_follows_results() {
    let chat = chat(ChatTemplate::nemotron_v2());
    let after = |user: &str| {
        let task = task("You work in an office.", user);
        text(&chat, &chat.tool_results_ids(&task, &["r1".to_owned(), "r2".to_owned()]).unwrap())
    };
    let response = "\n<SPECIAL_11>User\n<TOOL_RESPONSE>[r1, r2]</TOOL_RESPONSE>\n<SPECIAL_11>Assistant\n";
    for _ in 0..2 {
        assert_eq!(after("Delete it."), format!("{response}<think>\n"));
        assert_eq!(after("Delete it. /no_think"), format!("{response}<think></think>"));
    }
}

#[test]
fn every_field_of_a_message_reaches_the_template() {
    const SOURCE: &str = "{% for m in messages %}{{ m.role }} {{ m.name }} {{ m.content }} \
                          {{ m.tool_calls[0].function.name if m.tool_calls }} {{ m.tool_call_id }};{% endfor %}";
    let template = ChatTemplate::from_jinja("test", SOURCE, None, &TokenizerSettings::default()).unwrap();
    let mut task = task("S", "U");
    let fields = |value: Value| value.as_object().cloned().unwrap();
    task.messages[0].more = fields(json!({ "name": "boss" }));
    task.messages[1].more = fields(json!({
        "tool_calls": [{ "name": "f", "arguments": "{}" }], "tool_call_id": "c"
    }));
    let messages = messages(&task);
    assert_eq!(messages[1].tool_calls[0].name, "f");
    let text = template.render(&messages, &[], &RenderOptions::prompt()).unwrap();
    assert_eq!(text, "system boss S  ;user  U f c;");
}

#[test]
fn tools_are_wrapped_with_their_keys_in_order() {
    let wrapped = tools(&task("", "").tools);
    let text = wrapped[0].to_string();
    assert!(text.starts_with(r#"{"type":"function","function":{"name":"email_delete_email","description":"#), "{text}");
    assert!(text.ends_with(r#""strict":false}}"#), "{text}");
}

#[test]
fn a_stop_token_that_is_none_is_refused() {
    let refused = Chat::new(tokenizer(), ChatTemplate::nemotron_v2(), "<|im_end|>", Map::new());
    assert!(matches!(refused, Err(RenderError::StopToken { .. })));
}

struct Echo;

impl EnvSession for Echo {
    fn call(&mut self, call: &ToolCall) -> String {
        format!("{{\"output\":{}}}", call.arguments)
    }
}

impl Environment for Echo {
    fn reset(&self, _task: &Task) -> Result<Box<dyn EnvSession>, EnvError> {
        Ok(Box::new(Echo))
    }

    fn score(&self, _task: &Task, _calls: &[ToolCall]) -> Result<Outcome, EnvError> {
        Ok(Outcome { reward: 1.0, do_nothing: false })
    }
}

#[test]
fn demonstrations_are_weighted_conversations() {
    let chat = chat(ChatTemplate::compact().unwrap());
    let mut task = task("You work in an office.", "Delete the email.");
    task.demonstration = Some(nemo_env::Demonstration {
        calls: vec![call("email_delete_email", "{\"id\":\"7\"}")],
        final_text: "Done.".to_owned(),
    });
    let limits = EpisodeLimits { max_turns: 6, max_total_sequence_length: 4096 };
    let shown = demonstrate(&task, &chat, &Echo, limits, 0.25).unwrap();
    let part = |weight: f32| -> String {
        let ids: Vec<u32> =
            shown.tokens.iter().zip(&shown.weights).filter(|(_, w)| **w == weight).map(|(id, _)| *id).collect();
        text(&chat, &ids)
    };
    assert_eq!(
        part(1.0),
        "<TOOLCALL>[{\"name\": \"email_delete_email\", \"arguments\": {\"id\":\"7\"}}]</TOOLCALL><SPECIAL_12>Done.<SPECIAL_12>"
    );
    assert!(
        part(0.25).ends_with("<TOOL_RESPONSE>[{\"output\":{\"id\": \"7\"}}]</TOOL_RESPONSE>\n<SPECIAL_11>Assistant\n")
    );
}
