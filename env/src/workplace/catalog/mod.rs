//! The 27 tools: names, parameters, descriptions, and the function behind each. The order is that of
//! the reference, because prompts list them so.

mod analytics;
mod calendar;
mod customer_relationship_manager;
mod directory;
mod email;
mod project_management;

use std::sync::{Arc, LazyLock};

use serde_json::{Map, Value as Json, json};

use super::arguments::Arguments;
use super::state::State;
use crate::python_compat::Exception;
use crate::tool::ToolSchema;

type ToolFunction = fn(&mut State, &Arguments) -> Result<Json, Exception>;

/// A parameter: name, JSON type, description.
type Parameter = (&'static str, &'static str, &'static str);

pub(in crate::workplace) struct Tool {
    pub(in crate::workplace) name: &'static str,
    /// Qualified name in the reference, which error texts quote.
    pub(in crate::workplace) method: &'static str,
    description: &'static str,
    parameters: &'static [Parameter],
    /// The first so many parameters are required by the schema (not by the tool itself).
    num_required: usize,
    pub(in crate::workplace) run: ToolFunction,
}

impl Tool {
    pub(in crate::workplace) fn parameter_names(&self) -> Vec<&'static str> {
        self.parameters.iter().map(|(name, ..)| *name).collect()
    }

    fn schema(&self) -> ToolSchema {
        let properties: Map<String, Json> = self
            .parameters
            .iter()
            .map(|(name, kind, description)| {
                let property = json!({"type": kind, "description": description});
                ((*name).to_owned(), property)
            })
            .collect();
        let required = &self.parameter_names()[..self.num_required];
        ToolSchema(json!({
            "type": "function",
            "name": self.name,
            "description": self.description,
            "parameters": {
                "type": "object",
                "properties": properties,
                "required": required,
                "additionalProperties": false,
            },
            "strict": false,
        }))
    }
}

/// The tool of that name.
pub(in crate::workplace) fn find(name: &str) -> Option<&'static Tool> {
    tools().find(|tool| tool.name == name)
}

/// Schemas of all tools, built once.
pub(in crate::workplace) fn schemas() -> Arc<Vec<ToolSchema>> {
    static SCHEMAS: LazyLock<Arc<Vec<ToolSchema>>> = LazyLock::new(|| Arc::new(tools().map(Tool::schema).collect()));
    Arc::clone(&SCHEMAS)
}

const TEXT: &str = "string";
const INTEGER: &str = "integer";

const PAGE: Parameter = ("page", INTEGER, "Which page of the results to show, from 1");
const PAGE_SIZE: Parameter = ("page_size", INTEGER, "How many results a page holds");

/// All tools in order.
fn tools() -> impl Iterator<Item = &'static Tool> {
    let domains: [&[Tool]; 6] = [
        &directory::TOOLS,
        &email::TOOLS,
        &calendar::TOOLS,
        &analytics::TOOLS,
        &project_management::TOOLS,
        &customer_relationship_manager::TOOLS,
    ];
    domains.into_iter().flatten()
}
