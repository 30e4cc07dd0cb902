//! The templates that only the full suite has: descriptions that need care (namesakes, rows that look alike, relative
//! dates), conditions with an alternative, groups of rows, up to six changes over several domains, and requests that
//! cannot be carried out.
//!
//! Each draft claims why its answer is the only one; see [`Claim`].

mod analytics;
mod calendar;
mod customers;
mod email;
mod holdout;
mod look_up;
mod multi_domain;
mod projects;

use super::{Draft, Scene, Template, template};
use crate::generate::claim::Claim;
use crate::generate::suite::Suite;
use crate::tool::ToolCall;

impl Draft {
    fn unique(
        request: String,
        calls: impl IntoIterator<Item = ToolCall>,
        claims: impl IntoIterator<Item = Claim>,
    ) -> Self {
        Self { request, calls: calls.into_iter().collect(), claims: Some(claims.into_iter().collect()) }
    }
}

const fn full(
    name: &'static str,
    domain: &'static str,
    difficulty: u8,
    fill: fn(&mut Scene) -> Option<Draft>,
) -> Template {
    let mut template = template(name, domain, difficulty, fill);
    template.info.suite = Suite::Full;
    template
}

/// The suite's own templates, by subject.
pub(super) const TRAINING: [&[Template]; 6] = [
    &email::TEMPLATES,
    &calendar::TEMPLATES,
    &analytics::TEMPLATES,
    &projects::TEMPLATES,
    &customers::TEMPLATES,
    &multi_domain::TEMPLATES,
];
pub(super) const HELD_OUT: [&[Template]; 1] = [&holdout::TEMPLATES];

#[cfg(test)]
mod tests;
