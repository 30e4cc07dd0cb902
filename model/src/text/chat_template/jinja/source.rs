//! A template's source, brought from Jinja2's language into the library's, token by token, which keeps lines where they are.

use minijinja::machinery::{Token, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Error, ErrorKind};

use crate::text::python::unescape;

/// Rewrites a source:
///
/// - All line ends become `\n`.
/// - `{% generation %}` marks what a model is trained on and has a scope of its own: it becomes `{% with %}`.
/// - Constants are joined when the template is compiled, by other rules for floats than Python's: a literal float becomes
///   the result of a filter, which is no constant.
/// - Literal strings with escapes are read as Python reads them.
/// - A plus in front of a number is left out.
/// - `{% raw %}` keeps a line end behind it.
/// - The library evaluates the defaults of a macro's parameters before the parameters in front of them have values: they
///   become assignments at the start of the macro.
pub fn translate(source: &str, syntax: &SyntaxConfig) -> Result<String, Error> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut header: Option<MacroHeader> = None;
    let mut copied = 0;
    let mut after_tag_start = false;
    let mut after_operand = false;
    for token in tokenize(&source, false, syntax.clone()) {
        let (token, span) = token?;
        let (start, end) = (span.start_offset as usize, span.end_offset as usize);
        let gap = source.get(copied..start).unwrap_or_default();
        let text = source.get(start..end).unwrap_or_default();
        let mut piece = match &token {
            Token::Ident("generation") if after_tag_start => "with".to_owned(),
            Token::Ident("endgeneration") if after_tag_start => "endwith".to_owned(),
            Token::Float(_) => format!("({text}|float)"),
            Token::String(_) => literal(text).map_err(|error| at_line(error, span.start_line))?,
            Token::Plus if !after_operand => String::new(),
            _ => text.to_owned(),
        };
        let gap = match token {
            Token::TemplateData(_) => keep_line_end(gap),
            _ => gap.to_owned(),
        };
        match &mut header {
            Some(open) => {
                let (is_default, is_end) = (open.default.is_some(), matches!(token, Token::BlockEnd));
                let keeps = open.read(&token);
                if !keeps {
                    piece.clear();
                }
                if is_end {
                    piece.insert_str(0, &open.assignments());
                }
                match &mut open.default {
                    Some(default) if is_default => default.extend([gap, piece]),
                    _ => out.extend([gap, piece]),
                }
                if is_end {
                    header = None;
                }
            }
            None => out.extend([gap, piece]),
        }
        if after_tag_start && matches!(token, Token::Ident("macro")) {
            header = Some(MacroHeader::default());
        }
        copied = end;
        after_tag_start = matches!(token, Token::BlockStart);
        after_operand = ends_operand(&token);
    }
    out.push_str(source.get(copied..).unwrap_or_default());
    Ok(out)
}

/// The part of a macro's tag behind the word `macro`, as far as it is read.
#[derive(Default)]
struct MacroHeader {
    depth: usize,
    parameter: String,
    /// The default of the parameter, as far as it is read.
    default: Option<String>,
    finished: Vec<(String, String)>,
}

impl MacroHeader {
    /// Takes in a token that lies between parentheses; whether it stays in the tag or in the default.
    fn read(&mut self, token: &Token<'_>) -> bool {
        match token {
            Token::ParenOpen | Token::BracketOpen | Token::BraceOpen => self.depth += 1,
            Token::ParenClose | Token::BracketClose | Token::BraceClose => self.depth = self.depth.saturating_sub(1),
            Token::Ident(name) if self.depth == 1 && self.default.is_none() => self.parameter = (*name).to_owned(),
            Token::Assign if self.depth == 1 && self.default.is_none() => {
                self.default = Some(String::new());
                return false;
            }
            _ => {}
        }
        if self.depth == 0 || (self.depth == 1 && matches!(token, Token::Comma)) {
            self.finished.extend(self.default.take().map(|default| (std::mem::take(&mut self.parameter), default)));
        }
        true
    }

    /// Ends the macro's tag and opens the last one of the assignments, in place of it.
    fn assignments(&self) -> String {
        let assign = |(name, default): &(String, String)| {
            format!("%}}{{% if {name} is undefined %}}{{% set {name} = ({default}) %}}{{% endif ")
        };
        self.finished.iter().map(assign).collect()
    }
}

/// Whether an operator behind the token has a value on its left.
fn ends_operand(token: &Token<'_>) -> bool {
    match token {
        Token::Ident(name) => !["and", "or", "not", "in", "is", "if", "elif", "else"].contains(name),
        Token::Str(_) | Token::String(_) | Token::Int(_) | Token::Int128(_) | Token::Float(_) => true,
        Token::ParenClose | Token::BracketClose | Token::BraceClose => true,
        _ => false,
    }
}

/// A literal with escapes, as the library reads it; the lines it took are behind it.
fn literal(text: &str) -> Result<String, Error> {
    let quote = text.get(..1).unwrap_or_default();
    let inside = text.get(1..text.len().saturating_sub(1)).unwrap_or_default();
    let value = unescape(inside)?;
    let value = value.replace('\\', "\\\\").replace(quote, &format!("\\{quote}")).replace('\n', "\\n");
    Ok(format!("{quote}{value}{quote}{}", "\n".repeat(inside.matches('\n').count())))
}

/// What lies in front of text; if it ends with `{% raw %}`, the line end behind that stays in the text.
fn keep_line_end(gap: &str) -> String {
    let tag = gap.strip_suffix('\n').unwrap_or(gap);
    let raw = tag.strip_suffix("%}").filter(|tag| {
        let start = tag.trim_end().strip_suffix("raw").map(str::trim_end);
        start.is_some_and(|start| ["{%", "{%-", "{%+"].iter().any(|opening| start.ends_with(opening)))
    });
    match raw {
        Some(start) => format!("{start}+%}}{}", &gap[tag.len()..]),
        None => gap.to_owned(),
    }
}

fn at_line(error: Error, line: u16) -> Error {
    let problem = error.detail().unwrap_or_default();
    Error::new(ErrorKind::SyntaxError, format!("line {line}: {problem}"))
}
