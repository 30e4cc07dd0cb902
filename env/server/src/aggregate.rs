//! `POST /aggregate_metrics`: statistics of many verify answers, by task and overall.
//!
//! Every numeric field of an answer is a column, booleans as 0 and 1, and so is every numeric field of its
//! `response.usage`. A column that an answer lacks is left out of its statistics.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value as Json, json};

use crate::reply::Reply;
use nemo_env::python_compat::validation::Issue;
use nemo_env::python_compat::{Value, json_text};

/// Which task an answer belongs to; 0 if it does not say.
const TASK_INDEX: &str = "_ng_task_index";
/// Which of the attempts at a task it is: no column.
const ROLLOUT_INDEX: &str = "_ng_rollout_index";

type Entries = [(Arc<str>, Value)];

/// Statistics in the order in which they are listed.
const STATISTICS: [&str; 5] = ["mean", "max", "min", "median", "std"];

/// Answers as a table; `rows[i][j]` belongs to column j, if the row reaches so far and has it.
#[derive(Default)]
struct Frame {
    columns: Vec<String>,
    rows: Vec<Vec<Option<f64>>>,
    tasks: Vec<i128>,
    /// Whether all numbers are integers.
    is_integral: bool,
}

/// Answers the request.
pub(crate) fn answer(entries: &Entries) -> Reply {
    let answers = match verify_responses(entries) {
        Ok(answers) => answers,
        Err(issues) => return Reply::invalid(&issues),
    };
    let frame = Frame::new(&answers);
    let mut by_task: BTreeMap<i128, Vec<usize>> = BTreeMap::new();
    for (row, task) in frame.tasks.iter().enumerate() {
        by_task.entry(*task).or_default().push(row);
    }
    let groups: Vec<Json> = by_task
        .iter()
        .map(|(task, rows)| {
            let mut group = frame.describe(rows);
            group.insert("sample".into(), json!({ "agent_ref": { "name": "agent" } }));
            group.insert(TASK_INDEX.into(), Value::Int(*task).to_json());
            group.into()
        })
        .collect();
    let all: Vec<usize> = (0..frame.rows.len()).collect();
    let overall = frame.describe(&all);
    let key_metrics: Map<String, Json> = overall
        .iter()
        .filter(|(name, _)| name.starts_with("mean/"))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    Reply::json(json_text::write(&json!({
        "group_level_metrics": groups,
        "agent_metrics": overall,
        "key_metrics": key_metrics,
    })))
}

fn verify_responses(entries: &Entries) -> Result<Vec<&Entries>, Vec<Issue>> {
    const KEY: &str = "verify_responses";
    let Some(value) = find(entries, KEY) else {
        return Err(vec![Issue::missing(&[KEY.into()], Value::Dict(entries.to_vec().into()).to_json())]);
    };
    let Value::List(items) = value else {
        let message = "Input should be a valid list";
        return Err(vec![Issue::new("list_type", &[KEY.into()], message, value.to_json())]);
    };
    let mut issues = Vec::new();
    let mut answers = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        match item {
            Value::Dict(entries) => answers.push(entries.as_slice()),
            other => {
                let place = [KEY.into(), index.into()];
                issues.push(Issue::new("dict_type", &place, "Input should be a valid dictionary", other.to_json()));
            }
        }
    }
    if issues.is_empty() { Ok(answers) } else { Err(issues) }
}

fn find<'a>(entries: &'a Entries, key: &str) -> Option<&'a Value> {
    entries.iter().find_map(|(name, value)| (&**name == key).then_some(value))
}

fn entries_of<'a>(entries: &'a Entries, key: &str) -> &'a Entries {
    match find(entries, key) {
        Some(Value::Dict(inner)) => inner,
        _ => &[],
    }
}

impl Frame {
    fn new(answers: &[&Entries]) -> Self {
        let mut frame = Self { is_integral: true, ..Self::default() };
        let mut places: BTreeMap<&str, usize> = BTreeMap::new();
        for answer in answers {
            let usage = entries_of(entries_of(answer, "response"), "usage");
            let mut row = vec![None; frame.columns.len()];
            for (name, value) in answer.iter().chain(usage) {
                let number = value.as_number().filter(|number| !number.is_nan());
                let (Some(number), false) = (number, [TASK_INDEX, ROLLOUT_INDEX].contains(&&**name)) else { continue };
                frame.is_integral &= !matches!(value, Value::Float(_));
                let place = *places.entry(name).or_insert_with(|| {
                    frame.columns.push(name.to_string());
                    row.push(None);
                    frame.columns.len() - 1
                });
                row[place] = Some(number);
            }
            frame.rows.push(row);
            frame.tasks.push(find(answer, TASK_INDEX).and_then(Value::as_index).unwrap_or_default());
        }
        // A missing number makes a column one of floats.
        frame.is_integral &= frame.rows.iter().all(|row| row.iter().flatten().count() == frame.columns.len());
        frame
    }

    /// The statistics of some rows, those that cannot be computed left out.
    fn describe(&self, rows: &[usize]) -> Map<String, Json> {
        let mut described: Vec<[Option<f64>; STATISTICS.len()]> = Vec::with_capacity(self.columns.len());
        let mut is_complete = Vec::with_capacity(self.columns.len());
        for column in 0..self.columns.len() {
            let numbers: Vec<f64> =
                rows.iter().filter_map(|&row| self.rows[row].get(column).copied().flatten()).collect();
            is_complete.push(numbers.len() == rows.len());
            described.push(statistics(numbers));
        }
        // Single answers deviate by nothing, rather than by an unknown amount.
        if described.iter().all(|[.., std]| std.is_none()) {
            for ([.., std], _) in described.iter_mut().zip(&is_complete).filter(|(_, complete)| **complete) {
                *std = Some(0.0);
            }
        }
        let mut out = Map::new();
        for (index, statistic) in STATISTICS.iter().enumerate() {
            for (name, values) in self.columns.iter().zip(&described) {
                let Some(value) = values[index] else { continue };
                let is_integer = self.is_integral && matches!(*statistic, "max" | "min");
                // Integers of answers are small enough to be exact as floats.
                let value = if is_integer { Value::Int(value as i128) } else { Value::Float(value) };
                out.insert(format!("{statistic}/{name}"), value.to_json());
            }
        }
        out
    }
}

/// [`STATISTICS`] of some numbers; the deviation is that of a sample.
fn statistics(mut numbers: Vec<f64>) -> [Option<f64>; STATISTICS.len()] {
    if numbers.is_empty() {
        return [None; STATISTICS.len()];
    }
    let count = numbers.len() as f64;
    let mean = numbers.iter().sum::<f64>() / count;
    let squares: f64 = numbers.iter().map(|number| (number - mean) * (number - mean)).sum();
    let std = (numbers.len() > 1).then(|| (squares / (count - 1.0)).sqrt());
    numbers.sort_by(f64::total_cmp);
    let half = numbers.len() / 2;
    let median = if numbers.len() % 2 == 1 { numbers[half] } else { (numbers[half - 1] + numbers[half]) / 2.0 };
    [Some(mean), numbers.last().copied(), numbers.first().copied(), Some(median), std]
}

#[cfg(test)]
mod tests {
    use super::*;
    use nemo_env::python_compat::json;

    async fn body(text: &str) -> Json {
        use axum::response::IntoResponse;
        use http_body_util::BodyExt;

        let Ok(Value::Dict(entries)) = json::parse(text) else { panic!("{text}") };
        let collected = answer(&entries).into_response().into_body().collect().await.unwrap();
        serde_json::from_slice(&collected.to_bytes()).unwrap()
    }

    #[tokio::test]
    async fn answers_are_summed_up_by_task_and_overall() {
        let answers = "{\"verify_responses\": [\
             {\"_ng_task_index\": 1, \"_ng_rollout_index\": 0, \"reward\": 1.0, \"text\": \"x\"},\
             {\"_ng_task_index\": 0, \"_ng_rollout_index\": 0, \"reward\": 0.0},\
             {\"_ng_task_index\": 1, \"_ng_rollout_index\": 1, \"reward\": 0.5, \"ok\": true}]}";
        let found = body(answers).await;
        assert_eq!(
            found["group_level_metrics"][0].to_string(),
            "{\"mean/reward\":0.0,\"max/reward\":0.0,\"min/reward\":0.0,\"median/reward\":0.0,\"std/reward\":0.0,\
             \"sample\":{\"agent_ref\":{\"name\":\"agent\"}},\"_ng_task_index\":0}"
        );
        assert_eq!(found["group_level_metrics"][1]["mean/reward"], 0.75);
        assert_eq!(found["group_level_metrics"][1]["_ng_task_index"], 1);
        // One answer has it, so its deviation is not known while others are.
        assert_eq!(found["agent_metrics"]["mean/ok"], 1.0);
        assert!(found["agent_metrics"].get("std/ok").is_none());
        assert_eq!(found["agent_metrics"]["median/reward"], 0.5);
        assert_eq!(found["agent_metrics"]["std/reward"], 0.5);
        assert_eq!(found["key_metrics"].to_string(), "{\"mean/reward\":0.5,\"mean/ok\":1.0}");
    }

    #[tokio::test]
    async fn usage_counts_and_integers_stay_integers() {
        let answers = "{\"verify_responses\": [{\"n\": 1, \"response\": {\"usage\": {\"total_tokens\": 7}}}]}";
        let found = body(answers).await;
        assert_eq!(
            found["agent_metrics"].to_string(),
            "{\"mean/n\":1.0,\"mean/total_tokens\":7.0,\"max/n\":1,\"max/total_tokens\":7,\"min/n\":1,\
             \"min/total_tokens\":7,\"median/n\":1.0,\"median/total_tokens\":7.0,\"std/n\":0.0,\"std/total_tokens\":0.0}"
        );
        let nothing = body("{\"verify_responses\": []}").await;
        assert_eq!(nothing.to_string(), "{\"group_level_metrics\":[],\"agent_metrics\":{},\"key_metrics\":{}}");
        let wrong = body("{\"verify_responses\": [1]}").await;
        assert_eq!(wrong["detail"][0]["loc"].to_string(), "[\"body\",\"verify_responses\",0]");
    }
}
