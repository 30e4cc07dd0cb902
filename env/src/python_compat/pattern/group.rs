//! What may follow an opening parenthesis.

use super::source::Token;
use super::{Item, MAX_GROUP_DEPTH, Translator};
use crate::python_compat::Exception;
use crate::python_compat::text::string_repr;

const UNSUPPORTED_LOOK: &str = "look-around is";
/// Python's inline flags.
const FLAGS: &str = "iLmsxau";

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
                Token::Plain(c) if c == '-' || FLAGS.contains(c) => {
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
        let (mut switched_on, mut switched_off) = (String::new(), String::new());
        let mut next = first;
        while !")-:".contains(next) {
            if next == 'L' {
                return Err(self.bad_flags("cannot use 'L' flag with a str pattern", 0));
            }
            switched_on.push(next);
            if switched_on.contains('a') && switched_on.contains('u') {
                return Err(self.bad_flags("flags 'a', 'u' and 'L' are incompatible", 0));
            }
            next = self.flag(")-:", "missing -, : or )")?;
        }
        let is_scoped = next != ')';
        if next == '-' {
            next = self.flag("", "missing flag")?;
            while next != ':' {
                if "auL".contains(next) {
                    return Err(self.bad_flags("cannot turn off flags 'a', 'u' and 'L'", 0));
                }
                switched_off.push(next);
                next = self.flag(":", "missing :")?;
            }
        }
        if switched_on.contains(|flag| switched_off.contains(flag)) {
            return Err(self.bad_flags("flag turned on and off", 1));
        }
        if !is_scoped && self.is_past_start {
            return Err(self.source.error("global flags not at the start of the expression", start));
        }
        self.flags.ascii = (self.flags.ascii || switched_on.contains('a')) && !switched_on.contains('u');
        self.flags.ignore_case &= !switched_off.contains('i');
        self.flags.ignore_case |= switched_on.contains('i');
        self.flags.verbose = (self.flags.verbose || switched_on.contains('x')) && !switched_off.contains('x');
        // Each once, as the target wants them; the others are kept by `self.flags`.
        let kept = |flags: &str| "ims".chars().filter(|flag| flags.contains(*flag)).collect::<String>();
        let (on, off) = (kept(&switched_on), kept(&switched_off));
        let kept = if off.is_empty() { on } else { format!("{on}-{off}") };
        if is_scoped {
            return Ok(Some(format!("(?{kept}:")));
        }
        self.multi_line |= kept.contains('m');
        if !kept.is_empty() {
            self.out.push_str(&format!("(?{kept})"));
        }
        Ok(None)
    }

    /// The next inline flag, or one of the characters that may `end` them; `missing` is said where there is neither.
    fn flag(&mut self, end: &str, missing: &str) -> Result<char, Exception> {
        let at = self.source.position();
        match self.source.next()? {
            Some(Token::Plain(c)) if FLAGS.contains(c) || end.contains(c) => Ok(c),
            Some(Token::Plain(c)) if c.is_alphabetic() => Err(self.source.error("unknown flag", at)),
            _ => Err(self.source.error(missing, at)),
        }
    }

    /// Flags that do not go together, `num_back` characters before the next one.
    fn bad_flags(&self, reason: &str, num_back: usize) -> Exception {
        self.source.error(&format!("bad inline flags: {reason}"), self.source.position() - num_back)
    }
}
