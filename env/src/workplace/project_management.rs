//! The project board.

use std::sync::Arc;

use serde_json::Value as Json;

use super::arguments::{Arguments, is_one_of, lower};
use super::state::State;
use super::table::{NewLabel, Table};
use super::tables::TASK_COLUMNS;
use crate::python_compat::text::zero_fill;
use crate::python_compat::{Exception, Value, pattern};

const ID: usize = 0;
const ASSIGNEE: usize = 2;
const ID_LENGTH: usize = 8;

const LISTS: [&str; 4] = ["Backlog", "In Progress", "In Review", "Completed"];
const BOARDS: [&str; 3] = ["Back end", "Front end", "Design"];

const NO_ID: &str = "Task ID not provided.";
const NOT_FOUND: &str = "Task not found.";
const INVALID_ASSIGNEE: &str = "Assignee email not valid. Please choose from the list of team members.";

fn invalid_list() -> Json {
    let choices = LISTS.join("', '");
    format!("List not valid. Please choose from: '{choices}'.").into()
}

fn invalid_board() -> Json {
    let choices = BOARDS.join("', '");
    format!("Board not valid. Please choose from: '{choices}'.").into()
}

/// Team members are whoever has a task at the moment.
fn is_assignee(tasks: &Table, email: &Value) -> bool {
    tasks.rows().any(|row| is_assigned(row, email))
}

/// Whether the assignee in lower case is `email`.
fn is_assigned(row: &[Value], email: &Value) -> bool {
    match (&row[ASSIGNEE], email) {
        // Most assignees are in lower case already.
        (Value::Str(assignee), Value::Str(email)) => {
            (assignee == email && assignee.is_ascii() && !assignee.bytes().any(|byte| byte.is_ascii_uppercase()))
                || assignee.to_lowercase() == **email
        }
        _ => false,
    }
}

pub(super) fn get_task_information_by_id(state: &mut State, arguments: &Arguments) -> Result<Json, Exception> {
    let Some(id) = arguments.provided("task_id") else {
        return Ok(NO_ID.into());
    };
    let Some(field) = arguments.provided("field") else {
        return Ok("Field not provided.".into());
    };
    let found = state.tasks.find(ID, id)?;
    let Some(&position) = found.first() else {
        return Ok(NOT_FOUND.into());
    };
    if !field.is_hashable() {
        return Err(Exception::unhashable(field));
    }
    Ok(match state.tasks.column(field) {
        Some(column) => state.tasks.field(position, column),
        None => "Field not found.".into(),
    })
}

/// The reference's test of an e-mail address; a final newline passes, as Python's `$` allows.
fn is_email(value: &Value) -> Result<bool, Exception> {
    let Value::Str(text) = value else {
        return Err(Exception::other(format!("expected string or bytes-like object, got '{}'", value.type_name())));
    };
    let text = text.strip_suffix('\n').unwrap_or(text);
    let is_word = |c: char| c.is_ascii_alphanumeric();
    let Some((name, domain)) = text.split_once('@') else {
        return Ok(false);
    };
    let Some((host, country)) = domain.rsplit_once('.') else {
        return Ok(false);
    };
    Ok(!name.is_empty()
        && name.chars().all(|c| is_word(c) || "._%+-".contains(c))
        && !host.is_empty()
        && host.chars().all(|c| is_word(c) || ".-".contains(c))
        && country.len() >= 2
        && country.chars().all(|c| c.is_ascii_alphabetic()))
}

/// The rows of `among` (`None`: all) whose cell matches. As in the reference, a cell that is no text makes the
/// whole search fail, and so does a column of nothing but numbers.
pub(super) fn filter_by_pattern(
    table: &Table,
    among: Option<Vec<usize>>,
    column: usize,
    value: &Value,
) -> Result<Vec<usize>, Exception> {
    let no_accessor = || Exception::other("Can only use .str accessor with string values!");
    let not_text = || Exception::value("Cannot mask with non-boolean array containing NA / NaN values");
    let Some(mut among) = among else {
        let num_text = table.num_text(column);
        if num_text == 0 && !has_text_accessor(table.rows().map(|row| &row[column])) {
            return Err(no_accessor());
        }
        let pattern = pattern::compile(value)?;
        if num_text < table.len() {
            return Err(not_text());
        }
        return Ok(table.search(&[column], &pattern));
    };
    let cells = || among.iter().map(|&slot| &table.row(slot)[column]);
    if !has_text_accessor(cells()) {
        return Err(no_accessor());
    }
    let pattern = pattern::compile(value)?;
    if cells().any(|cell| cell.as_str().is_none()) {
        return Err(not_text());
    }
    among.retain(|&slot| table.row(slot)[column].as_str().is_some_and(|text| pattern.is_match(text)));
    Ok(among)
}

/// Whether pandas offers text operations on these cells: not if they are all numbers or all booleans.
pub(crate) fn has_text_accessor<'a>(cells: impl Iterator<Item = &'a Value>) -> bool {
    let mut cells = cells.filter(|cell| !cell.is_null()).peekable();
    let Some(&first) = cells.peek() else {
        return true;
    };
    match first {
        Value::Bool(_) => cells.any(|cell| !matches!(cell, Value::Bool(_))),
        Value::Int(_) | Value::Float(_) => cells.any(|cell| !matches!(cell, Value::Int(_) | Value::Float(_))),
        _ => true,
    }
}

pub(super) fn search_tasks(state: &mut State, arguments: &Arguments) -> Result<Json, Exception> {
    let parameters = &TASK_COLUMNS[1..];
    if !parameters.iter().any(|name| arguments.provided(name).is_some()) {
        return Ok("No search parameters provided.".into());
    }
    if let Some(email) = arguments.provided("assigned_to_email")
        && !is_email(email)?
    {
        return Ok("Invalid email format for assigned_to_email.".into());
    }
    let tasks = &state.tasks;
    let mut found: Option<Vec<usize>> = None;
    for (i, name) in parameters.iter().enumerate() {
        let column = i + 1;
        let Some(value) = arguments.provided(name) else {
            continue;
        };
        found = Some(if column == ASSIGNEE {
            let email = lower(value)?;
            let mut among = found.unwrap_or_else(|| tasks.slots().collect());
            among.retain(|&slot| is_assigned(tasks.row(slot), &email));
            among
        } else {
            filter_by_pattern(tasks, found, column, value)?
        });
    }
    let found = found.unwrap_or_default();
    Ok(found.into_iter().map(|i| tasks.record(i)).collect())
}

pub(super) fn create_task(state: &mut State, arguments: &Arguments) -> Result<Json, Exception> {
    let mut given = Vec::with_capacity(TASK_COLUMNS.len());
    for name in &TASK_COLUMNS[1..] {
        match arguments.provided(name) {
            Some(value) => given.push(value),
            None => return Ok("Missing task details.".into()),
        }
    }
    let [name, email, list, due_date, board] = given[..] else {
        return Ok("Missing task details.".into());
    };
    let email = lower(email)?;
    if !is_assignee(&state.tasks, &email) {
        return Ok(INVALID_ASSIGNEE.into());
    }
    if !is_one_of(list, &LISTS) {
        return Ok(invalid_list());
    }
    if !is_one_of(board, &BOARDS) {
        return Ok(invalid_board());
    }
    let id = zero_fill(&state.tasks.next_id()?.to_string(), ID_LENGTH);
    let row = vec![id.as_str().into(), name.clone(), email, list.clone(), due_date.clone(), board.clone()];
    Arc::make_mut(&mut state.tasks).push(row, NewLabel::RenumberAll);
    Ok(id.into())
}

pub(super) fn delete_task(state: &mut State, arguments: &Arguments) -> Result<Json, Exception> {
    let Some(id) = arguments.provided("task_id") else {
        return Ok(NO_ID.into());
    };
    if !state.tasks.contains(ID, id)? {
        return Ok(NOT_FOUND.into());
    }
    let found = state.tasks.find(ID, id)?;
    Arc::make_mut(&mut state.tasks).remove(&found);
    Ok("Task deleted successfully.".into())
}

pub(super) fn update_task(state: &mut State, arguments: &Arguments) -> Result<Json, Exception> {
    let (Some(id), Some(field), Some(value)) =
        (arguments.provided("task_id"), arguments.provided("field"), arguments.provided("new_value"))
    else {
        return Ok("Task ID, field, or new value not provided.".into());
    };
    let mut value = value.clone();
    match field.as_str() {
        Some("assigned_to_email") => {
            value = lower(&value)?;
            if !is_assignee(&state.tasks, &value) {
                return Ok(INVALID_ASSIGNEE.into());
            }
        }
        Some("list_name") if !is_one_of(&value, &LISTS) => return Ok(invalid_list()),
        Some("board") if !is_one_of(&value, &BOARDS) => return Ok(invalid_board()),
        _ => {}
    }
    if !state.tasks.contains(ID, id)? {
        return Ok(NOT_FOUND.into());
    }
    if !field.is_hashable() {
        return Err(Exception::unhashable(field));
    }
    let Some(column) = state.tasks.column(field) else {
        return Ok("Field not valid.".into());
    };
    let found = state.tasks.find(ID, id)?;
    Arc::make_mut(&mut state.tasks).set(&found, column, &value)?;
    Ok("Task updated successfully.".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn email_addresses() {
        for (text, expected) in [
            ("x@y.zz", true),
            ("carlos.rodriguez@atlas.com\n", true),
            ("a.b+c%d@e-f.g.hi", true),
            ("carlos", false),
            ("a@b", false),
            ("a@b.c", false),
            ("a@b@c.de", false),
            ("@b.cd", false),
            ("a@b.c1", false),
            ("é@b.cd", false),
        ] {
            assert_eq!(is_email(&text.into()), Ok(expected), "{text:?}");
        }
    }
}
