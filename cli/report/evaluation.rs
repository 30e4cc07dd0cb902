//! The report of one evaluation as a table.

use nemo_rl::evaluate::{Decoding, EvaluationReport, Score};

use super::table::{Table, share};

/// Accuracy of the whole set and its parts, beside that of doing nothing.
pub fn text(report: &EvaluationReport) -> String {
    let decoding = match report.decoding {
        Decoding::Sampled => format!("sampled, {} answer(s) per task", report.samples_per_task),
        Decoding::Greedy => "greedy".to_owned(),
    };
    let mut table = Table::new(&["", "tasks", "accuracy", "do nothing"]);
    let mut add = |name: String, score: &Score| {
        table.row(vec![
            name,
            score.num_tasks.to_string(),
            share(Some(score.accuracy)),
            share(Some(score.do_nothing_accuracy)),
        ]);
    };
    add("all".to_owned(), &report.overall);
    for (name, score) in &report.by_holdout {
        add(name.clone(), score);
    }
    for (heading, scores) in
        [("", &report.by_length), ("domain ", &report.by_domain), ("template ", &report.by_template)]
    {
        for (name, score) in scores {
            add(format!("{heading}{name}"), score);
        }
    }
    for (steps, score) in &report.by_num_steps {
        add(format!("{steps} call(s)"), score);
    }
    let mut text = format!("{decoding}\n{}", table.text());
    if let Some(pass) = report.pass_k {
        text.push_str(&format!("\nsolved at least once in {} samples: {}", report.samples_per_task, share(Some(pass))));
    }
    if let Some(strict) = &report.strict {
        text.push_str(&format!(
            "\nstricter scoring: accuracy {}, doing nothing {}\n  rewarded by the usual scoring only {}, by the stricter one only {}\n  \
             superfluous writes per answer {:.2}",
            share(Some(strict.strict_accuracy)),
            share(Some(strict.strict_do_nothing_accuracy)),
            share(Some(strict.only_lenient)),
            share(Some(strict.only_strict)),
            strict.mean_superfluous_writes
        ));
    }
    text.push_str(&format!("\ntokens per answer: {:.1}", report.avg_length));
    text
}
