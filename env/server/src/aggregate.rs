//! `POST /aggregate_metrics`: statistics of many verify answers, by task and overall.
//!
//! Every numeric field of an answer is a column, booleans as 0 and 1, and so is every numeric field of its
//! `response.usage`. A column that an answer lacks is left out of its statistics, and names that start with an underscore
//! are no columns. Answers with `mask_sample` measured nothing: they are counted and otherwise left out.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use nemo_env::python_compat::validation::{Issue, MAX_ISSUES};
use nemo_env::python_compat::{Value, json_text};
use serde_json::{Map, Value as Json, json};

use crate::reply::Reply;

/// Which task an answer belongs to, a number or text; 0 if it does not say.
const TASK_INDEX: &str = "_ng_task_index";
/// Which of the attempts at a task it is; 0 if it does not say.
const ROLLOUT_INDEX: &str = "_ng_rollout_index";
/// Whether the reward of an answer is no measurement, because something else than the policy failed.
const MASK: &str = "mask_sample";
const REWARD: &str = "reward";

type Entries = [(Arc<str>, Value)];

/// Statistics in the order in which they are listed.
const STATISTICS: [&str; 5] = ["mean", "max", "min", "median", "std"];

/// One answer that is a measurement.
struct Row<'a> {
    task: Value,
    rollout: Value,
    answer: &'a Entries,
    /// Its numbers and the columns they belong to.
    numbers: Vec<(usize, f64)>,
}

/// Answers as a table, by task and attempt.
#[derive(Default)]
struct Frame<'a> {
    columns: Vec<&'a str>,
    rows: Vec<Row<'a>>,
    /// Whether all numbers are integers.
    is_integral: bool,
}

/// Answers the request.
pub(crate) fn answer(entries: &Entries) -> Reply {
    let answers = match verify_responses(entries) {
        Ok(answers) => answers,
        Err(issues) => return Reply::invalid(&issues),
    };
    let (masked, measured): (Vec<&Entries>, Vec<&Entries>) =
        answers.iter().partition(|answer| find(answer, MASK).is_some_and(Value::is_truthy));
    let frame = Frame::new(&measured);
    let groups: Vec<Json> = frame.rows.chunk_by(|a, b| a.task.equals(&b.task)).map(|rows| frame.group(rows)).collect();
    let mut overall = frame.describe(&frame.rows);
    if !masked.is_empty() {
        overall.extend(coverage(&frame, &groups, &masked));
    }
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

/// How much of what was run was measured; only said where something was not.
fn coverage(frame: &Frame, groups: &[Json], masked: &[&Entries]) -> Map<String, Json> {
    let mut tasks: Vec<Value> = masked.iter().map(|answer| index(answer, TASK_INDEX)).collect();
    tasks.sort_by(order);
    tasks.dedup_by(|a, b| a.equals(b));
    tasks.retain(|task| frame.rows.binary_search_by(|row| order(&row.task, task)).is_err());
    let count = |name: &str, count: usize| (format!("coverage/{name}"), count.into());
    Map::from_iter([
        count("measured_rollouts", frame.rows.len()),
        count("masked_rollouts", masked.len()),
        count("measured_tasks", groups.len()),
        count("fully_masked_tasks", tasks.len()),
    ])
}

fn verify_responses(entries: &Entries) -> Result<Vec<&Entries>, Vec<Issue>> {
    const KEY: &str = "verify_responses";
    let Some(value) = find(entries, KEY) else {
        return Err(vec![Issue::missing(&[KEY.into()], &Value::Dict(entries.to_vec().into()))]);
    };
    let Value::List(items) = value else {
        return Err(vec![Issue::list_expected(&[KEY.into()], value)]);
    };
    let mut issues = Vec::new();
    let mut answers = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        match item {
            Value::Dict(entries) => answers.push(entries.as_slice()),
            other if issues.len() < MAX_ISSUES => {
                let place = [KEY.into(), index.into()];
                issues.push(Issue::new("dict_type", &place, "Input should be a valid dictionary", other));
            }
            _ => break,
        }
    }
    for key in [TASK_INDEX, ROLLOUT_INDEX] {
        let first = answers.first().map(|answer| index(answer, key));
        for (place, answer) in answers.iter().enumerate() {
            let found = index(answer, key);
            let is_ordered = found.compare(&found).is_some();
            let is_of_one_kind = first.as_ref().is_none_or(|first| first.compare(&found).is_some());
            if (!is_ordered || !is_of_one_kind) && issues.len() < MAX_ISSUES {
                let message = if is_ordered {
                    "Input should be of the kind of the first answer's: all numbers, or all text"
                } else {
                    "Input should be a valid number or string"
                };
                issues.push(Issue::new("value_error", &[KEY.into(), place.into(), key.into()], message, &found));
            }
        }
    }
    if issues.is_empty() { Ok(answers) } else { Err(issues) }
}

fn find<'a>(entries: &'a Entries, key: &str) -> Option<&'a Value> {
    entries.iter().find_map(|(name, value)| (&**name == key).then_some(value))
}

fn index(answer: &Entries, key: &str) -> Value {
    find(answer, key).cloned().unwrap_or(Value::Int(0))
}

/// The order of two indices, which are of one kind.
fn order(a: &Value, b: &Value) -> Ordering {
    a.compare(b).unwrap_or(Ordering::Equal)
}

fn usage(answer: &Entries) -> &Entries {
    match find(answer, "response") {
        Some(Value::Dict(response)) => match find(response, "usage") {
            Some(Value::Dict(usage)) => usage,
            _ => &[],
        },
        _ => &[],
    }
}

/// The numbers of some entries that are measurements.
fn numbers(entries: &Entries) -> impl Iterator<Item = (&str, &Value)> {
    let is_measured = |name: &str| !name.starts_with('_') && name != MASK;
    let numbers = entries.iter().map(|(name, value)| (&**name, value));
    numbers.filter(move |(name, value)| is_measured(name) && value.as_number().is_some_and(|number| !number.is_nan()))
}

/// A number as JSON, booleans as 0 and 1.
fn number_json(value: &Value) -> Json {
    match value {
        Value::Bool(flag) => u8::from(*flag).into(),
        other => other.to_json(),
    }
}

impl<'a> Frame<'a> {
    fn new(answers: &[&'a Entries]) -> Self {
        let mut frame = Self { is_integral: true, ..Self::default() };
        let mut places: HashMap<&str, usize> = HashMap::new();
        for answer in answers {
            let mut row: BTreeMap<usize, f64> = BTreeMap::new();
            for (name, value) in numbers(answer).chain(numbers(usage(answer))) {
                frame.is_integral &= !matches!(value, Value::Float(_));
                let place = *places.entry(name).or_insert_with(|| {
                    frame.columns.push(name);
                    frame.columns.len() - 1
                });
                row.insert(place, value.as_number().unwrap_or_default());
            }
            frame.rows.push(Row {
                task: index(answer, TASK_INDEX),
                rollout: index(answer, ROLLOUT_INDEX),
                answer,
                numbers: row.into_iter().collect(),
            });
        }
        // A missing number makes a column one of floats.
        frame.is_integral &= frame.rows.iter().all(|row| row.numbers.len() == frame.columns.len());
        frame.rows.sort_by(|a, b| order(&a.task, &b.task).then_with(|| order(&a.rollout, &b.rollout)));
        frame
    }

    /// What is said of the attempts at one task.
    fn group(&self, rows: &[Row]) -> Json {
        let task = rows.first().map(|row| row.task.to_json()).unwrap_or_default();
        let mut group = Map::from_iter([(TASK_INDEX.to_owned(), task)]);
        group.extend(self.describe(rows));
        group.insert("sample".into(), json!({ "agent_ref": { "name": "agent" } }));
        group.insert("num_rollouts".into(), rows.len().into());
        group.insert("expected_num_rollouts".into(), rows.len().into());
        group.insert("missing_num_rollouts".into(), 0.into());
        group.insert("reward_profile_completion_pct".into(), 100.0.into());
        group.insert("rollout_infos".into(), rows.iter().map(Row::info).collect());
        group.into()
    }

    /// The statistics of some rows, those that cannot be computed left out.
    fn describe(&self, rows: &[Row]) -> Map<String, Json> {
        let mut found: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        for (column, number) in rows.iter().flat_map(|row| &row.numbers) {
            found.entry(*column).or_default().push(*number);
        }
        let mut described: Vec<(usize, usize, [Option<f64>; STATISTICS.len()])> =
            found.into_iter().map(|(column, numbers)| (column, numbers.len(), statistics(numbers))).collect();
        // Single answers deviate by nothing, rather than by an unknown amount.
        if described.iter().all(|(.., [.., std])| std.is_none()) {
            for (.., [.., std]) in described.iter_mut().filter(|(_, count, _)| *count == rows.len()) {
                *std = Some(0.0);
            }
        }
        let mut out = Map::new();
        for (index, statistic) in STATISTICS.iter().enumerate() {
            for (column, _, values) in &described {
                let Some(value) = values[index] else { continue };
                let is_integer = self.is_integral && matches!(*statistic, "max" | "min");
                // Integers of answers are small enough to be exact as floats.
                let value = if is_integer { Value::Int(value as i128) } else { Value::Float(value) };
                out.insert(format!("{statistic}/{}", self.columns[*column]), value.to_json());
            }
        }
        out
    }
}

impl Row<'_> {
    /// The numbers of the attempt by themselves.
    fn info(&self) -> Json {
        let mut info = Map::new();
        info.insert("rollout_id".into(), format!("{}:{}", self.task.text(), self.rollout.text()).into());
        info.insert(TASK_INDEX.into(), self.task.to_json());
        info.insert(ROLLOUT_INDEX.into(), self.rollout.to_json());
        // Whatever it is: an answer without a reward, which counts in no statistics, is told from a reward of null.
        if let Some(reward) = find(self.answer, REWARD) {
            info.insert(REWARD.into(), reward.to_json());
        }
        let others = numbers(self.answer).filter(|(name, _)| *name != REWARD);
        for (name, value) in numbers(usage(self.answer)).chain(others) {
            info.insert(name.into(), number_json(value));
        }
        info.into()
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
            "{\"_ng_task_index\":0,\"mean/reward\":0.0,\"max/reward\":0.0,\"min/reward\":0.0,\"median/reward\":0.0,\
             \"std/reward\":0.0,\"sample\":{\"agent_ref\":{\"name\":\"agent\"}},\"num_rollouts\":1,\
             \"expected_num_rollouts\":1,\"missing_num_rollouts\":0,\"reward_profile_completion_pct\":100.0,\
             \"rollout_infos\":[{\"rollout_id\":\"0:0\",\"_ng_task_index\":0,\"_ng_rollout_index\":0,\"reward\":0.0}]}"
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

    #[tokio::test]
    async fn masked_answers_are_counted_and_otherwise_left_out() {
        let answers = "{\"verify_responses\": [\
             {\"_ng_task_index\": 0, \"_ng_rollout_index\": 1, \"reward\": 1.0, \"mask_sample\": false},\
             {\"_ng_task_index\": 0, \"_ng_rollout_index\": 0, \"reward\": 0.0, \"mask_sample\": true},\
             {\"_ng_task_index\": 2, \"_ng_rollout_index\": 0, \"reward\": 0.0, \"mask_sample\": true},\
             {\"_ng_task_index\": 3, \"_ng_rollout_index\": 0, \"reward\": 0.5}]}";
        let found = body(answers).await;
        assert_eq!(found["agent_metrics"]["mean/reward"], 0.75);
        assert!(!found.to_string().contains("mask_sample"), "{found}");
        let coverage = |found: &Json, name: &str| found["agent_metrics"][format!("coverage/{name}")].clone();
        assert_eq!(coverage(&found, "measured_rollouts"), 2);
        assert_eq!(coverage(&found, "masked_rollouts"), 2);
        assert_eq!(coverage(&found, "measured_tasks"), 2);
        assert_eq!(coverage(&found, "fully_masked_tasks"), 1);
        assert_eq!(found["group_level_metrics"][0]["num_rollouts"], 1);
        assert_eq!(found["key_metrics"].to_string(), "{\"mean/reward\":0.75}");
        let nothing = body("{\"verify_responses\": [{\"reward\": 1, \"mask_sample\": 1}]}").await;
        assert_eq!(nothing["group_level_metrics"].to_string(), "[]");
        assert_eq!(
            nothing["agent_metrics"].to_string(),
            "{\"coverage/measured_rollouts\":0,\"coverage/masked_rollouts\":1,\"coverage/measured_tasks\":0,\
             \"coverage/fully_masked_tasks\":1}"
        );
    }

    #[tokio::test]
    async fn tasks_are_told_apart_by_whatever_names_them() {
        let of = |indices: &[&str]| {
            let answers: Vec<String> = indices
                .iter()
                .enumerate()
                .map(|(i, index)| {
                    format!("{{\"_ng_task_index\": {index}, \"_ng_rollout_index\": {i}, \"reward\": {i}}}")
                })
                .collect();
            format!("{{\"verify_responses\": [{}]}}", answers.join(", "))
        };
        let texts = body(&of(&["\"b\"", "\"a\"", "\"b\""])).await;
        let groups = texts["group_level_metrics"].as_array().unwrap();
        assert_eq!((groups.len(), &groups[0][TASK_INDEX], &groups[1][TASK_INDEX]), (2, &json!("a"), &json!("b")));
        assert_eq!((&groups[0]["mean/reward"], &groups[1]["mean/reward"]), (&json!(1.0), &json!(1.0)));
        assert_eq!(groups[1]["rollout_infos"][1]["rollout_id"], "b:2");
        let numbers = body(&of(&["2", "1.5", "1", "true", "1.0", "9007199254740993", "9007199254740992"])).await;
        let groups = numbers["group_level_metrics"].as_array().unwrap();
        let tasks: Vec<&Json> = groups.iter().map(|group| &group[TASK_INDEX]).collect();
        assert_eq!(json!(tasks).to_string(), "[1,1.5,2,9007199254740992,9007199254740993]");
        assert_eq!(groups[0]["num_rollouts"], 3);
        assert_eq!(groups[0]["rollout_infos"][1]["rollout_id"], "True:3");
        for (indices, place, message) in [
            (&["0", "null"][..], 1, "a valid number or string"),
            (&["[1]"], 0, "a valid number or string"),
            (&["0", "{}"], 1, "a valid number or string"),
            (&["NaN"], 0, "a valid number or string"),
            (&["0", "\"0\""], 1, "of the kind of the first answer's"),
        ] {
            let refused = body(&of(indices)).await;
            assert_eq!(refused["detail"][0]["loc"], json!(["body", "verify_responses", place, TASK_INDEX]));
            let said = refused["detail"][0]["msg"].as_str().unwrap();
            assert!(said.contains(message), "{said}");
        }
    }

    #[tokio::test]
    async fn a_reward_is_shown_as_it_was_sent() {
        let answers = "{\"verify_responses\": [{\"reward\": null, \"_ng_rollout_index\": 0, \"_x\": 3, \"n\": 2},\
             {\"reward\": 1, \"_ng_rollout_index\": 1}, {\"_ng_rollout_index\": 2}]}";
        let found = body(answers).await;
        let group = &found["group_level_metrics"][0];
        let infos = group["rollout_infos"].as_array().unwrap();
        assert_eq!(
            infos[0].to_string(),
            "{\"rollout_id\":\"0:0\",\"_ng_task_index\":0,\"_ng_rollout_index\":0,\"reward\":null,\"n\":2}"
        );
        assert_eq!((infos[1].get("reward"), infos[2].get("reward")), (Some(&json!(1)), None));
        assert_eq!(group["mean/reward"], 1.0);
    }

    /// Every answer has a column of its own, so a table of all cells would have 10^8.
    #[tokio::test]
    async fn many_columns_take_no_more_than_their_numbers() {
        let answers: Vec<String> = (0..10_000).map(|n| format!("{{\"_ng_task_index\": {n}, \"c{n}\": 1}}")).collect();
        let found = body(&format!("{{\"verify_responses\": [{}]}}", answers.join(","))).await;
        assert_eq!(found["group_level_metrics"].as_array().unwrap().len(), 10_000);
        assert_eq!(found["agent_metrics"]["mean/c9999"], 1.0);
    }
}
