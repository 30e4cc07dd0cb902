//! Everything that the tools of a session work on. Tables are shared until the first write (`Arc::make_mut`), so a fresh
//! session costs a few pointers.

use std::sync::Arc;

use super::base_table::{BaseTable, ColumnUses};
use super::table::Table;
use super::tables::{ANALYTICS_COLUMNS, CALENDAR_COLUMNS, CUSTOMER_COLUMNS, EMAIL_COLUMNS, Row, TASK_COLUMNS, Tables};
use super::visits::Visits;
use super::{calendar, email};
use crate::python_compat::Value;

#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) emails: Arc<Table>,
    pub(crate) calendar: Arc<Table>,
    pub(crate) tasks: Arc<Table>,
    pub(crate) customers: Arc<Table>,
    pub(crate) plots: Arc<Table>,
    /// Read-only.
    pub(crate) visits: Arc<Visits>,
    /// Read-only.
    pub(crate) directory: Arc<Vec<String>>,
    /// Set once the average session duration was asked for without bounds: from then on durations
    /// are shown as floats.
    pub(crate) session_duration_is_float: bool,
}

pub(crate) const PLOT_COLUMNS: [&str; 1] = ["file_path"];

/// A row of exactly `width` cells; cells that are not there are missing values.
fn cells(row: &Row, width: usize) -> Vec<Value> {
    let cell = |text: &Option<String>| match text {
        Some(text) => Value::Str(text.as_str().into()),
        None => Value::MISSING,
    };
    let mut cells: Vec<Value> = row.iter().take(width).map(cell).collect();
    cells.resize(width, Value::MISSING);
    cells
}

fn table(columns: &'static [&'static str], rows: &[Row], uses: ColumnUses) -> Arc<Table> {
    let rows = rows.iter().map(|row| cells(row, columns.len()).into()).collect();
    Table::new(BaseTable::new(columns, rows, uses))
}

impl State {
    pub(crate) fn new(tables: &Tables) -> Self {
        let visit = |row: &Row| {
            let mut cells = cells(row, ANALYTICS_COLUMNS.len());
            if let Some(engaged) = cells.last_mut() {
                *engaged = Value::Bool(engaged.as_str() == Some("True"));
            }
            cells.into()
        };
        let visits = tables.analytics.iter().map(visit).collect();
        let plain = ColumnUses::default();
        Self {
            emails: table(&EMAIL_COLUMNS, &tables.emails, email::COLUMN_USES),
            calendar: table(&CALENDAR_COLUMNS, &tables.calendar_events, calendar::COLUMN_USES),
            tasks: table(&TASK_COLUMNS, &tables.project_tasks, plain),
            customers: table(&CUSTOMER_COLUMNS, &tables.customers, plain),
            plots: table(&PLOT_COLUMNS, &[], plain),
            visits: Arc::new(Visits::new(Table::new(BaseTable::new(&ANALYTICS_COLUMNS, visits, plain)))),
            directory: Arc::new(tables.directory.clone()),
            session_duration_is_float: false,
        }
    }
}
