//! Escapes that mean a character or a class.

use super::Flags;
use super::source::Source;
use crate::python_compat::Exception;

/// A class escape (`\d`, `\w`, `\s` and their opposites) in the target's syntax.
pub(super) fn class_of_escape(c: char, flags: Flags) -> Option<&'static str> {
    Some(match c {
        'd' if flags.ascii => "[0-9]",
        'D' if flags.ascii => "[^0-9]",
        'd' => "\\d",
        'D' => "\\D",
        'w' if flags.ascii => "[0-9A-Za-z_]",
        'W' if flags.ascii => "[^0-9A-Za-z_]",
        // Python's word characters are what `str.isalnum` takes: "½" is one, a combining accent is none.
        'w' => "[\\p{L}\\p{N}_]",
        'W' => "[^\\p{L}\\p{N}_]",
        's' if flags.ascii => "[\\x09-\\x0d ]",
        'S' if flags.ascii => "[^\\x09-\\x0d ]",
        // Python counts the four ASCII separators as white space.
        's' => "[\\s\\x1c-\\x1f]",
        'S' => "[^\\s\\x1c-\\x1f]",
        _ => return None,
    })
}

/// The character that an escape stands for, inside and outside of sets.
pub(super) fn escaped_character(source: &mut Source, c: char, position: usize) -> Result<char, Exception> {
    let hex_digits = match c {
        'a' => return Ok('\u{7}'),
        'f' => return Ok('\u{c}'),
        'n' => return Ok('\n'),
        'r' => return Ok('\r'),
        't' => return Ok('\t'),
        'v' => return Ok('\u{b}'),
        '0' => {
            let digits = source.take_while(2, |c| c.is_digit(8));
            source.check_end()?;
            let code = u32::from_str_radix(&digits, 8).unwrap_or(0);
            return Ok(char::from_u32(code).unwrap_or('\0'));
        }
        'x' => 2,
        'u' => 4,
        'U' => 8,
        'N' => return Err(source.unsupported("named character is", position)),
        c if c.is_ascii_alphabetic() => {
            return Err(source.error(&format!("bad escape \\{c}"), position));
        }
        c => return Ok(c),
    };
    let digits = source.take_while(hex_digits, |c| c.is_ascii_hexdigit());
    source.check_end()?;
    u32::from_str_radix(&digits, 16)
        .ok()
        .filter(|_| digits.len() == hex_digits)
        .and_then(char::from_u32)
        .ok_or_else(|| source.error(&format!("incomplete escape \\{c}{digits}"), position))
}
