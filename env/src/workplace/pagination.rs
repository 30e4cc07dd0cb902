//! Pages of search results, with Python's arithmetic on whatever the model gives as page numbers.

use std::ops::Range;

use serde_json::{Map, json};

use super::arguments::Arguments;
use crate::python_compat::{Exception, Value};

/// A number as far as paging needs to know: floats survive the arithmetic and fail as slice bounds.
#[derive(Clone, Copy)]
enum Number {
    Int(i128),
    Float(f64),
}

impl Number {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Float(number) => Some(Self::Float(*number)),
            other => other.as_index().map(Self::Int),
        }
    }

    fn as_f64(self) -> f64 {
        match self {
            Self::Int(number) => number as f64,
            Self::Float(number) => number,
        }
    }

    fn type_name(self) -> &'static str {
        match self {
            Self::Int(_) => "int",
            Self::Float(_) => "float",
        }
    }

    fn to_json(self) -> serde_json::Value {
        match self {
            Self::Int(number) => Value::Int(number).to_json(),
            Self::Float(number) => Value::Float(number).to_json(),
        }
    }
}

/// The rows of one page, and the `pagination` object that goes with them.
pub(crate) struct Page {
    pub(crate) rows: Range<usize>,
    pub(crate) summary: serde_json::Value,
}

const DEFAULT_PAGE: i128 = 1;
const DEFAULT_PAGE_SIZE: i128 = 5;

/// The page asked for by the arguments `page` and `page_size` out of `total` rows; the page number is
/// clamped, the size is not. `total_key` names the total in the summary.
pub(crate) fn paginate(arguments: &Arguments, total: usize, total_key: &str) -> Result<Page, Exception> {
    let default_page = Value::Int(DEFAULT_PAGE);
    let default_size = Value::Int(DEFAULT_PAGE_SIZE);
    let page = arguments.given("page").unwrap_or(&default_page);
    let size = arguments.given("page_size").unwrap_or(&default_size);
    let count = total as i128;

    let size_number = Number::from_value(size).ok_or_else(|| {
        Exception::other(format!("unsupported operand type(s) for +: 'int' and '{}'", size.type_name()))
    })?;
    let num_pages = match size_number {
        Number::Int(0) => return Err(Exception::other("integer division or modulo by zero")),
        Number::Int(size) => Number::Int((count + size - 1).div_euclid_floor(size)),
        Number::Float(0.0) => return Err(Exception::other("float floor division by zero")),
        Number::Float(size) => Number::Float(((count as f64 + size - 1.0) / size).floor()),
    };
    let page = clamp_page(page, num_pages)?;
    let bounds = match (page, size_number) {
        (Number::Int(page), Number::Int(size)) => (page, size),
        // Without rows nothing is cut out, so a bound that is no integer does no harm.
        _ if total == 0 => (DEFAULT_PAGE, 0),
        _ => return Err(Exception::other("slice indices must be integers or None or have an __index__ method")),
    };
    let (page_number, size_number) = bounds;
    let start = (page_number - 1).saturating_mul(size_number);
    let end = start.saturating_add(size_number).min(count);
    let mut summary = Map::new();
    summary.insert(total_key.to_owned(), json!(total));
    summary.insert("page".to_owned(), page.to_json());
    summary.insert("page_size".to_owned(), size.to_json());
    summary.insert("total_pages".to_owned(), num_pages.to_json());
    Ok(Page { rows: slice(total, start, end), summary: summary.into() })
}

/// `max(1, min(page, num_pages))` if there are pages, else 1.
fn clamp_page(page: &Value, num_pages: Number) -> Result<Number, Exception> {
    if num_pages.as_f64() <= 0.0 {
        return Ok(Number::Int(1));
    }
    let Some(page) = Number::from_value(page) else {
        return Err(Exception::unordered("<", num_pages.type_name(), page.type_name()));
    };
    let page = if num_pages.as_f64() < page.as_f64() { num_pages } else { page };
    Ok(if page.as_f64() > 1.0 { page } else { Number::Int(1) })
}

/// Python's slice bounds: negative ones count from the end.
fn slice(len: usize, start: i128, end: i128) -> Range<usize> {
    let bound = |index: i128| {
        let index = if index < 0 { index + len as i128 } else { index };
        usize::try_from(index.clamp(0, len as i128)).unwrap_or(len)
    };
    let (start, end) = (bound(start), bound(end));
    start..end.max(start)
}

trait FloorDivision {
    fn div_euclid_floor(self, divisor: Self) -> Self;
}

impl FloorDivision for i128 {
    /// Division rounding towards minus infinity, as Python's `//`.
    fn div_euclid_floor(self, divisor: Self) -> Self {
        let quotient = self / divisor;
        if self % divisor != 0 && (self < 0) != (divisor < 0) { quotient - 1 } else { quotient }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(total: usize, page: i128, size: i128) -> Option<(Range<usize>, String)> {
        let arguments = Arguments(vec![("page".into(), Value::Int(page)), ("page_size".into(), Value::Int(size))]);
        paginate(&arguments, total, "total_emails").ok().map(|page| (page.rows, page.summary.to_string()))
    }

    #[test]
    fn clamps_the_page_and_keeps_the_size() {
        let summary = |page, size, pages| {
            format!("{{\"total_emails\":12,\"page\":{page},\"page_size\":{size},\"total_pages\":{pages}}}")
        };
        assert_eq!(page(12, 1, 5), Some((0..5, summary(1, 5, 3))));
        assert_eq!(page(12, 99, 5), Some((10..12, summary(3, 5, 3))));
        assert_eq!(page(12, -4, 5), Some((0..5, summary(1, 5, 3))));
        assert_eq!(page(12, 1, -1), Some((0..11, summary(1, -1, -10))));
        assert_eq!(page(12, 1, 0), None);
    }

    #[test]
    fn a_float_size_fails_only_when_there_are_rows_to_cut() {
        for size in [-2.5, 5.0, 0.5] {
            let arguments = Arguments(vec![("page_size".into(), Value::Float(size))]);
            assert!(paginate(&arguments, 0, "total_emails").is_ok(), "{size}");
            assert!(paginate(&arguments, 12, "total_emails").is_err(), "{size}");
        }
        assert_eq!(page(0, 1, 0), None);
    }
}
