//! Text on its way in and out of the model: tokenizer, chat template, tool calls.
//!
//! A conversation is rendered to text once, at its start; after that only token ids are appended. What a template puts
//! between the end of an assistant turn and the next one is derived from the template itself
//! ([`ChatTemplate::tool_result_format`]), so no history is ever tokenised again.

mod bpe_training;
pub mod chat_template;
mod error;
mod python_json;
#[cfg(test)]
mod tests;
mod tokenizer;
mod tool_calls;

pub use bpe_training::{BpeTraining, TOOL_TOKENS, TrainedTokenizer, train_bpe};
pub use chat_template::{
    COMPACT_CHAT_TEMPLATE, ChatMessage, ChatRole, ChatTemplate, ChatToolCall, RenderOptions, ToolResultFormat,
};
pub use error::TextError;
pub use python_json::to_python_json;
pub use tokenizer::{Tokenizer, TokenizerSettings};
pub use tool_calls::{ParsedReply, ToolCall, parse_tool_calls};
