//! Filters that put values in order. Texts are compared without regard to case unless `case_sensitive`.

use std::cmp::Ordering;

use minijinja::value::{Kwargs, Rest, Tuple, Value};
use minijinja::{Environment, Error, State};

use super::arguments::Arguments;
use super::attributes::{is_dict, looped_over};
use super::charge;
use super::operators::compare;
use crate::text::python::Charge;

/// Replaces the library's filters, which order values of different kinds, and take options by name only.
pub fn install(environment: &mut Environment<'_>) {
    environment.add_filter("sort", sort);
    environment.add_filter("dictsort", dictsort);
    environment.add_filter("min", |state: &State<'_, '_>, value: &Value, options: Rest<Value>, named: Kwargs| {
        extreme(state, value, &Arguments::new("min", &options, Some(named.into()), 2)?, Ordering::Less)
    });
    environment.add_filter("max", |state: &State<'_, '_>, value: &Value, options: Rest<Value>, named: Kwargs| {
        extreme(state, value, &Arguments::new("max", &options, Some(named.into()), 2)?, Ordering::Greater)
    });
}

/// `sort(value, reverse=False, case_sensitive=False, attribute=None)`; `attribute` may name several, with commas.
fn sort(state: &State<'_, '_>, value: &Value, options: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let arguments = Arguments::new("sort", &options, Some(named.into()), 3)?;
    let (reverse, case_sensitive) = (arguments.flag(0, "reverse"), arguments.flag(1, "case_sensitive"));
    let attribute = arguments.get(2, "attribute");
    let items: Vec<Value> = looped_over(value.clone())?.try_iter()?.collect();
    let keyed = items.into_iter().map(|item| {
        charge(state)(32)?;
        let key = match &attribute {
            None => folded(item.clone(), case_sensitive, &charge(state))?,
            Some(paths) => match paths.as_str() {
                Some(paths) => {
                    let keys =
                        paths.split(',').map(|path| folded(at_path(&item, path)?, case_sensitive, &charge(state)));
                    Value::from(keys.collect::<Result<Vec<Value>, Error>>()?)
                }
                None => folded(item.get_item(paths)?, case_sensitive, &charge(state))?,
            },
        };
        Ok((key, item))
    });
    Ok(sorted(keyed.collect::<Result<_, Error>>()?, reverse, &charge(state))?.into())
}

/// `dictsort(value, case_sensitive=False, by="key", reverse=False)`
fn dictsort(state: &State<'_, '_>, value: &Value, options: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let arguments = Arguments::new("dictsort", &options, Some(named.into()), 3)?;
    let case_sensitive = arguments.flag(0, "case_sensitive");
    let by_value = match arguments.optional_text(1, "by")?.as_deref() {
        None | Some("key") => false,
        Some("value") => true,
        Some(_) => return Err(arguments.refuse("'key' or 'value' for 'by'")),
    };
    if !is_dict(value) {
        return Err(arguments.refuse(&format!("a dict, found a {}", value.kind())));
    }
    let keyed = value.try_iter()?.map(|key| {
        charge(state)(32)?;
        let item = value.get_item(&key)?;
        let order = folded(if by_value { item.clone() } else { key.clone() }, case_sensitive, &charge(state))?;
        Ok((order, Value::from(Tuple::from(vec![key, item]))))
    });
    Ok(sorted(keyed.collect::<Result<_, Error>>()?, arguments.flag(2, "reverse"), &charge(state))?.into())
}

/// `min` and `max(value, case_sensitive=False, attribute=None)`: the first of the items that no other exceeds.
fn extreme(state: &State<'_, '_>, value: &Value, arguments: &Arguments<'_>, wanted: Ordering) -> Result<Value, Error> {
    let case_sensitive = arguments.flag(0, "case_sensitive");
    let attribute = arguments.get(1, "attribute");
    let mut best: Option<(Value, Value)> = None;
    for item in looped_over(value.clone())?.try_iter()? {
        charge(state)(32)?;
        let key = match &attribute {
            None => item.clone(),
            Some(path) => match path.as_str() {
                Some(path) => at_path(&item, path)?,
                None => item.get_item(path)?,
            },
        };
        let key = folded(key, case_sensitive, &charge(state))?;
        let exceeds = match &best {
            Some((other, _)) => compare(&key, other, &charge(state))? == Some(wanted),
            None => true,
        };
        if exceeds {
            best = Some((key, item));
        }
    }
    Ok(best.map_or(Value::UNDEFINED, |(_, item)| item))
}

/// The value at a path such as `function.name` or `0.name`.
pub fn at_path(value: &Value, path: &str) -> Result<Value, Error> {
    path.split('.').try_fold(value.clone(), |value, name| match name.parse::<usize>() {
        Ok(index) => value.get_item(&Value::from(index)),
        Err(_) => value.get_item(&Value::from(name)),
    })
}

fn folded(value: Value, case_sensitive: bool, charge: Charge<'_>) -> Result<Value, Error> {
    match value.as_str() {
        Some(text) if !case_sensitive => {
            charge(text.len())?;
            Ok(Value::from(text.to_lowercase()))
        }
        _ => Ok(value),
    }
}

/// The second values in the order of the first ones; equal ones stay in their order.
fn sorted(mut keyed: Vec<(Value, Value)>, reverse: bool, charge: Charge<'_>) -> Result<Vec<Value>, Error> {
    let mut failed = None;
    keyed.sort_by(|(first, _), (second, _)| {
        if failed.is_some() {
            return Ordering::Equal;
        }
        let (first, second) = if reverse { (second, first) } else { (first, second) };
        match compare(first, second, charge) {
            Ok(order) => order.unwrap_or(Ordering::Equal),
            Err(error) => {
                failed = Some(error);
                Ordering::Equal
            }
        }
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(keyed.into_iter().map(|(_, item)| item).collect()),
    }
}
