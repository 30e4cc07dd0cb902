//! A conversation in a file, for `nemo-burn generate --messages`.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use nemo_model::text::ChatMessage;
use serde_json::{Map, Value};

use crate::jsonl;

/// What a chat template is given.
pub struct Conversation {
    pub messages: Vec<ChatMessage>,
    /// Function descriptions.
    pub tools: Vec<Value>,
    /// Further variables of the template, such as `enable_thinking`.
    pub variables: Map<String, Value>,
}

impl Conversation {
    /// Reads a list of messages, or the part of a chat completion request that makes its prompt: `messages`, `tools`,
    /// `documents` and `chat_template_kwargs`.
    ///
    /// # Errors
    /// When the file cannot be read, or holds anything else: what the prompt does not show would be missed in silence.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        Self::from_json(jsonl::read_value(path)?).with_context(|| path.display().to_string())
    }

    fn from_json(value: Value) -> anyhow::Result<Self> {
        let Value::Object(request) = value else {
            return Ok(Self::of_messages(&value)?);
        };
        let messages = request.get("messages").context("found no \"messages\" in the object")?;
        let mut conversation = Self::of_messages(messages)?;
        for (key, value) in &request {
            match (key.as_str(), value) {
                ("messages", _) | (_, Value::Null) => {}
                ("tools", Value::Array(tools)) => conversation.tools.clone_from(tools),
                ("chat_template_kwargs", Value::Object(variables)) => conversation.variables.extend(variables.clone()),
                ("documents", Value::Array(_)) => {
                    conversation.variables.insert(key.clone(), value.clone());
                }
                ("tools" | "documents", _) => bail!("\"{key}\" is not a list"),
                ("chat_template_kwargs", _) => bail!("\"chat_template_kwargs\" is not an object"),
                _ => bail!(
                    "\"{key}\" has no place in a conversation; expected \"messages\", \"tools\", \"documents\" and \
                     \"chat_template_kwargs\" (variables of the template). How the answer is sampled, options say"
                ),
            }
        }
        ensure!(conversation.tools.iter().all(Value::is_object), "\"tools\" holds something that is not an object");
        Ok(conversation)
    }

    fn of_messages(list: &Value) -> Result<Self, nemo_model::text::TextError> {
        Ok(Self { messages: ChatMessage::list_from_json(list)?, tools: Vec::new(), variables: Map::new() })
    }
}
