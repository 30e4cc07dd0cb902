//! `int(text, base)` and `float(text)`.

use super::text::is_space;

/// Zeros of the digits of all scripts; nine more digits follow each (Unicode 14, as Python 3.11 has it).
const ZEROS: [u32; 66] = [
    0x30, 0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6, 0xe50, 0xed0,
    0xf20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50, 0x1bb0, 0x1c40, 0x1c50, 0xa620,
    0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10, 0x104a0, 0x10d30, 0x11066, 0x110f0, 0x11136, 0x111d0,
    0x112f0, 0x11450, 0x114d0, 0x11650, 0x116c0, 0x11730, 0x118e0, 0x11950, 0x11c50, 0x11d50, 0x11da0, 0x16a60,
    0x16ac0, 0x16b50, 0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6, 0x1e140, 0x1e2f0, 0x1e950, 0x1fbf0,
];

/// The digit from 0 to 9 that a character is in any script.
pub fn decimal_digit(character: char) -> Option<u32> {
    let code = u32::from(character);
    ZEROS.iter().find(|zero| (**zero..**zero + 10).contains(&code)).map(|zero| code - zero)
}

/// `int(text, base)`; nothing if the text is no number of that base, and an error if it is beyond the whole numbers there
/// are here.
pub fn parse_integer(text: &str, base: u32) -> Option<Result<i128, ()>> {
    let text = plain(text)?;
    let (sign, digits) = match text.strip_prefix(['+', '-']) {
        Some(digits) => (&text[..1], digits),
        None => ("", &*text),
    };
    let lower = digits.to_ascii_lowercase();
    let prefixed = [("0x", 16), ("0o", 8), ("0b", 2)].into_iter().find_map(|(prefix, radix)| {
        let digits = lower.strip_prefix(prefix)?;
        (base == radix || base == 0).then_some((digits, radix))
    });
    let (digits, radix) = match prefixed {
        // One underscore may follow the prefix.
        Some((digits, radix)) => (digits.strip_prefix('_').unwrap_or(digits), radix),
        None if base == 0 => (&*lower, 10),
        None => (&*lower, base),
    };
    let digits = without_underscores(digits)?;
    if !(2..=36).contains(&radix) || digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return None;
    }
    // As in Python's source: zeros in front would be octal there.
    if base == 0 && prefixed.is_none() && digits.starts_with('0') && digits.contains(|digit| digit != '0') {
        return None;
    }
    Some(i128::from_str_radix(&format!("{sign}{digits}"), radix).map_err(|_| ()))
}

/// `float(text)`; nothing if the text is no number.
pub fn parse_float(text: &str) -> Option<f64> {
    let text = without_underscores(&plain(text)?)?;
    // Rust reads the same texts but for these.
    text.parse().ok()
}

/// The text without white space around it and with the digits of ASCII.
fn plain(text: &str) -> Option<String> {
    let text = text.trim_matches(is_space);
    text.chars()
        .map(|character| match decimal_digit(character) {
            Some(digit) => char::from_digit(digit, 10),
            None => character.is_ascii().then_some(character),
        })
        .collect()
}

/// Underscores may stand between digits.
fn without_underscores(text: &str) -> Option<String> {
    let is_digit = |character: Option<char>| character.is_some_and(|character| character.is_ascii_alphanumeric());
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            '_' if is_digit(out.chars().next_back()) && is_digit(rest.peek().copied()) => {}
            '_' => return None,
            _ => out.push(character),
        }
    }
    Some(out)
}
