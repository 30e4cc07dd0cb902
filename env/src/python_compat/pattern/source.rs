//! Reading a pattern token by token, and the errors that name a position in it.

use crate::python_compat::Exception;

/// The pattern cut into characters and two-character escapes.
pub(super) struct Source {
    pattern: Vec<char>,
    /// Position of the next token.
    position: usize,
}

/// A character, or a backslash with the character after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Plain(char),
    Escape(char),
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Plain(c) => write!(f, "{c}"),
            Self::Escape(c) => write!(f, "\\{c}"),
        }
    }
}

impl Source {
    pub(super) fn new(pattern: &str) -> Result<Self, Exception> {
        let source = Self { pattern: pattern.chars().collect(), position: 0 };
        source.check_end()?;
        Ok(source)
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    /// Goes back to a position passed before.
    pub(super) fn rewind(&mut self, position: usize) {
        self.position = position;
    }

    pub(super) fn error(&self, message: &str, position: usize) -> Exception {
        let before = &self.pattern[..position.min(self.pattern.len())];
        if self.pattern.contains(&'\n') {
            let line = before.iter().filter(|&&c| c == '\n').count() + 1;
            let column = before.iter().rev().take_while(|&&c| c != '\n').count() + 1;
            return Exception::value(format!("{message} at position {position} (line {line}, column {column})"));
        }
        Exception::value(format!("{message} at position {position}"))
    }

    pub(super) fn unsupported(&self, what: &str, position: usize) -> Exception {
        self.error(&format!("{what} not supported"), position)
    }

    pub(super) fn peek(&self) -> Option<Token> {
        match *self.pattern.get(self.position)? {
            '\\' => self.pattern.get(self.position + 1).copied().map(Token::Escape),
            c => Some(Token::Plain(c)),
        }
    }

    /// Reads a token. The tokenizer looks one token ahead, so a lone backslash at the end is found
    /// when the token before it is read.
    pub(super) fn next(&mut self) -> Result<Option<Token>, Exception> {
        let token = self.peek();
        self.position += match token {
            Some(Token::Plain(_)) => 1,
            Some(Token::Escape(_)) => 2,
            None => 0,
        };
        self.check_end()?;
        Ok(token)
    }

    pub(super) fn check_end(&self) -> Result<(), Exception> {
        if self.position + 1 == self.pattern.len() && self.pattern[self.position] == '\\' {
            return Err(self.error("bad escape (end of pattern)", self.position));
        }
        Ok(())
    }

    pub(super) fn take(&mut self, c: char) -> Result<bool, Exception> {
        let found = self.peek() == Some(Token::Plain(c));
        if found {
            self.next()?;
        }
        Ok(found)
    }

    /// Up to `limit` characters that satisfy `accept`.
    pub(super) fn take_while(&mut self, limit: usize, accept: impl Fn(char) -> bool) -> String {
        let mut out = String::new();
        let mut num_taken = 0;
        while num_taken < limit
            && let Some(Token::Plain(c)) = self.peek()
            && accept(c)
        {
            out.push(c);
            num_taken += 1;
            self.position += 1;
        }
        out
    }
}
