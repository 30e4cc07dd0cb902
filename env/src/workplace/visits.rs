//! The visits to the company's site. No tool changes them, so what the analytics tools count is counted once per office,
//! by day.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use super::analytics::{DATE, ENGAGED, SESSION_DURATION, TRAFFIC_SOURCE, float_of};
use super::table::Table;
use crate::python_compat::Value;

/// What is counted of one day.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Day {
    pub(crate) num_visits: u64,
    pub(crate) num_engaged: u64,
    pub(crate) by_source: BTreeMap<Arc<str>, u64>,
    /// Sum of the session durations, and how many there are.
    pub(crate) duration: (f64, f64),
}

#[derive(Debug)]
pub(crate) struct Visits {
    pub(crate) table: Arc<Table>,
    days: OnceLock<Option<BTreeMap<Arc<str>, Day>>>,
}

impl Visits {
    pub(crate) fn new(table: Arc<Table>) -> Self {
        Self { table, days: OnceLock::new() }
    }

    /// The visits by day; `None` if a duration or source is of a kind that counting by day would hide.
    pub(crate) fn days(&self) -> Option<&BTreeMap<Arc<str>, Day>> {
        self.days.get_or_init(|| self.count()).as_ref()
    }

    fn count(&self) -> Option<BTreeMap<Arc<str>, Day>> {
        let mut days: BTreeMap<Arc<str>, Day> = BTreeMap::new();
        for row in self.table.rows() {
            let seconds = float_of(&row[SESSION_DURATION]).ok()?;
            let Value::Str(date) = &row[DATE] else { continue };
            let day = days.entry(Arc::clone(date)).or_default();
            day.num_visits += 1;
            day.num_engaged += u64::from(row[ENGAGED].is_truthy());
            if let Value::Str(source) = &row[TRAFFIC_SOURCE] {
                *day.by_source.entry(Arc::clone(source)).or_default() += 1;
            }
            if !seconds.is_nan() {
                day.duration.0 += seconds;
                day.duration.1 += 1.0;
            }
        }
        Some(days)
    }
}
