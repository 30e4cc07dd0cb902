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
use super::tokenizer::TokenizerSettings;
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
    /// built-in rendering of the family.
    ///
    /// # Errors
    /// [`TextError`] if a file exists but cannot be used.
    pub fn load(folder: &Path) -> Result<Self, TextError> {
        let settings = TokenizerSettings::load(folder)?;
        let file = folder.join("chat_template.jinja");
        if file.exists() {
            let source = std::fs::read_to_string(&file)
                .map_err(|source| TextError::Unreadable { path: file.clone(), source })?;
            return Self::from_jinja(&file.display().to_string(), &source, None, &settings);
        }
        match &settings.chat_template {
            Some(source) => {
                let name = folder.join("tokenizer_config.json").display().to_string();
                Self::from_jinja(&name, source, settings.tool_chat_template.as_deref(), &settings)
            }
            None => Ok(Self::nemotron_v2()),
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
