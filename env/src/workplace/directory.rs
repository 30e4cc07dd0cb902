//! The company's address book.

use serde_json::Value as Json;

use super::arguments::{Arguments, lower};
use super::state::State;
use crate::python_compat::{Exception, Value, pattern};

pub(super) fn find_email_address(state: &mut State, arguments: &Arguments) -> Result<Json, Exception> {
    let empty = Value::from("");
    let name = arguments.given("name").unwrap_or(&empty);
    if name.as_str() == Some("") {
        return Ok("Name not provided.".into());
    }
    let pattern = pattern::compile(&lower(name)?)?;
    Ok(state.directory.iter().filter(|address| pattern.is_match(address)).map(String::as_str).collect())
}
