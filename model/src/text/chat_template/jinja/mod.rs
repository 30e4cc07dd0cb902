//! Runs a checkpoint's Jinja chat template as transformers runs it.
//!
//! transformers renders with Jinja2: `trim_blocks` and `lstrip_blocks` are on, `raise_exception`, `break`, `continue` and
//! `{% generation %}` exist, values have Python's methods and Python's texts, and a sandbox keeps templates from changing
//! values. `strftime_now` is left undefined on purpose: prompts must not depend on the clock, and templates that use it
//! test whether it is defined.
//!
//! A template comes with a checkpoint, so it may be anybody's. What one rendering may take, in time and memory, is
//! bounded by a [budget](BUDGET).

mod arguments;
mod attributes;
mod dialect;
mod filters;
mod functions;
mod methods;
mod operators;
mod ordering;
mod source;
mod type_tests;

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value as JinjaValue};
use serde_json::{Map, Value};

use super::RenderOptions;
use super::message::ChatMessage;
use crate::text::error::TextError;
use crate::text::python::text_of;
use crate::text::tokenizer::TokenizerSettings;

/// What one rendering may use up: every operation costs one, and so do 64 bytes of text or data that are made or read.
/// Published templates take less than a hundredth of it for a long conversation; all of it is used up within seconds.
const BUDGET: u64 = 2_000_000;
/// Megabytes that [`BUDGET`] pays for if nothing else is done.
const BUDGET_MEGABYTES: u64 = BUDGET * BYTES_PER_UNIT / 1_000_000;
/// Bytes that cost as much as one operation, as the library has it.
const BYTES_PER_UNIT: u64 = 64;
/// Stack of a rendering, of which only what is used takes memory. Values that a template nested as deeply as the budget
/// allows are compared and dropped recursively.
const STACK_BYTES: usize = 512 << 20;

#[derive(Debug)]
pub(super) struct JinjaTemplate {
    environment: Environment<'static>,
    /// The template, in the library's dialect.
    source: String,
    /// The template for conversations with tools, if it is another one.
    with_tools: Option<String>,
    /// Special tokens, which templates may use as variables.
    special_tokens: Map<String, Value>,
}

impl JinjaTemplate {
    pub fn new(
        name: &str,
        source: &str,
        with_tools: Option<&str>,
        settings: &TokenizerSettings,
    ) -> Result<Self, TextError> {
        let refused = |error: Error| TextError::Template { name: name.to_owned(), problem: describe(&error) };
        let syntax = dialect::syntax().map_err(refused)?;
        let prepare = |source: &str| -> Result<String, TextError> {
            let source = source::translate(source, &syntax).map_err(refused)?;
            dialect::compile(&source, &syntax).map_err(refused)?;
            Ok(source)
        };
        let (source, with_tools) = (prepare(source)?, with_tools.map(prepare).transpose()?);
        let mut environment = Environment::new();
        environment.set_syntax(syntax);
        environment.set_fuel(Some(BUDGET));
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_formatter(|out, state, value| {
            // Writing into the output cannot fail.
            let _ = out.write_str(&text_of(value, &charge(state))?);
            Ok(())
        });
        environment.set_unknown_method_callback(methods::call);
        dialect::install(&mut environment);
        filters::install(&mut environment);
        functions::install(&mut environment);
        ordering::install(&mut environment);
        type_tests::install(&mut environment);
        Ok(Self { environment, source, with_tools, special_tokens: settings.special_tokens() })
    }

    pub fn render(
        &self,
        name: &str,
        messages: &[ChatMessage],
        tools: &[Value],
        options: &RenderOptions,
    ) -> Result<String, TextError> {
        let refused = |problem: String| TextError::Template { name: name.to_owned(), problem };
        let mut context = self.special_tokens.clone();
        context.insert("messages".to_owned(), messages.iter().map(ChatMessage::to_json).collect());
        // Templates ask both `if tools` and `if tools is not none`.
        let tools_value = if tools.is_empty() { Value::Null } else { Value::Array(tools.to_vec()) };
        context.insert("tools".to_owned(), tools_value);
        context.insert("documents".to_owned(), Value::Null);
        context.insert("add_generation_prompt".to_owned(), Value::Bool(options.add_generation_prompt));
        context.extend(options.variables.clone());
        let source = self.with_tools.as_ref().filter(|_| !tools.is_empty()).unwrap_or(&self.source);
        std::thread::scope(|scope| {
            let rendering = std::thread::Builder::new()
                .stack_size(STACK_BYTES)
                .spawn_scoped(scope, || self.evaluate(source, &context))
                .map_err(|error| refused(format!("the system gives no thread to render in: {error}")))?;
            match rendering.join() {
                Ok(text) => text.map_err(refused),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    fn evaluate(&self, source: &str, context: &Map<String, Value>) -> Result<String, String> {
        let described = |error: Error| describe(&error);
        let (instructions, blocks) = dialect::compile(source, self.environment.syntax()).map_err(described)?;
        dialect::evaluate(&self.environment, &instructions, &blocks, JinjaValue::from(Serde(context)))
            .map_err(described)
    }
}

/// Pays for bytes out of the budget of the rendering that `state` belongs to.
fn charge<'a>(state: &'a State<'_, '_>) -> impl Fn(usize) -> Result<(), Error> + 'a {
    |bytes| state.consume_fuel((bytes as u64).div_ceil(BYTES_PER_UNIT))
}

fn describe(error: &Error) -> String {
    let reason = match error.kind() {
        ErrorKind::OutOfFuel => format!(
            "rendering takes more than its budget of {BUDGET} operations or {BUDGET_MEGABYTES} MB; \
             the template repeats itself without end, or the conversation is too long for it"
        ),
        kind => error.detail().map_or_else(|| kind.to_string(), str::to_owned),
    };
    match error.line() {
        Some(line) => format!("line {line}: {reason}"),
        None => reason,
    }
}
