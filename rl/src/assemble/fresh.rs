//! A fresh model: random weights, and a tokenizer trained on the generator's conversations.

use std::path::Path;

use burn::tensor::Device;
use nemo_env::generate::{self, GeneratorConfig, Split};
use nemo_env::{Environment, Offices, Task};
use nemo_model::checkpoint::SidecarFile;
use nemo_model::config::{GENERATION_CONFIG_FILE, ModelConfig, end_token_ids};
use nemo_model::text::{
    BpeTraining, COMPACT_CHAT_TEMPLATE, ChatMessage, ChatRole, ChatTemplate, ChatToolCall, RenderOptions, train_bpe,
};
use serde_json::{Value, json};

use super::{AssembleError, LoadedModel, Places, dtypes};
use crate::config::RunConfig;
use crate::model_files;
use crate::rollout::chat;

impl LoadedModel {
    /// A fresh model: random weights, a tokenizer trained on the generator's conversations.
    pub(super) fn fresh(
        config: &RunConfig,
        model_config: &Path,
        places: &Places,
        device: &Device,
    ) -> Result<Self, AssembleError> {
        let init = &config.policy.init;
        let path = places.find(model_config);
        let mut shape = ModelConfig::from_file(&path)?;
        nemo_model::check_room(&shape, &path)?;
        let training = BpeTraining {
            vocab_size: init.tokenizer.vocab_size,
            chat_template: Some(COMPACT_CHAT_TEMPLATE.to_owned()),
            ..BpeTraining::default()
        };
        let tasks = generate::tasks(&GeneratorConfig {
            seed: init.tokenizer.corpus_seed,
            count: init.tokenizer.corpus_count,
            num_offices: config.data.train.generate.num_offices,
            split: Split::WarmStart,
            suite: config.data.train.generate.suite,
            ..GeneratorConfig::default()
        })?;
        let trained = train_bpe(&conversations(&tasks)?, &training)?;
        let tokenizer = trained.tokenizer;
        if tokenizer.vocab_size() > shape.vocab_size {
            let (model, tokenizer) = (shape.vocab_size, tokenizer.vocab_size());
            return Err(AssembleError::Vocabulary { path, model, tokenizer });
        }
        shape.bos_token_id = tokenizer.bos_id();
        shape.pad_token_id = tokenizer.pad_id();
        shape.eos_token_ids = tokenizer.eos_id().into_iter().collect();
        let dtypes = dtypes(&config.policy, &mut shape);
        let model = nemo_model::random(&shape, init.seed, device, dtypes)?;
        let mut sidecar_files = trained.files;
        let generation = json!({
            "bos_token_id": shape.bos_token_id, "do_sample": true, "eos_token_id": shape.eos_token_ids,
            "pad_token_id": shape.pad_token_id, "temperature": 1.0,
        });
        sidecar_files.push(SidecarFile {
            name: GENERATION_CONFIG_FILE.to_owned(),
            contents: format!("{generation:#}\n").into_bytes(),
        });
        Ok(Self {
            stop_tokens: end_token_ids(&shape, None, tokenizer.eos_id()),
            model,
            tokenizer: Some(tokenizer),
            template: ChatTemplate::compact()?,
            generation: None,
            sidecar_files,
            name: path.display().to_string(),
            folder: path,
            warnings: model_files::unused_overrides(&config.policy.hf_config_overrides).into_iter().collect(),
        })
    }
}

/// Demonstrations as whole conversations. The tool list, equal in all, is rendered into the first only: a tokenizer
/// trained on thousands of copies of it would spend its merges there.
fn conversations(tasks: &[Task]) -> Result<Vec<String>, AssembleError> {
    let template = ChatTemplate::compact()?;
    let offices = Offices::new();
    let mut texts = Vec::with_capacity(tasks.len());
    for (index, task) in tasks.iter().enumerate() {
        let mut messages = chat::messages(task);
        if let Some(demonstration) = &task.demonstration {
            let mut session = offices.reset(task)?;
            for call in &demonstration.calls {
                let arguments = Value::String(call.arguments.clone());
                messages.push(ChatMessage::calling("", vec![ChatToolCall { name: call.name.clone(), arguments }]));
                messages.push(ChatMessage::new(ChatRole::Tool, session.call(call)));
            }
            messages.push(ChatMessage::new(ChatRole::Assistant, demonstration.final_text.clone()));
        }
        let tools = if index == 0 { chat::tools(&task.tools) } else { Vec::new() };
        texts.push(template.render(&messages, &tools, &RenderOptions::default())?);
    }
    Ok(texts)
}
