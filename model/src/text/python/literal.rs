//! Escapes in literal strings.

use std::iter::Peekable;
use std::str::Chars;

use minijinja::Error;

use super::refused;
use super::text::escape;

/// The value of a literal string, given what stands between its quotes.
///
/// # Errors
/// An escape that is cut off or stands for no character, or a character's name.
pub fn unescape(text: &str) -> Result<String, Error> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        if character != '\\' {
            out.push(character);
            continue;
        }
        match rest.next() {
            Some('\n') => {}
            Some(quoted @ ('\\' | '\'' | '"')) => out.push(quoted),
            Some('a') => out.push('\u{7}'),
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('v') => out.push('\u{b}'),
            Some('x') => out.push(character_of(&digits(&mut rest, 16, 2), 16, Some(2), 'x')?),
            Some('u') => out.push(character_of(&digits(&mut rest, 16, 4), 16, Some(4), 'u')?),
            Some('U') => out.push(character_of(&digits(&mut rest, 16, 8), 16, Some(8), 'U')?),
            Some(first @ '0'..='7') => {
                let more = digits(&mut rest, 8, 2);
                out.push(character_of(&format!("{first}{more}"), 8, None, first)?);
            }
            Some('N') => {
                return Err(refused(
                    "the escape \\N{…} names a character, and names are not known here; write the character itself",
                ));
            }
            // Python escapes what is beyond ASCII before it reads escapes: the backslash is doubled.
            Some(other) if !other.is_ascii() => out.push_str(&escape(other)),
            Some(other) => out.extend(['\\', other]),
            None => out.push('\\'),
        }
    }
    Ok(out)
}

fn digits(rest: &mut Peekable<Chars<'_>>, radix: u32, most: usize) -> String {
    let mut digits = String::new();
    while digits.len() < most {
        match rest.next_if(|character| character.is_digit(radix)) {
            Some(digit) => digits.push(digit),
            None => break,
        }
    }
    digits
}

fn character_of(digits: &str, radix: u32, length: Option<usize>, kind: char) -> Result<char, Error> {
    if length.is_some_and(|length| digits.len() != length) {
        let length = length.unwrap_or_default();
        return Err(refused(format!("the escape \\{kind}{digits} is cut off: it takes {length} hexadecimal digits")));
    }
    let character = u32::from_str_radix(digits, radix).ok().and_then(char::from_u32);
    character.ok_or_else(|| refused(format!("the escape \\{kind}{digits} stands for no character")))
}
