//! What may follow an opening parenthesis.

use super::source::Token;
use super::{Item, MAX_GROUP_DEPTH, Translator};
use crate::python_compat::Exception;
use crate::python_compat::text::string_repr;

const UNSUPPORTED_LOOK: &str = "look-around is";

impl Translator {
    pub(super) fn group(&mut self, start: usize) -> Result<Item, Exception> {
        let mut captures = true;
        let outer_flags = self.flags;
        let mut prefix = String::from("(?:");
        if self.source.take('?')? {
            let at = self.source.position();
            let Some(token) = self.source.next()? else {
                return Err(self.source.error("unexpected end of pattern", at));
            };
            match token {
                Token::Plain(':') => captures = false,
                Token::Plain('P') => self.named_group()?,
                Token::Plain('#') => return self.comment(start),
                Token::Plain('=' | '!') => {
                    return Err(self.source.unsupported(UNSUPPORTED_LOOK, start));
                }
                Token::Plain('<') => return Err(self.look_behind(start)?),
                Token::Plain('(') => {
                    return Err(self.source.unsupported("conditional group is", start));
                }
                Token::Plain('>') => return Err(self.source.unsupported("atomic group is", start)),
                Token::Plain(c @ ('a' | 'i' | 'm' | 's' | 'u' | 'x' | 'L' | '-')) => {
                    captures = false;
                    match self.flags(c, start)? {
                        Some(scoped) => prefix = scoped,
                        None => return Ok(Item::None),
                    }
                }
                token => {
                    let message = format!("unknown extension ?{token}");
                    return Err(self.source.error(&message, start + 1));
                }
            }
        }
        self.num_groups += usize::from(captures);
        if self.depth == MAX_GROUP_DEPTH {
            return Err(self.source.unsupported(&format!("nesting beyond {MAX_GROUP_DEPTH} groups is"), start));
        }
        self.depth += 1;
        self.is_past_start = true;
        self.out.push_str(&prefix);
        self.alternatives()?;
        self.depth -= 1;
        self.flags = outer_flags;
        if !self.source.take(')')? {
            return Err(self.source.error("missing ), unterminated subpattern", start));
        }
        self.out.push(')');
        Ok(Item::Other)
    }

    /// The rest of `(?P<name>`; the name itself is of no use here.
    fn named_group(&mut self) -> Result<(), Exception> {
        let at = self.source.position();
        match self.source.next()? {
            Some(Token::Plain('<')) => {}
            Some(Token::Plain('=')) => {
                return Err(self.source.unsupported("back-reference is", at));
            }
            Some(token) => {
                let message = format!("unknown extension ?P{token}");
                return Err(self.source.error(&message, at - 2));
            }
            None => return Err(self.source.error("unexpected end of pattern", at)),
        }
        let at = self.source.position();
        let name = self.source.take_while(usize::MAX, |c| c != '>');
        self.source.check_end()?;
        if name.is_empty() {
            return Err(self.source.error("missing group name", at));
        }
        if !self.source.take('>')? {
            return Err(self.source.error("missing >, unterminated name", at));
        }
        let is_identifier =
            !name.starts_with(|c: char| c.is_numeric()) && name.chars().all(|c| c == '_' || c.is_alphanumeric());
        if !is_identifier {
            let message = format!("bad character in group name {}", string_repr(&name));
            return Err(self.source.error(&message, at));
        }
        let number = self.num_groups + 1;
        if let Some((_, first)) = self.group_names.iter().find(|(other, _)| *other == name) {
            let message =
                format!("redefinition of group name {} as group {number}; was group {first}", string_repr(&name));
            return Err(self.source.error(&message, at));
        }
        self.group_names.push((name, number));
        Ok(())
    }

    fn comment(&mut self, start: usize) -> Result<Item, Exception> {
        loop {
            match self.source.next()? {
                Some(Token::Plain(')')) => return Ok(Item::None),
                Some(_) => {}
                None => {
                    return Err(self.source.error("missing ), unterminated comment", start));
                }
            }
        }
    }

    fn look_behind(&mut self, start: usize) -> Result<Exception, Exception> {
        let at = self.source.position();
        Ok(match self.source.next()? {
            Some(Token::Plain('=' | '!')) => self.source.unsupported(UNSUPPORTED_LOOK, start),
            Some(token) => self.source.error(&format!("unknown extension ?<{token}"), start + 1),
            None => self.source.error("unexpected end of pattern", at),
        })
    }

    /// Inline flags: the opening of a scoped group, or `None` for flags of the whole pattern.
    fn flags(&mut self, first: char, start: usize) -> Result<Option<String>, Exception> {
        let mut letters = String::from(first);
        letters += &self.source.take_while(usize::MAX, |c| c.is_ascii_alphabetic() || c == '-');
        self.source.check_end()?;
        if letters.ends_with('-') {
            return Err(self.source.error("missing flag", self.source.position()));
        }
        let (switched_on, switched_off) = letters.split_once('-').unwrap_or((&letters, ""));
        self.flags.ascii = (self.flags.ascii || switched_on.contains('a')) && !switched_on.contains('u');
        self.flags.ignore_case &= !switched_off.contains('i');
        self.flags.ignore_case |= switched_on.contains('i');
        self.flags.verbose = (self.flags.verbose || switched_on.contains('x')) && !switched_off.contains('x');
        let kept: String = letters.chars().filter(|c| matches!(c, 'i' | 'm' | 's' | '-')).collect();
        let kept = kept.trim_end_matches('-');
        if self.source.take(')')? {
            if self.is_past_start {
                return Err(self.source.error("global flags not at the start of the expression", start));
            }
            self.multi_line |= kept.contains('m');
            if !kept.is_empty() {
                self.out.push_str(&format!("(?{kept})"));
            }
            return Ok(None);
        }
        if self.source.take(':')? {
            return Ok(Some(format!("(?{kept}:")));
        }
        let at = self.source.position();
        let message = if self.source.peek().is_none() { "missing -, : or )" } else { "unknown flag" };
        Err(self.source.error(message, at))
    }
}
