//! A generated world to train in: offices with the row counts of the real tables, and tasks with
//! demonstrations on them. Everything is a pure function of seeds, so a dataset is reproduced from
//! its [`GeneratorConfig`] byte for byte.
//!
//! What keeps training and validation apart:
//! - each [`Split`] has offices of its own, so no table, id or row is shared;
//! - each of the three splits over training templates owns a share of all possible request texts
//!   (by a hash of the text), so no request of one can occur in another, whatever the seeds;
//! - templates of [`Split::UnseenTemplates`] are used by no other split.
//!
//! There are two sets of templates, see [`Suite`]; they share no office and no id.
//!
//! Every task is run on the real tools before it is returned: see `verify`.

mod claim;
mod crowd;
mod dataset;
mod dates;
mod error;
mod names;
mod office;
mod phrases;
mod random;
mod report;
mod split;
mod suite;
mod template;
mod verify;
mod world;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::task::record::{Demonstration, Message, Provenance, Role, Task};
use crate::tool::ToolSchema;
use crate::workplace::Workplace;
use crate::workplace::tables::Tables;

pub use dataset::{WrittenDataset, write_dataset};
pub use error::GenerateError;
pub use report::{Distribution, distribution};
pub use split::{ParseSplitError, Split};
pub use suite::{ParseSuiteError, Suite};
pub use template::TemplateInfo;

use random::{Purpose, Random};
use template::{Draft, Scene, Template, domain};
use verify::Verifier;
use world::World;

/// The system message of every generated task; it fixes the simulated "now".
pub const SYSTEM_PROMPT: &str = "You work in an office with the tools below. Today is Thursday, 2023-11-30, 23:59. Meetings are between 09:00 and 18:00.";
/// Final text of a demonstration that changed something.
pub const FINAL_TEXT_DONE: &str = "Done.";
/// Final text of a demonstration that had nothing to change.
pub const FINAL_TEXT_NOTHING: &str = "Nothing to do.";
/// Largest number of offices a split has.
pub const MAX_OFFICES: usize = 1000;
/// Largest number of tasks generated at once; they are held in memory, some 3 kB each.
pub const MAX_TASKS: usize = 1_000_000;
/// Largest difficulty of a template.
pub const MAX_DIFFICULTY: u8 = 4;
/// Seed of the first office with namesakes and rows that look alike; those before it have neither.
pub const CROWDED_OFFICES: u64 = 1_000_000;
/// Draws before a template is given up; a draw fits about once in ten times at worst.
const MAX_DRAWS: usize = 5000;

/// What to generate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GeneratorConfig {
    /// Chooses the tasks; offices depend only on the split.
    pub seed: u64,
    /// Number of tasks. The first n tasks of a longer list are the same.
    pub count: usize,
    /// Number of different offices the tasks are set in, 1 to [`MAX_OFFICES`].
    pub num_offices: usize,
    pub split: Split,
    /// Which templates and offices.
    pub suite: Suite,
    /// Only templates up to this difficulty (see [`TemplateInfo::difficulty`]).
    pub max_difficulty: Option<u8>,
    /// Only templates of these names; empty = all of the split.
    pub templates: Vec<String>,
}

impl Default for GeneratorConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            count: 1000,
            num_offices: 64,
            split: Split::Train,
            suite: Suite::Core,
            max_difficulty: None,
            templates: Vec::new(),
        }
    }
}

/// The tables of the office with this seed: 500 mails, 300 events, 1,000 visits, 300 tasks, 200
/// customers, 20 addresses; always the same for the same seed. From [`CROWDED_OFFICES`] on there are namesakes and rows
/// that look alike.
pub fn office(seed: u64) -> Tables {
    office::world(seed).tables()
}

/// Name of the office with this seed, as tasks give it: `office-0007`.
pub fn office_name(seed: u64) -> String {
    format!("office-{seed:04}")
}

/// The seed in a name that [`office_name`] made; `None` for any other name.
pub fn office_seed(name: &str) -> Option<u64> {
    let seed = name.strip_prefix("office-")?.parse().ok()?;
    (office_name(seed) == name).then_some(seed)
}

/// All templates of a suite, training templates first.
pub fn templates(suite: Suite) -> Vec<TemplateInfo> {
    let all = [false, true].into_iter().flat_map(|held_out| template::all(suite, held_out));
    all.map(|template| template.info).collect()
}

/// Generates tasks: uniform over templates, but for the full suite's own ones over several domains, which come twice as
/// often, so that these domains' share is about WorkBench's. Each task has a demonstration whose calls score 1 and a
/// ground truth of its writing calls.
///
/// # Errors
/// A configuration that names unknown templates or leaves none, or numbers out of range.
pub fn tasks(config: &GeneratorConfig) -> Result<Vec<Task>, GenerateError> {
    let templates = select(config)?;
    if !(1..=MAX_OFFICES).contains(&config.num_offices) {
        return Err(GenerateError::NumOffices { found: config.num_offices });
    }
    if let Some(found) = config.max_difficulty.filter(|most| !(1..=MAX_DIFFICULTY).contains(most)) {
        return Err(GenerateError::MaxDifficulty { found });
    }
    if config.count > MAX_TASKS {
        return Err(GenerateError::Count { found: config.count });
    }
    let mut offices = OpenOffices { open: (0..config.num_offices).map(|_| None).collect() };
    let tools = Workplace::tools();
    let mut tasks = Vec::new();
    let mut order: Vec<usize> = (0..templates.len()).collect();
    for index in 0..config.count {
        let filling = config.suite.first_filling(config.split) + index as u64;
        // Every block of as many tasks as there are entries uses each of them once.
        let position = index % templates.len();
        if position == 0 {
            order.sort_unstable();
            Random::keyed(Purpose::TemplateOrder, config.seed, filling).shuffle(&mut order);
        }
        let template = templates[order[position]];
        tasks.push(generate(config, template, filling, &mut offices, &tools)?);
    }
    Ok(tasks)
}

/// The templates to use, each as often as it is to be used in a block.
fn select(config: &GeneratorConfig) -> Result<Vec<&'static Template>, GenerateError> {
    let all = template::all(config.suite, config.split == Split::UnseenTemplates);
    for name in &config.templates {
        if !all.iter().any(|template| template.info.name == name) {
            return Err(GenerateError::UnknownTemplate {
                name: name.clone(),
                split: config.split,
                known: all.iter().map(|template| template.info.name).collect(),
            });
        }
    }
    let selected: Vec<_> = all
        .into_iter()
        .filter(|template| {
            let info = &template.info;
            let named = config.templates.is_empty() || config.templates.iter().any(|name| name == info.name);
            named && config.max_difficulty.is_none_or(|most| info.difficulty <= most)
        })
        .collect();
    if selected.is_empty() {
        return Err(GenerateError::NoTemplates { split: config.split, max_difficulty: config.max_difficulty });
    }
    let times = |info: &TemplateInfo| if info.suite == Suite::Full && info.domain == domain::MULTI { 2 } else { 1 };
    Ok(selected.into_iter().flat_map(|template| std::iter::repeat_n(template, times(&template.info))).collect())
}

/// The offices of one run, each made when the first task is set in it.
struct OpenOffices {
    open: Vec<Option<(World, Verifier)>>,
}

impl OpenOffices {
    fn get(&mut self, number: usize, seed: u64) -> &(World, Verifier) {
        self.open[number].get_or_insert_with(|| {
            let world = office::world(seed);
            let verifier = Verifier::new(world.tables());
            (world, verifier)
        })
    }
}

fn generate(
    config: &GeneratorConfig,
    template: &'static Template,
    filling: u64,
    offices: &mut OpenOffices,
    tools: &Arc<Vec<ToolSchema>>,
) -> Result<Task, GenerateError> {
    let split = config.split;
    let mut random = Random::keyed(Purpose::Task, config.seed, filling);
    let number = random.below(config.num_offices);
    let seed = config.suite.first_office(split) + number as u64;
    let office = office_name(seed);
    let (world, verifier) = offices.get(number, seed);
    let mut scene = Scene { world, random: &mut random };
    let mut draft = (0..MAX_DRAWS)
        .find_map(|_| {
            let draft = (template.fill)(&mut scene).filter(|draft| split.owns(&draft.request))?;
            // Chance may ask for what is so already, such as to move a meeting to where it is.
            let writes = draft.writes();
            (writes.is_empty() || !verifier.changes_nothing(&writes)).then_some(draft)
        })
        .ok_or_else(|| GenerateError::NoFilling { template: template.info.name, office: office.clone() })?;
    let claims = draft.claims.take();
    let task = assemble(split, template, filling, office.clone(), draft, tools);
    let unique = || claims.map_or(Ok(()), |claims| verifier.check_unique(&task, &claims));
    verifier.check(&task).and_then(|()| unique()).map_err(|problem| GenerateError::Unsound {
        template: template.info.name,
        task: task.id,
        office,
        problem,
    })?;
    Ok(task)
}

fn assemble(
    split: Split,
    template: &Template,
    filling: u64,
    office: String,
    draft: Draft,
    tools: &Arc<Vec<ToolSchema>>,
) -> Task {
    let ground_truth = draft.writes();
    let final_text = if ground_truth.is_empty() { FINAL_TEXT_NOTHING } else { FINAL_TEXT_DONE };
    Task {
        // Fillings are numbered apart by split, which makes them good ids as well.
        id: filling,
        messages: vec![Message::new(Role::System, SYSTEM_PROMPT), Message::new(Role::User, draft.request.as_str())],
        tools: Arc::clone(tools),
        parallel_tool_calls: false,
        temperature: Some(1.0),
        ground_truth,
        category: format!("workplace_assistant_{}", template.info.domain),
        environment_name: "workplace_assistant".to_owned(),
        office: Some(office),
        provenance: Some(Provenance {
            template: template.info.name.to_owned(),
            filling,
            domain: template.info.domain.to_owned(),
            num_steps: draft.calls.len(),
            difficulty: template.info.difficulty,
            holdout: split.holdout(),
        }),
        demonstration: Some(Demonstration { calls: draft.calls, final_text: final_text.to_owned() }),
    }
}

#[cfg(test)]
mod tests;
