//! The mailbox.

use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::arguments::{Arguments, lower};
use super::base_table::{ColumnUses, Row};
use super::pagination::paginate;
use super::state::State;
use super::table::{NewLabel, Table};
use super::tables::EMAIL_COLUMNS;
use crate::python_compat::sort::descending_order;
use crate::python_compat::text::split_words;
use crate::python_compat::timestamp::Timestamp;
use crate::python_compat::{Exception, Value};

const ID: usize = 0;
const CORRESPONDENT: usize = 2;
const SUBJECT: usize = 3;
const SENT: usize = 4;
const BODY: usize = 5;

pub(super) const COLUMN_USES: ColumnUses = ColumnUses { time: SENT, joined: &[SUBJECT, BODY, CORRESPONDENT] };

/// Every mail of a session is sent at the simulated present.
const NOW: &str = "2023-11-30 23:59:00";
const NOT_FOUND: &str = "Email not found.";
const INVALID_RECIPIENT: &str = "Invalid recipient email address.";

/// Some tools of the mailbox report exceptions as an answer of their own.
fn reported(what: &str, result: Result<Json, Exception>) -> Result<Json, Exception> {
    result.or_else(|exception| Ok(format!("Error {what}: {}", exception.text).into()))
}

pub(super) fn get_email_information_by_id(state: &mut State, arguments: &Arguments) -> Result<Json, Exception> {
    reported("retrieving email information", information(state, arguments))
}

fn information(state: &State, arguments: &Arguments) -> Result<Json, Exception> {
    let Some(id) = arguments.provided("email_id") else {
        return Ok("Email ID not provided.".into());
    };
    let Some(field) = arguments.provided("field") else {
        return Ok("Field not provided.".into());
    };
    let found = state.emails.find(ID, id)?;
    let Some(&position) = found.first() else {
        return Ok(NOT_FOUND.into());
    };
    if !field.is_hashable() {
        return Err(Exception::unhashable(field));
    }
    Ok(match state.emails.column(field) {
        Some(column) => state.emails.field(position, column),
        None => format!("Field '{}' not found. Available fields: {}", field.text(), EMAIL_COLUMNS.join(", ")).into(),
    })
}

pub(super) fn search_emails(state: &mut State, arguments: &Arguments) -> Result<Json, Exception> {
    reported("searching emails", search(&state.emails, arguments))
}

fn search(emails: &Table, arguments: &Arguments) -> Result<Json, Exception> {
    let empty = Value::from("");
    let query = lower(arguments.given("query").unwrap_or(&empty))?;
    let words: Vec<&str> = split_words(query.as_str().unwrap_or_default()).collect();
    let matching = if words.is_empty() { emails.slots().collect() } else { emails.search_words(&words) };
    let sent: Vec<&str> = matching.iter().map(|&slot| emails.row(slot)[SENT].as_str().unwrap_or_default()).collect();
    let mut found: Vec<usize> = descending_order(&sent).into_iter().map(|i| matching[i]).collect();
    // A bound is parsed only when there is a mail to compare it with.
    for (name, is_lower) in [("date_min", true), ("date_max", false)] {
        let Some(bound) = arguments.provided(name).filter(|_| !found.is_empty()) else {
            continue;
        };
        let Some(bound) = Timestamp::from_value(bound)?.date()? else {
            return Err(Exception::other("Cannot compare NaT with datetime.date object"));
        };
        let mut kept = Vec::with_capacity(found.len());
        for slot in found {
            let sent = emails.time(slot)?.date()?;
            if sent.is_some_and(|day| if is_lower { day >= bound } else { day <= bound }) {
                kept.push(slot);
            }
        }
        found = kept;
    }
    let page = paginate(arguments, found.len(), "total_emails")?;
    if found.is_empty() {
        return Ok("No emails found.".into());
    }
    let emails: Vec<Json> = found[page.rows].iter().map(|&i| emails.record(i)).collect();
    Ok(json!({"emails": emails, "pagination": page.summary}))
}

/// Python's `needle in recipient`.
fn recipient_has(recipient: &Value, needle: &str) -> Result<bool, Exception> {
    match recipient {
        Value::Str(text) => Ok(text.contains(needle)),
        Value::List(items) => Ok(items.iter().any(|item| item.as_str() == Some(needle))),
        Value::Dict(entries) => Ok(entries.iter().any(|(key, _)| &**key == needle)),
        other => Err(Exception::other(format!("argument of type '{}' is not iterable", other.type_name()))),
    }
}

fn is_address(recipient: &Value) -> Result<bool, Exception> {
    Ok(recipient_has(recipient, "@")? && recipient_has(recipient, ".")?)
}

pub(super) fn send_email(state: &mut State, arguments: &Arguments) -> Result<Json, Exception> {
    let answer = send(state, arguments.get("recipient"), arguments.get("subject"), arguments.get("body"));
    answer.map(Json::from)
}

fn send(state: &mut State, recipient: &Value, subject: &Value, body: &Value) -> Result<String, Exception> {
    if ![recipient, subject, body].iter().all(|v| v.is_truthy()) {
        return Ok("Recipient, subject, or body not provided.".into());
    }
    if !is_address(recipient)? {
        return Ok(INVALID_RECIPIENT.into());
    }
    Ok(match append(state, recipient, subject, body) {
        Ok(()) => "Email sent successfully.".into(),
        Err(exception) => format!("Error sending email: {}", exception.text),
    })
}

fn append(state: &mut State, recipient: &Value, subject: &Value, body: &Value) -> Result<(), Exception> {
    // Unlike the other tables an empty mailbox starts again at 1.
    let id = if state.emails.is_empty() { "1".to_owned() } else { state.emails.next_id()?.to_string() };
    let row = vec![id.into(), "outbox".into(), lower(recipient)?, subject.clone(), NOW.into(), body.clone()];
    Arc::make_mut(&mut state.emails).push(row, NewLabel::RenumberAll);
    Ok(())
}

pub(super) fn delete_email(state: &mut State, arguments: &Arguments) -> Result<Json, Exception> {
    let Some(id) = arguments.provided("email_id") else {
        return Ok("Email ID not provided.".into());
    };
    reported("deleting email", delete(state, id))
}

fn delete(state: &mut State, id: &Value) -> Result<Json, Exception> {
    if !state.emails.contains(ID, id)? {
        return Ok(NOT_FOUND.into());
    }
    let found = state.emails.find(ID, id)?;
    Arc::make_mut(&mut state.emails).remove(&found);
    Ok("Email deleted successfully.".into())
}

/// The first mail with this id.
fn find_email(state: &State, id: &Value) -> Result<Option<Row>, Exception> {
    if !state.emails.contains(ID, id)? {
        return Ok(None);
    }
    let found = state.emails.find(ID, id)?;
    Ok(found.first().map(|&i| Arc::clone(state.emails.row(i))))
}

/// Forwarding and replying pass a refusal on only if it speaks of an error or of something invalid;
/// any other refusal counts as success.
fn passed_on(answer: String, success: &str) -> Json {
    if answer.contains("Error") || answer.contains("Invalid") { answer.into() } else { success.into() }
}

pub(super) fn forward_email(state: &mut State, arguments: &Arguments) -> Result<Json, Exception> {
    let (Some(id), Some(recipient)) = (arguments.provided("email_id"), arguments.provided("recipient")) else {
        return Ok("Email ID or recipient not provided.".into());
    };
    if !is_address(recipient)? {
        return Ok(INVALID_RECIPIENT.into());
    }
    reported("forwarding email", forward(state, id, recipient))
}

fn forward(state: &mut State, id: &Value, recipient: &Value) -> Result<Json, Exception> {
    let Some(email) = find_email(state, id)? else {
        return Ok(NOT_FOUND.into());
    };
    let subject = format!("FW: {}", email[SUBJECT].text()).into();
    let answer = send(state, recipient, &subject, &email[BODY])?;
    Ok(passed_on(answer, "Email forwarded successfully."))
}

pub(super) fn reply_email(state: &mut State, arguments: &Arguments) -> Result<Json, Exception> {
    let (Some(id), Some(body)) = (arguments.provided("email_id"), arguments.provided("body")) else {
        return Ok("Email ID or body not provided.".into());
    };
    reported("replying to email", reply(state, id, body))
}

fn reply(state: &mut State, id: &Value, body: &Value) -> Result<Json, Exception> {
    let Some(email) = find_email(state, id)? else {
        return Ok(NOT_FOUND.into());
    };
    let subject = format!("RE: {}", email[SUBJECT].text()).into();
    let answer = send(state, &email[CORRESPONDENT], &subject, body)?;
    Ok(passed_on(answer, "Email replied successfully."))
}
