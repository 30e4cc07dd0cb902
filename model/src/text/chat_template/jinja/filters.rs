//! Filters whose result is a text: what they write is Python's, and paid for while it is made.

use minijinja::value::{Kwargs, Rest, Tuple, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, filters};

use super::arguments::Arguments;
use super::attributes::looped_over;
use super::ordering::at_path;
use super::{charge, methods};
use crate::text::python::{JsonStyle, PythonText, parse_float, parse_integer, printf, text_of, write_json, write_text};

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
    for name in ["escape", "e", "forceescape"] {
        environment.add_filter(name, |state: &State<'_, '_>, value: &Value| {
            let text = text_of(value, &charge(state))?;
            charge(state)(text.len() * 5)?;
            let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            Ok::<_, Error>(text.replace('\'', "&#39;").replace('"', "&#34;"))
        });
    }
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    for name in ["default", "d"] {
        environment.add_filter(name, default);
    }
    environment.add_filter("round", round);
    environment.add_filter("truncate", truncate);
    // The library takes None for an empty list.
    environment.add_filter("list", |state: &State<'_, '_>, value: Value| filters::list(state, looped_over(value)?));
    environment.add_filter("first", |value: Value| filters::first(&looped_over(value)?));
    environment.add_filter("last", |value: Value| filters::last(looped_over(value)?));
    environment.add_filter("urlencode", |value: &Value| {
        let text = filters::urlencode(value)?;
        // The parts of a query are encoded otherwise than a path.
        let is_path = value.as_str().is_some();
        Ok::<_, Error>(if is_path { text } else { text.replace("%20", "+").replace('/', "%2F") })
    });
    environment.add_filter("indent", indent);
    // It writes Rust's texts.
    environment.remove_filter("pprint");
}

fn defined(filter: &str, value: &Value) -> Result<(), Error> {
    match value.is_undefined() {
        true => Err(Error::new(ErrorKind::UndefinedError, format!("{filter}: the value is undefined"))),
        false => Ok(()),
    }
}

/// `int(value, default=0, base=10)`: what is no number is the default.
fn int(value: &Value, options: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let arguments = Arguments::new("int", &options, Some(named.into()), 2)?;
    defined("int", value)?;
    let base = arguments.integer(1, "base")?.unwrap_or(10);
    let too_large = || arguments.refuse(&format!("a whole number of at most 38 digits, found {value}"));
    let whole = match value.as_str() {
        Some(text) => match u32::try_from(base).ok().and_then(|base| parse_integer(text, base)) {
            Some(number) => return number.map(Value::from).map_err(|()| too_large()),
            None => parse_float(text).filter(|number| number.is_finite()),
        },
        None if value.is_integer() => return Ok(value.clone()),
        None => number(value),
    };
    match whole.filter(|number| !number.is_nan()).map(f64::trunc) {
        Some(number) if number.abs() < 1e38 => Ok(Value::from(number as i128)),
        Some(_) => Err(too_large()),
        None => Ok(arguments.given(0, "default").unwrap_or_else(|| Value::from(0))),
    }
}

/// `float(value, default=0.0)`: what is no number is the default.
fn float(value: &Value, options: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let arguments = Arguments::new("float", &options, Some(named.into()), 1)?;
    defined("float", value)?;
    match value.as_str().map_or_else(|| number(value), parse_float) {
        Some(number) => Ok(Value::from(number)),
        None => Ok(arguments.given(0, "default").unwrap_or_else(|| Value::from(0.0))),
    }
}

/// `round(value, precision=0, method="common")`: whole numbers stay what they are with the common method only.
fn round(value: &Value, options: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let arguments = Arguments::new("round", &options, Some(named.into()), 2)?;
    let precision = arguments.integer(0, "precision")?.unwrap_or(0);
    let float = number(value).ok_or_else(|| arguments.refuse(&format!("a number, found a {}", value.kind())))?;
    let scale = 10_f64.powi(precision.clamp(-400, 400) as i32);
    let rounded = match arguments.optional_text(1, "method")?.as_deref() {
        None | Some("common") if precision < 0 || value.kind() != ValueKind::Number || value.is_integer() => {
            let named = std::iter::empty::<(String, Value)>().collect();
            let value = if value.kind() == ValueKind::Bool { Value::from(float as i64) } else { value.clone() };
            return filters::round(value, Some(precision.clamp(-400, 400) as i32), None, named);
        }
        // Rust's text of so many digits is rounded as Python rounds.
        None | Some("common") => {
            let digits = precision.min(400) as usize;
            format!("{float:.digits$}").parse().unwrap_or(float)
        }
        Some("floor") => (float * scale).floor() / scale,
        Some("ceil") => (float * scale).ceil() / scale,
        Some(_) => return Err(arguments.refuse("'common', 'ceil' or 'floor' for 'method'")),
    };
    Ok(Value::from(rounded))
}

/// The number that a number or a boolean is.
fn number(value: &Value) -> Option<f64> {
    match value.kind() {
        ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        ValueKind::Number => f64::try_from(value.clone()).ok(),
        _ => None,
    }
}

/// `default(value, default_value="", boolean=False)`
fn default(value: &Value, options: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let arguments = Arguments::new("default", &options, Some(named.into()), 2)?;
    let is_missing = value.is_undefined() || (arguments.flag(1, "boolean") && !value.is_true());
    let default = || arguments.given(0, "default_value").unwrap_or_else(|| Value::from(""));
    Ok(if is_missing { default() } else { value.clone() })
}

/// `truncate(value, length=255, killwords=False, end="...", leeway=5)`
fn truncate(state: &State<'_, '_>, value: &Value, options: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let arguments = Arguments::new("truncate", &options, Some(named.into()), 4)?;
    let text = text_of(value, &charge(state))?;
    let length = arguments.integer(0, "length")?.unwrap_or(255);
    let end = arguments.optional_text(2, "end")?.unwrap_or_else(|| "...".to_owned());
    let leeway = arguments.integer(3, "leeway")?.unwrap_or(5);
    let kept = usize::try_from(length).ok().and_then(|length| length.checked_sub(end.chars().count()));
    let kept = kept.ok_or_else(|| arguments.refuse(&format!("a length that '{end}' fits in, found {length}")))?;
    if leeway < 0 {
        return Err(arguments.refuse("a leeway of at least 0"));
    }
    if text.chars().count() as i64 <= length.saturating_add(leeway) {
        return Ok(text);
    }
    let cut: String = text.chars().take(kept).collect();
    let cut = if arguments.flag(1, "killwords") { &*cut } else { cut.rsplit_once(' ').map_or(&*cut, |(cut, _)| cut) };
    Ok(format!("{cut}{end}"))
}

/// `indent(value, width=4, first=False, blank=False)`; `width` may be the text to indent with.
fn indent(state: &State<'_, '_>, value: &Value, options: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let arguments = Arguments::new("indent", &options, Some(named.into()), 3)?;
    let charge = charge(state);
    let indentation = match arguments.get(0, "width").as_ref().and_then(Value::as_str) {
        Some(text) => text.to_owned(),
        None => {
            let width = arguments.integer(0, "width")?.unwrap_or(4).max(0) as usize;
            charge(width)?;
            " ".repeat(width)
        }
    };
    let (first, blank) = (arguments.flag(1, "first"), arguments.flag(2, "blank"));
    let text = text_of(value, &charge)? + "\n";
    let mut out = PythonText::new(&charge);
    for (index, line) in methods::lines(&text, false).into_iter().enumerate() {
        if index > 0 {
            out.push("\n")?;
        }
        if (index == 0 && first) || (index > 0 && (blank || !line.is_empty())) {
            out.push(&indentation)?;
        }
        out.push(line)?;
    }
    Ok(out.finish())
}

/// `json.dumps(value, ensure_ascii=…, indent=…, separators=…, sort_keys=…)`, in the order transformers has them.
fn tojson(state: &State<'_, '_>, value: &Value, options: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let arguments = Arguments::new("tojson", &options, Some(named.into()), 4)?;
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
    (style.ensure_ascii, style.sort_keys) = (arguments.flag(0, "ensure_ascii"), arguments.flag(3, "sort_keys"));
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
    for (index, item) in looped_over(value.clone())?.try_iter()?.enumerate() {
        if index > 0 {
            out.push(&separator)?;
        }
        out.visit()?;
        match &attribute {
            Some(path) => {
                write_text(&mut out, &at_path(&item, path)?)?;
            }
            None => write_text(&mut out, &item)?,
        }
    }
    Ok(out.finish())
}
