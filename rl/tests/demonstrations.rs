//! Generated demonstrations in the real environment: each renders, and a rollout that follows it has the same
//! ids and earns the reward.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and reports what it skipped"
)]

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use nemo_env::generate::{self, GeneratorConfig, Split};
use nemo_env::{Offices, Task};
use nemo_model::text::{BpeTraining, ChatTemplate, train_bpe};
use nemo_rl::config::{CurriculumStage, load_text};
use nemo_rl::demonstrations::{DemonstrationSource, Generated};
use nemo_rl::policy::api::{SamplingParams, TokenId};
use nemo_rl::policy::scripted::ScriptedPolicy;
use nemo_rl::rollout::Renderer;
use nemo_rl::rollout::chat::Chat;
use nemo_rl::rollout::collector::{CollectSettings, collect};
use nemo_rl::rollout::episode::EpisodeLimits;
use nemo_rl::sft::demonstrate;
use nemo_rl::trajectory::Ending;

const LIMITS: EpisodeLimits = EpisodeLimits { max_turns: 6, max_total_sequence_length: 16384 };

fn tasks() -> Vec<Task> {
    [Split::WarmStart, Split::UnseenTemplates]
        .into_iter()
        .flat_map(|split| {
            generate::tasks(&GeneratorConfig { count: 60, num_offices: 2, split, ..GeneratorConfig::default() })
                .unwrap()
        })
        .collect()
}

fn chat(tasks: &[Task], template: ChatTemplate) -> Chat {
    let texts: Vec<&str> = tasks.iter().map(Task::user_message).collect();
    let training = BpeTraining { vocab_size: 600, ..BpeTraining::default() };
    let tokenizer = train_bpe(&texts, &training).unwrap().tokenizer;
    Chat::new(tokenizer, template, "<SPECIAL_12>", serde_json::Map::new()).unwrap()
}

#[test]
fn following_a_demonstration_earns_the_reward_and_gives_its_ids() {
    let tasks = tasks();
    let chat = chat(&tasks, ChatTemplate::compact().unwrap());
    let environment = Offices::new();
    let mut turns: HashMap<Vec<TokenId>, Vec<Vec<TokenId>>> = HashMap::new();
    for task in &tasks {
        let demonstration = task.demonstration.as_ref().unwrap();
        let mut answers: Vec<Vec<TokenId>> = demonstration
            .calls
            .iter()
            .map(|call| chat.assistant_turn_ids(task, "", std::slice::from_ref(call)).unwrap())
            .collect();
        answers.push(chat.assistant_turn_ids(task, &demonstration.final_text, &[]).unwrap());
        turns.insert(chat.prompt_ids(task).unwrap(), answers);
    }
    let turns = Arc::new(turns);
    let script = Arc::clone(&turns);
    let stop = chat.tokenizer().token_id("<SPECIAL_12>").unwrap();
    let mut policy = ScriptedPolicy::new(
        stop,
        move |question| {
            let (_, answers) = script.iter().find(|(prompt, _)| question.tokens.starts_with(prompt)).unwrap();
            answers[question.turn].clone()
        },
        |_| 0.0,
    );
    let settings = CollectSettings {
        limits: LIMITS,
        sampling: SamplingParams { temperature: 1.0, top_p: 1.0, min_p: 0.0, top_k: None, max_new_tokens: 2000 },
        max_open_sequences: 50,
        seed: 0,
        step: 0,
    };
    let wanted: Vec<&Task> = tasks.iter().collect();
    let rollouts = collect(&mut policy, &chat, &environment, &wanted, 1, &settings, &mut |_| ()).unwrap();
    for (task, rollout) in tasks.iter().zip(&rollouts) {
        let template = &rollout.label.template;
        assert_eq!(rollout.outcome.reward, 1.0, "{template}: {:?}", rollout.calls);
        assert!(matches!(rollout.ending, Ending::Message | Ending::MaxSteps), "{template}: {:?}", rollout.ending);
        let shown = demonstrate(task, &chat, &environment, LIMITS, 0.1).unwrap();
        assert_eq!(shown.tokens, rollout.tokens, "{template}");
    }
    let do_nothing = rollouts.iter().filter(|rollout| rollout.outcome.do_nothing).count();
    println!("{} rollouts, {do_nothing} of them solved by doing nothing", rollouts.len());
}

#[test]
fn the_stream_goes_on_with_new_tasks() {
    let source = Generated(vec![GeneratorConfig {
        count: 40,
        num_offices: 2,
        split: Split::WarmStart,
        ..GeneratorConfig::default()
    }]);
    assert_eq!(source.chunk_size(), 40);
    let requests = |chunk: u64| -> Vec<String> {
        source.chunk(chunk, None).unwrap().iter().map(|task| task.user_message().to_owned()).collect()
    };
    assert_eq!(requests(1), requests(1));
    let first = requests(0);
    let repeated = requests(1).iter().filter(|request| first.contains(request)).count();
    assert!(repeated < 8, "{repeated} of 40 requests came again");
}

#[test]
fn chunks_are_bounded_and_keep_the_proportion() {
    let of = |count, split| GeneratorConfig { count, split, num_offices: 1, ..GeneratorConfig::default() };
    let source = Generated(vec![of(50_000, Split::WarmStart), of(500, Split::Train)]);
    assert_eq!(source.chunk_size(), 1024 + 11);
    let small = Generated(vec![of(5, Split::WarmStart), of(3, Split::Train)]);
    assert_eq!(small.chunk_size(), 8);
    assert_eq!(small.chunk(3, None).unwrap().len(), 8);
}

#[test]
fn a_stage_of_the_curriculum_bounds_the_difficulty_and_may_leave_the_tools_out() {
    let source = Generated(vec![GeneratorConfig {
        count: 64,
        num_offices: 1,
        split: Split::WarmStart,
        ..GeneratorConfig::default()
    }]);
    let hardest = |stage| {
        let tasks = source.chunk(2, stage).unwrap();
        let difficulty = |task: &Task| task.provenance.as_ref().unwrap().difficulty;
        (tasks.iter().map(difficulty).max().unwrap(), tasks.iter().map(|task| task.tools.len()).max().unwrap())
    };
    let stage = |max_difficulty, tools_in_prompt| CurriculumStage { num_steps: 5, max_difficulty, tools_in_prompt };
    assert_eq!(hardest(Some(stage(1, false))), (1, 0));
    assert_eq!(hardest(Some(stage(2, true))), (2, 27));
    let (all, tools) = hardest(None);
    assert!(all > 2 && tools == 27);

    let text = "{policy: {model_name: x}, sft: {curriculum: [{num_steps: 5, max_difficulty: 1, tools_in_prompt: false}, \
                {num_steps: 3, max_difficulty: 2, tools_in_prompt: true}]}}";
    let sft = load_text(text, Path::new("x"), &["data.train.generate.count=1".to_owned()]).unwrap().config.sft;
    let stages: Vec<Option<u8>> = (0..10).map(|step| sft.stage(step).map(|stage| stage.max_difficulty)).collect();
    assert_eq!(stages[4..9], [Some(1), Some(2), Some(2), Some(2), None]);
    let listed = ["data.train=tasks.jsonl".to_owned()];
    let refused = load_text(text, Path::new("x"), &listed).unwrap_err().to_string();
    assert!(refused.contains("sft.curriculum"), "{refused}");
}
