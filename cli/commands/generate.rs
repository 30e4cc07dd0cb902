//! `nemo-burn generate`: what a model writes.

use std::fmt::Write;
use std::io::Read;

use anyhow::Context;
use nemo_env::Dataset;
use nemo_model::WeightStorage;
use nemo_model::generate::{Engine, SampleKey, SamplingParams, StopReason, TokenId, TurnEnd};
use nemo_model::text::{ChatMessage, ChatRole, RenderOptions, Tokenizer};
use nemo_rl::assemble::LoadedModel;
use nemo_rl::rollout::chat;
use serde_json::{Value, json};

use super::places::places;
use crate::arguments::{GenerateArguments, GenerateInput, SamplingArguments, WeightDtype};
use crate::device::DeviceName;
use crate::{jsonl, output};

/// Tokens of an answer when nobody says otherwise.
const DEFAULT_MAX_NEW_TOKENS: usize = 256;
/// Answers that are worked on at the same time.
const MAX_OPEN: usize = 64;

/// A prompt and what to call it.
struct Prompt {
    label: String,
    ids: Vec<TokenId>,
}

pub fn run(arguments: GenerateArguments) -> anyhow::Result<()> {
    let storage = storage(&arguments)?;
    let device = arguments.device.open()?;
    let mut loaded = LoadedModel::open_stored(&arguments.model, &places(None)?, &device, storage)?;
    if arguments.ignore_eos {
        loaded.stop_tokens.clear();
    }
    let prompts = prompts(&arguments, &loaded)?;
    let sampling = sampling(&arguments.sampling, arguments.max_new_tokens, &loaded);
    let samples = arguments.sampling.samples;
    let longest = prompts.iter().map(|prompt| prompt.ids.len()).max().unwrap_or(0) + sampling.max_new_tokens + 1;
    let options = loaded.engine_options(MAX_OPEN.min(prompts.len() * samples), longest);
    let LoadedModel { model, tokenizer, .. } = loaded;
    let mut engine = Engine::new(model, options);

    // Prompts are handed over in portions, so that the first answers come before the last prompt is computed.
    let portion = (MAX_OPEN / samples).max(1);
    for (number, chunk) in prompts.chunks(portion).enumerate() {
        let ends = generate(&mut engine, chunk, number * portion, samples, arguments.sampling.seed, &sampling)?;
        for (prompt, answers) in chunk.iter().zip(ends) {
            for (sample, answer) in answers.iter().enumerate() {
                let text = tokenizer.as_ref().map(|tokenizer| tokenizer.decode(&answer.tokens, false)).transpose()?;
                if arguments.json {
                    output::line(&json_line(prompt, sample, answer, text.as_deref()))?;
                } else {
                    let heading = prompts.len() * samples > 1;
                    output::line(&plain_text(prompt, sample, answer, tokenizer.as_ref(), heading)?)?;
                }
            }
        }
    }
    Ok(())
}

/// How the weights are kept, if the device can.
fn storage(arguments: &GenerateArguments) -> anyhow::Result<WeightStorage> {
    let (storage, name) = match arguments.weight_dtype {
        WeightDtype::Float32 => return Ok(WeightStorage::Full),
        WeightDtype::Bfloat16 => (WeightStorage::Bf16, "bfloat16"),
        WeightDtype::Int8 => (WeightStorage::Int8, "int8"),
    };
    anyhow::ensure!(
        arguments.device == DeviceName::Cpu,
        "--weight-dtype {name}: --device {} has no products with such weights; use --device cpu, or --weight-dtype float32",
        arguments.device
    );
    Ok(storage)
}

/// The answers to some prompts, `samples` of each, in order.
fn generate(
    engine: &mut Engine,
    prompts: &[Prompt],
    first: usize,
    samples: usize,
    seed: u64,
    sampling: &SamplingParams,
) -> anyhow::Result<Vec<Vec<TurnEnd>>> {
    let mut handles = Vec::with_capacity(prompts.len());
    for (index, prompt) in prompts.iter().enumerate() {
        let failed = || format!("prompt {}", prompt.label);
        let ids = engine.begin(&prompt.ids, samples).with_context(failed)?;
        for (sample, &id) in ids.iter().enumerate() {
            let key = SampleKey { seed, step: 0, task: (first + index) as u64, sample: sample as u64 };
            engine.begin_turn(id, &[], key, sampling).with_context(failed)?;
        }
        handles.push(ids);
    }
    let mut ended = Vec::new();
    while engine.has_open_turns() {
        ended.extend(engine.step()?);
    }
    let mut answers = Vec::with_capacity(handles.len());
    for ids in handles {
        let mut of_prompt = Vec::with_capacity(ids.len());
        for id in ids {
            engine.finish(id);
            let place = ended.iter().position(|turn: &TurnEnd| turn.sequence == id);
            of_prompt.extend(place.map(|place| ended.swap_remove(place)));
        }
        answers.push(of_prompt);
    }
    Ok(answers)
}

/// What is asked for on the command line, else what the checkpoint recommends, else the whole distribution.
pub fn sampling(arguments: &SamplingArguments, max_new_tokens: Option<usize>, loaded: &LoadedModel) -> SamplingParams {
    let checkpoint = loaded.generation.clone().unwrap_or_default();
    let recommended = checkpoint.do_sample != Some(false);
    SamplingParams {
        temperature: match arguments.greedy {
            true => 0.0,
            false => arguments.temperature.or(checkpoint.temperature.filter(|_| recommended)).unwrap_or(1.0),
        },
        top_p: arguments.top_p.or(checkpoint.top_p.filter(|_| recommended)).unwrap_or(1.0),
        min_p: arguments.min_p.or(checkpoint.min_p.filter(|_| recommended)).unwrap_or(0.0),
        top_k: arguments.top_k.or(checkpoint.top_k.filter(|_| recommended)),
        max_new_tokens: max_new_tokens.or(checkpoint.max_new_tokens).unwrap_or(DEFAULT_MAX_NEW_TOKENS),
    }
}

fn prompts(arguments: &GenerateArguments, loaded: &LoadedModel) -> anyhow::Result<Vec<Prompt>> {
    let GenerateInput { prompt, messages, records, input_ids } = &arguments.input;
    if let Some(path) = input_ids {
        return jsonl::read_lines(path)?
            .into_iter()
            .enumerate()
            .map(|(index, (line, value))| {
                let ids = token_ids(&value).with_context(|| format!("{}:{line}", path.display()))?;
                Ok(Prompt { label: index.to_string(), ids })
            })
            .collect();
    }
    let tokenizer = loaded.tokenizer.as_ref().with_context(|| {
        format!(
            "{} holds no tokenizer.json; copy the model's tokenizer files into it, or give token ids with --input-ids",
            loaded.folder.display()
        )
    })?;
    let chat = |messages: &[ChatMessage], tools: &[Value]| -> anyhow::Result<Vec<TokenId>> {
        Ok(tokenizer.encode(&loaded.template.render(messages, tools, &RenderOptions::prompt())?)?)
    };
    if let Some(path) = records {
        return Dataset::load(path)?
            .tasks
            .iter()
            .map(|task| {
                let ids = chat(&chat::messages(task), &chat::tools(&task.tools));
                Ok(Prompt { label: task.id.to_string(), ids: ids.with_context(|| format!("task {}", task.id))? })
            })
            .collect();
    }
    if let Some(path) = messages {
        let value = jsonl::read_value(path)?;
        let list = value.get("messages").unwrap_or(&value);
        let messages = ChatMessage::list_from_json(list).with_context(|| path.display().to_string())?;
        let tools = value.get("tools").and_then(Value::as_array).cloned().unwrap_or_default();
        return Ok(vec![Prompt { label: "0".to_owned(), ids: chat(&messages, &tools)? }]);
    }
    let text = match prompt {
        Some(text) => text.clone(),
        None => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("cannot read the prompt from standard input")?;
            text
        }
    };
    let ids = match arguments.raw {
        true => tokenizer.encode(&text)?,
        false => chat(&[ChatMessage::new(ChatRole::User, text)], &[])?,
    };
    Ok(vec![Prompt { label: "0".to_owned(), ids }])
}

fn token_ids(value: &Value) -> anyhow::Result<Vec<TokenId>> {
    let id = |value: &Value| value.as_u64().and_then(|id| TokenId::try_from(id).ok());
    value
        .as_array()
        .and_then(|ids| ids.iter().map(id).collect::<Option<Vec<_>>>())
        .context("expected a list of token ids such as [1, 5, 12]")
}

fn reason_name(reason: StopReason) -> &'static str {
    match reason {
        StopReason::EndOfTurn => "stop",
        StopReason::Length | StopReason::ContextFull => "length",
    }
}

fn json_line(prompt: &Prompt, sample: usize, answer: &TurnEnd, text: Option<&str>) -> String {
    json!({
        "prompt": prompt.label,
        "sample": sample,
        "num_prompt_tokens": prompt.ids.len(),
        "finish_reason": reason_name(answer.reason),
        "token_ids": answer.tokens,
        "log_probs": answer.log_probs,
        "text": text,
    })
    .to_string()
}

fn plain_text(
    prompt: &Prompt,
    sample: usize,
    answer: &TurnEnd,
    tokenizer: Option<&Tokenizer>,
    heading: bool,
) -> anyhow::Result<String> {
    let mut text = String::new();
    if heading {
        // Writing into a string cannot fail.
        let _ = writeln!(text, "--- prompt {}, answer {sample} ---", prompt.label);
    }
    match tokenizer {
        Some(tokenizer) => text.push_str(&tokenizer.decode(&answer.tokens, true)?),
        None => text.push_str(&answer.tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")),
    }
    Ok(text)
}
