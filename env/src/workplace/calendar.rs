//! The calendar.

use std::cmp::Ordering;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::arguments::{Arguments, is_one_of, lower};
use super::base_table::ColumnUses;
use super::pagination::paginate;
use super::state::State;
use super::table::{NewLabel, Table};
use super::tables::CALENDAR_COLUMNS;
use crate::python_compat::integer::Integer;
use crate::python_compat::text::{is_digit, zero_fill};
use crate::python_compat::timestamp::Timestamp;
use crate::python_compat::{Exception, ExceptionKind, Value, pattern};

const ID: usize = 0;
const NAME: usize = 1;
const PARTICIPANT: usize = 2;
const START: usize = 3;
const ID_LENGTH: usize = 8;

pub(super) const COLUMN_USES: ColumnUses = ColumnUses { time: START, joined: &[] };

const NO_ID: &str = "Event ID not provided.";
const INVALID_ID: &str = "Invalid event ID format. Expected 8-digit ID.";
const NOT_FOUND: &str = "Event not found.";
const INVALID_DURATION: &str = "Invalid duration format. Expected a number of minutes.";
const NOT_POSITIVE: &str = "Duration must be a positive number of minutes.";

fn is_event_id(id: &Value) -> bool {
    id.as_str().is_some_and(|text| text.chars().count() == ID_LENGTH && text.chars().all(is_digit))
}

pub(super) fn get_event_information_by_id(state: &mut State, arguments: &Arguments) -> Result<Json, Exception> {
    let Some(id) = arguments.provided("event_id") else {
        return Ok(NO_ID.into());
    };
    let Some(field) = arguments.provided("field") else {
        return Ok("Field not provided.".into());
    };
    if !is_event_id(id) {
        return Ok(INVALID_ID.into());
    }
    let Some(column) = state.calendar.column(field) else {
        let fields = CALENDAR_COLUMNS.join(", ");
        return Ok(format!("Invalid field. Available fields are: {fields}").into());
    };
    let found = state.calendar.find(ID, id)?;
    Ok(match found.first() {
        Some(&position) => state.calendar.field(position, column),
        None => NOT_FOUND.into(),
    })
}

/// A bound of the search; the inner error is the answer to an unreadable one.
fn bound(arguments: &Arguments, name: &str) -> Result<Result<Option<Timestamp>, String>, Exception> {
    let Some(value) = arguments.provided(name) else {
        return Ok(Ok(None));
    };
    match Timestamp::from_value(value) {
        Ok(bound) => Ok(Ok(Some(bound))),
        Err(Exception { kind: ExceptionKind::Value, .. }) => {
            Ok(Err(format!("Invalid {name} format. Expected YYYY-MM-DD HH:MM:SS.")))
        }
        Err(exception) => Err(exception),
    }
}

pub(super) fn search_events(state: &mut State, arguments: &Arguments) -> Result<Json, Exception> {
    let mut bounds = Vec::new();
    for (name, outside) in [("time_min", Ordering::Less), ("time_max", Ordering::Greater)] {
        match bound(arguments, name)? {
            Ok(bound) => bounds.extend(bound.map(|bound| (bound, outside))),
            Err(answer) => return Ok(answer.into()),
        }
    }
    let empty = Value::from("");
    let pattern = pattern::compile(arguments.given("query").unwrap_or(&empty))?;
    let table: &Table = &state.calendar;
    let mut events = Vec::new();
    for slot in table.search(&[NAME, PARTICIPANT], &pattern) {
        events.push((slot, table.time(slot)?));
    }
    for (bound, outside) in bounds {
        let mut kept = Vec::with_capacity(events.len());
        for (slot, start) in events {
            if start.compare(&bound)?.is_some_and(|order| order != outside) {
                kept.push((slot, start));
            }
        }
        events = kept;
    }
    // The calendar looks at the page arguments only when there is an event to show.
    if events.is_empty() {
        return Ok("No events found.".into());
    }
    latest_first(&mut events)?;
    let page = paginate(arguments, events.len(), "total_events")?;
    let events: Vec<Json> = events[page.rows].iter().map(|&(slot, _)| table.record(slot)).collect();
    Ok(json!({"events": events, "pagination": page.summary}))
}

/// Sorts by start, latest first; equal ones keep the order of the table and those without a time
/// come last.
fn latest_first(events: &mut [(usize, Timestamp)]) -> Result<(), Exception> {
    if let Some((_, first)) = events.iter().find(|(_, start)| !start.is_missing()) {
        for (_, other) in events.iter() {
            first.compare(other)?;
        }
    }
    events.sort_by(|(_, a), (_, b)| match (a.is_missing(), b.is_missing()) {
        (false, false) => b.compare(a).ok().flatten().unwrap_or(Ordering::Equal),
        (a, b) => a.cmp(&b),
    });
    Ok(())
}

/// The answer to a start that cannot be read, if it cannot.
fn refused_start(start: &Value) -> Result<Option<&'static str>, Exception> {
    match Timestamp::from_value(start) {
        Ok(_) => Ok(None),
        Err(Exception { kind: ExceptionKind::Value, .. }) => {
            Ok(Some("Invalid event_start format. Expected YYYY-MM-DD HH:MM:SS."))
        }
        Err(exception) => Err(exception),
    }
}

/// The answer to a duration that is no positive number, if it is none.
fn refused_duration(duration: &Value) -> Result<Option<&'static str>, Exception> {
    match Integer::from_value(duration) {
        Ok(minutes) if minutes.is_positive() => Ok(None),
        Ok(_) => Ok(Some(NOT_POSITIVE)),
        Err(Exception { kind: ExceptionKind::Value, .. }) => Ok(Some(INVALID_DURATION)),
        Err(exception) => Err(exception),
    }
}

pub(super) fn create_event(state: &mut State, arguments: &Arguments) -> Result<Json, Exception> {
    let Some(name) = arguments.provided("event_name") else {
        return Ok("Event name not provided.".into());
    };
    let Some(participant) = arguments.provided("participant_email") else {
        return Ok("Participant email not provided.".into());
    };
    let Some(start) = arguments.provided("event_start") else {
        return Ok("Event start not provided.".into());
    };
    let Some(duration) = arguments.provided("duration") else {
        return Ok("Event duration not provided.".into());
    };
    if let Some(answer) = refused_start(start)? {
        return Ok(answer.into());
    }
    if let Some(answer) = refused_duration(duration)? {
        return Ok(answer.into());
    }
    let participant = lower(participant)?;
    let id = zero_fill(&state.calendar.next_id()?.to_string(), ID_LENGTH);
    let row = vec![id.as_str().into(), name.clone(), participant, start.clone(), duration.clone()];
    Arc::make_mut(&mut state.calendar).push(row, NewLabel::Zero);
    Ok(id.into())
}

pub(super) fn delete_event(state: &mut State, arguments: &Arguments) -> Result<Json, Exception> {
    let Some(id) = arguments.provided("event_id") else {
        return Ok(NO_ID.into());
    };
    if !is_event_id(id) {
        return Ok(INVALID_ID.into());
    }
    let found = state.calendar.find(ID, id)?;
    if found.is_empty() {
        return Ok(NOT_FOUND.into());
    }
    Arc::make_mut(&mut state.calendar).remove(&found);
    Ok("Event deleted successfully.".into())
}

pub(super) fn update_event(state: &mut State, arguments: &Arguments) -> Result<Json, Exception> {
    let (Some(id), Some(field), Some(value)) =
        (arguments.provided("event_id"), arguments.provided("field"), arguments.provided("new_value"))
    else {
        return Ok("Event ID, field, or new value not provided.".into());
    };
    if !is_event_id(id) {
        return Ok(INVALID_ID.into());
    }
    // The id itself cannot be changed.
    let fields = &CALENDAR_COLUMNS[1..];
    if !is_one_of(field, fields) {
        let fields = fields.join(", ");
        return Ok(format!("Invalid field. Available fields are: {fields}").into());
    }
    let refused = match field.as_str() {
        Some("event_start") => refused_start(value)?,
        Some("duration") => refused_duration(value)?,
        _ => None,
    };
    if let Some(answer) = refused {
        return Ok(answer.into());
    }
    let found = state.calendar.find(ID, id)?;
    let (Some(column), false) = (state.calendar.column(field), found.is_empty()) else {
        return Ok(NOT_FOUND.into());
    };
    let value = if column == PARTICIPANT { lower(value)? } else { value.clone() };
    Arc::make_mut(&mut state.calendar).set(&found, column, &value)?;
    Ok("Event updated successfully.".into())
}
