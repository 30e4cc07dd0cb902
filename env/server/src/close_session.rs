//! `POST /close_session`: the end of a session that is not scored.
//!
//! The session is that of the cookie. The reference asks for two fields that its orchestration knows a session by; here
//! they mean nothing, but a request without them is refused as it is there, so that a tool call of that name ends nothing.

use std::sync::Arc;

use nemo_env::python_compat::Value;
use nemo_env::python_compat::validation::{Issue, MAX_ISSUES};
use serde_json::json;

use crate::reply::Reply;

const SESSION: &str = "resources_session_id";
const EPISODE: &str = "episode_id";

/// The answer to a request of the right form.
pub(crate) fn answer(entries: Vec<(Arc<str>, Value)>) -> Result<Reply, Reply> {
    let body = Value::Dict(entries.into());
    let Value::Dict(entries) = &body else { return Err(Reply::fault()) };
    let find = |key: &str| entries.iter().find_map(|(name, value)| (&**name == key).then_some(value));
    let mut issues = Vec::new();
    match find(SESSION) {
        None => issues.push(Issue::missing(&[SESSION.into()], &body)),
        Some(Value::Str(_)) => {}
        Some(other) => issues.push(Issue::text_expected(&[SESSION.into()], other)),
    }
    if find(EPISODE).is_none() {
        issues.push(Issue::missing(&[EPISODE.into()], &body));
    }
    let others = entries.iter().filter(|(key, _)| ![SESSION, EPISODE].contains(&&**key));
    issues.extend(others.take(MAX_ISSUES).map(|(key, value)| Issue::unexpected(&[(**key).into()], value)));
    match find(SESSION).and_then(Value::as_str) {
        Some(session) if issues.is_empty() => Ok(Reply::json(json!({ SESSION: session }).to_string())),
        _ => Err(Reply::invalid(&issues)),
    }
}
