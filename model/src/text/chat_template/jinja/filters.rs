//! Filters whose result is a text: what they write is Python's, and paid for while it is made.

use minijinja::value::{Kwargs, Rest, Tuple, Value};
use minijinja::{Environment, Error, State};

use super::arguments::Arguments;
use super::{charge, methods};
use crate::text::python::{JsonStyle, PythonText, printf, text_of, write_json, write_text};

/// Replaces the library's filters where theirs write other texts than Jinja2's, and adds what it lacks.
pub fn install(environment: &mut Environment<'_>) {
    minijinja_contrib::add_to_environment(environment);
    environment.add_filter("tojson", tojson);
    environment.add_filter("string", |state: &State<'_, '_>, value: &Value| text_of(value, &charge(state)));
    environment.add_filter("join", join);
    environment.add_filter("format", |state: &State<'_, '_>, format: &Value, values: Rest<Value>, named: Kwargs| {
        let values = if values.is_empty() { Value::from(named) } else { Value::from(Tuple::from(values.0)) };
        printf(&text_of(format, &charge(state))?, &values, &charge(state))
    });
    // These are methods of the value's text.
    for (filter, method) in [
        ("upper", "upper"),
        ("lower", "lower"),
        ("capitalize", "capitalize"),
        ("trim", "strip"),
        ("replace", "replace"),
    ] {
        environment.add_filter(filter, move |state: &mut State<'_, '_>, value: &Value, values: Rest<Value>| {
            let text = Value::from(text_of(value, &charge(state))?);
            methods::call(state, &text, method, &values)
        });
    }
    environment.add_filter("center", |state: &mut State<'_, '_>, value: &Value, width: Option<usize>| {
        let text = Value::from(text_of(value, &charge(state))?);
        methods::call(state, &text, "center", &[Value::from(width.unwrap_or(80))])
    });
    environment.add_filter("safe", |state: &State<'_, '_>, value: &Value| text_of(value, &charge(state)));
    for name in ["escape", "e"] {
        environment.add_filter(name, |state: &mut State<'_, '_>, value: &Value| {
            let text = Value::from(text_of(value, &charge(state))?);
            minijinja::filters::escape(state, &text)
        });
    }
    // What cannot be read is the default, in place of an error.
    environment.add_filter("int", |state: &State<'_, '_>, value: &Value, default: Option<Value>, named: Kwargs| {
        let default = default.or(named.get("default")?).unwrap_or_else(|| Value::from(0));
        minijinja::filters::int(state, value, Some(default), named.get("base")?, no_more())
    });
    environment.add_filter("float", |state: &State<'_, '_>, value: &Value, default: Option<Value>, named: Kwargs| {
        let default = default.or(named.get("default")?).unwrap_or_else(|| Value::from(0.0));
        minijinja::filters::float(state, value, Some(default), no_more())
    });
    // It writes Rust's texts.
    environment.remove_filter("pprint");
}

fn no_more() -> Kwargs {
    std::iter::empty::<(String, Value)>().collect()
}

/// `json.dumps(value, ensure_ascii=…, indent=…, separators=…, sort_keys=…)`, in the order transformers has them.
fn tojson(state: &State<'_, '_>, value: &Value, options: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let arguments = Arguments::new("tojson", &options, Some(named.into()), 4)?;
    let flag = |index: usize, name: &str| arguments.get(index, name).is_some_and(|value| value.is_true());
    let indent = match arguments.get(1, "indent") {
        Some(text) if text.as_str().is_some() => text.as_str().map(str::to_owned),
        Some(_) => {
            let spaces = arguments.integer(1, "indent")?.unwrap_or(0).max(0) as usize;
            charge(state)(spaces)?;
            Some(" ".repeat(spaces))
        }
        None => None,
    };
    let mut style = JsonStyle::new(indent);
    (style.ensure_ascii, style.sort_keys) = (flag(0, "ensure_ascii"), flag(3, "sort_keys"));
    if let Some(separators) = arguments.get(2, "separators") {
        let texts: Vec<Value> = separators.try_iter()?.collect();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let [Some(item), Some(key)] = texts.iter().map(text).collect::<Vec<_>>().try_into().unwrap_or([None, None])
        else {
            return Err(arguments.refuse("two strings as separators"));
        };
        (style.item_separator, style.key_separator) = (item, key);
    }
    write_json(value, &style, &charge(state))
}

/// The filter `join(value, d="", attribute=None)`.
fn join(state: &State<'_, '_>, value: &Value, options: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let arguments = Arguments::new("join", &options, Some(named.into()), 2)?;
    let charge = charge(state);
    let separator = arguments.get(0, "d").map(|value| text_of(&value, &charge)).transpose()?.unwrap_or_default();
    let attribute = arguments.optional_text(1, "attribute")?;
    let mut out = PythonText::new(&charge);
    for (index, item) in value.try_iter()?.enumerate() {
        if index > 0 {
            out.push(&separator)?;
        }
        out.visit()?;
        match &attribute {
            Some(path) => {
                let found = path.split('.').try_fold(item, |item, name| match name.parse::<usize>() {
                    Ok(index) => item.get_item(&Value::from(index)),
                    Err(_) => item.get_attr(name),
                })?;
                write_text(&mut out, &found)?;
            }
            None => write_text(&mut out, &item)?,
        }
    }
    Ok(out.finish())
}
