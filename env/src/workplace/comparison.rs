//! Equality of final states, on which the reward rests.
//!
//! Every column is lower-cased first, except three that hold names of choices. Lower-casing loses
//! whatever is not text: numbers, lists and objects become missing, and missing equals missing.

use std::sync::Arc;

use super::project_management::has_text_accessor;
use super::state::State;
use super::table::Table;
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
        equal = equal && a.equals(b, |a_row, b_row| rows_equal(a.columns(), a_row, b_row));
    }
    Ok(equal)
}

pub(super) fn is_case_sensitive(column: &str) -> bool {
    CASE_SENSITIVE.contains(&column)
}

fn check_columns(name: &'static str, table: &Table) -> Result<(), NotComparable> {
    for (index, &column) in table.columns().iter().enumerate() {
        // One text makes the column one of texts.
        if !is_case_sensitive(column)
            && table.num_text(index) == 0
            && !has_text_accessor(table.rows().map(|row| &row[index]))
        {
            return Err(NotComparable { table: name, column });
        }
    }
    Ok(())
}

fn rows_equal(columns: &[&str], a: &[Value], b: &[Value]) -> bool {
    columns.iter().zip(a.iter().zip(b)).all(|(column, (a, b))| cells_equal(a, b, is_case_sensitive(column)))
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
