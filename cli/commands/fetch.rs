//! `nemo-burn env fetch` and `nemo-burn env prepare`: the real tables and the tasks that are set in them.

use std::path::{Path, PathBuf};

use nemo_env::fetch::Backoff;
use nemo_env::fetch::tables::{COMMIT, LICENSE, REPOSITORY, TableSource, fetch_tables};
use nemo_env::prepare::{PrepareReport, prepare};
use nemo_hub::{Kind, Origin, Repository};
use serde_json::json;

use super::offices::offices;
use crate::arguments::{FetchArguments, PrepareArguments};
use crate::hub::{hub, pause};
use crate::output;

/// Broken and idle records that are listed one by one.
const MAX_LISTED: usize = 20;

pub fn fetch(arguments: &FetchArguments) -> anyhow::Result<()> {
    let source = match (&arguments.wheel, &arguments.folder) {
        (Some(wheel), _) => TableSource::Wheel(wheel.clone()),
        (None, Some(folder)) => TableSource::Folder(folder.clone()),
        (None, None) => TableSource::Repository {
            url: REPOSITORY.to_owned(),
            commit: arguments.commit.clone().unwrap_or_else(|| COMMIT.to_owned()),
        },
    };
    let fetched = fetch_tables(&source, &arguments.output, &Backoff::default(), &pause)?;
    output::line(&format!(
        "{}: {} file(s) written, {} there already; the SHA-256 of each is right\n{LICENSE}\nUse them with --tables {}",
        fetched.folder.display(),
        fetched.written.len(),
        fetched.kept.len(),
        fetched.folder.display()
    ))
}

pub fn prepare_dataset(arguments: &PrepareArguments) -> anyhow::Result<()> {
    let offices = offices(Some(&arguments.tables))?;
    let records = match &arguments.records {
        Some(path) => path.clone(),
        None => download(arguments)?,
    };
    let report = prepare(&records, &offices, &arguments.output)?;
    if arguments.json {
        return output::line(&json!(report).to_string());
    }
    output::line(&describe(&records, &report))
}

fn download(arguments: &PrepareArguments) -> anyhow::Result<PathBuf> {
    let (name, revision) = (arguments.dataset.clone(), arguments.revision.clone());
    let repository = Repository { kind: Kind::DataSet, name, revision };
    let (path, origin) = hub()?.file(&repository, &arguments.file)?;
    let how = match origin {
        Origin::Downloaded => "downloaded",
        Origin::Cached => "in the cache already",
        Origin::CachedUnasked => "taken from the cache; whether the hub has a newer one is not known",
    };
    output::note(&format!("{}: {how}", path.display()));
    Ok(path)
}

fn describe(records: &Path, report: &PrepareReport) -> String {
    let mut lines = vec![
        format!("{}: {} records, {} broken", records.display(), report.num_records, report.broken.len()),
        format!("  {} for training in {}", report.num_training, report.training.display()),
        format!("  {} for validation in {}", report.num_validation, report.validation.display()),
        format!("  {} reward doing nothing", report.idle.len()),
    ];
    lines.extend(report.categories.iter().map(|(category, count)| format!("  {count:>6} {category}")));
    let broken = report.broken.iter().map(|record| format!("line {}: {}", record.line, record.problem));
    lines.extend(listed("left out:", broken.collect()));
    let idle = report.idle.iter().map(|record| format!("line {}: task {}", record.line, record.id));
    lines.extend(listed("reward doing nothing:", idle.collect()));
    lines.join("\n")
}

/// A title and the first entries below it.
fn listed(title: &str, entries: Vec<String>) -> Vec<String> {
    if entries.is_empty() {
        return Vec::new();
    }
    let more = entries.len().saturating_sub(MAX_LISTED);
    let mut lines = vec![title.to_owned()];
    lines.extend(entries.into_iter().take(MAX_LISTED).map(|entry| format!("  {entry}")));
    if more > 0 {
        lines.push(format!("  and {more} more (--json lists all)"));
    }
    lines
}
