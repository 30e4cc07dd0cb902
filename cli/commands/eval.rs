//! `nemo-burn eval`: generate over a split, act in the office, count what is right.

use nemo_env::generate::{self, GeneratorConfig, Split};
use nemo_env::{Dataset, EnvError, StrictReport, Task};
use nemo_model::Dtypes;
use nemo_model::generate::SamplingParams;
use nemo_rl::assemble::{LoadedModel, PolicySettings};
use nemo_rl::evaluate::{Decoding, VALIDATION_STEP_BASE, evaluate, write_episodes};
use nemo_rl::optimizer::OptimizerDtypes;
use nemo_rl::rollout::collector::CollectSettings;
use nemo_rl::rollout::episode::EpisodeLimits;
use nemo_rl::trajectory::Trajectory;
use serde_json::{Map, json};

use anyhow::Context;

use super::generate::{sampling, storage};
use super::ground_truths;
use super::offices::offices;
use super::places::places;
use crate::arguments::EvalArguments;
use crate::device::machine;
use crate::output;
use crate::report::evaluation;

/// Conversations of one evaluation; all are kept until its end.
const MAX_CONVERSATIONS: usize = 1 << 20;

pub fn run(arguments: EvalArguments) -> anyhow::Result<()> {
    let device = arguments.compute.device.open()?;
    let machine = machine(&arguments.compute);
    let storage = storage(arguments.weight_dtype, arguments.compute.device)?;
    let environment = offices(arguments.tables.as_deref())?;
    let tasks = tasks(&arguments)?;
    if let Some(path) = &arguments.records {
        ground_truths::check(path, &tasks, &environment)?;
    }
    let total = tasks.len().saturating_mul(arguments.sampling.samples);
    anyhow::ensure!(
        total <= MAX_CONVERSATIONS,
        "--samples {}: {} tasks make {total} conversations, of which at most {MAX_CONVERSATIONS} are held; lower it",
        arguments.sampling.samples,
        tasks.len()
    );
    let mut loaded = LoadedModel::open(
        &arguments.model,
        arguments.adapter.as_deref(),
        &places(None)?,
        &device,
        Dtypes::stored(storage),
    )?;
    loaded.warn_of_length(arguments.max_length);
    loaded.warn_of_memory(machine);
    output::warnings(&loaded.warnings);
    let sampling: SamplingParams = sampling(&arguments.sampling, Some(arguments.max_new_tokens), &loaded);
    let length = arguments.max_length;
    let settings = PolicySettings {
        max_sequence_length: length,
        max_batch_tokens: length,
        chunk_tokens: length,
        optimizer: OptimizerDtypes::default(),
        rounding_seed: 0,
    };
    let plan = loaded.plan(arguments.max_open_sequences, arguments.max_length, machine)?;
    let (mut policy, chat) = loaded.into_policy(&plan, settings, Map::new())?;
    let decoding = if sampling.temperature == 0.0 { Decoding::Greedy } else { Decoding::Sampled };
    let settings = CollectSettings {
        limits: EpisodeLimits { max_turns: arguments.max_steps, max_total_sequence_length: arguments.max_length },
        sampling,
        max_open_sequences: arguments.max_open_sequences,
        seed: arguments.sampling.seed,
        step: VALIDATION_STEP_BASE,
    };
    let watched = output::is_watched();
    let (mut report, episodes) = evaluate(
        &mut policy,
        &chat,
        &environment,
        &tasks,
        (decoding, arguments.sampling.samples),
        &settings,
        &mut |finished| {
            if watched {
                output::overwrite(&format!("{finished}/{total} conversations"));
            }
        },
    )?;
    if watched {
        output::overwrite("");
    }
    if arguments.strict {
        let verdict = |episode: &Trajectory| -> Result<_, EnvError> {
            let strict = environment.score_strictly(&tasks[episode.task_index], &episode.calls)?;
            Ok((episode.outcome, strict))
        };
        let verdicts = episodes.iter().map(verdict).collect::<Result<Vec<_>, _>>()?;
        report.strict = Some(StrictReport::new(verdicts));
    }
    if let Some(path) = &arguments.episodes {
        write_episodes(path, &[(decoding, &episodes)], &chat).with_context(|| {
            format!("cannot write {}; check free space and permissions of its folder", path.display())
        })?;
    }
    if arguments.json {
        return output::line(&json!(report).to_string());
    }
    output::line(&evaluation::text(&report))
}

fn tasks(arguments: &EvalArguments) -> anyhow::Result<Vec<Task>> {
    if let Some(path) = &arguments.records {
        return Ok(Dataset::load(path)?.tasks);
    }
    let splits = match arguments.split.as_slice() {
        [] => &[Split::UnseenFillings, Split::UnseenTemplates],
        splits => splits,
    };
    let mut tasks = Vec::new();
    for &split in splits {
        tasks.extend(generate::tasks(&GeneratorConfig {
            seed: arguments.task_seed,
            count: arguments.count,
            num_offices: arguments.num_offices,
            split,
            suite: arguments.suite,
            ..GeneratorConfig::default()
        })?);
    }
    Ok(tasks)
}
