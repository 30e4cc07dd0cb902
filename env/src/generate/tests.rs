use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::*;

fn generated(split: Split, count: usize) -> Vec<Task> {
    let config = GeneratorConfig { count, split, ..GeneratorConfig::default() };
    tasks(&config).unwrap()
}

fn calls(task: &Task) -> &[crate::tool::ToolCall] {
    &task.demonstration.as_ref().unwrap().calls
}

#[test]
fn offices_have_the_shape_of_the_real_tables() {
    let tables = office(7);
    assert_eq!(tables, office(7));
    assert_ne!(tables, office(8));
    let column = |rows: &[crate::workplace::tables::Row], index: usize| -> Vec<String> {
        let cells = rows.iter().map(|row| row[index].clone().unwrap_or_default());
        cells.collect()
    };
    let rows = [
        (&tables.emails, 500, 6),
        (&tables.calendar_events, 300, 5),
        (&tables.analytics, 1000, 6),
        (&tables.project_tasks, 300, 6),
        (&tables.customers, 200, 10),
    ];
    for (rows, count, width) in rows {
        assert_eq!(rows.len(), count);
        assert!(rows.iter().all(|row| row.len() == width));
    }
    assert_eq!(tables.directory.len(), 20);
    for (rows, count) in
        [(&tables.emails, 500), (&tables.calendar_events, 300), (&tables.project_tasks, 300), (&tables.customers, 200)]
    {
        let ids: BTreeSet<String> = column(rows, 0).into_iter().collect();
        assert_eq!(ids, (0..count).map(|id| format!("{id:08}")).collect());
        assert_ne!(column(rows, 0), ids.into_iter().collect::<Vec<_>>(), "ids follow the rows");
    }
    let strictly_ascending =
        |cells: &[String]| cells.is_sorted() && { cells.iter().collect::<BTreeSet<_>>().len() == cells.len() };
    let sent = column(&tables.emails, 4);
    assert!(strictly_ascending(&sent));
    assert!(sent[0].as_str() >= "2023-10-01" && sent[499].as_str() < "2023-11-30 23:59");
    let starts = column(&tables.calendar_events, 3);
    assert!(strictly_ascending(&starts));
    assert!(starts[0].as_str() >= "2023-08-01" && starts[299].as_str() < "2023-12-22");
    let due = column(&tables.project_tasks, 4);
    assert!(due.is_sorted() && due[0].as_str() >= "2023-11-27" && due[299].as_str() <= "2023-12-13");
    let contacts = column(&tables.customers, 5);
    assert!(contacts.iter().rev().is_sorted());
    assert!(contacts.iter().all(|date| date.ends_with(" 23:59:00")));
    let missing = |index: usize| tables.customers.iter().filter(|row| row[index].is_none()).count();
    assert_eq!((missing(4), missing(9)), (100, 44));
    let mut visits: BTreeMap<String, usize> = BTreeMap::new();
    for date in column(&tables.analytics, 0) {
        *visits.entry(date).or_default() += 1;
    }
    assert_eq!(visits.len(), 91);
    assert!(visits.values().all(|&count| (3..=40).contains(&count)));
    assert!(column(&tables.analytics, 1).iter().all(|id| id.len() == 4));
}

#[test]
fn texts_are_short() {
    let tables = office(3);
    for row in &tables.emails {
        let words = |index: usize| row[index].as_ref().unwrap().split_whitespace().count();
        assert!((2..=4).contains(&words(3)));
        assert!((4..=9).contains(&words(5)), "{row:?}");
    }
}

#[test]
fn pools_are_large_and_without_repeats() {
    for pool in [
        names::FIRST_NAMES.as_slice(),
        &names::SURNAMES,
        &names::COMPANIES,
        &phrases::TOPICS,
        &phrases::ARTIFACTS,
        &phrases::EVENT_KINDS,
        &phrases::VERBS,
    ] {
        assert_eq!(pool.iter().collect::<HashSet<_>>().len(), pool.len());
    }
    assert!(names::FIRST_NAMES.len() >= 80 && names::SURNAMES.len() >= 80);
}

#[test]
fn templates_cover_every_domain() {
    let all = templates(Suite::Core);
    assert_eq!(all.len(), 46);
    let names: HashSet<_> = all.iter().map(|info| info.name).collect();
    assert_eq!(names.len(), all.len());
    for (holdout, least) in [(false, 16), (true, 8)] {
        let some: Vec<_> = all.iter().filter(|info| info.holdout == holdout).collect();
        assert!(some.len() >= least);
        let domains: HashSet<_> = some.iter().map(|info| info.domain).collect();
        assert_eq!(domains.len(), 6);
    }
}

#[test]
fn splits_share_no_request_office_or_id() {
    let mut owner: HashMap<String, Split> = HashMap::new();
    let mut ids = HashSet::new();
    let mut offices: HashMap<String, (Suite, Split)> = HashMap::new();
    let both = Suite::ALL.into_iter().flat_map(|suite| Split::ALL.map(|split| (suite, split)));
    for (suite, split) in both {
        let config = GeneratorConfig { count: 4000, split, suite, ..GeneratorConfig::default() };
        for task in tasks(&config).unwrap() {
            let first = *owner.entry(task.user_message().to_owned()).or_insert(split);
            assert_eq!(first, split, "{}", task.user_message());
            assert!(ids.insert(task.id));
            let office = task.office.clone().unwrap();
            assert_eq!(*offices.entry(office).or_insert((suite, split)), (suite, split));
            assert_eq!(task.provenance.unwrap().filling, task.id);
        }
    }
    assert_eq!(offices.len(), 2 * 4 * 64);
}

#[test]
fn every_split_has_the_promised_mixture() {
    for split in Split::ALL {
        let tasks = generated(split, 1200);
        let counts = distribution(&tasks);
        println!("{split}: {counts}");
        let share = |count: usize| count as f64 / tasks.len() as f64;
        assert!(counts.do_nothing_share() <= 0.10, "{split}");
        assert!(share(counts.id_from_result) >= 0.5, "{split}");
        let single = share(counts.by_num_steps[&1]);
        assert!((0.2..0.4).contains(&single), "{split}: {single}");
        assert!(counts.by_num_steps.keys().all(|steps| (1..=5).contains(steps)));
        assert_eq!(counts.by_domain.len(), 6);
        let least = counts.by_template.values().min().unwrap();
        let most = counts.by_template.values().max().unwrap();
        assert!(most - least <= 1, "templates are not used evenly");
    }
}

#[test]
fn the_same_config_gives_the_same_bytes_and_a_longer_list_starts_alike() {
    let lines = |count, seed| -> Vec<String> {
        let config = GeneratorConfig { count, seed, ..GeneratorConfig::default() };
        tasks(&config).unwrap().iter().map(Task::to_json_line).collect()
    };
    let first = lines(300, 5);
    assert_eq!(first, lines(300, 5));
    assert_eq!(first[..100], lines(100, 5));
    assert_ne!(first, lines(300, 6));
}

#[test]
fn requests_are_complete_and_hide_nothing() {
    for split in Split::ALL {
        for task in generated(split, 400) {
            let request = task.user_message();
            assert!(!request.contains(['{', '}']), "{request}");
            assert!(!request.contains("office-"), "{request}");
        }
    }
}

#[test]
fn configurations_select_templates() {
    let mut config = GeneratorConfig { count: 60, max_difficulty: Some(1), ..GeneratorConfig::default() };
    let easy = tasks(&config).unwrap();
    assert!(easy.iter().all(|task| calls(task).len() == 1));
    config.max_difficulty = None;
    config.templates = vec!["task_reassign_all".to_owned()];
    let hard = tasks(&config).unwrap();
    assert!(hard.iter().all(|task| calls(task).len() >= 4));
    config.templates = vec!["task_reasign".to_owned()];
    assert!(matches!(tasks(&config), Err(GenerateError::UnknownTemplate { .. })));
    config.templates = vec!["task_reassign_all".to_owned()];
    config.max_difficulty = Some(1);
    assert!(matches!(tasks(&config), Err(GenerateError::NoTemplates { .. })));
    config = GeneratorConfig { num_offices: 0, ..GeneratorConfig::default() };
    assert!(matches!(tasks(&config), Err(GenerateError::NumOffices { found: 0 })));
}

#[test]
fn office_names_are_read_back() {
    assert_eq!(office_name(7), "office-0007");
    assert_eq!(office_seed("office-0007"), Some(7));
    assert_eq!(office_seed("office-3063"), Some(3063));
    for wrong in ["office-7", "office-", "office-00007", "Office-0007", "office-+007"] {
        assert_eq!(office_seed(wrong), None, "{wrong}");
    }
}

#[test]
fn split_names_are_read_back() {
    for split in Split::ALL {
        assert_eq!(split.name().parse(), Ok(split));
        assert_eq!(serde_json::to_value(split).unwrap(), split.name());
    }
    assert!("training".parse::<Split>().is_err());
}

#[test]
fn ids_and_most_addresses_are_read_from_results() {
    for task in generated(Split::UnseenFillings, 1000) {
        let request = task.user_message();
        let from_result = calls(&task).iter().any(|call| {
            report::ids_in(&call.arguments).any(|id| !request.contains(id))
                || call
                    .arguments
                    .split('"')
                    .any(|text| text.ends_with(names::COMPANY_DOMAIN) && !request.contains(text))
        });
        let needs_nothing = calls(&task).iter().all(|call| template::tool::writes(&call.name));
        assert!(from_result || needs_nothing || task.ground_truth.len() < 2, "{request}");
    }
}

#[test]
fn unsound_tasks_are_found() {
    let task = &generated(Split::Train, 200)
        .into_iter()
        .find(|task| task.provenance.as_ref().unwrap().template == "email_reply_last")
        .unwrap();
    let verifier = Verifier::new(office(office_seed(task.office.as_ref().unwrap()).unwrap()));
    assert_eq!(verifier.check(task), Ok(()));
    let problem = |change: fn(&mut Task)| {
        let mut broken = task.clone();
        change(&mut broken);
        verifier.check(&broken).unwrap_err()
    };
    let demonstration = |task: &mut Task| task.demonstration.take().unwrap();
    assert!(problem(|task| task.ground_truth.clear()).contains("does not earn"));
    assert!(problem(|task| drop(task.demonstration.take())).contains("no demonstration"));
    assert!(
        problem(|task| {
            task.demonstration.as_mut().unwrap().calls.remove(0);
        })
        .contains("known from nowhere")
    );
    assert!(
        problem(|task| {
            task.demonstration.as_mut().unwrap().calls[0].arguments = "{".to_owned();
        })
        .contains("gave")
    );
    let mut idle = task.clone();
    idle.ground_truth.clear();
    let mut calls = demonstration(&mut idle);
    calls.calls.truncate(1);
    idle.demonstration = Some(calls);
    assert_eq!(verifier.check(&idle), Ok(()));
}

#[test]
fn chance_does_not_ask_for_what_is_so_already() {
    // Among these are meetings that would be moved to where they are.
    for template in ["calendar_move", "calendar_move_by_id"] {
        for seed in 0..6 {
            let config = GeneratorConfig {
                seed,
                count: 400,
                templates: vec![template.to_owned()],
                ..GeneratorConfig::default()
            };
            assert_eq!(tasks(&config).unwrap().len(), 400, "{template}, seed {seed}");
        }
    }
}

#[test]
fn written_datasets_are_read_back() {
    let dir = std::env::temp_dir().join(format!("nemo-env-dataset-{}", std::process::id()));
    let config =
        GeneratorConfig { count: 40, num_offices: 3, split: Split::UnseenFillings, ..GeneratorConfig::default() };
    let written = write_dataset(&dir, &config).unwrap();
    assert_eq!((written.num_tasks, written.num_offices), (40, 3));
    let dataset = crate::Dataset::load(&written.records).unwrap();
    assert_eq!(dataset.tasks, tasks(&config).unwrap());
    let folder = written.offices.join("office-2001");
    assert_eq!(Tables::load_dir(folder).unwrap(), office(2001));
    let offices = crate::Offices::with_folder(&dir).unwrap();
    let report = crate::verify_records(&offices, &dataset).unwrap();
    assert_eq!(report.num_ground_truth_rewarded, 40);
    assert_eq!(report.failed_calls, []);
    assert!(report.failed_demonstrations.is_empty());
    std::fs::remove_dir_all(dir).unwrap();
}

/// Mean characters of requests, calls, results and whole episodes, for choosing context sizes.
#[test]
#[ignore = "prints lengths and samples"]
fn lengths_and_samples() {
    for split in Split::ALL {
        let start = std::time::Instant::now();
        let tasks = generated(split, 10_000);
        println!("{split}: {} tasks in {:?}", tasks.len(), start.elapsed());
        println!("{}", distribution(&tasks));
        let offices = crate::Offices::new();
        let (mut requests, mut arguments, mut results) = (vec![], vec![], vec![]);
        for task in &tasks {
            requests.push(task.user_message().len());
            let replay = crate::replay(&offices, task, calls(task)).unwrap();
            arguments.extend(calls(task).iter().map(|call| call.name.len() + call.arguments.len()));
            results.extend(replay.results.iter().map(|result| result.body().len()));
        }
        let mean = |lengths: &[usize]| lengths.iter().sum::<usize>() as f64 / lengths.len() as f64;
        for (what, lengths) in [("request", requests), ("call", arguments), ("result", results)] {
            let most = lengths.iter().max().unwrap();
            println!("{what}: mean {:.1} characters, most {most}", mean(&lengths));
        }
        for task in &tasks[..30] {
            println!("{}", task.user_message());
            let replay = crate::replay(&offices, task, calls(task)).unwrap();
            for (call, result) in calls(task).iter().zip(replay.results) {
                println!("    {} {} -> {}", call.name, call.arguments, result.body());
            }
        }
    }
}

/// The core suite's tasks and offices, written down: models are trained on them and compared by them, so no later
/// template may move a single byte.
#[test]
fn the_core_suite_never_changes() {
    for (split, expected) in CORE_TASKS {
        let lines: Vec<String> = generated(split, 200).iter().map(Task::to_json_line).collect();
        assert_eq!(crate::fetch::sha256(lines.join("\n").as_bytes()), expected, "{split}");
    }
    for (seed, expected) in CORE_OFFICES {
        let Tables { emails, calendar_events, analytics, project_tasks, customers, directory } = office(seed);
        let rows = [emails, calendar_events, analytics, project_tasks, customers];
        let text = serde_json::to_string(&(rows, directory)).unwrap();
        assert_eq!(crate::fetch::sha256(text.as_bytes()), expected, "office {seed}");
    }
}

const CORE_TASKS: [(Split, &str); 4] = [
    (Split::WarmStart, "b84c4e188e1213b05bdb677358edb5223a1e30aca18eb2439ff441b4f7ca2dfb"),
    (Split::Train, "01a0e05b50cd9dc7e01ab7ccfeaf8058ee7e16a56443af130979e11475315cda"),
    (Split::UnseenFillings, "cd52233cf030b5babcb74095f9af2bf8802d50ad59fbb269dd844770d1d8e152"),
    (Split::UnseenTemplates, "8fca65144d61287bc75dc820ebf3decc974b4adf4190d2263261eaa10507a538"),
];
const CORE_OFFICES: [(u64, &str); 3] = [
    (0, "73ef23a3557c45a36dd740e8ccc26d0df78df4d22bf668b124e6e855b6711946"),
    (1007, "2c7eb072ba0ad6e5b7d7350f15116d85f3fadb71bc2bfdd0f3521f629e9160e6"),
    (3063, "3c0a5848038401c4a8f9b2c57f70e8cfb9d145938f6f070a587ed1a02efa645d"),
];
