//! What a list of calls comes to, apart from the way it was done: which initial rows are gone, which of their cells have
//! another meaning now, and which rows are new.
//!
//! This is what the stricter scoring compares. Unlike the final tables of the parity scorer it knows no row labels, no
//! order of new rows and no ids that the tools gave out; dates, durations and numbers are compared by value; an empty
//! text is a missing one.

use super::comparison::{is_case_sensitive, tables};
use super::state::State;
use super::table::Table;
use crate::python_compat::Value;
use crate::python_compat::integer::Integer;
use crate::python_compat::timestamp::Timestamp;

/// Columns that hold points in time.
const TIME_COLUMNS: [&str; 5] = ["sent_datetime", "event_start", "due_date", "last_contact_date", "follow_up_by"];
const DURATION_COLUMN: &str = "duration";
const PLOT_COLUMN: &str = "file_path";

/// The meaning of a cell; `None` for a missing value.
type Meaning = Option<String>;

/// The net effects on one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct TableEffects {
    /// Initial rows that are gone, by slot.
    gone: Vec<usize>,
    /// Slot, column and new meaning of cells of initial rows.
    changed: Vec<(usize, usize, Meaning)>,
    /// New rows without their ids, sorted.
    added: Vec<Vec<Meaning>>,
}

/// The net effects of a list of calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Effects(Vec<TableEffects>);

impl Effects {
    pub(super) fn of(state: &State) -> Self {
        Self(tables(state).into_iter().map(|(_, table)| TableEffects::of(table)).collect())
    }

    /// Rows removed, rows added and cells changed: the writes that lead here at the least, one row each.
    pub(crate) fn count(&self) -> usize {
        self.0.iter().map(|table| table.gone.len() + table.changed.len() + table.added.len()).sum()
    }
}

impl TableEffects {
    fn of(table: &Table) -> Self {
        let columns = table.columns();
        let mut changed = Vec::new();
        for (slot, before, after) in table.changed_rows() {
            for (index, &column) in columns.iter().enumerate() {
                let meaning = meaning(column, &after[index]);
                if meaning != self::meaning(column, &before[index]) {
                    changed.push((slot, index, meaning));
                }
            }
        }
        // The first column is the id, but a plot has nothing else.
        let first = usize::from(columns != [PLOT_COLUMN]);
        let row = |row: &[Value]| {
            columns.iter().zip(row).skip(first).map(|(column, cell)| meaning(column, cell)).collect::<Vec<_>>()
        };
        let mut added: Vec<Vec<Meaning>> = table.added_rows().map(|added| row(added)).collect();
        added.sort_unstable();
        Self { gone: table.deleted_slots().collect(), changed, added }
    }
}

fn meaning(column: &str, cell: &Value) -> Meaning {
    if cell.is_null() {
        return None;
    }
    let text = cell.text();
    if text.is_empty() {
        return None;
    }
    if is_case_sensitive(column) {
        return Some(text);
    }
    let special = if TIME_COLUMNS.contains(&column) {
        time(cell)
    } else if column == DURATION_COLUMN {
        Integer::from_value(cell).ok().map(|minutes| minutes.to_string())
    } else if column == PLOT_COLUMN {
        plot(&text)
    } else {
        None
    };
    Some(special.unwrap_or_else(|| text.to_lowercase()))
}

fn time(cell: &Value) -> Option<String> {
    match Timestamp::from_value(cell).ok()? {
        Timestamp::Missing => None,
        Timestamp::Naive(time) => Some(time.to_string()),
        Timestamp::Aware(time, offset) => Some(format!("{time}{offset:+}")),
    }
}

/// A plot's path, `plots/START_END_VALUE_TYPE.png`, with its dates by value.
fn plot(path: &str) -> Option<String> {
    let rest = path.strip_prefix("plots/")?;
    let mut parts = rest.splitn(3, '_');
    let (start, end, rest) = (parts.next()?, parts.next()?, parts.next()?);
    Some(format!("plots/{}_{}_{rest}", time(&start.into())?, time(&end.into())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_compared_by_meaning() {
        let same = |column: &str, a: Value, b: Value| meaning(column, &a) == meaning(column, &b);
        for (column, a, b) in [
            ("event_start", "2023-12-01T09:00:00", "2023-12-01 09:00:00"),
            ("due_date", "2023-12-01", "Dec 1 2023"),
            ("duration", "030", "30"),
            ("subject", "Hello", "hELLO"),
            ("notes", "", ""),
            (
                "file_path",
                "plots/2023-11-01_2023-11-30_total_visits_bar.png",
                "plots/2023/11/01_20231130_total_visits_bar.png",
            ),
        ] {
            assert!(same(column, a.into(), b.into()), "{column}: {a:?} and {b:?}");
        }
        for (column, a, b) in [
            ("event_start", "2023-12-01 09:00:00", "2023-12-01 21:00:00"),
            ("duration", "30", "60"),
            ("status", "Lead", "lead"),
            ("subject", "2023-12-01", "2023/12/01"),
            (
                "file_path",
                "plots/2023-11-01_2023-11-30_total_visits_bar.png",
                "plots/2023-11-01_2023-11-29_total_visits_bar.png",
            ),
        ] {
            assert!(!same(column, a.into(), b.into()), "{column}: {a:?} and {b:?}");
        }
        assert!(same("duration", Value::Int(30), "30".into()));
        assert!(same("notes", Value::MISSING, "".into()));
        // The parity scorer takes any number for a missing value.
        assert!(!same("customer_phone", Value::Int(5_551_234), Value::None));
        assert!(same("customer_phone", Value::Int(5_551_234), "5551234".into()));
    }
}
