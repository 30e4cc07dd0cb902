//! Texts exactly as Python writes them: `str`, `repr`, `json.dumps`, `%` and `str.format`.
//!
//! Chat templates were written for Jinja2, a Python program, and models were trained on what it wrote. One digit written
//! otherwise is another prompt.

mod float;
mod format;
mod json;
mod literal;
mod number;
mod printf;
mod str_format;
mod text;

use minijinja::{Error, ErrorKind};

pub use json::to_python_json;
pub(super) use json::{JsonStyle, write_json};
pub(super) use literal::unescape;
pub(super) use number::{decimal_digit, parse_float, parse_integer};
pub(super) use printf::printf;
pub(super) use str_format::str_format;
pub(super) use text::{PythonText, is_printable, is_space, text_of, write_text};

/// What a caller pays for bytes that are about to be written; an error ends the writing.
pub(super) type Charge<'a> = &'a dyn Fn(usize) -> Result<(), Error>;

fn refused(problem: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem.into())
}
