//! The tutorial's worked examples on the real tables: the mail that is answered and the customers that change hands.
//!
//! `NEMO_BURN_DATA` names the folder with `workplace/csv_data` and `workplace/example.jsonl` (default: `shared/data`
//! beside the repository).

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and reports what it skipped")]

use std::path::{Path, PathBuf};

use nemo_env::prepare::prepare;
use nemo_env::{Dataset, EnvSession, Environment, Offices, Tables, Task, ToolCall, verify_records};
use serde_json::{Value, json};

fn data() -> Option<PathBuf> {
    let data = std::env::var_os("NEMO_BURN_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"), PathBuf::from);
    let folder = data.join("workplace");
    let is_there = folder.join("csv_data").is_dir() && folder.join("example.jsonl").is_file();
    if !is_there {
        println!("skipped: no tables and examples (NEMO_BURN_DATA)");
    }
    is_there.then_some(folder)
}

/// The office, and the example whose request contains `words`.
fn example(data: &Path, words: &str) -> (Offices, Task) {
    let offices = Offices::with_tables(&Tables::load_dir(data.join("csv_data")).unwrap());
    let tasks = Dataset::load(data.join("example.jsonl")).unwrap().tasks;
    (offices, tasks.into_iter().find(|task| task.user_message().contains(words)).unwrap())
}

/// An episode as a model lives it: calls whose arguments may come from earlier answers.
struct Episode<'a> {
    offices: &'a Offices,
    task: &'a Task,
    session: Box<dyn EnvSession>,
    calls: Vec<ToolCall>,
}

impl<'a> Episode<'a> {
    fn start((offices, task): &'a (Offices, Task)) -> Self {
        Self { offices, task, session: offices.reset(task).unwrap(), calls: Vec::new() }
    }

    fn call(&mut self, name: &str, arguments: &Value) -> Value {
        let call = ToolCall::new(name, arguments);
        let body: Value = serde_json::from_str(&self.session.call(&call)).unwrap();
        self.calls.push(call);
        body["output"].clone()
    }

    fn reward(&self) -> f64 {
        self.offices.score(self.task, &self.calls).unwrap().reward
    }
}

#[test]
fn the_mail_is_found_and_answered() {
    let Some(data) = data() else { return };
    let setting = example(&data, "Reply to carlos's last email about");
    let answer = "Thanks for the update - I will get back to you tomorrow.";
    let mut episode = Episode::start(&setting);
    let found = episode.call("company_directory_find_email_address", &json!({"name": "carlos"}));
    assert_eq!(found, json!(["carlos.rodriguez@atlas.com"]));
    let query = "carlos Task Update on Develop prototype for report generation";
    let found = episode.call("email_search_emails", &json!({"query": query}));
    // The newest comes first.
    let newest = &found["emails"][0];
    assert_eq!(newest["sender/recipient"], "carlos.rodriguez@atlas.com");
    assert_eq!(newest["subject"], "Task Update on Develop prototype for report generation");
    assert_eq!(episode.reward(), 0.0);
    let said = episode.call("email_reply_email", &json!({"email_id": newest["email_id"], "body": answer}));
    assert_eq!(said, "Email replied successfully.");
    assert_eq!(episode.reward(), 1.0);
    // Not twice, not to another mail, not in other words.
    episode.call("email_reply_email", &json!({"email_id": newest["email_id"], "body": answer}));
    assert_eq!(episode.reward(), 0.0);
    for (id, body) in [(json!("00000058"), answer), (newest["email_id"].clone(), "Thanks")] {
        let mut episode = Episode::start(&setting);
        episode.call("email_reply_email", &json!({"email_id": id, "body": body}));
        assert_eq!(episode.reward(), 0.0);
    }
}

#[test]
fn the_customers_are_found_and_change_hands() {
    let Some(data) = data() else { return };
    let setting = example(&data, "Raj is taking over all of Akira's leads");
    let address = |episode: &mut Episode<'_>, name: &str| {
        let found = episode.call("company_directory_find_email_address", &json!({"name": name}));
        found[0].clone()
    };
    // In the order of the search and against it: the reward does not depend on it.
    for is_reversed in [false, true] {
        let mut episode = Episode::start(&setting);
        let (akira, raj) = (address(&mut episode, "akira"), address(&mut episode, "raj"));
        let search = json!({"assigned_to_email": akira, "status": "Lead", "product_interest": "Software"});
        let found = episode.call("customer_relationship_manager_search_customers", &search);
        let mut customers = found["customers"].as_array().unwrap().clone();
        assert_eq!(found["pagination"]["total_customers"], customers.len());
        if is_reversed {
            customers.reverse();
        }
        for (index, customer) in customers.iter().enumerate() {
            assert_eq!(episode.reward(), 0.0, "before customer {index}");
            let update =
                json!({"customer_id": customer["customer_id"], "field": "assigned_to_email", "new_value": raj});
            let said = episode.call("customer_relationship_manager_update_customer", &update);
            assert_eq!(said, "Customer updated successfully.");
        }
        assert_eq!(episode.reward(), 1.0);
    }
}

#[test]
fn the_examples_are_prepared() {
    let Some(data) = data() else { return };
    let folder = tempfile::tempdir().unwrap();
    let offices = Offices::with_tables(&Tables::load_dir(data.join("csv_data")).unwrap());
    let report = prepare(&data.join("example.jsonl"), &offices, folder.path()).unwrap();
    assert_eq!((report.num_records, report.num_training, report.num_validation), (5, 4, 1));
    assert_eq!((report.broken.len(), report.idle.len()), (0, 0));
    let original = Dataset::load(data.join("example.jsonl")).unwrap().tasks;
    let (training, validation) = (Dataset::load(&report.training).unwrap(), Dataset::load(&report.validation).unwrap());
    assert_eq!(original[..4], training.tasks);
    assert_eq!(original[4..], validation.tasks);
    let metrics: Value = serde_json::from_str(&std::fs::read_to_string(&report.metrics[0]).unwrap()).unwrap();
    // All records of this data set have some 1,700 words, nearly all of them in the schemas of the tools.
    let words = &metrics["Json-dumped number of words (proxy for token count)"];
    assert!(words["Min"].as_f64().unwrap() >= 1713.0 && words["Max"].as_f64().unwrap() <= 1747.0, "{words}");
    assert_eq!(metrics["Number of tools"]["Average"], 27.0);
}

#[test]
fn ground_truths_that_depend_on_their_order_are_right_in_any_order() {
    let Some(data) = data() else { return };
    let path = data.join("workbench_690.jsonl");
    if !path.is_file() {
        println!("skipped: no {}", path.display());
        return;
    }
    let offices = Offices::with_tables(&Tables::load_dir(data.join("csv_data")).unwrap());
    let dataset = Dataset::load(&path).unwrap();
    let report = verify_records(&offices, &dataset).unwrap();
    assert!(!report.order_dependent.is_empty());
    for task in dataset.tasks.iter().filter(|task| report.order_dependent.contains(&task.id)) {
        let reversed: Vec<ToolCall> = task.ground_truth.iter().rev().cloned().collect();
        assert_eq!(offices.score(task, &reversed).unwrap().reward, 0.0, "task {}", task.id);
        assert_eq!(offices.score_strictly(task, &reversed).unwrap().reward(), 1.0, "task {}", task.id);
    }
    // The stricter scoring agrees about what doing nothing earns.
    for task in &dataset.tasks {
        let strict = offices.score_strictly(task, &[]).unwrap();
        let lenient = offices.score(task, &[]).unwrap();
        assert_eq!(strict.do_nothing, lenient.do_nothing, "task {}", task.id);
        assert_eq!(strict.same_effects, lenient.reward > 0.0, "task {}", task.id);
    }
}
