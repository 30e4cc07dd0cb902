//! The simulated office: its tables, its 27 tools, and sessions in which the tools change a private
//! copy of the tables.

mod analytics;
mod arguments;
mod base_table;
mod calendar;
mod catalog;
mod comparison;
mod customer_relationship_manager;
mod directory;
mod effects;
mod email;
mod grams;
mod pagination;
mod project_management;
mod session;
mod state;
mod table;
pub mod tables;
#[cfg(test)]
mod tests;
mod visits;

use std::borrow::Borrow;
use std::sync::Arc;

pub use comparison::NotComparable;
use effects::Effects;
pub use session::{RowChange, Session, TableChange, ToolResult};
use state::State;
use tables::Tables;

use crate::python_compat::Value;
use crate::python_compat::json::{self, JsonError};
use crate::tool::{ToolCall, ToolSchema};

/// One office: the tables every session starts from.
#[derive(Clone, Debug)]
pub struct Workplace {
    initial: State,
}

impl Workplace {
    /// An office with these tables. They are converted once; sessions share them.
    pub fn new(tables: impl Borrow<Tables>) -> Self {
        Self { initial: State::new(tables.borrow()) }
    }

    /// Schemas of the 27 tools in the reference's order.
    pub fn tools() -> Arc<Vec<ToolSchema>> {
        catalog::schemas()
    }

    /// Why a call reaches no tool, whatever the office: its arguments are no JSON object, there is no such tool, or it
    /// does not take these arguments.
    pub fn refusal(call: &ToolCall) -> Option<String> {
        match json::parse(&call.arguments) {
            Ok(Value::Dict(arguments)) => session::refusal(&call.name, arguments.iter().map(|(name, _)| &**name)),
            Ok(other) => Some(format!("the arguments are {}, not a JSON object", other.repr())),
            Err(JsonError::Syntax(error)) => Some(format!("the arguments are not JSON ({error})")),
            Err(JsonError::Unrepresentable(text)) => Some(text),
        }
    }

    /// A fresh session. Costs a few pointer copies, whatever the size of the tables.
    pub fn session(&self) -> Session {
        Session::new(self.initial.clone())
    }

    /// The state after replaying calls on fresh tables. Calls that cannot run are skipped: invalid
    /// JSON, arguments that are no object, unknown tools and arguments, exceptions.
    fn replay(&self, calls: &[ToolCall]) -> State {
        let mut state = self.initial.clone();
        calls.iter().for_each(|call| apply(&mut state, call));
        state
    }

    /// What the calls come to, and how many of them changed what they come to.
    pub(crate) fn effects(&self, calls: &[ToolCall]) -> (Effects, usize) {
        let mut state = self.initial.clone();
        let mut effects = Effects::of(&state);
        let mut num_writes = 0;
        for call in calls {
            apply(&mut state, call);
            let after = Effects::of(&state);
            num_writes += usize::from(after != effects);
            effects = after;
        }
        (effects, num_writes)
    }

    /// Whether the two lists of calls lead to equal tables, which is what the reward asks.
    ///
    /// # Errors
    /// A final table has a column of nothing but numbers, which the reference cannot compare.
    pub fn verify(&self, predicted: &[ToolCall], ground_truth: &[ToolCall]) -> Result<bool, NotComparable> {
        comparison::states_equal(&self.replay(predicted), &self.replay(ground_truth))
    }
}

/// Runs a call of a replay.
fn apply(state: &mut State, call: &ToolCall) {
    if let Ok(Value::Dict(arguments)) = json::parse(&call.arguments) {
        // An exception leaves the state as it was; its text is of no interest here.
        let _ = session::execute(state, &call.name, Arc::unwrap_or_clone(arguments));
    }
}
