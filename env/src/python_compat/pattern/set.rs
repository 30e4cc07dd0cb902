//! Character sets (`[…]`) of Python's regular expressions, in the syntax of the `regex` crate.

use super::escape::{class_of_escape, escaped_character};
use super::source::{Source, Token};
use super::{CASES_OF_I, Flags};
use crate::python_compat::Exception;

/// One end of a range.
enum Member {
    Character(char),
    Class(&'static str),
}

/// Reads the rest of a set whose bracket stands at `start`, and returns the set in the target's
/// syntax, in which every character is written by its code point.
pub(super) fn translate_set(source: &mut Source, start: usize, flags: Flags) -> Result<String, Exception> {
    let unterminated = |source: &Source| source.error("unterminated character set", start);
    let mut out = String::from(if source.take('^')? { "[^" } else { "[" });
    let mut is_empty = true;
    loop {
        let position = source.position();
        let Some(token) = source.next()? else {
            return Err(unterminated(source));
        };
        if token == Token::Plain(']') && !is_empty {
            out.push(']');
            return Ok(out);
        }
        is_empty = false;
        let low = member(source, token, position, flags)?;
        if !source.take('-')? {
            push(&mut out, &low, flags);
            continue;
        }
        let high_position = source.position();
        let Some(high_token) = source.next()? else {
            return Err(unterminated(source));
        };
        if high_token == Token::Plain(']') {
            push(&mut out, &low, flags);
            push(&mut out, &Member::Character('-'), flags);
            out.push(']');
            return Ok(out);
        }
        let high = member(source, high_token, high_position, flags)?;
        match (low, high) {
            (Member::Character(low), Member::Character(high)) if low <= high => {
                push_range(&mut out, low, high, flags);
            }
            _ => {
                // Escapes are quoted by their first two characters, and counted so.
                let text = format!("{token}-{high_token}");
                let position = source.position().saturating_sub(text.chars().count());
                return Err(source.error(&format!("bad character range {text}"), position));
            }
        }
    }
}

fn member(source: &mut Source, token: Token, position: usize, flags: Flags) -> Result<Member, Exception> {
    Ok(match token {
        Token::Plain(c) => Member::Character(c),
        Token::Escape('b') => Member::Character('\u{8}'),
        Token::Escape(c @ '1'..='7') => {
            let mut digits = String::from(c);
            digits += &source.take_while(2, |c| c.is_digit(8));
            let code = u32::from_str_radix(&digits, 8).unwrap_or(u32::MAX);
            match char::from_u32(code).filter(|_| code <= 0o377) {
                Some(c) => Member::Character(c),
                None => {
                    let message = format!("octal escape value \\{digits} outside of range 0-0o377");
                    return Err(source.error(&message, position));
                }
            }
        }
        Token::Escape(c @ ('8' | '9')) => {
            return Err(source.error(&format!("bad escape \\{c}"), position));
        }
        Token::Escape(c) => match class_of_escape(c, flags) {
            Some(class) => Member::Class(class),
            None => Member::Character(escaped_character(source, c, position)?),
        },
    })
}

fn push(out: &mut String, member: &Member, flags: Flags) {
    match member {
        Member::Character(c) => push_range(out, *c, *c, flags),
        Member::Class(class) => out.push_str(class),
    }
}

fn push_range(out: &mut String, low: char, high: char, flags: Flags) {
    out.push_str(&format!("\\x{{{:X}}}-\\x{{{:X}}}", u32::from(low), u32::from(high)));
    if flags.joins_i() && CASES_OF_I.iter().any(|c| (low..=high).contains(c)) {
        out.extend(CASES_OF_I);
    }
}
