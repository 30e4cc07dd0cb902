//! Whatever calls a model makes: each is answered, the same calls come to the same, and nobody else notices.
//!
//! An input is text, one call a line: the tool's name, a blank, the arguments. A first line `large` asks for an office with
//! enough rows for several pages; the others are set in one of a few rows, where more of them hit something. Both are
//! smaller than real ones, because every row is looked at after every input.

use std::sync::LazyLock;

use nemo_env::{Tables, ToolCall, Workplace, generate};
use serde_json::{Map, Value};

/// Calls of one input; later lines are left out.
const MAX_CALLS: usize = 24;
/// Rows of each table of the two offices.
const FEW_ROWS: usize = 8;
const MANY_ROWS: usize = 60;

type Digests = Vec<(&'static str, String)>;

struct Office {
    workplace: Workplace,
    /// Of a session before its first call.
    untouched: Digests,
}

impl Office {
    fn new(tables: &Tables) -> Self {
        let workplace = Workplace::new(tables);
        Self { untouched: workplace.session().digests(), workplace }
    }
}

static LARGE: LazyLock<Office> = LazyLock::new(|| Office::new(&first_rows(MANY_ROWS)));
static SMALL: LazyLock<Office> = LazyLock::new(|| Office::new(&small_tables()));

pub fn small_tables() -> Tables {
    first_rows(FEW_ROWS)
}

/// The first rows of an office, with small ids.
fn first_rows(num_rows: usize) -> Tables {
    let mut tables = generate::office(3);
    let Tables { emails, calendar_events, analytics, project_tasks, customers, directory } = &mut tables;
    for rows in [emails, calendar_events, project_tasks, customers] {
        rows.truncate(num_rows);
        for (id, row) in rows.iter_mut().enumerate() {
            row[0] = Some(format!("{id:08}"));
        }
    }
    analytics.truncate(3 * num_rows);
    directory.truncate(num_rows);
    tables
}

/// The calls that an input stands for.
fn read(text: &str) -> Vec<ToolCall> {
    let call = |line: &str| {
        let (name, arguments) = line.split_once(' ').unwrap_or((line, ""));
        ToolCall { name: name.to_owned(), arguments: arguments.to_owned() }
    };
    text.split('\n').take(MAX_CALLS).map(call).collect()
}

pub fn check(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (office, calls) = match text.strip_prefix("large\n") {
        Some(rest) => (&*LARGE, read(rest)),
        None => (&*SMALL, read(&text)),
    };
    answers_are_whole_and_repeat(office, &calls);
    rewards_hold(&office.workplace, &calls);
    assert_eq!(office.workplace.session().digests(), office.untouched, "the office itself has changed");
    for call in &calls {
        let text = serde_json::to_string(call).unwrap();
        assert_eq!(serde_json::from_str::<ToolCall>(&text).unwrap(), *call);
    }
}

fn answers_are_whole_and_repeat(office: &Office, calls: &[ToolCall]) {
    let (mut session, mut again) = (office.workplace.session(), office.workplace.session());
    for call in calls {
        let result = session.call(call);
        let body = result.body();
        let answer: Map<String, Value> = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
        let key = answer.keys().next().map(String::as_str);
        assert!(answer.len() == 1 && matches!(key, Some("output" | "error" | "detail")), "{body}");
        assert!(matches!(key, Some("output")) || result.is_error(), "{body}");
        assert_eq!(again.call(call).body(), body);
    }
    let digests = session.digests();
    assert_eq!(again.digests(), digests);
    let changes = session.changes();
    assert_eq!(again.changes(), changes);
    let changed: Vec<&str> = changes.iter().map(|change| change.table).collect();
    let differs = digests.iter().zip(&office.untouched).filter(|(after, before)| after != before);
    assert!(differs.map(|(after, _)| after.0).eq(changed));
}

fn rewards_hold(workplace: &Workplace, calls: &[ToolCall]) {
    // Only a column of nothing but numbers cannot be compared, not even with itself.
    let itself = workplace.verify(calls, calls);
    assert_ne!(itself, Ok(false));
    assert_eq!(workplace.verify(&[], &[]), Ok(true));
    let (first, _) = calls.split_at(calls.len() / 2);
    for other in [&[], first] {
        let (forth, back) = (workplace.verify(calls, other), workplace.verify(other, calls));
        // Tables that are equal to others can be compared.
        assert!(forth != Ok(true) || itself == Ok(true));
        assert_eq!(forth.ok(), back.ok());
    }
    assert_eq!(workplace.score_strictly(calls, calls).reward(), 1.0);
}
