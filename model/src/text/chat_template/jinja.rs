//! Runs a checkpoint's Jinja chat template with the settings and functions transformers gives it.
//!
//! Differences from plain Jinja that templates rely on: `trim_blocks` and `lstrip_blocks` are on, `tojson` writes
//! Python's JSON without HTML escapes, `raise_exception` exists, `break` and `continue` exist, and values have
//! Python's methods. `strftime_now` is left undefined on purpose: prompts must not depend on the clock, and templates
//! that use it test whether it is defined.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value as JinjaValue};
use serde_json::{Map, Value};

use super::RenderOptions;
use super::message::ChatMessage;
use crate::text::error::TextError;
use crate::text::python_json::{to_python_json, to_python_json_indented};
use crate::text::tokenizer::TokenizerSettings;

const MAIN: &str = "chat_template";
const WITH_TOOLS: &str = "tool_use";

#[derive(Debug)]
pub(super) struct JinjaTemplate {
    environment: Environment<'static>,
    has_tool_template: bool,
    /// Texts of special tokens, which templates may use as variables.
    special_tokens: Map<String, Value>,
}

impl JinjaTemplate {
    pub fn new(
        name: &str,
        source: &str,
        with_tools: Option<&str>,
        settings: &TokenizerSettings,
    ) -> Result<Self, TextError> {
        let refused = |error: Error| TextError::Template { name: name.to_owned(), problem: describe(&error) };
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(refused)?;
        environment.set_syntax(syntax);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", tojson);
        environment.add_function("raise_exception", raise_exception);
        environment.add_template_owned(MAIN, source.to_owned()).map_err(refused)?;
        if let Some(with_tools) = with_tools {
            environment.add_template_owned(WITH_TOOLS, with_tools.to_owned()).map_err(refused)?;
        }
        let tokens = [
            ("bos_token", &settings.bos_token),
            ("eos_token", &settings.eos_token),
            ("pad_token", &settings.pad_token),
            ("unk_token", &settings.unk_token),
        ];
        let special_tokens = tokens
            .into_iter()
            .filter_map(|(key, token)| Some((key.to_owned(), Value::String(token.clone()?))))
            .collect();
        Ok(Self { environment, has_tool_template: with_tools.is_some(), special_tokens })
    }

    pub fn render(
        &self,
        name: &str,
        messages: &[ChatMessage],
        tools: &[Value],
        options: &RenderOptions,
    ) -> Result<String, TextError> {
        let refused = |error: Error| TextError::Template { name: name.to_owned(), problem: describe(&error) };
        let mut context = self.special_tokens.clone();
        context.insert("messages".to_owned(), messages.iter().map(ChatMessage::to_json).collect());
        // Templates ask both `if tools` and `if tools is not none`.
        let tools_value = if tools.is_empty() { Value::Null } else { Value::Array(tools.to_vec()) };
        context.insert("tools".to_owned(), tools_value);
        context.insert("documents".to_owned(), Value::Null);
        context.insert("add_generation_prompt".to_owned(), Value::Bool(options.add_generation_prompt));
        context.extend(options.variables.clone());
        let chosen = if self.has_tool_template && !tools.is_empty() { WITH_TOOLS } else { MAIN };
        let template = self.environment.get_template(chosen).map_err(refused)?;
        template.render(JinjaValue::from(Serde(&context))).map_err(refused)
    }
}

fn describe(error: &Error) -> String {
    let reason = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) => format!("line {line}: {reason}"),
        None => reason,
    }
}

fn raise_exception(message: String) -> Result<JinjaValue, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, format!("the template refuses the conversation: {message}")))
}

/// Python's `json.dumps(value, ensure_ascii=False)`; the remaining options of transformers' filter are accepted where
/// they do not change the text.
fn tojson(value: &JinjaValue, indent: Option<usize>, options: Kwargs) -> Result<String, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get("indent")?,
    };
    let ensure_ascii: Option<bool> = options.get("ensure_ascii")?;
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    if ensure_ascii == Some(true) {
        return Err(Error::new(ErrorKind::InvalidOperation, "tojson(ensure_ascii=true) is not supported"));
    }
    let mut value = serde_json::to_value(value)
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, format!("tojson: {error}")))?;
    if sort_keys == Some(true) {
        value.sort_all_objects();
    }
    Ok(match indent {
        Some(indent) => to_python_json_indented(&value, indent),
        None => to_python_json(&value),
    })
}
