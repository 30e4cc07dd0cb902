//! A world small enough to reason about: a number that starts at 0, one tool that adds to it, and tasks that
//! name the number to reach. With it a policy that knows the answer with a probability that training moves.

// Each test binary uses its own part.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nemo_env::{
    Demonstration, EnvError, EnvSession, Environment, Holdout, Message, Outcome, Provenance, Role, Task, ToolCall,
};
use nemo_rl::config::{self, RunConfig};
use nemo_rl::contents::Contents;
use nemo_rl::policy::api::TokenId;
use nemo_rl::policy::scripted::{Question, ScriptedPolicy};
use nemo_rl::progress::{Observer, StepProgress};
use nemo_rl::rollout::plain_text::{ASSISTANT, PlainText, STOP, bytes};
use nemo_rl::run::{RunInputs, RunOptions};
use nemo_rl::run_folder::RunFolder;
use nemo_rl::shuffle::{KeyedRng, Purpose};

pub fn add(n: i64) -> ToolCall {
    ToolCall { name: "add".to_owned(), arguments: format!("{{\"n\":{n}}}") }
}

fn apply(total: &mut i64, call: &ToolCall) -> bool {
    let arguments: Result<BTreeMap<String, i64>, _> = serde_json::from_str(&call.arguments);
    match arguments {
        Ok(arguments) if call.name == "add" && arguments.contains_key("n") => {
            *total += arguments["n"];
            true
        }
        _ => false,
    }
}

pub struct Counter;

struct CounterSession(i64);

impl EnvSession for CounterSession {
    fn call(&mut self, call: &ToolCall) -> String {
        if apply(&mut self.0, call) { format!("{{\"output\":{}}}", self.0) } else { "{\"error\":\"?\"}".to_owned() }
    }
}

impl Environment for Counter {
    fn reset(&self, _task: &Task) -> Result<Box<dyn EnvSession>, EnvError> {
        Ok(Box::new(CounterSession(0)))
    }

    fn score(&self, task: &Task, calls: &[ToolCall]) -> Result<Outcome, EnvError> {
        let total = |calls: &[ToolCall]| {
            let mut total = 0;
            calls.iter().for_each(|call| {
                apply(&mut total, call);
            });
            total
        };
        let target = total(&task.ground_truth);
        Ok(Outcome { reward: f64::from(u8::from(total(calls) == target)), do_nothing: target == 0 })
    }
}

/// `reach K` in `steps` calls; a target of 0 is solved by doing nothing.
pub fn task(id: u64, target: i64, steps: usize) -> Task {
    let calls: Vec<ToolCall> = match steps {
        0 => Vec::new(),
        1 => vec![add(target)],
        n => (0..n as i64).map(|i| add(if i == 0 { target - n as i64 + 1 } else { 1 })).collect(),
    };
    Task {
        id,
        messages: vec![Message::new(Role::User, format!("reach {target}"))],
        tools: Arc::new(Vec::new()),
        parallel_tool_calls: false,
        temperature: None,
        ground_truth: calls.clone(),
        category: "workplace_assistant_counter".to_owned(),
        environment_name: "counter".to_owned(),
        office: None,
        provenance: Some(Provenance {
            template: if steps > 1 { "chain" } else { "single" }.to_owned(),
            filling: id,
            domain: "counter".to_owned(),
            num_steps: steps,
            difficulty: 1,
            holdout: if id.is_multiple_of(2) { Holdout::Filling } else { Holdout::Template },
        }),
        demonstration: Some(Demonstration { calls, final_text: "done".to_owned() }),
    }
}

pub fn tasks(count: u64) -> Vec<Task> {
    (0..count).map(|id| task(id, 10 + id as i64, 1)).collect()
}

pub fn turn(text: &str) -> Vec<TokenId> {
    let mut ids = bytes(text);
    ids.push(STOP);
    ids
}

/// The text of the user's message.
pub fn prompt_text(tokens: &[TokenId]) -> String {
    let prompt: Vec<u8> = tokens.iter().take_while(|&&t| t != ASSISTANT).map(|&t| t as u8).collect();
    String::from_utf8(prompt).unwrap()
}

pub fn target(tokens: &[TokenId]) -> i64 {
    prompt_text(tokens).strip_prefix("reach ").unwrap().parse().unwrap()
}

/// Right with a probability of 0.3 + skill, greedy when that is above a half; answers of several lengths.
pub fn learner() -> ScriptedPolicy {
    ScriptedPolicy::new(STOP, answer, |tokens| if is_right(tokens) { 1.0 } else { 0.0 })
}

fn answer(question: &Question<'_>) -> Vec<TokenId> {
    if question.turn > 0 {
        return turn("done");
    }
    let key = question.key;
    let mut rng = KeyedRng::new(Purpose::Script, &[key.seed, key.step, key.task, key.sample]);
    let draw = if question.greedy { 0.5 } else { rng.uniform() };
    let right = draw < 0.3 + question.skill;
    let n = target(question.tokens) + i64::from(!right);
    turn(&format!("{}\ncall add {{\"n\":{n}}}", "x".repeat(rng.below(9) as usize)))
}

fn is_right(tokens: &[TokenId]) -> bool {
    let text: String = tokens.iter().filter_map(|&t| u8::try_from(t).ok()).map(char::from).collect();
    text.contains(&format!("\"n\":{}}}", target(tokens)))
}

pub fn config(overrides: &[&str]) -> RunConfig {
    let text = "
policy:
  model_name: scripted
  max_total_sequence_length: 400
  max_grad_norm: 1.0
  megatron_cfg:
    optimizer: {lr: 0.05}
    scheduler: {lr_warmup_iters: 0}
grpo:
  num_prompts_per_step: 4
  num_generations_per_prompt: 8
  max_num_steps: 6
  max_num_epochs: 100
  val_period: 2
  val_at_end: true
  seed: 1
checkpointing: {save_period: 2, keep_top_k: null}
sft: {max_num_steps: 6, batch_size: 6, lr: 0.01, val_period: 3}
";
    let overrides: Vec<String> = overrides.iter().map(|o| (*o).to_owned()).collect();
    config::load_text(text, Path::new("test.yaml"), &overrides).unwrap().config
}

/// Sets a flag after a number of steps, as an interrupt would, and counts what it is told.
#[derive(Default)]
pub struct StopAfter<'a> {
    pub steps: u64,
    pub flag: Option<&'a AtomicBool>,
    pub seen: Vec<u64>,
    pub validations: Vec<u64>,
    pub checkpoints: Vec<u64>,
    pub notices: Vec<String>,
}

impl Observer for StopAfter<'_> {
    fn on_step(&mut self, progress: &StepProgress<'_>) {
        self.seen.push(progress.step);
        if let Some(flag) = self.flag.filter(|_| progress.step == self.steps) {
            flag.store(true, Ordering::Relaxed);
        }
    }

    fn on_notice(&mut self, text: &str) {
        self.notices.push(text.to_owned());
    }

    fn on_validation(&mut self, step: u64, _reports: &[nemo_rl::evaluate::EvaluationReport]) {
        self.validations.push(step);
    }

    fn on_checkpoint(&mut self, step: u64, _path: &Path) {
        self.checkpoints.push(step);
    }
}

pub struct Setup {
    pub config: RunConfig,
    pub options: RunOptions,
    pub contents: Contents,
    pub validation: Vec<Task>,
    pub stop: AtomicBool,
}

impl Setup {
    pub fn new(overrides: &[&str]) -> Self {
        let validation = (0..8).map(|id| task(id, (id as i64 % 4) * 7, usize::from(id % 4 > 0) + (id == 3) as usize));
        Self {
            config: config(overrides),
            options: RunOptions::default(),
            contents: Contents::new(),
            validation: validation.collect(),
            stop: AtomicBool::new(false),
        }
    }

    pub fn inputs<'a>(&'a self, folder: &'a RunFolder) -> RunInputs<'a> {
        RunInputs {
            config: &self.config,
            options: &self.options,
            folder,
            contents: &self.contents,
            renderer: &PlainText,
            environment: &Counter,
            validation_tasks: &self.validation,
            stop: &self.stop,
        }
    }
}

/// The results folder of that name, for this process.
pub fn open(path: &Path) -> RunFolder {
    RunFolder::open(path, false, 1234).unwrap()
}

/// All files below a folder with their contents, times aside.
pub fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(root: &Path, folder: &Path, into: &mut BTreeMap<String, Vec<u8>>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, into);
            } else {
                into.insert(path.strip_prefix(root).unwrap().display().to_string(), std::fs::read(&path).unwrap());
            }
        }
    }
    let mut files = BTreeMap::new();
    walk(folder, folder, &mut files);
    files
}
