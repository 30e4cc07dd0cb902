//! Runs generated tasks on the real tools, so that no unsound task leaves the generator: a
//! demonstration that fails or names an id from nowhere would teach guessing, and a ground truth
//! without effect would reward idleness.

use serde_json::Value;

use crate::task::record::{Demonstration, Task};
use crate::tool::ToolCall;
use crate::workplace::Workplace;
use crate::workplace::tables::Tables;

use super::claim::{self, Claim};
use super::report::ids_in;
use super::template::tool;

/// Checks tasks of one office.
pub(super) struct Verifier {
    tables: Tables,
    workplace: Workplace,
}

impl Verifier {
    pub fn new(tables: Tables) -> Self {
        Self { workplace: Workplace::new(&tables), tables }
    }

    /// Whether calls leave the tables as they are, so that doing nothing would be rewarded.
    pub fn changes_nothing(&self, calls: &[ToolCall]) -> bool {
        self.check_equal(&[], calls).is_ok()
    }

    /// Checks that every call of the demonstration succeeds, that its ids and addresses stand in
    /// the request or in an earlier result, that it scores 1, and that doing nothing scores 1
    /// exactly when nothing is to be done. Says what is wrong otherwise.
    pub fn check(&self, task: &Task) -> Result<(), String> {
        let demonstration = task.demonstration.as_ref().ok_or("no demonstration")?;
        self.run(task.user_message(), demonstration)?;
        let earns = |calls: &[ToolCall]| {
            (self.workplace.verify(calls, &task.ground_truth))
                .map_err(|error| format!("the final tables cannot be compared: {error:?}"))
        };
        if !earns(&demonstration.calls)? {
            return Err("the demonstration does not earn the reward".to_owned());
        }
        let is_nothing = task.ground_truth.is_empty();
        if earns(&[])? != is_nothing {
            return Err(format!("doing nothing is rewarded: {}", !is_nothing));
        }
        Ok(())
    }

    /// Checks that the answer is the only one: what the request describes fits the rows and colleagues that the ground
    /// truth is about and no others, and where the request does not say an order, none matters.
    pub fn check_unique(&self, task: &Task, claims: &[Claim]) -> Result<(), String> {
        let evidence = claim::check(claims, &self.tables)?;
        let request = task.user_message();
        for call in &task.ground_truth {
            if let Some(value) =
                copied_values(&call.arguments).find(|value| !request.contains(value) && !evidence.has(value))
            {
                return Err(format!("no claim says why {value} in {} is the only one", call.arguments));
            }
        }
        if says_order(request) { Ok(()) } else { self.check_order(&task.ground_truth) }
    }

    /// Checks that calls may be made in another order: any two neighbours swapped, and all of them reversed.
    pub fn check_order(&self, calls: &[ToolCall]) -> Result<(), String> {
        let swapped = (1..calls.len()).map(|second| {
            let mut swapped = calls.to_vec();
            swapped.swap(second - 1, second);
            swapped
        });
        let mut others = swapped.chain([calls.iter().rev().cloned().collect()]);
        others.try_for_each(|other| {
            self.check_equal(&other, calls).map_err(|_| "the request says no order, but it matters".to_owned())
        })
    }

    /// Checks that two lists of calls come to the same as far as the reward can tell.
    pub fn check_equal(&self, calls: &[ToolCall], others: &[ToolCall]) -> Result<(), String> {
        match self.workplace.verify(calls, others) {
            Ok(true) => Ok(()),
            Ok(false) => Err("the final tables differ".to_owned()),
            Err(error) => Err(format!("the final tables cannot be compared: {error:?}")),
        }
    }

    fn run(&self, request: &str, demonstration: &Demonstration) -> Result<(), String> {
        let mut session = self.workplace.session();
        let mut seen = request.to_owned();
        for call in &demonstration.calls {
            if let Some(unknown) = copied_values(&call.arguments).find(|&value| !seen.contains(value)) {
                return Err(format!("{unknown} in {} is known from nowhere", call.arguments));
            }
            let result = session.call(call);
            if result.is_error() || !succeeded(&call.name, &result.output) {
                return Err(format!("{} {} gave {}", call.name, call.arguments, result.output));
            }
            seen.push_str(&result.body());
        }
        Ok(())
    }
}

/// Whether a request says in which order something is to be done.
pub(super) fn says_order(request: &str) -> bool {
    let mut words = request.split(|character: char| !character.is_alphanumeric());
    words.any(|word| ["first", "then"].iter().any(|order| word.eq_ignore_ascii_case(order)))
}

/// Ids and addresses in the arguments of a call.
fn copied_values(arguments: &str) -> impl Iterator<Item = &str> {
    ids_in(arguments).chain(arguments.split('"').filter(|text| text.contains('@')))
}

/// Whether the result is what a call that worked returns; an empty search is one.
fn succeeded(name: &str, output: &Value) -> bool {
    match output {
        Value::String(text) if tool::writes(name) => {
            let is_id = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_digit());
            is_id || text.ends_with(" successfully.") || text.starts_with("plots/")
        }
        Value::String(text) => text.starts_with("No ") && text.ends_with(" found."),
        Value::Array(_) | Value::Object(_) => !tool::writes(name),
        _ => false,
    }
}
