//! Fuzz target for chat templates: any template ends with a text or an error, within its budget of memory; libFuzzer's own
//! limit of time ends what takes too long.

#![no_main]
#![allow(dead_code, unused_imports, missing_docs, reason = "the sources serve more than this target")]

mod texts;
pub use texts::{checkpoint, config, git_lfs, text};

use libfuzzer_sys::fuzz_target;
use serde_json::json;
use text::{ChatMessage, ChatTemplate, RenderOptions, TokenizerSettings};

fuzz_target!(|source: &[u8]| {
    let Ok(source) = std::str::from_utf8(source) else { return };
    let Ok(template) = ChatTemplate::from_jinja("fuzz", source, None, &TokenizerSettings::default()) else { return };
    let messages = json!([
        { "role": "system", "content": "Be brief." },
        { "role": "user", "content": [{ "type": "text", "text": "Grüße" }], "name": "ann" },
        { "role": "assistant", "content": null, "tool_calls": [
            { "id": "c1", "function": { "name": "f", "arguments": { "x": 1e-7, "y": [true, null, -0.0] } } }
        ] },
        { "role": "tool", "tool_call_id": "c1", "content": "done" },
    ]);
    let tools = [json!({ "type": "function", "function": { "name": "f", "parameters": { "x": 1e16, "n": 12 } } })];
    let Ok(messages) = ChatMessage::list_from_json(&messages) else { return };
    let text = template.render(&messages, &tools, &RenderOptions::prompt());
    assert!(text.map_or(0, |text| text.len()) < 200_000_000, "a text beyond the budget");
});
