//! Equality of final states, on which the reward rests.
//!
//! Every column is lower-cased first, except three that hold names of choices. Lower-casing loses
//! whatever is not text: numbers, lists and objects become missing, and missing equals missing.

use std::sync::Arc;

use super::project_management::has_text_accessor;
use super::state::{State, Table};
use crate::python_compat::Value;

/// Columns compared as they are.
const CASE_SENSITIVE: [&str; 3] = ["status", "list_name", "board"];

/// A column of nothing but numbers cannot be lower-cased: the reference fails on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotComparable {
    pub table: &'static str,
    pub column: &'static str,
}

pub(super) fn tables(state: &State) -> [(&'static str, &Arc<Table>); 5] {
    [
        ("calendar", &state.calendar),
        ("email", &state.emails),
        ("plots", &state.plots),
        ("project_management", &state.tasks),
        ("customer_relationship_manager", &state.customers),
    ]
}

/// Whether two final states earn the reward.
pub(super) fn states_equal(a: &State, b: &State) -> Result<bool, NotComparable> {
    let mut equal = true;
    for ((name, a), (_, b)) in tables(a).into_iter().zip(tables(b)) {
        if Arc::ptr_eq(a, b) {
            continue;
        }
        check_columns(name, a)?;
        check_columns(name, b)?;
        equal = equal && tables_equal(a, b);
    }
    Ok(equal)
}

fn is_case_sensitive(column: &str) -> bool {
    CASE_SENSITIVE.contains(&column)
}

fn check_columns(name: &'static str, table: &Table) -> Result<(), NotComparable> {
    for (index, &column) in table.columns.iter().enumerate() {
        if !is_case_sensitive(column) && !has_text_accessor(table.rows.iter().map(|row| &row[index])) {
            return Err(NotComparable { table: name, column });
        }
    }
    Ok(())
}

fn tables_equal(a: &Table, b: &Table) -> bool {
    a.labels == b.labels
        && a.rows.iter().zip(&b.rows).all(|(a_row, b_row)| {
            Arc::ptr_eq(a_row, b_row)
                || a.columns
                    .iter()
                    .zip(a_row.iter().zip(b_row.iter()))
                    .all(|(column, (a, b))| cells_equal(a, b, is_case_sensitive(column)))
        })
}

fn cells_equal(a: &Value, b: &Value, is_case_sensitive: bool) -> bool {
    if is_case_sensitive {
        return a.is_null() && b.is_null() || a.equals(b);
    }
    match (a, b) {
        (Value::Str(a), Value::Str(b)) => a == b || a.to_lowercase() == b.to_lowercase(),
        (Value::Str(_), _) | (_, Value::Str(_)) => false,
        _ => true,
    }
}
