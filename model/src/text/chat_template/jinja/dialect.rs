//! What Jinja2 and transformers have and the template library does not, brought into its language.
//!
//! The library has no hook for operators or tags. Three operators therefore become calls of functions in the compiled
//! template, and two things are replaced in the source, token by token, which keeps lines where they are. That takes the
//! library's inner interfaces, which may change with any release: its version is pinned.

use std::collections::BTreeMap;

use minijinja::machinery::{
    CodeGenerator, Instruction, Instructions, Token, eval, make_string_output, parse, tokenize,
};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, Value};

/// Function that is called for `left ~ right`; no template can name it.
pub const CONCATENATE: &str = "~";
/// Function that is called for `left + right`.
pub const ADD: &str = "+";
/// Function that is called for `left % right`.
pub const REMAINDER: &str = "%";

/// Name of the template among the library's.
const NAME: &str = "chat_template";

type Blocks<'source> = BTreeMap<&'source str, Instructions<'source>>;

/// The settings transformers gives Jinja2.
pub fn syntax() -> Result<SyntaxConfig, Error> {
    SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()
}

/// Rewrites a source.
///
/// `{% generation %}` marks what a model is trained on and has a scope of its own: it becomes `{% with %}`. Constants are
/// joined when the template is compiled, by other rules for floats than Python's: a literal float becomes the result of
/// a filter, which is no constant.
pub fn translate(source: &str, syntax: &SyntaxConfig) -> Result<String, Error> {
    let mut out = String::with_capacity(source.len());
    let mut copied = 0;
    let mut after_tag_start = false;
    for token in tokenize(source, false, syntax.clone()) {
        let (token, span) = token?;
        let (start, end) = (span.start_offset as usize, span.end_offset as usize);
        let replacement = match token {
            Token::Ident("generation") if after_tag_start => Some("with".to_owned()),
            Token::Ident("endgeneration") if after_tag_start => Some("endwith".to_owned()),
            Token::Float(_) => source.get(start..end).map(|literal| format!("({literal}|float)")),
            _ => None,
        };
        after_tag_start = matches!(token, Token::BlockStart);
        if let Some(replacement) = replacement {
            out.push_str(source.get(copied..start).unwrap_or_default());
            out.push_str(&replacement);
            copied = end;
        }
    }
    out.push_str(source.get(copied..).unwrap_or_default());
    Ok(out)
}

/// Compiles a translated source.
pub fn compile<'source>(
    source: &'source str,
    syntax: &SyntaxConfig,
) -> Result<(Instructions<'source>, Blocks<'source>), Error> {
    let tree = parse(source, NAME, syntax.clone())?;
    let mut generator = CodeGenerator::new(NAME, source);
    generator.compile_stmt(&tree);
    let (mut instructions, mut blocks) = generator.finish();
    replace_operators(&mut instructions);
    blocks.values_mut().for_each(replace_operators);
    Ok((instructions, blocks))
}

/// The operators take two values and leave one, as a call with two arguments does.
fn replace_operators(instructions: &mut Instructions<'_>) {
    let mut index = 0;
    while let Some(instruction) = instructions.get_mut(index) {
        match instruction {
            Instruction::StringConcat => *instruction = Instruction::CallFunction(CONCATENATE, Some(2)),
            Instruction::Add => *instruction = Instruction::CallFunction(ADD, Some(2)),
            Instruction::Rem => *instruction = Instruction::CallFunction(REMAINDER, Some(2)),
            _ => {}
        }
        index += 1;
    }
}

/// Runs a compiled template.
pub fn evaluate<'env>(
    environment: &'env Environment<'env>,
    instructions: &Instructions<'env>,
    blocks: &BTreeMap<&'env str, Instructions<'env>>,
    context: Value,
) -> Result<String, Error> {
    let mut text = String::new();
    let mut output = make_string_output(&mut text);
    eval(environment, instructions, context, blocks, &mut output, AutoEscape::None)?;
    Ok(text)
}
