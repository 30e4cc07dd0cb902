//! A date in free form cut into numbers, words and signs, as the parser that pandas falls back on cuts it.

use super::text::{decimal_digit, is_digit, is_space};

/// What the token that is being read looks like so far.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Word,
    Number,
    /// A word with full stops in it, such as `a.m` or `Sep.20`.
    DottedWord,
    /// A number with a fraction, or several with full stops between them.
    DottedNumber,
}

/// The tokens of a text: digits (decimal ones of other scripts as ASCII) with a fraction or without, letters as written, a blank for any
/// white space, and every other character by itself.
pub(super) fn tokens(text: &str) -> Vec<String> {
    let characters: Vec<char> = text.chars().filter(|&c| c != '\0').map(ascii_digit).collect();
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(&first) = characters.get(at) {
        at += 1;
        let mut state = if first.is_alphabetic() {
            State::Word
        } else if is_digit(first) {
            State::Number
        } else {
            out.push(if is_space(first) { ' ' } else { first }.to_string());
            continue;
        };
        let mut token = String::from(first);
        let mut has_letters = false;
        while let Some(&c) = characters.get(at) {
            let after_stop = token.ends_with('.');
            has_letters |= matches!(state, State::Word | State::DottedWord);
            state = match state {
                State::Word if c.is_alphabetic() => State::Word,
                State::Word if c == '.' => State::DottedWord,
                State::Number if is_digit(c) => State::Number,
                // A comma starts a fraction if it follows two digits.
                State::Number if c == '.' || c == ',' && token.chars().count() >= 2 => State::DottedNumber,
                State::DottedWord if c == '.' || c.is_alphabetic() => State::DottedWord,
                State::DottedWord if is_digit(c) && after_stop => State::DottedNumber,
                State::DottedNumber if c == '.' || is_digit(c) => State::DottedNumber,
                State::DottedNumber if c.is_alphabetic() && after_stop => State::DottedWord,
                _ => break,
            };
            token.push(c);
            at += 1;
        }
        let is_dotted = matches!(state, State::DottedWord | State::DottedNumber);
        let num_stops = token.matches('.').count();
        if is_dotted && (has_letters || num_stops > 1 || token.ends_with(['.', ','])) {
            let parts = token.split_inclusive(['.', ',']).flat_map(|part| match part.char_indices().next_back() {
                Some((end, '.' | ',')) => [&part[..end], &part[end..]],
                _ => [part, ""],
            });
            out.extend(parts.filter(|part| !part.is_empty()).map(str::to_owned));
        } else if state == State::DottedNumber && num_stops == 0 {
            out.push(token.replace(',', "."));
        } else {
            out.push(token);
        }
    }
    out
}

/// A decimal digit of any script as an ASCII one.
fn ascii_digit(c: char) -> char {
    decimal_digit(c).map_or(c, |digit| char::from(b'0' + digit))
}
