//! Methods of Python's strings, lists and dicts. Those that change a value are left out, as in transformers' sandbox.

use minijinja::value::{Tuple, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::arguments::Arguments;
use super::charge;
use crate::text::python::{Charge, PythonText, decimal_digit, is_printable, is_space, str_format};

/// Calls a method the library has not.
pub fn call(state: &mut State<'_, '_>, value: &Value, method: &str, values: &[Value]) -> Result<Value, Error> {
    let known = {
        let charge = charge(state);
        // What is read is paid for as well: a method may run over a long text a million times.
        for argument in values {
            charge(argument.as_str().map_or(0, str::len))?;
        }
        match (value.as_str(), value.kind()) {
            (Some(text), _) => of_string(text, method, values, &charge)?,
            (None, ValueKind::Seq | ValueKind::Iterable) => of_list(value, method, values, &charge)?,
            (None, ValueKind::Map) => of_dict(value, method, values)?,
            _ => None,
        }
    };
    match known {
        Some(result) => Ok(result),
        None => unknown_method_callback(state, value, method, values),
    }
}

fn of_string(text: &str, method: &str, values: &[Value], charge: Charge<'_>) -> Result<Option<Value>, Error> {
    let (positional, named) = Arguments::split(values);
    let arguments = |most: usize| Arguments::new(method, positional, named.clone(), most);
    let result = match method {
        "strip" | "lstrip" | "rstrip" => {
            let characters = arguments(1)?.optional_text(0, "chars")?;
            let cut = |character: char| match &characters {
                Some(characters) => characters.contains(character),
                None => is_space(character),
            };
            let text = if method == "rstrip" { text } else { text.trim_start_matches(cut) };
            Value::from(if method == "lstrip" { text } else { text.trim_end_matches(cut) })
        }
        "split" | "rsplit" => split(text, method == "rsplit", &arguments(2)?)?,
        "splitlines" => {
            let keep = arguments(1)?.get(0, "keepends").is_some_and(|keep| keep.is_true());
            list(lines(text, keep))
        }
        "partition" | "rpartition" => {
            let separator = needle(arguments(1)?.text(0, "sep")?)?;
            let found =
                if method == "partition" { text.split_once(&*separator) } else { text.rsplit_once(&*separator) };
            let parts = match found {
                Some((before, after)) => [before, &separator, after],
                None if method == "partition" => [text, "", ""],
                None => ["", "", text],
            };
            Value::from(Tuple::from(parts.map(Value::from).to_vec()))
        }
        "removeprefix" => {
            let prefix = arguments(1)?.text(0, "prefix")?;
            Value::from(text.strip_prefix(&*prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let suffix = arguments(1)?.text(0, "suffix")?;
            Value::from(text.strip_suffix(&*suffix).unwrap_or(text))
        }
        "startswith" | "endswith" => {
            let arguments = arguments(3)?;
            let (part, affixes) = (slice(text, &arguments)?.map(|(_, part)| part), arguments.required(0, "prefix")?);
            let affixes = match affixes.is_tuple() {
                true => affixes.try_iter()?.collect(),
                false => vec![affixes],
            };
            let mut matches = false;
            for affix in affixes {
                let affix = affix.as_str().ok_or_else(|| arguments.refuse("a string or a tuple of strings"))?;
                matches |= part.is_some_and(|part| match method {
                    "startswith" => part.starts_with(affix),
                    _ => part.ends_with(affix),
                });
            }
            Value::from(matches)
        }
        "find" | "rfind" | "index" | "rindex" => {
            let arguments = arguments(3)?;
            let sought = arguments.text(0, "sub")?;
            let found = slice(text, &arguments)?.and_then(|(first, part)| {
                let at = if method.starts_with('r') { part.rfind(&*sought) } else { part.find(&*sought) }?;
                Some((first + part[..at].chars().count()) as i64)
            });
            match found {
                None if method.ends_with("index") => return Err(arguments.refuse("a substring that occurs")),
                found => Value::from(found.unwrap_or(-1)),
            }
        }
        "count" => {
            let arguments = arguments(3)?;
            let sought = arguments.text(0, "sub")?;
            Value::from(slice(text, &arguments)?.map_or(0, |(_, part)| part.matches(&*sought).count()))
        }
        "replace" => {
            let arguments = arguments(3)?;
            let (old, new) = (arguments.text(0, "old")?, arguments.text(1, "new")?);
            let most = arguments.integer(2, "count")?.and_then(|count| usize::try_from(count).ok());
            let count = text.matches(&*old).count().min(most.unwrap_or(usize::MAX));
            charge(count.saturating_mul(new.len()))?;
            Value::from(text.replacen(&*old, &new, count))
        }
        "join" => {
            let arguments = arguments(1)?;
            let mut out = PythonText::new(charge);
            for (index, item) in arguments.required(0, "iterable")?.try_iter()?.enumerate() {
                if index > 0 {
                    out.push(text)?;
                }
                out.visit()?;
                out.push(item.as_str().ok_or_else(|| arguments.refuse("a list of strings"))?)?;
            }
            Value::from(out.finish())
        }
        "format" => Value::from(str_format(text, positional, named.as_ref(), charge)?),
        "format_map" => Value::from(str_format(text, &[], Some(&arguments(1)?.required(0, "map")?), charge)?),
        "center" | "ljust" | "rjust" | "zfill" => pad(text, method, &arguments(2)?, charge)?,
        "expandtabs" => {
            let size = arguments(1)?.integer(0, "tabsize")?.unwrap_or(8).max(0) as usize;
            charge(text.matches('\t').count().saturating_mul(size))?;
            expand_tabs(text, size)
        }
        "upper" => Value::from(text.to_uppercase()),
        "lower" => Value::from(text.to_lowercase()),
        "casefold" => Value::from(text.to_lowercase().replace('ß', "ss")),
        "swapcase" => {
            let swap = |character: char| match character.is_uppercase() {
                true => character.to_lowercase().collect::<String>(),
                false => character.to_uppercase().collect(),
            };
            Value::from(text.chars().map(swap).collect::<String>())
        }
        "title" => Value::from(title(text)),
        "isspace" => Value::from(!text.is_empty() && text.chars().all(is_space)),
        "isprintable" => Value::from(text.chars().all(is_printable)),
        "istitle" => Value::from(text == title(text) && text.chars().any(char::is_alphabetic)),
        "isdecimal" => Value::from(!text.is_empty() && text.chars().all(|c| decimal_digit(c).is_some())),
        "isidentifier" => {
            let is_word = |character: char| character == '_' || character.is_alphanumeric();
            Value::from(text.chars().all(is_word) && text.chars().next().is_some_and(|c| !c.is_numeric()))
        }
        _ => return Ok(None),
    };
    Ok(Some(result))
}

fn of_list(value: &Value, method: &str, values: &[Value], charge: Charge<'_>) -> Result<Option<Value>, Error> {
    if !matches!(method, "index" | "count" | "copy") {
        return Ok(None);
    }
    charge(value.len().unwrap_or(0).saturating_mul(32))?;
    if method == "copy" {
        return Ok(Some(value.try_iter()?.collect()));
    }
    let arguments = Arguments::new(method, values, None, 3)?;
    let sought = values.first().ok_or_else(|| arguments.refuse("a value"))?;
    if method == "count" {
        return Ok(Some(Value::from(value.try_iter()?.filter(|item| item == sought).count())));
    }
    let items: Vec<Value> = value.try_iter()?.collect();
    let (first, last) = bounds(items.len(), &arguments)?;
    let found = items.iter().enumerate().take(last).skip(first).find(|(_, item)| *item == sought);
    let (index, _) = found.ok_or_else(|| arguments.refuse("a value that is in the list"))?;
    Ok(Some(Value::from(index)))
}

fn of_dict(value: &Value, method: &str, values: &[Value]) -> Result<Option<Value>, Error> {
    match method {
        "copy" if values.is_empty() => Ok(Some(value.clone())),
        "update" | "pop" | "popitem" | "setdefault" | "clear" => Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("dict.{method} changes a value, which templates may not"),
        )),
        _ => Ok(None),
    }
}

fn needle(separator: String) -> Result<String, Error> {
    if separator.is_empty() {
        return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
    }
    Ok(separator)
}

fn list<'a>(parts: impl IntoIterator<Item = &'a str>) -> Value {
    parts.into_iter().map(Value::from).collect()
}

fn split(text: &str, from_right: bool, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let most = arguments.integer(1, "maxsplit")?.and_then(|most| usize::try_from(most).ok());
    let parts = most.map_or(usize::MAX, |most| most.saturating_add(1));
    if let Some(separator) = arguments.optional_text(0, "sep")? {
        let separator = needle(separator)?;
        return Ok(match from_right {
            false => list(text.splitn(parts, &*separator)),
            true => list(text.rsplitn(parts, &*separator).collect::<Vec<_>>().into_iter().rev()),
        });
    }
    // Runs of white space separate; none is left at the ends of the text.
    let mut found = Vec::new();
    let mut rest = if from_right { text.trim_end_matches(is_space) } else { text.trim_start_matches(is_space) };
    while !rest.is_empty() {
        let place = if from_right { rest.rfind(is_space) } else { rest.find(is_space) };
        let place = place.filter(|_| found.len() + 1 < parts);
        let width = place.and_then(|at| rest[at..].chars().next()).map_or(0, char::len_utf8);
        let (part, left) = match (place, from_right) {
            (None, false) => (rest, ""),
            (None, true) => (rest, ""),
            (Some(at), false) => (&rest[..at], rest[at + width..].trim_start_matches(is_space)),
            (Some(at), true) => (&rest[at + width..], rest[..at].trim_end_matches(is_space)),
        };
        found.push(part);
        rest = left;
    }
    if from_right {
        found.reverse();
    }
    Ok(list(found))
}

/// Python's line ends are more than the newline.
pub fn lines(text: &str, keep: bool) -> Vec<&str> {
    let is_end =
        |character: char| matches!(character, '\n'..='\r' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((at, end)) = rest.char_indices().find(|(_, character)| is_end(*character)) {
        let width = if rest[at..].starts_with("\r\n") { 2 } else { end.len_utf8() };
        found.push(&rest[..if keep { at + width } else { at }]);
        rest = &rest[at + width..];
    }
    if !rest.is_empty() {
        found.push(rest);
    }
    found
}

/// The places `start` and `end` (arguments 1 and 2) mean in something of `length` items; negative ones count from the end.
fn bounds(length: usize, arguments: &Arguments<'_>) -> Result<(usize, usize), Error> {
    let place = |given: Option<i64>, default: usize| match given {
        None => default,
        Some(place) if place < 0 => length.saturating_sub(place.unsigned_abs() as usize),
        Some(place) => place as usize,
    };
    Ok((place(arguments.integer(1, "start")?, 0), place(arguments.integer(2, "end")?, length).min(length)))
}

/// The part of a text between `start` and `end`, in characters, and where it begins.
fn slice<'t>(text: &'t str, arguments: &Arguments<'_>) -> Result<Option<(usize, &'t str)>, Error> {
    if arguments.get(1, "start").is_none() && arguments.get(2, "end").is_none() {
        return Ok(Some((0, text)));
    }
    let (first, last) = bounds(text.chars().count(), arguments)?;
    let byte = |place: usize| text.char_indices().nth(place).map_or(text.len(), |(at, _)| at);
    Ok(if first <= last { Some((first, &text[byte(first)..byte(last)])) } else { None })
}

fn pad(text: &str, method: &str, arguments: &Arguments<'_>, charge: Charge<'_>) -> Result<Value, Error> {
    let width = arguments.integer(0, "width")?.ok_or_else(|| arguments.refuse("a width"))?.max(0) as usize;
    let fill = match method {
        "zfill" => '0',
        _ => match arguments.optional_text(1, "fillchar")?.as_deref().map(|fill| fill.chars().collect::<Vec<_>>()) {
            None => ' ',
            Some(characters) if characters.len() == 1 => characters[0],
            Some(_) => return Err(arguments.refuse("one character to fill with")),
        },
    };
    let missing = width.saturating_sub(text.chars().count());
    charge(missing.saturating_mul(fill.len_utf8()))?;
    let filling = |count: usize| fill.to_string().repeat(count);
    Ok(Value::from(match method {
        "ljust" => format!("{text}{}", filling(missing)),
        "rjust" => format!("{}{text}", filling(missing)),
        "zfill" => {
            let (sign, digits) = match text.strip_prefix(['+', '-']) {
                Some(digits) => (&text[..1], digits),
                None => ("", text),
            };
            format!("{sign}{}{digits}", filling(missing))
        }
        _ => {
            // As CPython has it: the odd blank goes to the left if the width is odd.
            let left = missing / 2 + (missing & width & 1);
            format!("{}{text}{}", filling(left), filling(missing - left))
        }
    }))
}

fn expand_tabs(text: &str, size: usize) -> Value {
    let mut out = String::with_capacity(text.len());
    let mut column = 0;
    for character in text.chars() {
        match character {
            '\t' if size > 0 => {
                let blanks = size - column % size;
                out.push_str(&" ".repeat(blanks));
                column += blanks;
            }
            '\t' => {}
            '\n' | '\r' => {
                out.push(character);
                column = 0;
            }
            _ => {
                out.push(character);
                column += 1;
            }
        }
    }
    Value::from(out)
}

/// A capital after everything that is no letter.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut within = false;
    for character in text.chars() {
        match within {
            true => out.extend(character.to_lowercase()),
            false => out.extend(character.to_uppercase()),
        }
        within = character.is_lowercase() || character.is_uppercase();
    }
    out
}
