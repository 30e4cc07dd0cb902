//! The compact template, the delta of tool results, and Jinja's surroundings. The built-in rendering is tested
//! against golden cases.

use serde_json::json;

use super::*;

fn compact() -> ChatTemplate {
    ChatTemplate::compact().unwrap()
}

fn jinja(source: &str) -> Result<ChatTemplate, TextError> {
    ChatTemplate::from_jinja("test.jinja", source, None, &TokenizerSettings::default())
}

fn tools() -> Vec<Value> {
    let parameters =
        json!({ "type": "object", "properties": { "to": { "type": "string" }, "note": {} }, "required": ["to"] });
    vec![
        json!({ "type": "function", "function": { "name": "send", "parameters": parameters } }),
        json!({ "type": "function", "name": "list", "parameters": { "type": "object", "properties": {} } }),
        json!({ "name": "bare" }),
    ]
}

fn history() -> Vec<ChatMessage> {
    ChatMessage::list_from_json(&json!([
        { "role": "system", "content": "Office." },
        { "role": "user", "content": "mail bob" },
        { "role": "assistant", "content": "", "tool_calls": [
            { "function": { "name": "send", "arguments": "{\"to\":\"bob\"}" } },
            { "name": "list", "arguments": { "a": 1 } },
        ] },
        { "role": "tool", "content": "r1" },
        { "role": "tool", "content": "r2" },
        { "role": "assistant", "content": "done" },
    ]))
    .unwrap()
}

#[test]
fn the_compact_template_renders_signatures_and_turns() {
    let text = compact().render(&history(), &tools(), &RenderOptions::default()).unwrap();
    let expected = concat!(
        "<SPECIAL_10>System\nOffice.\n<AVAILABLE_TOOLS>\nsend(to, note?)\nlist()\nbare()\n</AVAILABLE_TOOLS>\n",
        "Call: <TOOLCALL>[{\"name\": NAME, \"arguments\": {PARAMETER: VALUE}}]</TOOLCALL>\n",
        "<SPECIAL_11>User\nmail bob\n<SPECIAL_11>Assistant\n",
        "<TOOLCALL>[{\"name\": \"send\", \"arguments\": {\"to\":\"bob\"}}, {\"name\": \"list\", \"arguments\": {\"a\": 1}}]",
        "</TOOLCALL><SPECIAL_12>\n<SPECIAL_11>User\n<TOOL_RESPONSE>[r1, r2]</TOOL_RESPONSE>\n",
        "<SPECIAL_11>Assistant\ndone<SPECIAL_12>\n",
    );
    assert_eq!(text, expected);
    let messages = [ChatMessage::new(ChatRole::User, "hi")];
    let text = compact().render(&messages, &[], &RenderOptions::prompt()).unwrap();
    assert_eq!(text, "<SPECIAL_10>System\n\n<SPECIAL_11>User\nhi\n<SPECIAL_11>Assistant\n");
}

#[test]
fn appending_equals_rendering_the_whole_history() {
    let history = history();
    let template = compact();
    let format =
        template.tool_result_format(&history[..2], &tools(), "<SPECIAL_12>", &RenderOptions::default()).unwrap();
    let prompt = template.render(&history[..2], &tools(), &RenderOptions::prompt()).unwrap();
    let call = "<TOOLCALL>[{\"name\": \"send\", \"arguments\": {\"to\":\"bob\"}}, {\"name\": \"list\", \"arguments\": {\"a\": 1}}]</TOOLCALL>";
    let appended = format!("{prompt}{call}<SPECIAL_12>{}done<SPECIAL_12>\n", format.render(&["r1", "r2"]));
    assert_eq!(appended, template.render(&history, &tools(), &RenderOptions::default()).unwrap());
}

#[test]
fn the_family_delta_follows_the_reasoning_switch() {
    let template = ChatTemplate::nemotron_v2();
    for (system, opening) in [("x", "<think>\n"), ("x /no_think", "<think></think>")] {
        let prompt = [ChatMessage::new(ChatRole::System, system), ChatMessage::new(ChatRole::User, "probe0tool q")];
        let format = template.tool_result_format(&prompt, &tools(), "<SPECIAL_12>", &RenderOptions::default()).unwrap();
        let expected =
            format!("\n<SPECIAL_11>User\n<TOOL_RESPONSE>[a, b]</TOOL_RESPONSE>\n<SPECIAL_11>Assistant\n{opening}");
        assert_eq!(format.render(&["a", "b"]), expected);
    }
}

#[test]
fn templates_that_do_not_append_are_refused() {
    let turns = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ m.tool_calls | default('') | tojson }}<end>{% endfor %}";
    let all = |source: &str| {
        let prompt = [ChatMessage::new(ChatRole::User, "q")];
        jinja(source).unwrap().tool_result_format(&prompt, &[], "<end>", &RenderOptions::default())
    };
    assert_eq!(all(turns).unwrap().render(&["r"]), "[tool]r\"\"<end>");
    for (source, reason) in [
        ("{% for m in messages %}{{ m.role }}<end>{% endfor %}", "does not show tool calls"),
        (
            "{% for m in messages %}{{ m.content }}{{ m.tool_calls | default(none) | tojson }}{% endfor %}",
            "no <end> follows",
        ),
        (
            "{% for m in messages if m.role != 'tool' %}{{ m.tool_calls | default(none) | tojson }}<end>{% endfor %}",
            "does not show tool results",
        ),
        (&turns.replace("{{ m.content }}", "{{ m.content | tojson }}"), "verbatim"),
        (&turns.replace("[{{", "{{ messages[-1].content }}[{{"), "verbatim|differently|like one|tool results"),
    ] {
        let message = all(source).unwrap_err().to_string();
        assert!(message.contains("test.jinja") && reason.split('|').any(|part| message.contains(part)), "{message}");
    }
}

#[test]
fn jinja_surroundings_are_those_of_transformers() {
    let source = "{% for m in messages %}\n    {%- if loop.index > 1 %}{% break %}{% endif %}\n  {% if true %}\n{{ m.content.strip().upper() }}{{ bos_token }}{{ none }}|{{ tools is none }}|{{ strftime_now is defined }}|{{ x }}\n  {% endif %}\n{% endfor %}\n";
    let settings = TokenizerSettings { bos_token: Some("<s>".to_owned()), ..TokenizerSettings::default() };
    let template = ChatTemplate::from_jinja("t", source, None, &settings).unwrap();
    let messages = [ChatMessage::new(ChatRole::User, " a "), ChatMessage::new(ChatRole::User, "b")];
    let mut options = RenderOptions::default();
    options.variables.insert("x".to_owned(), json!(true));
    assert_eq!(template.render(&messages, &[], &options).unwrap(), "A<s>None|True|False|True\n");
    let refused = jinja("line\n{{ raise_exception('only users') }}").unwrap().render(&messages, &[], &options);
    let message = refused.unwrap_err().to_string();
    assert!(message.contains("only users") && message.contains("line 2"), "{message}");
    let message = jinja("{% if %}").unwrap_err().to_string();
    assert!(message.contains("test.jinja") && message.contains("line 1"), "{message}");
    let dumped = jinja("{{ tools[0] | tojson }}|{{ tools[1] | tojson(indent=2) }}").unwrap();
    let tools = [json!({ "b": "<é&'>", "a": [1, 2.0, null] }), json!({ "k": 1 })];
    let expected = "{\"b\": \"<é&'>\", \"a\": [1, 2.0, null]}|{\n  \"k\": 1\n}";
    assert_eq!(dumped.render(&messages, &tools, &options).unwrap(), expected);
}

#[test]
fn a_final_message_can_be_continued() {
    let messages = [ChatMessage::new(ChatRole::User, "q"), ChatMessage::new(ChatRole::Assistant, "so far ")];
    let options = RenderOptions { continue_final_message: true, ..RenderOptions::default() };
    assert!(compact().render(&messages, &[], &options).unwrap().ends_with("Assistant\nso far "));
    let family = ChatTemplate::nemotron_v2();
    assert!(family.render(&messages, &[], &options).unwrap().ends_with("<think>\nso far"));
    let error = jinja("nothing").unwrap().render(&messages, &[], &options).unwrap_err().to_string();
    assert!(error.contains("cannot be continued"), "{error}");
}

#[test]
fn a_folder_decides_its_template() {
    let folder = tempfile::tempdir().unwrap();
    let name = || ChatTemplate::load(folder.path()).unwrap().name().to_owned();
    assert!(name().contains("built in"));
    std::fs::write(folder.path().join("tokenizer_config.json"), "{\"chat_template\": \"config\"}").unwrap();
    assert!(name().ends_with("tokenizer_config.json"));
    let list =
        json!({ "chat_template": [{ "name": "default", "template": "d" }, { "name": "tool_use", "template": "t" }] });
    std::fs::write(folder.path().join("tokenizer_config.json"), list.to_string()).unwrap();
    let template = ChatTemplate::load(folder.path()).unwrap();
    let messages = [ChatMessage::new(ChatRole::User, "q")];
    assert_eq!(template.render(&messages, &[], &RenderOptions::default()).unwrap(), "d");
    assert_eq!(template.render(&messages, &tools(), &RenderOptions::default()).unwrap(), "t");
    std::fs::write(folder.path().join("chat_template.jinja"), "file").unwrap();
    assert!(name().ends_with("chat_template.jinja"));
    std::fs::write(folder.path().join("tokenizer_config.json"), "{").unwrap();
    assert!(ChatTemplate::load(folder.path()).unwrap_err().to_string().contains("tokenizer_config.json"));
}

/// As transformers does: files come before settings, and each may have a template for conversations with tools.
#[test]
fn tools_have_a_template_of_their_own_and_a_default_there_must_be() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let load = || ChatTemplate::load(folder.path());
    let render = |tools: &[Value]| {
        load().unwrap().render(&[ChatMessage::new(ChatRole::User, "q")], tools, &RenderOptions::default()).unwrap()
    };
    let list =
        json!({ "chat_template": [{ "name": "rag", "template": "r" }, { "name": "tool_use", "template": "t" }] });
    write("tokenizer_config.json", &list.to_string());
    let message = load().unwrap_err().to_string();
    assert!(message.contains("named rag, tool_use, and none named default"), "{message}");
    assert!(message.contains("tokenizer_config.json"), "{message}");
    std::fs::create_dir(folder.path().join("additional_chat_templates")).unwrap();
    write("additional_chat_templates/tool_use.jinja", "tools");
    let message = load().unwrap_err().to_string();
    assert!(message.contains("tool_use") && message.contains("none named default"), "{message}");
    write("chat_template.jinja", "file");
    assert_eq!((render(&[]), render(&tools())), ("file".to_owned(), "tools".to_owned()));
}

/// Templates know all special tokens, wherever a folder names them.
#[test]
fn special_tokens_come_from_the_settings_or_the_map() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, value: Value| std::fs::write(folder.path().join(name), value.to_string()).unwrap();
    let names = ["bos", "eos", "pad", "unk", "sep", "cls", "mask", "image"];
    let shown: String = names.iter().map(|name| format!("{{{{ {name}_token }}}}|")).collect();
    std::fs::write(folder.path().join("chat_template.jinja"), shown + "{{ additional_special_tokens }}").unwrap();
    write(
        "tokenizer_config.json",
        json!({
            "bos_token": "<b>", "eos_token": null, "cls_token": { "content": "<c>" },
            "extra_special_tokens": { "image_token": "<i>" },
        }),
    );
    write(
        "special_tokens_map.json",
        json!({
            "bos_token": "<other>", "eos_token": { "content": "<e>" }, "pad_token": "<p>", "unk_token": "<u>",
            "sep_token": "<s>", "mask_token": "<m>", "additional_special_tokens": ["<1>", { "content": "<2>" }],
        }),
    );
    let template = ChatTemplate::load(folder.path()).unwrap();
    let text = template.render(&[], &[], &RenderOptions::default()).unwrap();
    assert_eq!(text, "<b>|<e>|<p>|<u>|<s>|<c>|<m>|<i>|['<1>', '<2>']");
    write("special_tokens_map.json", json!([]));
    assert_eq!(TokenizerSettings::load(folder.path()).unwrap().eos_token, None);
    std::fs::write(folder.path().join("special_tokens_map.json"), "{").unwrap();
    assert!(ChatTemplate::load(folder.path()).unwrap_err().to_string().contains("special_tokens_map.json"));
}

/// What Python would write cannot be known here; the error says what to do.
#[test]
fn what_is_not_supported_is_refused() {
    for (source, problem) in [
        ("a\n{{ '\\N{BULLET}' }}", "line 2: the escape \\N{…} names a character"),
        ("{{ '\\U00110000' }}", "stands for no character"),
        ("{{ '\\U0001' }}", "takes 8 hexadecimal digits"),
        ("{{ 1e300|int }}", "at most 38 digits"),
        ("{% for x in none %}{% endfor %}", "None cannot be looped over"),
        ("{{ x.y|int }}", "undefined"),
    ] {
        let error = jinja(source).and_then(|template| template.render(&[], &[], &RenderOptions::default()));
        let message = error.unwrap_err().to_string();
        assert!(message.contains(problem), "{message}");
    }
}

#[test]
fn bad_messages_are_named() {
    for (messages, problem) in [
        (json!({}), "list"),
        (
            json!([{ "role": "user", "content": "a" }, { "role": "robot", "content": "" }]),
            "message 1: role is \"robot\"",
        ),
        (json!([{ "role": "user", "content": 3 }]), "message 0: content"),
        (json!([{ "role": "assistant", "tool_calls": [{}] }]), "lacks a name"),
        (json!([{ "role": "assistant", "tool_calls": 1 }]), "not a list"),
    ] {
        let message = ChatMessage::list_from_json(&messages).unwrap_err().to_string();
        assert!(message.contains(problem), "{message}");
    }
    let parts = json!([{ "role": "developer", "content": [{ "type": "text", "text": "a" }, { "text": "b" }] }]);
    let message = &ChatMessage::list_from_json(&parts).unwrap()[0];
    assert_eq!((message.role, message.content.as_str()), (ChatRole::System, "ab"));
}

/// What Jinja2 3.1.6 with transformers' settings makes of each source, or null where it refuses it. Numbers, `%`, `format`,
/// methods, `tojson`, filters, tests, operators, macros, literals, slices and tags.
#[test]
fn texts_are_those_of_jinja2() {
    let cases: Value = serde_json::from_str(include_str!("jinja2_cases.json")).unwrap();
    let mut options = RenderOptions::default();
    options.variables.insert("x".to_owned(), cases["x"].clone());
    let mut wrong = Vec::new();
    let all = cases["cases"].as_array().unwrap();
    assert!(all.len() > 3200);
    for case in all {
        let source = case[0].as_str().unwrap();
        let text = jinja(source).and_then(|template| template.render(&[], &[], &options));
        if text.as_ref().ok().map(String::as_str) != case[1].as_str() {
            wrong.push(format!("{source}: {text:?}, Jinja2 has {}", case[1]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Templates that would take hours or all memory end within seconds, with the template and the budget in the message.
#[test]
fn rendering_has_a_budget() {
    for source in [
        "{% for i in range(100000) %}{% for j in range(100000) %}aaaaaaaaaaaaaaaa{% endfor %}{% endfor %}",
        "{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set ns.s = '%s%s' % (ns.s, ns.s) %}{% endfor %}",
        "{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set ns.s = '{0}{0}'.format(ns.s) %}{% endfor %}",
        "{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s.replace('a', 'aa') %}{% endfor %}",
        "{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s|replace('a', 'aa') %}{% endfor %}",
        "{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s.join([ns.s, ns.s]) %}{% endfor %}",
        "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s|tojson }}",
        "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s|length }}{{ ns.s|join }}",
        "{% set ns = namespace(n=1) %}{% for i in range(99999) %}{% for j in range(99999) %}{% set ns.n = ns.n + 1 %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{% set a = ('a' * 99999).count('b') %}{% endfor %}",
        "{% for i in range(99999) %}{% set a = (['a'] * 99999)|join %}{% endfor %}",
        "{% for i in range(99999) %}{% set a = ('a' * 99999)|upper|length %}{% endfor %}",
        "{% set ns = namespace(a=[1], b=[1]) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}{% set ns.b = [ns.b, ns.b] %}{% endfor %}{{ ns.a < ns.b }}",
        "{% set ns = namespace(a=[1], b=[1]) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}{% set ns.b = [ns.b, ns.b] %}{% endfor %}{{ [ns.a, ns.b]|sort }}",
        "{% set s = 'aB' * 999999 %}{{ ([s] * 99999)|sort|length }}",
        "{% set s = 'aB' * 999999 %}{{ ([s] * 99999)|max|length }}",
        "{% set s = [1] * 99999 %}{% for i in range(99999) %}{% set a = s[1:] %}{% endfor %}",
        "{{ 'a'.center(9999999999) }}",
        "{{ 'a'.zfill(9999999999) }}",
        "{{ 'a'|center(9999999999) }}",
        "{{ '%9999999999d' % 5 }}",
        "{{ '{:9999999999}'.format(5) }}",
        "{{ [1]|tojson(indent=9999999999) }}",
        "{{ ('a\n' * 99999)|indent(999999) }}",
        "{{ 'a' * 9999999999 }}",
        "{{ [1] * 9999999999 }}",
        "{% macro m(n) %}{{ m(n + 1) }}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
        "{% macro m(s) %}{{ m(s + s) }}{% endmacro %}{{ m('a') }}",
        "{{ range(999999999)|list }}",
        "{% for i in range(999999999999) %}a{% endfor %}",
        "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% for j in range(9) %}{% set ns.x = [ns.x] %}{% endfor %}{% endfor %}{{ ns.x }}",
    ] {
        let began = std::time::Instant::now();
        let message = jinja(source).and_then(|template| template.render(&[], &[], &RenderOptions::default()));
        let message = message.err().unwrap_or_else(|| panic!("{source} has a text")).to_string();
        assert!(message.contains("test.jinja"), "{source}: {message}");
        assert!(began.elapsed().as_secs() < 20, "{source}: {:?}", began.elapsed());
        println!("{:?} {source:.70} {message}", began.elapsed());
    }
    let endless = jinja("{% for i in range(99999) %}{% for j in range(99999) %}a{% endfor %}{% endfor %}").unwrap();
    let message = endless.render(&[], &[], &RenderOptions::default()).unwrap_err().to_string();
    assert!(message.contains("2000000 operations or 128 MB"), "{message}");
}

/// A long conversation with many tools takes a small part of the budget.
#[test]
fn long_conversations_fit_the_budget() {
    let mut messages = history()[..2].to_vec();
    for _ in 0..500 {
        messages.extend_from_slice(&history()[2..]);
        messages.push(ChatMessage::new(ChatRole::User, "word ".repeat(200)));
    }
    let tools: Vec<Value> = (0..100).flat_map(|_| tools()).collect();
    let text = compact().render(&messages, &tools, &RenderOptions::prompt()).unwrap();
    assert!(text.len() > 500_000, "{}", text.len());
}

/// Fields only some templates know (names, ids, reasoning, lists of parts) are not lost on the way to them.
#[test]
fn every_field_of_a_message_reaches_the_template() {
    let given = json!([
        { "role": "developer", "name": "ann", "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }] },
        { "role": "assistant", "content": null, "reasoning_content": "why", "weight": 1e-7, "tool_calls": [
            { "id": "c1", "type": "function", "index": 0, "function": { "name": "f", "arguments": { "k": 1 }, "strict": true } },
            { "id": "c2", "name": "g", "arguments": "{}" },
        ] },
        { "role": "tool", "tool_call_id": "c1", "content": "r", "name": "f" },
    ]);
    let messages = ChatMessage::list_from_json(&given).unwrap();
    let text = jinja("{{ messages | tojson }}").unwrap().render(&messages, &[], &RenderOptions::default()).unwrap();
    let mut expected = given;
    expected[1]["tool_calls"][1] =
        json!({ "id": "c2", "type": "function", "function": { "name": "g", "arguments": "{}" } });
    assert_eq!(text, crate::text::to_python_json(&expected));
    assert_eq!((messages[0].role, messages[0].content.as_str()), (ChatRole::System, "ab"));
}

/// `{% generation %}` marks what is trained on; its body is rendered as if it were not there.
#[test]
fn generation_tags_do_nothing() {
    let source = "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}<SPECIAL_11>{{ m.content }}\n{% endif %}{% endfor %}";
    let messages = [ChatMessage::new(ChatRole::User, "Hello"), ChatMessage::new(ChatRole::Assistant, "Yes.")];
    let text = jinja(source).unwrap().render(&messages, &[], &RenderOptions::default()).unwrap();
    assert_eq!(text, "<SPECIAL_11>Hello\nYes.");
    let message = jinja("a\n{% generation %}x").unwrap_err().to_string();
    assert!(message.contains("line 2"), "{message}");
}
