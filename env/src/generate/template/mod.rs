//! Task templates: a family of requests with the tool calls that carry each of them out.
//!
//! A template draws a *filling* (names, texts, dates, rows) from an office and returns a draft: the
//! request and the calls, look-ups included, in the order in which somebody would make them. Training
//! templates are grouped by domain; `holdout` has those that are only ever used for validation.

mod analytics;
mod calendar;
mod customers;
mod email;
mod full;
mod holdout;
mod multi_domain;
mod projects;
mod scene;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::generate::claim::Claim;
use crate::generate::suite::Suite;
use crate::tool::ToolCall;

pub(super) use scene::Scene;

/// Names of the tools that demonstrations use.
pub(super) mod tool {
    pub const FIND_ADDRESS: &str = "company_directory_find_email_address";
    pub const SEARCH_MAILS: &str = "email_search_emails";
    pub const SEND_MAIL: &str = "email_send_email";
    pub const DELETE_MAIL: &str = "email_delete_email";
    pub const FORWARD_MAIL: &str = "email_forward_email";
    pub const REPLY_MAIL: &str = "email_reply_email";
    pub const SEARCH_EVENTS: &str = "calendar_search_events";
    pub const CREATE_EVENT: &str = "calendar_create_event";
    pub const DELETE_EVENT: &str = "calendar_delete_event";
    pub const UPDATE_EVENT: &str = "calendar_update_event";
    pub const CREATE_PLOT: &str = "analytics_create_plot";
    pub const COUNT_VISITS: &str = "analytics_total_visits_count";
    pub const COUNT_ENGAGED: &str = "analytics_engaged_users_count";
    pub const COUNT_SOURCE: &str = "analytics_traffic_source_count";
    pub const SEARCH_TASKS: &str = "project_management_search_tasks";
    pub const CREATE_TASK: &str = "project_management_create_task";
    pub const DELETE_TASK: &str = "project_management_delete_task";
    pub const UPDATE_TASK: &str = "project_management_update_task";
    pub const SEARCH_CUSTOMERS: &str = "customer_relationship_manager_search_customers";
    pub const UPDATE_CUSTOMER: &str = "customer_relationship_manager_update_customer";
    pub const ADD_CUSTOMER: &str = "customer_relationship_manager_add_customer";
    pub const DELETE_CUSTOMER: &str = "customer_relationship_manager_delete_customer";

    /// Whether a call of the tool can change the tables.
    pub fn writes(name: &str) -> bool {
        !matches!(
            name,
            FIND_ADDRESS
                | SEARCH_MAILS
                | SEARCH_EVENTS
                | COUNT_VISITS
                | COUNT_ENGAGED
                | COUNT_SOURCE
                | SEARCH_TASKS
                | SEARCH_CUSTOMERS
        )
    }
}

/// Domains, as records name them.
pub(super) mod domain {
    pub const EMAIL: &str = "email";
    pub const CALENDAR: &str = "calendar";
    pub const ANALYTICS: &str = "analytics";
    pub const PROJECTS: &str = "project_management";
    pub const CUSTOMERS: &str = "customer_relationship_manager";
    pub const MULTI: &str = "multi_domain";
}

/// What is known about a template without filling it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TemplateInfo {
    pub name: &'static str,
    /// `email`, `calendar`, `analytics`, `project_management`, `customer_relationship_manager` or
    /// `multi_domain`.
    pub domain: &'static str,
    /// 1: one call, everything in the request; 2: usually one look-up and one change; 3: longer
    /// chains and comparisons; 4: the longest chains.
    pub difficulty: u8,
    /// Only used for validation.
    pub holdout: bool,
    /// The smallest suite that has it.
    pub suite: Suite,
}

/// A template: its description and the function that fills it.
pub(super) struct Template {
    pub info: TemplateInfo,
    /// `None` when the draw does not fit (nothing found, too many hits); the caller draws again.
    pub fill: fn(&mut Scene) -> Option<Draft>,
}

/// A filled template.
#[derive(Debug)]
pub(super) struct Draft {
    pub request: String,
    /// The demonstration's calls, look-ups included.
    pub calls: Vec<ToolCall>,
    /// Why the answer is the only one; `None` for templates that see to it themselves.
    pub claims: Option<Vec<Claim>>,
}

impl Draft {
    fn new(request: String, calls: impl Into<Vec<ToolCall>>) -> Self {
        Self { request, calls: calls.into(), claims: None }
    }

    /// The calls that change tables.
    pub fn writes(&self) -> Vec<ToolCall> {
        let changing = self.calls.iter().filter(|call| tool::writes(&call.name));
        changing.cloned().collect()
    }
}

/// A call with text arguments, in the order given.
fn call(name: &str, arguments: &[(&str, &str)]) -> ToolCall {
    let arguments: Map<String, Value> =
        arguments.iter().map(|&(key, value)| (key.to_owned(), Value::from(value))).collect();
    ToolCall::new(name, &Value::Object(arguments))
}

const fn template(
    name: &'static str,
    domain: &'static str,
    difficulty: u8,
    fill: fn(&mut Scene) -> Option<Draft>,
) -> Template {
    let info = TemplateInfo { name, domain, difficulty, holdout: false, suite: Suite::Core };
    Template { info, fill }
}

impl Template {
    /// The same for validation only.
    const fn held_out(mut self) -> Self {
        self.info.holdout = true;
        self
    }
}

/// The core suite's templates, by subject.
const TRAINING: [&[Template]; 6] = [
    &email::TEMPLATES,
    &calendar::TEMPLATES,
    &analytics::TEMPLATES,
    &projects::TEMPLATES,
    &customers::TEMPLATES,
    &multi_domain::TEMPLATES,
];
const HELD_OUT: [&[Template]; 1] = [&holdout::TEMPLATES];

/// All templates of a suite in a fixed order; `held_out` chooses between training and validation-only ones.
pub(super) fn all(suite: Suite, held_out: bool) -> Vec<&'static Template> {
    let (core, more): (&'static [&'static [Template]], &'static [&'static [Template]]) =
        if held_out { (&HELD_OUT, &full::HELD_OUT) } else { (&TRAINING, &full::TRAINING) };
    let more = if suite == Suite::Full { more } else { &[] };
    core.iter().chain(more).copied().flatten().collect()
}
