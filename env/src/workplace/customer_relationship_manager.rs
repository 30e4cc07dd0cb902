//! The customer database.

use std::cmp::Ordering;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::analytics::compare_column;
use super::arguments::{Arguments, is_one_of, lower};
use super::pagination::paginate;
use super::project_management::filter_by_pattern;
use super::state::State;
use super::table::NewLabel;
use super::tables::CUSTOMER_COLUMNS;
use crate::python_compat::text::zero_fill;
use crate::python_compat::{Exception, Value};

const ID: usize = 0;
const ID_LENGTH: usize = 8;

const STATUSES: [&str; 5] = ["Qualified", "Won", "Lost", "Lead", "Proposal"];
const PRODUCTS: [&str; 5] = ["Software", "Hardware", "Services", "Consulting", "Training"];
/// Fields as the refusal of an unknown one lists them.
const FIELDS: [&str; 9] = [
    "customer_name",
    "assigned_to_email",
    "customer_email",
    "customer_phone",
    "last_contact_date",
    "product_interest",
    "status",
    "notes",
    "follow_up_by",
];
/// Columns searched by pattern, in the order of filtering.
const PATTERN_FILTERS: [&str; 5] =
    ["customer_name", "customer_email", "product_interest", "status", "assigned_to_email"];
/// Parameter, column, operator, and the side of the bound that is dropped.
const DATE_FILTERS: [(&str, &str, &str, Ordering); 4] = [
    ("last_contact_date_min", "last_contact_date", ">=", Ordering::Less),
    ("last_contact_date_max", "last_contact_date", "<=", Ordering::Greater),
    ("follow_up_by_min", "follow_up_by", ">=", Ordering::Less),
    ("follow_up_by_max", "follow_up_by", "<=", Ordering::Greater),
];

const NO_ID: &str = "Customer ID not provided.";
const NOT_FOUND: &str = "Customer not found.";

fn column_of(name: &str) -> usize {
    CUSTOMER_COLUMNS.iter().position(|&column| column == name).unwrap_or(ID)
}

pub(super) fn search_customers(state: &mut State, arguments: &Arguments) -> Result<Json, Exception> {
    let names = PATTERN_FILTERS.iter().chain(DATE_FILTERS.iter().map(|(name, ..)| name));
    if !names.into_iter().any(|name| arguments.provided(name).is_some()) {
        return Ok("No search parameters provided. Please provide at least one parameter.".into());
    }
    let customers = &state.customers;
    let mut found: Option<Vec<usize>> = None;
    for name in PATTERN_FILTERS {
        if let Some(value) = arguments.provided(name) {
            found = Some(filter_by_pattern(customers, found, column_of(name), value)?);
        }
    }
    let mut found = found.unwrap_or_else(|| customers.slots().collect());
    for (name, column, operator, outside) in DATE_FILTERS {
        if let Some(bound) = arguments.provided(name) {
            let column = column_of(column);
            found = compare_column(customers, &found, column, operator, outside, bound)?;
        }
    }
    let page = paginate(arguments, found.len(), "total_customers")?;
    if found.is_empty() {
        return Ok("No customers found.".into());
    }
    let rows: Vec<Json> = found[page.rows].iter().map(|&i| customers.record(i)).collect();
    Ok(json!({"customers": rows, "pagination": page.summary}))
}

pub(super) fn update_customer(state: &mut State, arguments: &Arguments) -> Result<Json, Exception> {
    let (Some(id), Some(field), Some(value)) =
        (arguments.provided("customer_id"), arguments.provided("field"), arguments.provided("new_value"))
    else {
        return Ok("Customer ID, field, or new value not provided.".into());
    };
    let field_name = field.as_str();
    if field_name == Some("status") && !is_one_of(value, &STATUSES) {
        let choices = STATUSES.join("', '");
        return Ok(format!("Status not valid. Please choose from: '{choices}'").into());
    }
    if field_name == Some("product_interest") && !is_one_of(value, &PRODUCTS) {
        let choices = PRODUCTS.join("', '");
        return Ok(format!("Product interest not valid. Please choose from: '{choices}'").into());
    }
    let value = match field_name {
        Some("customer_email" | "assigned_to_email") => lower(value)?,
        _ => value.clone(),
    };
    if !state.customers.contains(ID, id)? {
        return Ok(NOT_FOUND.into());
    }
    if !field.is_hashable() {
        return Err(Exception::unhashable(field));
    }
    let Some(column) = state.customers.column(field) else {
        let choices = FIELDS.join("', '");
        return Ok(format!("Field not valid. Please choose from: '{choices}'").into());
    };
    let found = state.customers.find(ID, id)?;
    Arc::make_mut(&mut state.customers).set(&found, column, &value)?;
    Ok("Customer updated successfully.".into())
}

pub(super) fn add_customer(state: &mut State, arguments: &Arguments) -> Result<Json, Exception> {
    let required = ["customer_name", "assigned_to_email", "status"];
    if !required.iter().all(|name| arguments.provided(name).is_some()) {
        return Ok("Please provide all required fields: customer_name, assigned_to_email, status.".into());
    }
    let assignee = lower(arguments.get("assigned_to_email"))?;
    let email = match arguments.provided("customer_email") {
        Some(email) => lower(email)?,
        None => arguments.get("customer_email").clone(),
    };
    let id = zero_fill(&state.customers.next_id()?.to_string(), ID_LENGTH);
    let cell = |column: &&str| match *column {
        "customer_id" => id.as_str().into(),
        "assigned_to_email" => assignee.clone(),
        "customer_email" => email.clone(),
        "notes" => arguments.given("notes").cloned().unwrap_or_else(|| Value::from("")),
        other => arguments.get(other).clone(),
    };
    let row: Vec<Value> = CUSTOMER_COLUMNS.iter().map(cell).collect();
    Arc::make_mut(&mut state.customers).push(row, NewLabel::RenumberAll);
    Ok(id.into())
}

pub(super) fn delete_customer(state: &mut State, arguments: &Arguments) -> Result<Json, Exception> {
    let Some(id) = arguments.provided("customer_id") else {
        return Ok(NO_ID.into());
    };
    if !state.customers.contains(ID, id)? {
        return Ok(NOT_FOUND.into());
    }
    let found = state.customers.find(ID, id)?;
    Arc::make_mut(&mut state.customers).remove(&found);
    Ok("Customer deleted successfully.".into())
}
