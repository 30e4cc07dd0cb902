//! `GET /openapi.json`: what the server understands, for programs that make clients or forms of it.

use nemo_env::ToolSchema;
use serde_json::{Map, Value as Json, json};

/// The description of the server with these tools, in OpenAPI 3.1.
pub(crate) fn document(tools: &[ToolSchema]) -> Json {
    let object = json!({ "type": "object" });
    let mut paths = Map::new();
    for (path, summary, body) in [
        ("/seed_session", "Start the session of the cookie anew.", object.clone()),
        (
            "/verify",
            "Score a conversation by the final state of the tables, and end the session.",
            json!({
                "type": "object",
                "properties": {
                    "id": { "type": "integer" },
                    "category": { "type": "string" },
                    "environment_name": { "type": "string" },
                    "responses_create_params": object,
                    "response": {
                        "type": "object",
                        "properties": { "output": { "type": "array", "items": object } },
                        "required": ["output"],
                    },
                    "ground_truth": { "anyOf": [{ "type": "array", "items": object }, { "type": "string" }] },
                },
                "required": [
                    "responses_create_params", "response", "ground_truth", "id", "category", "environment_name",
                ],
            }),
        ),
        (
            "/close_session",
            "End the session without scoring.",
            json!({
                "type": "object",
                "properties": { "resources_session_id": { "type": "string" }, "episode_id": {} },
                "required": ["resources_session_id", "episode_id"],
                "additionalProperties": false,
            }),
        ),
        (
            "/aggregate_metrics",
            "Statistics of verify answers, by task and overall.",
            json!({
                "type": "object",
                "properties": { "verify_responses": { "type": "array", "items": object } },
                "required": ["verify_responses"],
            }),
        ),
    ] {
        paths.insert(path.into(), json!({ "post": operation(summary, &body) }));
    }
    for (path, summary) in [
        ("/", "Whether the server runs."),
        ("/reverify_mode", "Whether answers can be scored again."),
        ("/health", "Whether the server runs, and its number of sessions."),
        ("/metrics", "Counters in Prometheus' text format."),
    ] {
        let answer = json!({ "summary": summary, "responses": { "200": { "description": "The answer." } } });
        paths.insert(path.into(), json!({ "get": answer }));
    }
    for tool in tools {
        let summary = tool.0["description"].as_str().unwrap_or_default();
        paths.insert(format!("/{}", tool.name()), json!({ "post": operation(summary, &tool.0["parameters"]) }));
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Workplace Assistant", "version": env!("CARGO_PKG_VERSION") },
        "paths": paths,
    })
}

fn operation(summary: &str, body: &Json) -> Json {
    json!({
        "summary": summary,
        "requestBody": { "required": true, "content": { "application/json": { "schema": body } } },
        "responses": {
            "200": { "description": "The answer." },
            "422": { "description": "The body is not of the form asked for." },
        },
    })
}
