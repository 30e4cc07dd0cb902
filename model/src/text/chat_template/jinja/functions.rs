//! Functions that templates may call.

use minijinja::value::{Kwargs, Rest, Value, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, functions};

use super::attributes::looped_over;

/// Adds `raise_exception`, and replaces the library's functions that take fewer arguments than Jinja2's.
pub fn install(environment: &mut Environment<'_>) {
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("dict", dict);
    environment.add_function("namespace", |value: Option<Value>, named: Kwargs| {
        functions::namespace(Some(ValueOrKwargs::from(dict(value, named)?)))
    });
    environment.add_function("cycler", |items: Rest<Value>| minijinja_contrib::globals::cycler(items.0));
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, format!("the template refuses the conversation: {message}")))
}

/// `dict(value, name=…)`, where the value is a dict or a list of pairs of a text and a value.
fn dict(value: Option<Value>, named: Kwargs) -> Result<Value, Error> {
    let given = match value {
        Some(value) if !matches!(value.kind(), ValueKind::Map | ValueKind::Undefined) => {
            let refused = || {
                let problem = format!("dict needs a dict or pairs of a text and a value, found a {}", value.kind());
                Error::new(ErrorKind::InvalidOperation, problem)
            };
            let pairs = looped_over(value.clone())?.try_iter()?.map(|pair| {
                let pair: Vec<Value> = pair.try_iter()?.collect();
                match <[Value; 2]>::try_from(pair) {
                    Ok([key, value]) => Ok((key.as_str().ok_or_else(refused)?.to_owned(), value)),
                    Err(_) => Err(refused()),
                }
            });
            Some(pairs.collect::<Result<Kwargs, Error>>()?.into())
        }
        value => value,
    };
    functions::dict(given, named)
}
