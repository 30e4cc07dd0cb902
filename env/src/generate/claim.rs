//! Why the answer to a request is the only one: which rows a description fits, and whom a name means. The claims are
//! checked on the tables as the tools see them, without the look-ups that the templates use.

use crate::workplace::tables::{Row, Tables};

/// A table that requests describe rows of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TableName {
    Mails,
    Events,
    Tasks,
    Customers,
}

impl TableName {
    fn rows(self, tables: &Tables) -> &[Row] {
        match self {
            Self::Mails => &tables.emails,
            Self::Events => &tables.calendar_events,
            Self::Tasks => &tables.project_tasks,
            Self::Customers => &tables.customers,
        }
    }
}

/// What is said about the cells of a column. Times are compared as text, which has one form within a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Test {
    Is(String),
    IsNot(String),
    Contains(String),
    AtLeast(String),
    AtMost(String),
}

impl Test {
    fn holds(&self, cell: &str) -> bool {
        match self {
            Self::Is(text) => cell == text,
            Self::IsNot(text) => cell != text,
            Self::Contains(text) => cell.to_lowercase().contains(&text.to_lowercase()),
            Self::AtLeast(least) => cell >= least.as_str(),
            Self::AtMost(most) => cell <= most.as_str(),
        }
    }
}

/// One thing that has to hold if there is only one answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// All tests together hold for exactly the rows with these ids.
    Rows { table: TableName, tests: Vec<(usize, Test)>, ids: Vec<String> },
    /// The name fits the addresses of `count` colleagues: one who is meant, or none and several where nobody can be.
    Colleagues { name: String, count: usize },
}

/// The cells that a task may refer to because its claims single them out: ids and addresses.
#[derive(Default)]
pub(super) struct Evidence(Vec<String>);

impl Evidence {
    pub fn has(&self, value: &str) -> bool {
        self.0.iter().any(|known| known == value)
    }
}

/// Checks the claims and collects what they single out.
pub(super) fn check(claims: &[Claim], tables: &Tables) -> Result<Evidence, String> {
    let mut evidence = Evidence::default();
    for claim in claims {
        match claim {
            Claim::Rows { table, tests, ids } => {
                let cell = |row: &Row, column: usize| row[column].clone().unwrap_or_default();
                let fits = |row: &&Row| tests.iter().all(|(column, test)| test.holds(&cell(row, *column)));
                let rows: Vec<&Row> = table.rows(tables).iter().filter(fits).collect();
                let (mut found, mut claimed): (Vec<String>, _) =
                    (rows.iter().map(|row| cell(row, 0)).collect(), ids.clone());
                found.sort_unstable();
                claimed.sort_unstable();
                if found != claimed {
                    return Err(format!("the description {tests:?} fits {found:?} instead of {claimed:?}"));
                }
                evidence.0.extend(rows.into_iter().flatten().flatten().cloned());
            }
            Claim::Colleagues { name, count } => {
                let local = name.to_lowercase().replace(' ', ".");
                let found: Vec<&String> = tables.directory.iter().filter(|address| address.contains(&local)).collect();
                if found.len() != *count {
                    return Err(format!("{name:?} fits {found:?} instead of {count} addresses"));
                }
                if let [address] = found[..] {
                    evidence.0.push(address.clone());
                }
            }
        }
    }
    Ok(evidence)
}
