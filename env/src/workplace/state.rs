//! The mutable tables of a session and the rules by which rows are found, added, changed and removed.
//!
//! Tables are shared until the first write (`Arc::make_mut`), and rows are shared between tables, so
//! a fresh session costs nothing and a write copies pointers.
//!
//! Each row carries a label (pandas' row index). Labels are never shown to the model, but two final
//! states are equal only if they agree in them too.

use std::sync::Arc;

use super::tables::{ANALYTICS_COLUMNS, CALENDAR_COLUMNS, CUSTOMER_COLUMNS, EMAIL_COLUMNS, Row, TASK_COLUMNS, Tables};
use crate::python_compat::integer::Integer;
use crate::python_compat::{Exception, Value};

/// A table of a session.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) columns: &'static [&'static str],
    pub(crate) labels: Vec<usize>,
    pub(crate) rows: Vec<Arc<[Value]>>,
    /// Whether pandas would hold all columns as one block; decides an error text only.
    is_single_block: bool,
}

/// Which label a new row takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NewLabel {
    /// All rows are renumbered from 0.
    RenumberAll,
    /// The new row takes label 0, whatever is there already.
    Zero,
}

/// Everything a session's tools work on.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) emails: Arc<Table>,
    pub(crate) calendar: Arc<Table>,
    pub(crate) tasks: Arc<Table>,
    pub(crate) customers: Arc<Table>,
    pub(crate) plots: Arc<Table>,
    /// Read-only; the last column holds booleans.
    pub(crate) analytics: Arc<Table>,
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

impl State {
    pub(crate) fn new(tables: &Tables) -> Self {
        let visit = |row: &Row| {
            let mut cells = cells(row, ANALYTICS_COLUMNS.len());
            if let Some(engaged) = cells.last_mut() {
                *engaged = Value::Bool(engaged.as_str() == Some("True"));
            }
            cells.into()
        };
        let analytics = tables.analytics.iter().map(visit).collect();
        Self {
            emails: Table::new(&EMAIL_COLUMNS, &tables.emails),
            calendar: Table::new(&CALENDAR_COLUMNS, &tables.calendar_events),
            tasks: Table::new(&TASK_COLUMNS, &tables.project_tasks),
            customers: Table::new(&CUSTOMER_COLUMNS, &tables.customers),
            plots: Table::new(&PLOT_COLUMNS, &[]),
            analytics: Arc::new(Table::from_rows(&ANALYTICS_COLUMNS, analytics)),
            directory: Arc::new(tables.directory.clone()),
            session_duration_is_float: false,
        }
    }
}

impl Table {
    fn new(columns: &'static [&'static str], rows: &[Row]) -> Arc<Self> {
        let rows = rows.iter().map(|row| cells(row, columns.len()).into());
        Arc::new(Self::from_rows(columns, rows.collect()))
    }

    fn from_rows(columns: &'static [&'static str], rows: Vec<Arc<[Value]>>) -> Self {
        Self { columns, labels: (0..rows.len()).collect(), rows, is_single_block: true }
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Index of the column that `field` names.
    pub(crate) fn column(&self, field: &Value) -> Option<usize> {
        let field = field.as_str()?;
        self.columns.iter().position(|&column| column == field)
    }

    /// Positions of the rows whose cell equals `value` (`table[table.column == value]`).
    pub(crate) fn find(&self, column: usize, value: &Value) -> Result<Vec<usize>, Exception> {
        let all: Vec<usize> = (0..self.len()).collect();
        self.find_among(&all, column, value)
    }

    /// [`Table::find`] on some of the rows. A list is compared element by element, which needs as
    /// many elements as rows.
    pub(crate) fn find_among(
        &self,
        positions: &[usize],
        column: usize,
        value: &Value,
    ) -> Result<Vec<usize>, Exception> {
        if let Value::List(items) = value {
            if items.len() != positions.len() {
                return Err(Exception::lengths(positions.len(), items.len()));
            }
            let equal =
                |(position, item): (&usize, &Value)| self.rows[*position][column].equals(item).then_some(*position);
            return Ok(positions.iter().zip(items).filter_map(equal).collect());
        }
        let equal = |position: &usize| self.rows[*position][column].equals(value);
        Ok(positions.iter().copied().filter(equal).collect())
    }

    /// `value in table.column.values`: a list of one element counts as that element.
    pub(crate) fn contains(&self, column: usize, value: &Value) -> Result<bool, Exception> {
        let sought = match value {
            Value::List(items) => match items.as_slice() {
                [item] => item,
                items => {
                    return Err(Exception::value(format!(
                        "operands could not be broadcast together with shapes ({},) ({},) ",
                        self.len(),
                        items.len()
                    )));
                }
            },
            other => other,
        };
        Ok(self.rows.iter().any(|row| row[column].equals(sought)))
    }

    /// The row as a JSON object, columns in order.
    pub(crate) fn record(&self, position: usize) -> serde_json::Value {
        self.columns
            .iter()
            .zip(self.rows[position].iter())
            .map(|(column, cell)| ((*column).to_owned(), cell.to_json()))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }

    /// One cell as `{field: value}`.
    pub(crate) fn field(&self, position: usize, column: usize) -> serde_json::Value {
        let cell = self.rows[position][column].to_json();
        serde_json::Map::from_iter([(self.columns[column].to_owned(), cell)]).into()
    }

    /// Largest value of the id column plus one. Text compares as text: "500" is above "00000499".
    /// A table without rows gives an error as Python's `int(nan)` does.
    pub(crate) fn next_id(&self) -> Result<Integer, Exception> {
        let mut largest: Option<&Value> = None;
        for row in &self.rows {
            let id = &row[0];
            let Some(best) = largest else {
                largest = Some(id);
                continue;
            };
            // A missing id counts as minus infinity.
            let type_of = |v: &Value| if v.is_null() { "float" } else { v.type_name() };
            let order = match (best.is_null(), id.is_null()) {
                (true, true) => Some(std::cmp::Ordering::Equal),
                (true, false) if id.as_number().is_some() => Some(std::cmp::Ordering::Less),
                (false, true) if best.as_number().is_some() => Some(std::cmp::Ordering::Greater),
                _ => best.compare(id),
            };
            match order {
                None => return Err(Exception::unordered(">=", type_of(best), type_of(id))),
                Some(std::cmp::Ordering::Less) => largest = Some(id),
                Some(_) => {}
            }
        }
        Integer::from_value(largest.unwrap_or(&Value::MISSING)).map(|id| id.successor())
    }

    /// Appends a row.
    pub(crate) fn push(&mut self, row: Vec<Value>, label: NewLabel) {
        // A number or boolean gives the new column a type of its own, which splits the block.
        let is_typed = |cell: &Value| matches!(cell, Value::Int(_) | Value::Float(_) | Value::Bool(_));
        self.is_single_block &= !row.iter().any(is_typed);
        self.rows.push(row.into());
        match label {
            NewLabel::RenumberAll => self.labels = (0..self.rows.len()).collect(),
            NewLabel::Zero => self.labels.push(0),
        }
    }

    /// Removes the rows at `positions` (ascending); the others keep their labels.
    pub(crate) fn remove(&mut self, positions: &[usize]) {
        for &position in positions.iter().rev() {
            self.rows.remove(position);
            self.labels.remove(position);
        }
    }

    /// Sets one cell in each of `positions`. A list is spread over the rows, so it needs as many
    /// elements as rows; an object is aligned by label, finds none, and leaves missing values.
    pub(crate) fn set(&mut self, positions: &[usize], column: usize, value: &Value) -> Result<(), Exception> {
        if let Value::List(items) = value
            && items.len() != positions.len()
            && items.len() != 1
        {
            return Err(Exception::value(if self.is_single_block {
                "setting an array element with a sequence."
            } else {
                "Must have equal len keys and value when setting with an iterable"
            }));
        }
        for (i, &position) in positions.iter().enumerate() {
            let cell = match value {
                Value::List(items) => items.get(i).or(items.first()).unwrap_or(&Value::None),
                Value::Dict(_) => &Value::MISSING,
                other => other,
            };
            let mut row = self.rows[position].to_vec();
            row[column] = cell.clone();
            self.rows[position] = row.into();
        }
        Ok(())
    }
}
