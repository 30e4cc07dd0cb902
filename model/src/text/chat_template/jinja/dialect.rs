//! What Jinja2 does and the template library does otherwise, brought into the library's instructions.
//!
//! The library has no hook for operators, attributes or loops. They therefore become calls of functions in the compiled
//! template. That takes the library's inner interfaces, which may change with any release: its version is pinned.

use std::collections::{BTreeMap, BTreeSet};

use minijinja::machinery::{CodeGenerator, Instruction, Instructions, eval, make_string_output, parse};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, Value};

use super::{attributes, operators};

/// Functions that are called in place of instructions; no template can name them.
const CONCATENATE: &str = "~";
const ADD: &str = "+";
const REMAINDER: &str = "%";
const NEGATE: &str = "-x";
const LESS: &str = "<";
const LESS_OR_EQUAL: &str = "<=";
const GREATER: &str = ">";
const GREATER_OR_EQUAL: &str = ">=";
const ITEM: &str = "[]";
const SLICE: &str = "[:]";
const ATTRIBUTE: &str = ".";
const LOOPED_OVER: &str = "for";

/// Name of the template among the library's.
const NAME: &str = "chat_template";

type Blocks<'source> = BTreeMap<&'source str, Instructions<'source>>;

/// The settings transformers gives Jinja2.
pub fn syntax() -> Result<SyntaxConfig, Error> {
    SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()
}

/// Adds the functions that compiled templates call.
pub fn install(environment: &mut Environment<'_>) {
    environment.add_function(CONCATENATE, operators::concatenate);
    environment.add_function(ADD, operators::add);
    environment.add_function(REMAINDER, operators::remainder);
    environment.add_function(NEGATE, operators::negate);
    environment.add_function(LESS, operators::less);
    environment.add_function(LESS_OR_EQUAL, operators::less_or_equal);
    environment.add_function(GREATER, operators::greater);
    environment.add_function(GREATER_OR_EQUAL, operators::greater_or_equal);
    environment.add_function(ITEM, attributes::item);
    environment.add_function(SLICE, operators::slice);
    environment.add_function(ATTRIBUTE, attributes::attribute);
    environment.add_function(LOOPED_OVER, attributes::looped_over);
}

/// Compiles a translated source.
pub fn compile<'source>(
    source: &'source str,
    syntax: &SyntaxConfig,
) -> Result<(Instructions<'source>, Blocks<'source>), Error> {
    let tree = parse(source, NAME, syntax.clone())?;
    let mut generator = CodeGenerator::new(NAME, source);
    generator.compile_stmt(&tree);
    let (instructions, blocks) = generator.finish();
    let blocks = blocks.into_iter().map(|(name, block)| (name, replace(&block))).collect();
    Ok((replace(&instructions), blocks))
}

/// The same instructions with calls in place of some. One may become two: places that are jumped to move.
fn replace<'source>(instructions: &Instructions<'source>) -> Instructions<'source> {
    let mut replaced = Instructions::new(instructions.name(), instructions.source());
    let mut moved = Vec::new();
    let mut length = 0;
    while let Some(instruction) = instructions.get(moved.len() as u32) {
        let line = instructions.get_line(moved.len() as u32).unwrap_or(0) as u16;
        let index = moved.len() as u32;
        moved.push(length);
        let (before, instruction) = call_of(instruction);
        let enclosed = enclosed_beside(instructions, index).into_iter().map(Instruction::Enclose);
        for instruction in enclosed.chain(before).chain([instruction]) {
            length = replaced.add_with_line(instruction, line) + 1;
        }
    }
    moved.push(length);
    for index in 0..length {
        if let Some(
            Instruction::Jump(target)
            | Instruction::JumpIfFalse(target)
            | Instruction::JumpIfFalseOrPop(target)
            | Instruction::JumpIfTrueOrPop(target)
            | Instruction::Iterate(target)
            | Instruction::BuildMacro(_, target, _),
        ) = replaced.get_mut(index)
            && let Some(place) = moved.get(*target as usize)
        {
            *target = *place;
        }
    }
    replaced
}

/// Names that a macro uses and the library overlooks when it gives the macro the variables around it: those that are sliced.
fn enclosed_beside<'source>(instructions: &Instructions<'source>, index: u32) -> BTreeSet<&'source str> {
    let (Some(Instruction::GetClosure), Some(Instruction::BuildMacro(_, start, _))) =
        (instructions.get(index), instructions.get(index + 2))
    else {
        return BTreeSet::new();
    };
    let used = (*start..index).filter_map(|place| match instructions.get(place)? {
        // The caller of a macro is a variable of its own.
        Instruction::Lookup("caller") | Instruction::CallFunction("caller", _) => None,
        Instruction::Lookup(name) | Instruction::CallFunction(name, _) => Some(*name),
        _ => None,
    });
    used.collect()
}

/// An instruction, or the call that replaces it, and what has to be done before. Calls take their arguments from where
/// instructions take them, and leave one value.
fn call_of<'source>(instruction: &Instruction<'source>) -> (Option<Instruction<'source>>, Instruction<'source>) {
    let (name, arguments) = match instruction {
        Instruction::StringConcat => (CONCATENATE, 2),
        Instruction::Add => (ADD, 2),
        Instruction::Rem => (REMAINDER, 2),
        Instruction::Neg => (NEGATE, 1),
        Instruction::Lt => (LESS, 2),
        Instruction::Lte => (LESS_OR_EQUAL, 2),
        Instruction::Gt => (GREATER, 2),
        Instruction::Gte => (GREATER_OR_EQUAL, 2),
        Instruction::GetItem => (ITEM, 2),
        Instruction::Slice => (SLICE, 4),
        Instruction::GetAttr(name) if attributes::is_method_name(name) => {
            let name = Instruction::LoadConst(Value::from(*name));
            return (Some(name), Instruction::CallFunction(ATTRIBUTE, Some(2)));
        }
        Instruction::PushLoop(_) => {
            return (Some(Instruction::CallFunction(LOOPED_OVER, Some(1))), instruction.clone());
        }
        _ => return (None, instruction.clone()),
    };
    (None, Instruction::CallFunction(name, Some(arguments)))
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
