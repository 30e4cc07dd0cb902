//! Properties of sessions and scoring that hold for any calls, and the rules of the agent loop.

use serde_json::{Value, json};

use super::Workplace;
use crate::generate;
use crate::tool::ToolCall;

fn workplace() -> Workplace {
    Workplace::new(generate::office(3))
}

fn call(name: &str, arguments: Value) -> ToolCall {
    ToolCall::new(name, &arguments)
}

fn raw(name: &str, arguments: &str) -> ToolCall {
    ToolCall { name: name.to_owned(), arguments: arguments.to_owned() }
}

fn answer(arguments: &str) -> String {
    let call = raw("email_delete_email", arguments);
    workplace().session().call(&call).body()
}

/// A repeatable stream of numbers (a linear congruential generator).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    fn choice<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// Any call, likely to have an effect.
fn random_call(numbers: &mut Numbers, assignee: &str) -> ToolCall {
    let id = format!("{:08}", numbers.below(320));
    let text = numbers.choice(&["Quarterly Review", "draft", "ß", "2023-12-05", "(", ""]);
    let email = numbers.choice(&["sam@example.com", "Kim@Example.com", "nobody"]);
    match numbers.below(12) {
        0 => call("email_send_email", json!({"recipient": email, "subject": text, "body": "b"})),
        1 => call("email_delete_email", json!({"email_id": id})),
        2 => call("email_reply_email", json!({"email_id": id, "body": text})),
        3 => call(
            "calendar_create_event",
            json!({"event_name": text, "participant_email": email, "event_start": "2023-12-04 09:00:00", "duration": "30"}),
        ),
        4 => call("calendar_delete_event", json!({"event_id": id})),
        5 => call("calendar_update_event", json!({"event_id": id, "field": "event_name", "new_value": text})),
        6 => call(
            "project_management_create_task",
            json!({"task_name": text, "assigned_to_email": assignee, "list_name": "Backlog", "due_date": "2023-12-09", "board": "Design"}),
        ),
        7 => call(
            "project_management_update_task",
            json!({"task_id": id, "field": "list_name", "new_value": "Completed"}),
        ),
        8 => call("project_management_delete_task", json!({"task_id": id})),
        9 => call(
            "customer_relationship_manager_add_customer",
            json!({"customer_name": text, "assigned_to_email": email, "status": "Lead"}),
        ),
        10 => call("customer_relationship_manager_delete_customer", json!({"customer_id": id})),
        _ => call(
            "analytics_create_plot",
            json!({"time_min": "2023-11-01", "time_max": text, "value_to_plot": "total_visits", "plot_type": "bar"}),
        ),
    }
}

#[test]
fn any_calls_equal_themselves_and_leave_the_office_alone() {
    let tables = generate::office(3);
    let assignee = tables.project_tasks[0][2].clone().unwrap();
    let workplace = Workplace::new(&tables);
    let untouched = workplace.session().digests();
    let mut numbers = Numbers(1);
    for _ in 0..40 {
        let calls: Vec<ToolCall> = (0..1 + numbers.below(12)).map(|_| random_call(&mut numbers, &assignee)).collect();
        assert_eq!(workplace.verify(&calls, &calls), Ok(true), "{calls:?}");
        // A session's answers depend on its calls only, and two sessions share nothing.
        let (mut one, mut two) = (workplace.session(), workplace.session());
        for call in &calls {
            assert_eq!(one.call(call).body(), two.call(call).body());
        }
        assert_eq!(one.digests(), two.digests());
        assert_eq!(workplace.session().digests(), untouched);
        assert_eq!(one.changes().is_empty(), one.digests() == untouched);
    }
}

#[test]
fn searches_change_nothing() {
    let workplace = workplace();
    let mut session = workplace.session();
    let before = session.digests();
    for tool in Workplace::tools().iter() {
        if tool.name().contains("search") || tool.name().contains("get_") {
            let arguments: serde_json::Map<String, Value> =
                tool.parameter_names().map(|name| (name.to_owned(), json!("a"))).collect();
            session.call(&call(tool.name(), arguments.into()));
        }
    }
    assert_eq!(session.digests(), before);
    assert!(session.changes().is_empty());
}

#[test]
fn arguments_that_are_no_json_are_answered() {
    assert_eq!(
        answer("{'email_id': 1}"),
        "{\"error\": \"Invalid tool call arguments: JSONDecodeError('Expecting property name \
         enclosed in double quotes: line 1 column 2 (char 1)')\"}"
    );
    assert_eq!(
        answer("{\"email_id\": 1"),
        "{\"error\": \"Invalid tool call arguments: JSONDecodeError(\\\"Expecting ',' delimiter: \
         line 1 column 15 (char 14)\\\")\"}"
    );
    assert_eq!(
        answer("{\"email_id\": \"\\ud800\"}"),
        "{\"error\": \"Invalid tool call arguments: unpaired surrogate \\\\ud800\"}"
    );
    assert_eq!(
        answer("{\"email_id\": 100000000000000000000}"),
        "{\"error\": \"Invalid tool call arguments: integer beyond 64 bits (100000000000000000000)\"}"
    );
}

#[test]
fn nulls_and_nan_count_as_left_out() {
    let expected = "{\"output\":\"Email ID not provided.\"}";
    assert_eq!(answer("{\"email_id\": null}"), expected);
    assert_eq!(answer("{\"email_id\": NaN}"), expected);
    assert_eq!(answer("{}"), expected);
}

#[test]
fn endpoints_of_the_reference_are_no_tools() {
    let mut session = workplace().session();
    session.call(&call("email_delete_email", json!({"email_id": "00000001"})));
    let before = session.digests();
    for name in ["seed_session", "verify", "aggregate_metrics", "reverify_mode"] {
        let result = session.call(&call(name, json!({})));
        assert_eq!(result.body(), format!("{{\"output\":\"Error executing tool '{name}': '{name}'\"}}"));
        assert!(result.is_error());
    }
    assert_eq!(session.digests(), before);
}

#[test]
fn calls_that_cannot_run_are_skipped_when_scoring() {
    let workplace = workplace();
    let nothing = [
        raw("email_delete_email", "{"),
        raw("email_delete_email", "[]"),
        raw("email_delete_email", "{\"email_id\": \"\\ud800\"}"),
        raw("email_delete_email", "{\"email_id\": \"00000001\", \"force\": true}"),
        raw("unknown", "{}"),
    ];
    assert_eq!(workplace.verify(&nothing, &[]), Ok(true));
    let something = [raw("email_delete_email", "{\"email_id\": \"00000001\"}")];
    assert_eq!(workplace.verify(&something, &[]), Ok(false));
}
