//! Tests, as in `value is mapping`.

use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, Error, State};

use super::attributes::{is_dict, is_method, is_object};
use super::{charge, operators};
use crate::text::python::text_of;

/// Replaces the library's tests where theirs hold for other values than Jinja2's, and adds what it lacks.
pub fn install(environment: &mut Environment<'_>) {
    environment.add_test("mapping", is_dict);
    environment.add_test("sequence", is_sequence);
    environment.add_test("iterable", |value: &Value| is_sequence(value) || is_object(value, &["Loop"]));
    environment.add_test("callable", |value: &Value| {
        is_method(value) || value.is_undefined() || is_object(value, &["Macro", "Joiner"]) || is_function(value)
    });
    for name in ["lt", "lessthan", "<"] {
        environment.add_test(name, operators::less);
    }
    for name in ["le", "<="] {
        environment.add_test(name, operators::less_or_equal);
    }
    for name in ["gt", "greaterthan", ">"] {
        environment.add_test(name, operators::greater);
    }
    for name in ["ge", ">="] {
        environment.add_test(name, operators::greater_or_equal);
    }
    for (name, rest) in [("odd", 1), ("even", 0)] {
        environment.add_test(name, move |state: &State<'_, '_>, value: &Value| {
            Ok::<_, Error>(operators::remainder(state, value, &Value::from(2))? == Value::from(rest))
        });
    }
    environment.add_test("divisibleby", |state: &State<'_, '_>, value: &Value, divisor: &Value| {
        Ok::<_, Error>(operators::remainder(state, value, divisor)? == Value::from(0))
    });
    // They ask for the value's text.
    for (name, method) in [("lower", "islower"), ("upper", "isupper")] {
        environment.add_test(name, move |state: &mut State<'_, '_>, value: &Value| {
            let text = Value::from(text_of(value, &charge(state))?);
            text.call_method(state, method, &[])
        });
    }
}

/// What has a length and items. The library's iterables are ranges.
fn is_sequence(value: &Value) -> bool {
    let kinds = [ValueKind::String, ValueKind::Seq, ValueKind::Iterable, ValueKind::Undefined];
    kinds.contains(&value.kind()) || is_dict(value)
}

fn is_function(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().contains("Function"))
}
