//! What a list of tasks consists of: shares by domain, template, length and effect.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::task::record::Task;

/// What WorkBench's published set consists of, to compare with: 690 tasks from 69 templates in 204 wordings (Styles et
/// al., "WorkBench: a Benchmark Dataset for Agents in a Realistic Workplace Setting", 2024,
/// github.com/olly-styles/WorkBench). Counted over its ground truths, which are changes only.
const WORKBENCH_TASKS: usize = 690;
const WORKBENCH_TEMPLATES: usize = 69;
const WORKBENCH_DOMAINS: [(&str, usize); 6] = [
    ("email", 90),
    ("calendar", 110),
    ("analytics", 120),
    ("project_management", 80),
    ("customer_relationship_manager", 80),
    ("multi_domain", 210),
];
/// By number of changes; those of seven to twelve together.
const WORKBENCH_WRITES: [(usize, usize); 8] =
    [(0, 122), (1, 416), (2, 88), (3, 23), (4, 14), (5, 2), (6, 5), (MANY_WRITES, 20)];
const MANY_WRITES: usize = 7;

/// Counts over a list of tasks. Tasks without provenance count only in `num_tasks`, `by_num_writes` and `do_nothing`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Distribution {
    pub num_tasks: usize,
    pub by_domain: BTreeMap<String, usize>,
    pub by_template: BTreeMap<String, usize>,
    /// By the number of calls of the demonstration, look-ups included.
    pub by_num_steps: BTreeMap<usize, usize>,
    /// By the number of calls of the ground truth, which are changes only.
    pub by_num_writes: BTreeMap<usize, usize>,
    pub by_difficulty: BTreeMap<u8, usize>,
    /// Tasks whose ground truth has no calls: what a policy that does nothing gets right.
    pub do_nothing: usize,
    /// Tasks in whose ground truth an id (8 digits) occurs that the request does not give.
    pub id_from_result: usize,
}

/// Counts what `tasks` consist of.
pub fn distribution(tasks: &[Task]) -> Distribution {
    let mut counts = Distribution { num_tasks: tasks.len(), ..Distribution::default() };
    for task in tasks {
        *counts.by_num_writes.entry(task.ground_truth.len()).or_default() += 1;
        counts.do_nothing += usize::from(task.ground_truth.is_empty());
        counts.id_from_result += usize::from(needs_id(task));
        if let Some(provenance) = &task.provenance {
            *counts.by_domain.entry(provenance.domain.clone()).or_default() += 1;
            *counts.by_template.entry(provenance.template.clone()).or_default() += 1;
            *counts.by_num_steps.entry(provenance.num_steps).or_default() += 1;
            *counts.by_difficulty.entry(provenance.difficulty).or_default() += 1;
        }
    }
    counts
}

fn needs_id(task: &Task) -> bool {
    let request = task.user_message();
    let mut ids = task.ground_truth.iter().flat_map(|call| ids_in(&call.arguments));
    ids.any(|id| !request.contains(id))
}

/// Runs of exactly eight digits.
pub(super) fn ids_in(text: &str) -> impl Iterator<Item = &str> {
    text.split(|character: char| !character.is_ascii_digit()).filter(|digits| digits.len() == 8)
}

impl Distribution {
    fn percent(&self, count: usize) -> f64 {
        100.0 * count as f64 / self.num_tasks.max(1) as f64
    }

    /// The shares that can be compared with WorkBench's.
    fn beside_workbench(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |key: &str, count: usize, reference: usize| {
            let reference = 100.0 * reference as f64 / WORKBENCH_TASKS as f64;
            writeln!(formatter, "  {key:<32} {count:>7} {:>5.1} %    WorkBench {reference:>5.1} %", self.percent(count))
        };
        for (domain, reference) in WORKBENCH_DOMAINS {
            line(domain, self.by_domain.get(domain).copied().unwrap_or_default(), reference)?;
        }
        for (writes, reference) in WORKBENCH_WRITES {
            let (key, count) = match writes {
                MANY_WRITES => {
                    let many = self.by_num_writes.range(MANY_WRITES..);
                    ("7 or more changes".to_owned(), many.map(|(_, count)| count).sum())
                }
                _ => (format!("{writes} change(s)"), self.by_num_writes.get(&writes).copied().unwrap_or_default()),
            };
            line(&key, count, reference)?;
        }
        writeln!(
            formatter,
            "  {} templates; WorkBench has {WORKBENCH_TEMPLATES} and no levels of difficulty",
            self.by_template.len()
        )
    }

    /// Share of tasks that are right when nothing is done, 0 to 1.
    pub fn do_nothing_share(&self) -> f64 {
        self.percent(self.do_nothing) / 100.0
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn group<K: fmt::Display>(
            all: &Distribution,
            formatter: &mut fmt::Formatter<'_>,
            title: &str,
            counts: &BTreeMap<K, usize>,
        ) -> fmt::Result {
            writeln!(formatter, "{title}")?;
            for (key, &count) in counts {
                writeln!(formatter, "  {key:<32} {count:>7} {:>5.1} %", all.percent(count))?;
            }
            Ok(())
        }
        writeln!(formatter, "{} tasks", self.num_tasks)?;
        self.beside_workbench(formatter)?;
        group(self, formatter, "template", &self.by_template)?;
        group(self, formatter, "calls of the demonstration", &self.by_num_steps)?;
        group(self, formatter, "difficulty", &self.by_difficulty)?;
        writeln!(
            formatter,
            "id read from a tool result: {:.1} %; right by doing nothing: {:.1} %",
            self.percent(self.id_from_result),
            self.percent(self.do_nothing)
        )
    }
}
