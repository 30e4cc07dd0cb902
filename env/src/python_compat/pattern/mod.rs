//! Python's regular expressions, translated into the syntax of the `regex` crate.
//!
//! Search arguments of the tools are patterns. A linear-time engine replaces Python's backtracking
//! one, so no argument can stall a rollout; the price is that look-around, back-references,
//! conditional and atomic groups are refused. Everything else keeps Python's meaning and, where a
//! pattern is malformed, Python's error text. Only "does it occur anywhere" is asked of a pattern, so
//! groups need not capture.

mod escape;
mod group;
mod set;
mod source;

use std::cell::OnceCell;

use regex::{Regex, RegexBuilder};

use self::escape::{class_of_escape, escaped_character};
use self::set::translate_set;
use self::source::{Source, Token};
use super::{Exception, Value};

/// Plain patterns beyond this length are compiled like others, so that their size is limited.
const MAX_PLAIN_BYTES: usize = 256;
/// Longer patterns are refused: reading one takes time in proportion to its length, and much of it for each class.
const MAX_PATTERN_BYTES: usize = 8 << 10;
/// Patterns that are larger than this when compiled are refused. Compiling takes time in proportion to it: some 50 ms here.
const MAX_COMPILED_BYTES: usize = 2 << 20;
/// What stands for itself in a pattern besides ASCII letters and digits.
const PLAIN_PUNCTUATION: &[u8] = b" _@,-':;&%#=!\"<>~/";

/// A compiled search argument.
pub(crate) enum Pattern {
    /// Characters that stand for themselves, and full stops, which stand for any character. Most arguments are of this
    /// kind, and comparing costs less than compiling.
    Plain {
        /// ASCII letters in lower case.
        bytes: Box<[u8]>,
        /// For texts that are not ASCII, which have characters that match ASCII letters; made when needed.
        regex: OnceCell<Option<Regex>>,
    },
    Regex(Regex),
}

impl Pattern {
    pub(crate) fn is_match(&self, text: &str) -> bool {
        match self {
            Self::Plain { bytes, .. } if text.is_ascii() => occurs(bytes, text.as_bytes()),
            Self::Plain { bytes, regex } => {
                let regex = regex.get_or_init(|| std::str::from_utf8(bytes).ok().and_then(|text| build(text).ok()));
                regex.as_ref().is_some_and(|regex| regex.is_match(text))
            }
            Self::Regex(regex) => regex.is_match(text),
        }
    }

    /// Texts that every match contains, ASCII letters in any case.
    pub(crate) fn literals(&self) -> impl Iterator<Item = &[u8]> {
        let bytes: &[u8] = match self {
            Self::Plain { bytes, .. } => bytes,
            Self::Regex(_) => &[],
        };
        bytes.split(|&byte| byte == b'.')
    }
}

/// Whether a plain pattern occurs in ASCII text.
fn occurs(pattern: &[u8], text: &[u8]) -> bool {
    let fits = |pattern: u8, byte: u8| {
        if pattern == b'.' { byte != b'\n' } else { pattern == byte.to_ascii_lowercase() }
    };
    let Some((&first, rest)) = pattern.split_first() else {
        return true;
    };
    // Fewer starts than bytes if the pattern is longer than one byte, none if it is longer than the text.
    let starts = text.len().saturating_sub(rest.len());
    (0..starts).any(|start| {
        fits(first, text[start]) && rest.iter().zip(&text[start + 1..]).all(|(&pattern, &byte)| fits(pattern, byte))
    })
}

/// Compiles a search argument, ignoring case.
pub(crate) fn compile(pattern: &Value) -> Result<Pattern, Exception> {
    let text = match pattern {
        Value::Str(text) => text,
        other if !other.is_hashable() => return Err(Exception::unhashable(other)),
        _ => {
            return Err(Exception::other("first argument must be string or compiled pattern"));
        }
    };
    let is_plain = |&byte: &u8| byte.is_ascii_alphanumeric() || byte == b'.' || PLAIN_PUNCTUATION.contains(&byte);
    if text.len() <= MAX_PLAIN_BYTES && text.as_bytes().iter().all(is_plain) {
        return Ok(Pattern::Plain { bytes: text.to_ascii_lowercase().into_bytes().into(), regex: OnceCell::new() });
    }
    build(text).map(Pattern::Regex)
}

fn build(text: &str) -> Result<Regex, Exception> {
    const REFUSAL: &str = "pattern too large or not supported";
    if text.len() > MAX_PATTERN_BYTES {
        return Err(Exception::value(REFUSAL));
    }
    let translated = translate(text)?;
    RegexBuilder::new(&translated)
        .case_insensitive(true)
        .size_limit(MAX_COMPILED_BYTES)
        .build()
        .map_err(|_| Exception::value(REFUSAL))
}

fn translate(pattern: &str) -> Result<String, Exception> {
    let mut translator = Translator::new(pattern)?;
    translator.alternatives()?;
    if translator.source.peek().is_some() {
        return Err(translator.source.error("unbalanced parenthesis", translator.source.position()));
    }
    Ok(translator.out)
}

/// Deeper nesting of groups than this is refused rather than risking the stack.
const MAX_GROUP_DEPTH: usize = 100;

/// To Python these are one letter in different cases; to the `regex` crate the last two are letters of their own.
const CASES_OF_I: [char; 4] = ['i', 'I', 'İ', 'ı'];

/// What Python's inline flags switch, as far as the target has no flag for it.
#[derive(Clone, Copy)]
struct Flags {
    ignore_case: bool,
    /// Classes and cases are those of ASCII.
    ascii: bool,
    /// White space and comments in the pattern mean nothing.
    verbose: bool,
}

impl Flags {
    /// Whether the letters of [`CASES_OF_I`] are one.
    fn joins_i(self) -> bool {
        self.ignore_case && !self.ascii
    }
}

/// What the last translated item was, for the repeat operators.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Item {
    None,
    Anchor,
    Repeat,
    Other,
}

struct Translator {
    source: Source,
    out: String,
    num_groups: usize,
    /// Names of groups, with their numbers.
    group_names: Vec<(String, usize)>,
    /// Whether anything but flags and comments has been read.
    is_past_start: bool,
    /// Groups that are open.
    depth: usize,
    multi_line: bool,
    flags: Flags,
}

impl Translator {
    fn new(pattern: &str) -> Result<Self, Exception> {
        Ok(Self {
            source: Source::new(pattern)?,
            out: String::new(),
            num_groups: 0,
            group_names: Vec::new(),
            is_past_start: false,
            depth: 0,
            multi_line: false,
            flags: Flags { ignore_case: true, ascii: false, verbose: false },
        })
    }

    /// Alternatives up to the end of the pattern or of the group.
    fn alternatives(&mut self) -> Result<(), Exception> {
        loop {
            self.sequence()?;
            if !self.source.take('|')? {
                return Ok(());
            }
            self.out.push('|');
            self.is_past_start = true;
        }
    }

    fn sequence(&mut self) -> Result<(), Exception> {
        let mut item = Item::None;
        // Where the last item starts in `out`: a repeat wraps it.
        let mut item_start = self.out.len();
        while let Some(token) = self.source.peek() {
            if matches!(token, Token::Plain('|' | ')')) {
                break;
            }
            let position = self.source.position();
            if self.flags.verbose && matches!(token, Token::Plain('#' | ' ' | '\t'..='\r')) {
                self.source.next()?;
                if token == Token::Plain('#') {
                    while self.source.next()?.is_some_and(|token| token != Token::Plain('\n')) {}
                }
                continue;
            }
            if let Token::Plain(c @ ('*' | '+' | '?' | '{')) = token {
                self.source.next()?;
                let Some(bounds) = self.repeat_bounds(c)? else {
                    item_start = self.out.len();
                    self.out.push_str("\\{");
                    (item, self.is_past_start) = (Item::Other, true);
                    continue;
                };
                match item {
                    Item::None | Item::Anchor => {
                        return Err(self.source.error("nothing to repeat", position));
                    }
                    Item::Repeat => return Err(self.source.error("multiple repeat", position)),
                    Item::Other => {}
                }
                self.out.insert_str(item_start, "(?:");
                self.out.push(')');
                self.out.push_str(&bounds);
                if self.source.take('?')? {
                    self.out.push('?');
                } else {
                    // Possessive repeats are read as greedy ones.
                    self.source.take('+')?;
                }
                item = Item::Repeat;
                continue;
            }
            let start = self.out.len();
            self.source.next()?;
            // Flags and comments leave the item before them as what a repeat repeats.
            let read = self.single(token, position)?;
            if read != Item::None {
                (item, item_start, self.is_past_start) = (read, start, true);
            }
        }
        Ok(())
    }

    /// The repeat in the target's syntax; `None` if the brace is an ordinary character.
    fn repeat_bounds(&mut self, operator: char) -> Result<Option<String>, Exception> {
        if operator != '{' {
            return Ok(Some(operator.to_string()));
        }
        let after_brace = self.source.position();
        if self.source.peek() == Some(Token::Plain('}')) {
            return Ok(None);
        }
        let low = self.source.take_while(usize::MAX, |c| c.is_ascii_digit());
        let high = if self.source.take(',')? {
            self.source.take_while(usize::MAX, |c| c.is_ascii_digit())
        } else {
            low.clone()
        };
        if !self.source.take('}')? {
            self.source.rewind(after_brace);
            return Ok(None);
        }
        let minimum: u64 = if low.is_empty() { 0 } else { low.parse().unwrap_or(u64::MAX) };
        if !high.is_empty() {
            let maximum: u64 = high.parse().unwrap_or(u64::MAX);
            if maximum < minimum {
                return Err(self.source.error("min repeat greater than max repeat", after_brace));
            }
            return Ok(Some(format!("{{{minimum},{maximum}}}")));
        }
        Ok(Some(format!("{{{minimum},}}")))
    }

    fn single(&mut self, token: Token, position: usize) -> Result<Item, Exception> {
        match token {
            Token::Escape(c) => return self.escape(c, position),
            Token::Plain('.') => self.out.push('.'),
            Token::Plain('^') => {
                self.out.push('^');
                return Ok(Item::Anchor);
            }
            Token::Plain('$') => {
                // Python's `$` also matches before a final newline.
                self.out.push_str(if self.multi_line { "$" } else { "(?:\\n?\\z)" });
                return Ok(Item::Anchor);
            }
            Token::Plain('[') => {
                let set = translate_set(&mut self.source, position, self.flags)?;
                self.out.push_str(&set);
            }
            Token::Plain('(') => return self.group(position),
            Token::Plain(c) => self.literal(c),
        }
        Ok(Item::Other)
    }

    fn literal(&mut self, c: char) {
        if self.flags.joins_i() && CASES_OF_I.contains(&c) {
            self.out.push('[');
            self.out.extend(CASES_OF_I);
            self.out.push(']');
        } else if self.flags.ascii && self.flags.ignore_case && c.is_ascii_alphabetic() {
            self.out.push_str(&format!("(?-i:[{}{}])", c.to_ascii_lowercase(), c.to_ascii_uppercase()));
        } else if self.flags.ascii && !c.is_ascii() {
            self.out.push_str(&format!("(?-i:{c})"));
        } else {
            self.out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4])));
        }
    }

    fn escape(&mut self, c: char, position: usize) -> Result<Item, Exception> {
        let anchor = match c {
            'A' => Some("\\A"),
            'Z' => Some("\\z"),
            'b' => Some("\\b"),
            'B' => Some("\\B"),
            _ => None,
        };
        if let Some(anchor) = anchor {
            self.out.push_str(anchor);
            return Ok(Item::Anchor);
        }
        if c.is_ascii_digit() && c != '0' {
            return self.numbered(c, position);
        }
        if let Some(class) = class_of_escape(c, self.flags) {
            // Ignoring case would add characters that Python does not count.
            self.out.push_str(&format!("(?-i:{class})"));
            return Ok(Item::Other);
        }
        let c = escaped_character(&mut self.source, c, position)?;
        self.literal(c);
        Ok(Item::Other)
    }

    /// `\1` and so on: an octal character if three octal digits, else a back-reference.
    fn numbered(&mut self, first: char, position: usize) -> Result<Item, Exception> {
        let mut digits = String::from(first);
        digits += &self.source.take_while(1, |c| c.is_ascii_digit());
        if digits.len() == 2 && digits.chars().all(|c| c.is_digit(8)) && first.is_digit(8) {
            let third = self.source.take_while(1, |c| c.is_digit(8));
            if !third.is_empty() {
                digits += &third;
                self.source.check_end()?;
                let code = u32::from_str_radix(&digits, 8).unwrap_or(u32::MAX);
                let Some(c) = char::from_u32(code).filter(|_| code <= 0o377) else {
                    let message = format!("octal escape value \\{digits} outside of range 0-0o377");
                    return Err(self.source.error(&message, position));
                };
                self.literal(c);
                return Ok(Item::Other);
            }
        }
        self.source.check_end()?;
        let group: usize = digits.parse().unwrap_or(usize::MAX);
        if group <= self.num_groups {
            return Err(self.source.unsupported("back-reference is", position));
        }
        let message = format!("invalid group reference {group}");
        Err(self.source.error(&message, position + 1))
    }
}

#[cfg(test)]
mod tests;
