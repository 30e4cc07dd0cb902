//! Binding of keyword arguments to a Python method: which names are refused, and the
//! "Did you mean" hint of Python 3.13.

use super::text::string_repr;

/// Cost of inserting, deleting or replacing one byte; changing only its case costs half.
const MOVE_COST: usize = 2;
const CASE_COST: usize = 1;
/// Longer names get no hint.
const MAX_NAME_BYTES: usize = 40;

/// The error text for the first of `given` that `parameters` does not take, if any.
/// `method` is the qualified name, such as `EmailTool.send_email`.
pub(crate) fn refused_keyword<'a>(
    method: &str,
    parameters: &[&str],
    given: impl Iterator<Item = &'a str>,
) -> Option<String> {
    for name in given {
        if name == "self" {
            return Some(format!("{method}() got multiple values for argument 'self'"));
        }
        if !parameters.contains(&name) {
            let hint = suggestion(name, parameters)
                .map(|parameter| format!(". Did you mean '{parameter}'?"))
                .unwrap_or_default();
            return Some(format!("{method}() got an unexpected keyword argument {}{hint}", string_repr(name)));
        }
    }
    None
}

fn suggestion<'a>(name: &str, parameters: &[&'a str]) -> Option<&'a str> {
    let mut best: Option<(usize, &'a str)> = None;
    for candidate in std::iter::once("self").chain(parameters.iter().copied()) {
        if name.len() > MAX_NAME_BYTES || candidate.len() > MAX_NAME_BYTES {
            continue;
        }
        let distance = edit_distance(name.as_bytes(), candidate.as_bytes());
        let limit = (name.len() + candidate.len() + 3) * MOVE_COST / 6;
        if distance <= limit && best.is_none_or(|(cost, _)| distance < cost) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

fn substitution_cost(a: u8, b: u8) -> usize {
    if a == b {
        0
    } else if a.eq_ignore_ascii_case(&b) {
        CASE_COST
    } else {
        MOVE_COST
    }
}

fn edit_distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).map(|i| i * MOVE_COST).collect();
    for (i, &from) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = (i + 1) * MOVE_COST;
        for (j, &to) in b.iter().enumerate() {
            let replace = diagonal + substitution_cost(from, to);
            let delete = row[j + 1] + MOVE_COST;
            let insert = row[j] + MOVE_COST;
            diagonal = row[j + 1];
            row[j + 1] = replace.min(delete).min(insert);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_at_near_names_only() {
        let parameters = ["query", "date_min", "date_max", "page", "page_size"];
        assert_eq!(suggestion("querry", &parameters), Some("query"));
        assert_eq!(suggestion("sender", &parameters), None);
        assert_eq!(suggestion("NAME", &["name"]), None);
        assert_eq!(suggestion("nam", &["name"]), Some("name"));
        assert_eq!(suggestion("date_min", &["time_min", "time_max"]), Some("time_min"));
    }
}
