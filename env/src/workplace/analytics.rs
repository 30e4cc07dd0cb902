//! Web analytics: read-only visits, and the plots that were asked for.
//!
//! Dates are compared as text, so a bound other than `YYYY-MM-DD` selects by alphabet.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::arguments::{Arguments, is_one_of};
use super::state::{NewLabel, State, Table};
use crate::python_compat::text::is_space;
use crate::python_compat::{Exception, Value};

const DATE: usize = 0;
const VISITOR: usize = 1;
const SESSION_DURATION: usize = 3;
const TRAFFIC_SOURCE: usize = 4;
const ENGAGED: usize = 5;

const PLOT_VALUES: [&str; 7] = [
    "total_visits",
    "session_duration_seconds",
    "user_engaged",
    "visits_direct",
    "visits_referral",
    "visits_search_engine",
    "visits_social_media",
];
const PLOT_TYPES: [&str; 4] = ["bar", "line", "scatter", "histogram"];

pub(super) fn get_visitor_information_by_id(state: &mut State, arguments: &Arguments) -> Result<Json, Exception> {
    let Some(id) = arguments.provided("visitor_id") else {
        return Ok("Visitor ID not provided.".into());
    };
    let found = state.analytics.find(VISITOR, id)?;
    if found.is_empty() {
        return Ok("Visitor not found.".into());
    }
    let record = |&position: &usize| {
        let mut record = state.analytics.record(position);
        let duration = &state.analytics.rows[position][SESSION_DURATION];
        if state.session_duration_is_float
            && let Ok(seconds) = float_of(duration)
            && let Some(cell) = record.get_mut("session_duration_seconds")
        {
            *cell = Value::Float(seconds).to_json();
        }
        record
    };
    Ok(found.iter().map(record).collect())
}

pub(super) fn create_plot(state: &mut State, arguments: &Arguments) -> Result<Json, Exception> {
    let Some(start) = arguments.provided("time_min") else {
        return Ok("Start date not provided.".into());
    };
    let Some(end) = arguments.provided("time_max") else {
        return Ok("End date not provided.".into());
    };
    let value = arguments.get("value_to_plot");
    if !is_one_of(value, &PLOT_VALUES) {
        let choices = PLOT_VALUES.join("', '");
        return Ok(format!("Value to plot must be one of '{choices}'").into());
    }
    let plot_type = arguments.get("plot_type");
    if !is_one_of(plot_type, &PLOT_TYPES) {
        return Ok("Plot type must be one of 'bar', 'line', 'scatter', or 'histogram'".into());
    }
    let path = format!("plots/{}_{}_{}_{}.png", start.text(), end.text(), value.text(), plot_type.text());
    Arc::make_mut(&mut state.plots).push(vec![path.as_str().into()], NewLabel::RenumberAll);
    Ok(path.into())
}

/// Positions of the visits within the bounds.
fn visits_between(visits: &Table, arguments: &Arguments) -> Result<Vec<usize>, Exception> {
    let mut positions: Vec<usize> = (0..visits.len()).collect();
    for (name, operator, outside) in [("time_min", ">=", Ordering::Less), ("time_max", "<=", Ordering::Greater)] {
        if let Some(bound) = arguments.provided(name) {
            positions = compare_column(visits, &positions, DATE, operator, outside, bound)?;
        }
    }
    Ok(positions)
}

/// The rows of `positions` whose cell is not on the `outside` of `bound`. Missing cells are outside;
/// cells that Python cannot compare with the bound raise.
pub(super) fn compare_column(
    table: &Table,
    positions: &[usize],
    column: usize,
    operator: &str,
    outside: Ordering,
    bound: &Value,
) -> Result<Vec<usize>, Exception> {
    if let Value::List(items) = bound {
        return Err(Exception::lengths(positions.len(), items.len()));
    }
    let mut kept = Vec::with_capacity(positions.len());
    for &position in positions {
        let cell = &table.rows[position][column];
        if cell.is_null() {
            continue;
        }
        match cell.compare(bound) {
            Some(order) if order != outside => kept.push(position),
            Some(_) => {}
            None => {
                let (left, right) = (cell.type_name(), bound.type_name());
                return Err(Exception::unordered(operator, left, right));
            }
        }
    }
    Ok(kept)
}

/// Sums `amount` by date, dates ascending.
fn count_by_date(visits: &Table, positions: &[usize], amount: impl Fn(usize) -> u64) -> Json {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for &position in positions {
        if let Some(date) = visits.rows[position][DATE].as_str() {
            *counts.entry(date).or_default() += amount(position);
        }
    }
    counts.into_iter().map(|(date, count)| (date.to_owned(), count.into())).collect::<Map<_, _>>().into()
}

pub(super) fn total_visits_count(state: &mut State, arguments: &Arguments) -> Result<Json, Exception> {
    let positions = visits_between(&state.analytics, arguments)?;
    Ok(count_by_date(&state.analytics, &positions, |_| 1))
}

pub(super) fn engaged_users_count(state: &mut State, arguments: &Arguments) -> Result<Json, Exception> {
    let visits = &state.analytics;
    let positions = visits_between(visits, arguments)?;
    Ok(count_by_date(visits, &positions, |position| u64::from(visits.rows[position][ENGAGED].is_truthy())))
}

pub(super) fn traffic_source_count(state: &mut State, arguments: &Arguments) -> Result<Json, Exception> {
    let visits = &state.analytics;
    let positions = visits_between(visits, arguments)?;
    let Some(source) = arguments.provided("traffic_source") else {
        return Ok(count_by_date(visits, &positions, |_| 1));
    };
    let hits = visits.find_among(&positions, TRAFFIC_SOURCE, source)?;
    // Dates without a hit stay in the answer, with zero.
    Ok(count_by_date(visits, &positions, |position| u64::from(hits.binary_search(&position).is_ok())))
}

/// Python's `float(text)`, for plain numbers.
fn float_of(value: &Value) -> Result<f64, Exception> {
    let number = match value {
        Value::Str(text) => text.trim_matches(is_space).parse().ok(),
        other => other.as_number(),
    };
    number.ok_or_else(|| Exception::value(format!("could not convert string to float: {}", value.repr())))
}

pub(super) fn get_average_session_duration(state: &mut State, arguments: &Arguments) -> Result<Json, Exception> {
    let positions = visits_between(&state.analytics, arguments)?;
    let mut sums: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for position in positions {
        let row = &state.analytics.rows[position];
        let seconds = float_of(&row[SESSION_DURATION])?;
        if let (Some(date), false) = (row[DATE].as_str(), seconds.is_nan()) {
            let (sum, count) = sums.entry(date).or_default();
            *sum += seconds;
            *count += 1.0;
        }
    }
    let means =
        sums.into_iter().map(|(date, (sum, count))| (date.to_owned(), (sum / count).into())).collect::<Map<_, _>>();
    let is_bounded = ["time_min", "time_max"].iter().any(|name| arguments.provided(name).is_some());
    // Without a bound the reference converts the session's own column instead of a copy.
    state.session_duration_is_float |= !is_bounded;
    Ok(means.into())
}
