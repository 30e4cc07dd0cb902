//! Web analytics: read-only visits, and the plots that were asked for.
//!
//! Dates are compared as text, so a bound other than `YYYY-MM-DD` selects by alphabet.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::arguments::{Arguments, is_one_of};
use super::state::State;
use super::table::{NewLabel, Table};
use super::visits::Day;
use crate::python_compat::array::Array;
use crate::python_compat::text::is_space;
use crate::python_compat::{Exception, Value};

pub(super) const DATE: usize = 0;
const VISITOR: usize = 1;
pub(super) const SESSION_DURATION: usize = 3;
pub(super) const TRAFFIC_SOURCE: usize = 4;
pub(super) const ENGAGED: usize = 5;

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
    let visits = &state.visits.table;
    let found = visits.find(VISITOR, id)?;
    if found.is_empty() {
        return Ok("Visitor not found.".into());
    }
    let record = |&position: &usize| {
        let mut record = visits.record(position);
        let duration = &visits.row(position)[SESSION_DURATION];
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
    let mut positions: Vec<usize> = visits.slots().collect();
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
    let array = if let Value::List(items) = bound { Some(Array::new(items)?) } else { None };
    let bounds = array.as_ref().map(|array| array.beside_column(positions.len())).transpose()?;
    let mut kept = Vec::with_capacity(positions.len());
    for (row, &position) in positions.iter().enumerate() {
        let cell = &table.row(position)[column];
        let bound = bounds.map_or(bound, |bounds| &bounds[row]);
        if cell.is_null() || bound.is_null() {
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
        if let Some(date) = visits.row(position)[DATE].as_str() {
            *counts.entry(date).or_default() += amount(position);
        }
    }
    counts.into_iter().map(|(date, count)| (date.to_owned(), count.into())).collect::<Map<_, _>>().into()
}

/// The days within the bounds, for arguments that are text, as nearly all are.
fn days_between<'a>(state: &'a State, arguments: &'a Arguments) -> Option<Vec<(&'a str, &'a Day)>> {
    let days = state.visits.days()?;
    let mut bounds = [None, None];
    for (bound, name) in bounds.iter_mut().zip(["time_min", "time_max"]) {
        if let Some(value) = arguments.provided(name) {
            *bound = Some(value.as_str()?);
        }
    }
    let [min, max] = bounds;
    let is_within = |date: &str| min.is_none_or(|min| date >= min) && max.is_none_or(|max| date <= max);
    Some(days.iter().map(|(date, day)| (&**date, day)).filter(|(date, _)| is_within(date)).collect())
}

/// One number for each of the days.
fn by_day(days: Vec<(&str, &Day)>, number: impl Fn(&Day) -> u64) -> Json {
    days.into_iter().map(|(date, day)| (date.to_owned(), number(day).into())).collect::<Map<_, _>>().into()
}

pub(super) fn total_visits_count(state: &mut State, arguments: &Arguments) -> Result<Json, Exception> {
    if let Some(days) = days_between(state, arguments) {
        return Ok(by_day(days, |day| day.num_visits));
    }
    let visits = &state.visits.table;
    let positions = visits_between(visits, arguments)?;
    Ok(count_by_date(visits, &positions, |_| 1))
}

pub(super) fn engaged_users_count(state: &mut State, arguments: &Arguments) -> Result<Json, Exception> {
    if let Some(days) = days_between(state, arguments) {
        return Ok(by_day(days, |day| day.num_engaged));
    }
    let visits = &state.visits.table;
    let positions = visits_between(visits, arguments)?;
    Ok(count_by_date(visits, &positions, |position| u64::from(visits.row(position)[ENGAGED].is_truthy())))
}

pub(super) fn traffic_source_count(state: &mut State, arguments: &Arguments) -> Result<Json, Exception> {
    let source = arguments.provided("traffic_source");
    if let Some(days) = days_between(state, arguments) {
        match source {
            None => return Ok(by_day(days, |day| day.num_visits)),
            // Dates without a hit stay in the answer, with zero.
            Some(Value::Str(source)) => {
                return Ok(by_day(days, |day| day.by_source.get(source).copied().unwrap_or(0)));
            }
            Some(_) => {}
        }
    }
    let visits = &state.visits.table;
    let positions = visits_between(visits, arguments)?;
    let Some(source) = source else {
        return Ok(count_by_date(visits, &positions, |_| 1));
    };
    let hits = visits.find_among(&positions, TRAFFIC_SOURCE, source)?;
    Ok(count_by_date(visits, &positions, |position| u64::from(hits.binary_search(&position).is_ok())))
}

/// Python's `float(text)`, for plain numbers.
pub(super) fn float_of(value: &Value) -> Result<f64, Exception> {
    let number = match value {
        Value::Str(text) => text.trim_matches(is_space).parse().ok(),
        other => other.as_number(),
    };
    number.ok_or_else(|| Exception::value(format!("could not convert string to float: {}", value.repr())))
}

pub(super) fn get_average_session_duration(state: &mut State, arguments: &Arguments) -> Result<Json, Exception> {
    let means = match days_between(state, arguments) {
        Some(days) => means(days.into_iter().map(|(date, day)| (date, day.duration))),
        None => average_by_visit(state, arguments)?,
    };
    let is_bounded = ["time_min", "time_max"].iter().any(|name| arguments.provided(name).is_some());
    // Without a bound the reference converts the session's own column instead of a copy.
    state.session_duration_is_float |= !is_bounded;
    Ok(means)
}

/// Means of the dates that have anything to take a mean of.
fn means<'a>(sums: impl Iterator<Item = (&'a str, (f64, f64))>) -> Json {
    let mean =
        |(date, (sum, count)): (&str, (f64, f64))| (count > 0.0).then(|| (date.to_owned(), (sum / count).into()));
    sums.filter_map(mean).collect::<Map<_, _>>().into()
}

fn average_by_visit(state: &State, arguments: &Arguments) -> Result<Json, Exception> {
    let visits = &state.visits.table;
    let mut sums: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for position in visits_between(visits, arguments)? {
        let row = visits.row(position);
        let seconds = float_of(&row[SESSION_DURATION])?;
        if let (Some(date), false) = (row[DATE].as_str(), seconds.is_nan()) {
            let (sum, count) = sums.entry(date).or_default();
            *sum += seconds;
            *count += 1.0;
        }
    }
    Ok(means(sums.into_iter()))
}
