//! Figures about a file of records, under the names that NeMo Gym gives them.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::record::PreparedRecord;

/// Digits that figures are rounded to.
const NUM_DIGITS: i32 = 3;

pub(super) struct Metrics(Map<String, Value>);

impl Metrics {
    /// The figures of the records of the file at `path`.
    pub(super) fn of(path: &Path, records: &[PreparedRecord]) -> Self {
        let figures = |figure: fn(&PreparedRecord) -> Option<f64>| summary(records.iter().filter_map(figure).collect());
        let mut categories: BTreeMap<&str, usize> = BTreeMap::new();
        for record in records {
            *categories.entry(&record.category).or_default() += 1;
        }
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let entries = [
            ("jsonl_fpath", name.into()),
            ("Number of examples", records.len().into()),
            ("Number of tools", figures(|record| Some(record.num_tools as f64))),
            ("Json-dumped number of words (proxy for token count)", figures(|record| Some(record.num_words as f64))),
            ("Number of turns", figures(|record| Some(record.num_turns as f64))),
            ("Temperature", figures(|record| record.temperature)),
            ("Number of ground-truth calls", figures(|record| Some(record.num_calls as f64))),
            ("Rewarded for doing nothing", records.iter().filter(|record| record.is_idle).count().into()),
            ("category", json!(categories)),
        ];
        Self(entries.into_iter().map(|(name, value): (&str, Value)| (name.to_owned(), value)).collect())
    }

    pub(super) fn to_json(&self) -> String {
        format!("{:#}\n", Value::Object(self.0.clone()))
    }
}

/// Count, average and extremes; null where there is nothing to take them of.
fn summary(mut values: Vec<f64>) -> Value {
    values.sort_by(f64::total_cmp);
    let count = values.len();
    let average = (count > 0).then(|| rounded(values.iter().sum::<f64>() / count as f64));
    json!({
        "Total # non-null values": count,
        "Average": average,
        "Min": values.first().copied().map(rounded),
        "Max": values.last().copied().map(rounded),
        "Median": median(&values).map(rounded),
    })
}

fn median(sorted: &[f64]) -> Option<f64> {
    let (low, high) = (sorted.get(sorted.len().checked_sub(1)? / 2)?, sorted.get(sorted.len() / 2)?);
    Some(f64::midpoint(*low, *high))
}

fn rounded(value: f64) -> f64 {
    let scale = 10f64.powi(NUM_DIGITS);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries() {
        assert_eq!(
            summary(vec![4.0, 1.0, 2.0]),
            json!({"Total # non-null values": 3, "Average": 2.333, "Min": 1.0, "Max": 4.0, "Median": 2.0})
        );
        assert_eq!(summary(vec![1.0, 2.0])["Median"], json!(1.5));
        assert_eq!(
            summary(Vec::new()),
            json!({"Total # non-null values": 0, "Average": null, "Min": null, "Max": null, "Median": null})
        );
    }
}
