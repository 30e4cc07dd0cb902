//! `nemo-burn generate`: what a model writes.

use std::fmt::Write;
use std::io::Read;
use std::ops::Range;
use std::time::Instant;

use anyhow::Context;
use nemo_env::Dataset;
use nemo_model::config::GENERATION_CONFIG_FILE;
use nemo_model::generate::{Engine, SampleKey, SamplingParams, SequenceId, StopReason, TokenId, TurnEnd};
use nemo_model::text::{ChatMessage, ChatRole, RenderOptions, Tokenizer};
use nemo_model::{Dtypes, WeightStorage};
use nemo_rl::assemble::LoadedModel;
use nemo_rl::rollout::chat;
use serde_json::{Map, Value, json};

use super::conversation::Conversation;
use super::places::places;
use crate::arguments::{GenerateArguments, GenerateInput, SamplingArguments, WeightDtype};
use crate::device::{DeviceName, machine};
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
    let started = Instant::now();
    let storage = storage(arguments.weight_dtype, arguments.compute.device)?;
    let device = arguments.compute.device.open()?;
    let machine = machine(&arguments.compute);
    let mut loaded = LoadedModel::open(
        &arguments.model,
        arguments.adapter.as_deref(),
        &places(None)?,
        &device,
        Dtypes::stored(storage),
    )?;
    if arguments.ignore_eos {
        loaded.stop_tokens.clear();
    }
    let prompts = prompts(&arguments, &loaded)?;
    let sampling = sampling(&arguments.sampling, arguments.max_new_tokens, &loaded);
    let limits = prompts
        .iter()
        .map(|prompt| max_new_tokens(prompt, arguments.max_new_tokens, &loaded))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let samples = arguments.sampling.samples;
    let lengths = prompts.iter().zip(&limits).map(|(prompt, limit)| prompt.ids.len().saturating_add(*limit));
    let longest = lengths.max().unwrap_or(0);
    loaded.warn_of_length(longest);
    loaded.warn_of_memory(machine);
    output::warnings(&loaded.warnings);
    let open = prompts.len().saturating_mul(samples).min(MAX_OPEN);
    let longest = longest.saturating_add(1);
    let plan = loaded.plan(open, longest, machine)?;
    let options = loaded.engine_options(&plan, longest);
    let LoadedModel { model, tokenizer, .. } = loaded;
    let mut engine = Engine::new(model, options);

    // Answers are worked on in portions, so that the first come before the last is begun, however many there are.
    let portion = (MAX_OPEN / samples).max(1);
    let heading = prompts.len() > 1 || samples > 1;
    let loaded_at = Instant::now();
    let mut num_new_tokens = 0;
    for first in (0..prompts.len()).step_by(portion) {
        let chunk = first..prompts.len().min(first + portion);
        for round in (0..samples).step_by(MAX_OPEN) {
            let round = round..samples.min(round.saturating_add(MAX_OPEN));
            let mut handles = Vec::with_capacity(chunk.len());
            for index in chunk.clone() {
                let sampling = SamplingParams { max_new_tokens: limits[index], ..sampling };
                let place = (index, round.clone());
                handles.push(begin(&mut engine, &prompts[index], place, arguments.sampling.seed, &sampling)?);
            }
            for (index, answers) in chunk.clone().zip(finish(&mut engine, handles)?) {
                let prompt = &prompts[index];
                for (sample, answer) in round.clone().zip(&answers) {
                    num_new_tokens += answer.tokens.len();
                    let text =
                        tokenizer.as_ref().map(|tokenizer| tokenizer.decode(&answer.tokens, false)).transpose()?;
                    if arguments.json {
                        output::line(&json_line(prompt, sample, answer, text.as_deref()))?;
                    } else {
                        output::line(&plain_text(prompt, sample, answer, tokenizer.as_ref(), heading)?)?;
                    }
                }
            }
        }
    }
    let (loading, generating) = ((loaded_at - started).as_secs_f64(), loaded_at.elapsed().as_secs_f64());
    output::note(&format!(
        "loaded in {loading:.1} s; {} prompt tokens read and {num_new_tokens} tokens generated in {generating:.1} s: \
         {:.2} tokens/s",
        prompts.iter().map(|prompt| prompt.ids.len()).sum::<usize>(),
        num_new_tokens as f64 / generating
    ));
    Ok(())
}

/// How the weights are kept, if the device can.
pub fn storage(weight_dtype: WeightDtype, device: DeviceName) -> anyhow::Result<WeightStorage> {
    let (storage, name) = match weight_dtype {
        WeightDtype::Float32 => return Ok(WeightStorage::Full),
        WeightDtype::Bfloat16 => (WeightStorage::Bf16, "bfloat16"),
        WeightDtype::Int8 => (WeightStorage::Int8, "int8"),
    };
    anyhow::ensure!(
        device == DeviceName::Cpu,
        "--weight-dtype {name}: --device {device} has no products with such weights; use --device cpu, or --weight-dtype \
         float32"
    );
    Ok(storage)
}

/// Begins answers of a prompt, which is the number and the samples of `place`.
fn begin(
    engine: &mut Engine,
    prompt: &Prompt,
    (number, samples): (usize, Range<usize>),
    seed: u64,
    sampling: &SamplingParams,
) -> anyhow::Result<Vec<SequenceId>> {
    let failed = || format!("prompt {}", prompt.label);
    let ids = engine.begin(&prompt.ids, samples.len()).with_context(failed)?;
    for (sample, &id) in samples.zip(&ids) {
        let key = SampleKey { seed, step: 0, task: number as u64, sample: sample as u64 };
        engine.begin_turn(id, &[], key, sampling).with_context(failed)?;
    }
    Ok(ids)
}

/// The answers of sequences that were begun, in order.
fn finish(engine: &mut Engine, handles: Vec<Vec<SequenceId>>) -> anyhow::Result<Vec<Vec<TurnEnd>>> {
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
    // Who asks for a choice among tokens or for several answers does not want the greedy one.
    let asked = arguments.top_p.is_some() || arguments.min_p.is_some() || arguments.top_k.is_some();
    let unasked = if recommended || asked || arguments.samples > 1 { 1.0 } else { 0.0 };
    SamplingParams {
        temperature: match arguments.greedy {
            true => 0.0,
            false => arguments.temperature.or(checkpoint.temperature.filter(|_| recommended)).unwrap_or(unasked),
        },
        top_p: arguments.top_p.or(checkpoint.top_p.filter(|_| recommended)).unwrap_or(1.0),
        min_p: arguments.min_p.or(checkpoint.min_p.filter(|_| recommended)).unwrap_or(0.0),
        top_k: arguments.top_k.or(checkpoint.top_k.filter(|_| recommended)),
        max_new_tokens: max_new_tokens.or(checkpoint.max_new_tokens).unwrap_or(DEFAULT_MAX_NEW_TOKENS),
    }
}

/// Tokens of an answer: asked for, else the checkpoint's limit of answers, else what its limit of sequences leaves.
fn max_new_tokens(prompt: &Prompt, asked: Option<usize>, loaded: &LoadedModel) -> anyhow::Result<usize> {
    let checkpoint = loaded.generation.as_ref();
    if let Some(limit) = asked.or(checkpoint.and_then(|checkpoint| checkpoint.max_new_tokens)) {
        return Ok(limit);
    }
    let Some(length) = checkpoint.and_then(|checkpoint| checkpoint.max_length) else {
        return Ok(DEFAULT_MAX_NEW_TOKENS);
    };
    let left = length.saturating_sub(prompt.ids.len());
    anyhow::ensure!(
        left > 0,
        "prompt {} has {} tokens, and \"max_length\" of {} is {length}; give --max-new-tokens",
        prompt.label,
        prompt.ids.len(),
        loaded.folder.join(GENERATION_CONFIG_FILE).display()
    );
    Ok(left)
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
    let render = |messages: &[ChatMessage], tools: &[Value], variables| -> anyhow::Result<Vec<TokenId>> {
        let options = RenderOptions { variables, ..RenderOptions::prompt() };
        Ok(tokenizer.encode(&loaded.template.render(messages, tools, &options)?)?)
    };
    let chat = |messages: &[ChatMessage], tools: &[Value]| render(messages, tools, Map::new());
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
        let conversation = Conversation::read(path)?;
        let ids = render(&conversation.messages, &conversation.tools, conversation.variables)?;
        return Ok(vec![Prompt { label: "0".to_owned(), ids }]);
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
