//! From a conversation to the text a model was trained on.
//!
//! A checkpoint's own Jinja template is used when it has one; otherwise the family's rendering, written in Rust.

mod jinja;
mod message;
mod nemotron_v2;
#[cfg(test)]
mod tests;
mod tool_results;

use std::path::Path;

use serde_json::{Map, Value};

use super::error::TextError;
use super::tokenizer::{DEFAULT_TEMPLATE, TOKENIZER_CONFIG_FILE, TOOL_TEMPLATE, TokenizerSettings};
use jinja::JinjaTemplate;

pub use message::{ChatMessage, ChatRole, ChatToolCall};
pub use tool_results::ToolResultFormat;

/// A short template for tiny models: the family's turns, tools as one-line signatures, no reasoning.
pub const COMPACT_CHAT_TEMPLATE: &str = include_str!("../compact_chat_template.jinja");

/// What to render beside the messages.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RenderOptions {
    /// End with the header of an assistant turn, for the model to continue.
    pub add_generation_prompt: bool,
    /// Leave the last message, an assistant's, open for the model to continue.
    pub continue_final_message: bool,
    /// Further variables for the template, such as `enable_thinking`.
    pub variables: Map<String, Value>,
}

impl RenderOptions {
    /// The options of a prompt: everything, then the header of an assistant turn.
    pub fn prompt() -> Self {
        Self { add_generation_prompt: true, ..Self::default() }
    }
}

/// Renders conversations.
#[derive(Debug)]
pub struct ChatTemplate {
    name: String,
    rendering: Rendering,
}

#[derive(Debug)]
enum Rendering {
    NemotronV2,
    Jinja(Box<JinjaTemplate>),
}

impl ChatTemplate {
    /// The rendering of Nemotron Nano v2, built in.
    pub fn nemotron_v2() -> Self {
        Self { name: "nemotron_v2 (built in)".to_owned(), rendering: Rendering::NemotronV2 }
    }

    /// [`COMPACT_CHAT_TEMPLATE`].
    ///
    /// # Errors
    /// None unless the template were damaged.
    pub fn compact() -> Result<Self, TextError> {
        Self::from_jinja("compact (built in)", COMPACT_CHAT_TEMPLATE, None, &TokenizerSettings::default())
    }

    /// A Jinja template. `name` is used in errors, `with_tools` replaces `source` for conversations with tools,
    /// `settings` gives the texts of special tokens.
    ///
    /// # Errors
    /// [`TextError::Template`] with the line at fault.
    pub fn from_jinja(
        name: &str,
        source: &str,
        with_tools: Option<&str>,
        settings: &TokenizerSettings,
    ) -> Result<Self, TextError> {
        let template = JinjaTemplate::new(name, source, with_tools, settings)?;
        Ok(Self { name: name.to_owned(), rendering: Rendering::Jinja(Box::new(template)) })
    }

    /// The template of a model folder: `chat_template.jinja`, else the one in `tokenizer_config.json`, else the
    /// built-in rendering of the family. Either may come with another one for conversations with tools: the file
    /// `additional_chat_templates/tool_use.jinja`, or the entry `tool_use` of a list.
    ///
    /// # Errors
    /// [`TextError`] if a file exists but cannot be used, or there are templates and none is for all conversations.
    pub fn load(folder: &Path) -> Result<Self, TextError> {
        let settings = TokenizerSettings::load(folder)?;
        let file = folder.join("chat_template.jinja");
        let additional = folder.join("additional_chat_templates");
        let tool_file = additional.join(format!("{TOOL_TEMPLATE}.jinja"));
        let read = |path: &Path| match path.exists() {
            true => std::fs::read_to_string(path)
                .map(Some)
                .map_err(|source| TextError::Unreadable { path: path.to_owned(), source }),
            false => Ok(None),
        };
        // Files come before what is in the settings, as in transformers.
        let (path, default, with_tools) = match (read(&file)?, read(&tool_file)?) {
            (None, None) => {
                let template = |name: &str| settings.chat_templates.get(name).cloned();
                (folder.join(TOKENIZER_CONFIG_FILE), template(DEFAULT_TEMPLATE), template(TOOL_TEMPLATE))
            }
            (default, with_tools) => (file, default, with_tools),
        };
        let name = path.display().to_string();
        match default {
            Some(source) => Self::from_jinja(&name, &source, with_tools.as_deref(), &settings),
            None if with_tools.is_none() && settings.chat_templates.is_empty() => Ok(Self::nemotron_v2()),
            None => {
                let mut names: Vec<&str> = settings.chat_templates.keys().map(String::as_str).collect();
                names.extend(with_tools.iter().map(|_| TOOL_TEMPLATE));
                names.dedup();
                let problem = format!(
                    "there are templates named {}, and none named {DEFAULT_TEMPLATE}; write the one to use to {}",
                    names.join(", "),
                    folder.join("chat_template.jinja").display()
                );
                Err(TextError::Template { name, problem })
            }
        }
    }

    /// File or built-in name, as errors quote it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is the family's rendering, which a folder without a template gets.
    pub fn is_built_in(&self) -> bool {
        matches!(self.rendering, Rendering::NemotronV2)
    }

    /// Renders a conversation. Each tool is a JSON object, bare or wrapped as `{"type": "function", "function": …}`.
    ///
    /// # Errors
    /// [`TextError::Template`] if the template refuses the conversation, or `continue_final_message` is asked for and
    /// the last message does not end the text.
    pub fn render(
        &self,
        messages: &[ChatMessage],
        tools: &[Value],
        options: &RenderOptions,
    ) -> Result<String, TextError> {
        let text = match &self.rendering {
            Rendering::NemotronV2 => nemotron_v2::render(messages, tools, options.add_generation_prompt),
            Rendering::Jinja(template) => template.render(&self.name, messages, tools, options)?,
        };
        if options.continue_final_message { self.reopen_final_message(text, messages) } else { Ok(text) }
    }

    /// What this template puts around tool results; see [`ToolResultFormat`].
    ///
    /// `prompt` and `tools` are the conversation's own (the reasoning switch of some templates is in their text),
    /// `end_of_turn` the token that ends an assistant turn, such as `<SPECIAL_12>`.
    ///
    /// # Errors
    /// [`TextError::NotAppendable`] if the template does not keep what was said before tool results as it was, or
    /// does not insert results verbatim.
    pub fn tool_result_format(
        &self,
        prompt: &[ChatMessage],
        tools: &[Value],
        end_of_turn: &str,
        options: &RenderOptions,
    ) -> Result<ToolResultFormat, TextError> {
        ToolResultFormat::derive(self, prompt, tools, end_of_turn, options)
    }

    /// Cuts everything behind the last message's text.
    fn reopen_final_message(&self, mut text: String, messages: &[ChatMessage]) -> Result<String, TextError> {
        let refused = |problem: &str| TextError::Template { name: self.name.clone(), problem: problem.to_owned() };
        let last = messages.last().ok_or_else(|| refused("there is no message to continue"))?;
        let stripped = last.content.trim();
        let start = text.rfind(stripped).ok_or_else(|| {
            refused("the last message's text is not in the rendered conversation, it cannot be continued")
        })?;
        // Trailing space is kept if the template kept it.
        let kept = last.content.trim_start();
        let length = if text[start..].starts_with(kept) { kept.len() } else { stripped.len() };
        text.truncate(start + length);
        Ok(text)
    }
}
