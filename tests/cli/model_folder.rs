//! Model folders whose files do not fit each other, or not what is done with them: refused, or used with a warning.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::program::{Finished, repository, run_in};
use super::small_model::workspace;

fn generate(folder: &Path, more: &[&str]) -> Finished {
    let mut arguments = vec!["generate", "--model=model", "--prompt=Hello", "--max-new-tokens=2", "--json"];
    arguments.extend(more);
    run_in(folder, &arguments)
}

/// Checks that the program went on after a warning.
#[track_caller]
fn warned(finished: Finished, words: &str) {
    assert!(finished.stderr.contains("warning: ") && finished.stderr.contains(words), "{}", finished.stderr);
    finished.succeeded();
}

fn edit(folder: &Path, file: &str, change: impl FnOnce(&mut Value)) {
    let path = folder.join("model").join(file);
    let mut document = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut document);
    fs::write(path, document.to_string()).unwrap();
}

#[test]
fn a_tokenizer_of_another_model() {
    let folder = workspace();
    fs::copy(repository().join("configs/models/tiny/tokenizer.json"), folder.path().join("model/tokenizer.json"))
        .unwrap();
    let words = ["model", "tokenizer writes token ids up to", "embeddings for 512"];
    generate(folder.path(), &[]).refused(&words);
    run_in(folder.path(), &["eval", "--model=model", "--count=1"]).refused(&words);
    run_in(folder.path(), &["train", "--config=config.yaml"]).refused(&words);
}

#[test]
fn special_tokens_that_disagree() {
    let folder = workspace();
    edit(folder.path(), "config.json", |config| config["pad_token_id"] = json!(200));
    warned(generate(folder.path(), &[]), "config.json says \"pad_token_id\" 200");
}

/// The template, which shows what it was given, is given everything a conversation's file has for it.
#[test]
fn a_conversation_with_variables_of_the_template() {
    let folder = workspace();
    let shown = "{{ raise_exception(documents[0].title ~ enable_thinking ~ tools[0].name ~ messages[0].name) }}";
    fs::write(folder.path().join("model/chat_template.jinja"), shown).unwrap();
    let chat = json!({
        "messages": [{"role": "user", "content": "x", "name": "Kim"}],
        "tools": [{"name": "look"}],
        "documents": [{"title": "Plan"}],
        "chat_template_kwargs": {"enable_thinking": false},
    });
    fs::write(folder.path().join("chat.json"), chat.to_string()).unwrap();
    run_in(folder.path(), &["generate", "--model=model", "--messages=chat.json"]).refused(&["PlanFalselookKim"]);
}

#[test]
fn no_chat_template() {
    let folder = workspace();
    let said = generate(folder.path(), &[]).stderr;
    assert!(!said.contains("warning"), "{said}");
    fs::remove_file(folder.path().join("model/chat_template.jinja")).unwrap();
    edit(folder.path(), "tokenizer_config.json", |settings| {
        settings.as_object_mut().unwrap().remove("chat_template");
    });
    warned(generate(folder.path(), &[]), "model holds no chat template");
}

/// A model whose calls cannot be read would be scored as one that does nothing.
#[test]
fn a_template_that_writes_calls_in_another_format() {
    let folder = workspace();
    let template = "{% for m in messages %}<SPECIAL_11>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>\n<function={{ c.function.name }}>\n{% for k, v in c.function.arguments|items %}<parameter={{ k }}>\n{{ v }}\n</parameter>\n{% endfor %}</function>\n</tool_call>{% endfor %}{{ '<SPECIAL_12>' if m.role == 'assistant' }}\n{% endfor %}{% if add_generation_prompt %}<SPECIAL_11>Assistant\n{% endif %}";
    fs::write(folder.path().join("model/chat_template.jinja"), template).unwrap();
    let words = ["model/chat_template.jinja", "it does not write tool calls between <TOOLCALL> and </TOOLCALL>"];
    run_in(folder.path(), &["eval", "--model=model", "--count=1", "--split=unseen_fillings"]).refused(&words);
    run_in(folder.path(), &["train", "--config=config.yaml"]).refused(&words);
    run_in(folder.path(), &["sft", "--config=config.yaml"]).refused(&words);
    generate(folder.path(), &[]).succeeded();
}

#[test]
fn sequences_longer_than_the_model_was_made_for() {
    let folder = workspace();
    edit(folder.path(), "config.json", |config| config["max_position_embeddings"] = json!(16));
    let words = "the model was made for 16 (\"max_position_embeddings\")";
    warned(generate(folder.path(), &[]), words);
    warned(run_in(folder.path(), &["train", "--config=config.yaml"]), words);
}

#[test]
fn recommended_sampling() {
    let folder = workspace();
    let tokens = |finished: Finished| {
        let line: Value = serde_json::from_str(finished.succeeded().lines().next().unwrap()).unwrap();
        line["token_ids"].to_string()
    };
    let set = |text: &str| fs::write(folder.path().join("model/generation_config.json"), text).unwrap();
    set("{}");
    let greedy = tokens(generate(folder.path(), &["--greedy"]));
    for text in [r#"{"do_sample": false}"#, r#"{"temperature": 0}"#, r#"{"top_k": 1}"#, r#"{"temperature": 1e-45}"#] {
        set(text);
        for seed in ["--seed=1", "--seed=2", "--seed=3"] {
            assert_eq!(tokens(generate(folder.path(), &[seed])), greedy, "{text}");
        }
    }
    set(r#"{"top_k": -1, "top_p": 1.0, "repetition_penalty": 1.3}"#);
    warned(generate(folder.path(), &[]), "without effect here: repetition_penalty = 1.3");
    set(r#"{"top_p": 1.5}"#);
    generate(folder.path(), &[]).refused(&["model/generation_config.json", "top_p", "1.5"]);
    set(r#"{"eos_token_id": 99999}"#);
    generate(folder.path(), &[]).refused(&["model/generation_config.json", "eos_token_id", "99999", "512"]);
    set(r#"{"max_length": 3}"#);
    run_in(folder.path(), &["generate", "--model=model", "--prompt=Hello"])
        .refused(&["max_length", "--max-new-tokens"]);
}

/// Small templates that would never end: one message within seconds.
#[test]
fn a_template_without_end() {
    let folder = workspace();
    for source in [
        "{% for i in range(100000) %}{% for j in range(100000) %}aaaaaaaaaaaaaaaaaaaaaaaa{% endfor %}{% endfor %}",
        "{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s|length }}",
    ] {
        fs::write(folder.path().join("model/chat_template.jinja"), source).unwrap();
        let began = Instant::now();
        generate(folder.path(), &[]).refused(&["model/chat_template.jinja", "budget", "MB"]);
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
}

/// Numbers far beyond any use are work that fits, or an error that names them.
#[test]
fn numbers_without_measure() {
    let folder = workspace();
    let answers = generate(folder.path(), &["--samples=130"]).succeeded();
    assert_eq!(answers.lines().count(), 130);
    run_in(folder.path(), &["eval", "--model=model", "--samples=99999999999", "--count=1"])
        .refused(&["--samples 99999999999", "conversations"]);
}
