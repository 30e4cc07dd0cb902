//! The end of a run: accuracy before and after, by what was held out, by length, by template; a reward curve.

use nemo_rl::metrics::Metrics;
use nemo_rl::run::{Limit, RunSummary};

use super::curve;
use super::table::{Table, share};

/// What kind of training a run did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Grpo,
    Supervised,
}

impl Kind {
    /// The metric that shows the progress of training.
    pub fn train_metric(self) -> &'static str {
        match self {
            Self::Grpo => "train/reward",
            Self::Supervised => "train/loss",
        }
    }

    /// How a run goes on that has ended at a limit.
    pub fn way_on(self, limit: Limit) -> &'static str {
        match (self, limit) {
            (Self::Supervised, _) => "a higher sft.max_num_steps goes on",
            (Self::Grpo, Limit::Steps) => "a higher grpo.max_num_steps goes on",
            (Self::Grpo, Limit::Epochs) => "a higher grpo.max_num_epochs goes on",
            (Self::Grpo, Limit::Threshold) => {
                "its validation has reached grpo.stop_at_validation_threshold, a higher one or null goes on"
            }
        }
    }
}

/// Metrics of the first and the last validation with their steps; the same one twice if there was only one.
fn before_and_after(history: &[(u64, Metrics)]) -> Option<[&(u64, Metrics); 2]> {
    let is_validation = |(_, metrics): &&(u64, Metrics)| metrics.contains_key("validation/accuracy");
    let first = history.iter().find(is_validation)?;
    let last = history.iter().rev().find(is_validation)?;
    Some([first, last])
}

/// How much of the accuracy table is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// The whole set, its holdouts and the lengths within them.
    Headline,
    /// A row for each template too.
    All,
}

/// Everything that is said at the end of a run.
pub fn text(summary: &RunSummary, kind: Kind, rows: Rows) -> String {
    let mut parts = Vec::new();
    let series = summary.series(kind.train_metric());
    if series.len() > 1 {
        parts.push(format!("{} by step\n{}", kind.train_metric(), curve::text(&series)));
    }
    if let Some(quarters) = quarters(&series).filter(|_| kind == Kind::Grpo) {
        parts
            .push(format!("mean reward: first quarter of the steps {:.3}, last quarter {:.3}", quarters.0, quarters.1));
    }
    parts.extend(accuracy_table(summary, rows));
    parts.extend(fidelity(&summary.history));
    parts.iter().map(|part| format!("{part}\n")).collect::<Vec<_>>().join("\n")
}

/// Means of the first and the last quarter of a series, for series long enough to have them.
fn quarters(series: &[(u64, f64)]) -> Option<(f64, f64)> {
    let n = series.len() / 4;
    let mean = |part: &[(u64, f64)]| part.iter().map(|(_, value)| value).sum::<f64>() / n as f64;
    (n > 0).then(|| (mean(&series[..n]), mean(&series[series.len() - n..])))
}

fn accuracy_table(summary: &RunSummary, shown: Rows) -> Option<String> {
    let [(first_step, before), (last_step, after)] = before_and_after(&summary.history)?;
    let mut table = if first_step == last_step {
        Table::new(&["accuracy", "tasks", "do nothing", "sampled", "greedy"])
    } else {
        Table::new(&["accuracy", "tasks", "do nothing", "sampled before", "after", "greedy before", "after"])
    };
    for (label, part) in rows(after, shown) {
        let value = |metrics: &Metrics, name: &str| share(metrics.get(&format!("validation/{name}{part}")).copied());
        let mut cells = vec![label, num_tasks(summary, &part), value(after, "do_nothing_accuracy")];
        for name in ["accuracy", "greedy_accuracy"] {
            if first_step != last_step {
                cells.push(value(before, name));
            }
            cells.push(value(after, name));
        }
        table.row(cells);
    }
    Some(format!("validation after step {first_step} and step {last_step}\n{}", table.text()))
}

/// Labels and the ends of metric names: everything, then by holdout and length within it, then by template if asked for.
fn rows(metrics: &Metrics, shown: Rows) -> Vec<(String, String)> {
    const LENGTHS: [&str; 2] = ["single_step", "multi_step"];
    const PREFIX: &str = "validation/accuracy/";
    let parts: Vec<&str> = metrics.keys().filter_map(|name| name.strip_prefix(PREFIX)).collect();
    let is_holdout = |part: &&&str| !part.contains('/') && !LENGTHS.contains(*part);
    let mut rows = vec![("all".to_owned(), String::new())];
    for holdout in parts.iter().filter(is_holdout) {
        rows.push(((*holdout).to_owned(), format!("/{holdout}")));
        for length in LENGTHS.iter().filter(|length| parts.contains(&format!("{holdout}/{length}").as_str())) {
            rows.push((format!("  {length}"), format!("/{holdout}/{length}")));
        }
    }
    let templates = parts.iter().filter_map(|part| part.strip_prefix("template/"));
    for part in templates.filter(|_| shown == Rows::All) {
        rows.push((format!("template {part}"), format!("/template/{part}")));
    }
    rows
}

/// Number of tasks of a part, as far as the latest validation is known.
fn num_tasks(summary: &RunSummary, part: &str) -> String {
    let count = summary.validation.first().and_then(|report| {
        let part = part.strip_prefix('/').unwrap_or(part);
        let score = match part.strip_prefix("template/") {
            Some(template) => report.by_template.get(template),
            None if part.is_empty() => Some(&report.overall),
            None => report.by_holdout.get(part).or_else(|| report.by_length.get(part)),
        };
        score.map(|score| score.num_tasks)
    });
    count.map_or_else(|| "-".to_owned(), |count| count.to_string())
}

/// How well the trainer agreed with the sampler, over the whole run.
fn fidelity(history: &[(u64, Metrics)]) -> Option<String> {
    let values =
        |name: &str| history.iter().filter_map(|(_, metrics)| metrics.get(name).copied()).collect::<Vec<f64>>();
    let mult = values("train/token_mult_prob_error");
    let difference = values("train/max_log_prob_difference").into_iter().reduce(f64::max)?;
    let worst = mult.into_iter().reduce(f64::max)?;
    Some(format!(
        "trainer against sampler: token_mult_prob_error at most {worst:.6}, log-probabilities at most {difference:.1e} apart"
    ))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use nemo_rl::run::RunEnd;

    use super::*;

    fn summary(history: Vec<(u64, Metrics)>) -> RunSummary {
        RunSummary {
            folder: PathBuf::from("results/x"),
            end: RunEnd::Finished,
            first_step: 0,
            last_step: history.last().map_or(0, |(step, _)| *step),
            checkpoint: None,
            history,
            validation: Vec::new(),
        }
    }

    fn metrics(entries: &[(&str, f64)]) -> Metrics {
        entries.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    #[test]
    fn the_table_shows_before_and_after_by_part() {
        let validation = |accuracy: f64| {
            metrics(&[
                ("validation/accuracy", accuracy),
                ("validation/greedy_accuracy", accuracy + 0.1),
                ("validation/do_nothing_accuracy", 0.05),
                ("validation/accuracy/unseen_fillings", accuracy),
                ("validation/accuracy/unseen_fillings/multi_step", 0.1),
                ("validation/accuracy/single_step", 0.9),
                ("validation/accuracy/template/forward_mail", 1.0),
            ])
        };
        let summary = summary(vec![(0, validation(0.2)), (8, validation(0.6))]);
        let expected = "\
validation after step 0 and step 8
accuracy               tasks  do nothing  sampled before  after  greedy before  after
all                        -       0.050           0.200  0.600          0.300  0.700
unseen_fillings            -           -           0.200  0.600              -      -
  multi_step               -           -           0.100  0.100              -      -
template forward_mail      -           -           1.000  1.000              -      -
";
        assert_eq!(text(&summary, Kind::Grpo, Rows::All), expected);
        let headline = text(&summary, Kind::Grpo, Rows::Headline);
        assert!(headline.contains("unseen_fillings") && !headline.contains("template"), "{headline}");
    }

    #[test]
    fn rewards_are_summarised_by_quarters() {
        let history = (1..=8).map(|step| (step, metrics(&[("train/reward", step as f64 / 10.0)]))).collect();
        let text = text(&summary(history), Kind::Grpo, Rows::Headline);
        assert!(text.contains("first quarter of the steps 0.150, last quarter 0.750"), "{text}");
        assert!(text.contains("train/reward by step"), "{text}");
    }
}
