//! What holds for any calls a model can make, sensible or not.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::LazyLock;

use nemo_env::{Demonstration, Holdout, Message, Provenance, Role, Task, ToolCall, Workplace, generate};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

static WORKPLACE: LazyLock<Workplace> = LazyLock::new(|| Workplace::new(generate::office(3)));
/// Somebody with a task, who can be given another.
static ASSIGNEE: LazyLock<String> = LazyLock::new(|| generate::office(3).project_tasks[0][2].clone().unwrap());

/// A value that a tool takes, for any of its parameters.
fn sensible() -> BoxedStrategy<Value> {
    let word = prop::sample::select(vec![
        "Quarterly Review",
        "draft",
        "ß",
        "2023-12-05",
        "2023-12-05T09:00:00",
        "2023-11-30 23:59:00",
        "(",
        "a|b",
        "",
        "Sam@Example.com",
        "nobody",
        "Backlog",
        "Completed",
        "Design",
        "Lead",
        "Won",
        "Software",
        "30",
        "030",
        "bar",
        "total_visits",
        "subject",
        "event_name",
        "event_start",
        "duration",
        "list_name",
        "status",
        "notes",
        "task_id",
        "customer_id",
        "customer_phone",
        "direct",
    ]);
    prop_oneof![
        4 => word.prop_map(Value::from),
        4 => (0u32..520).prop_map(|id| format!("{id:08}").into()),
        1 => Just(Value::from(ASSIGNEE.as_str())),
        1 => (-3i64..60).prop_map(Value::from),
    ]
    .boxed()
}

/// Any JSON value that travels.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((any::<String>(), inner), 0..4)
                .prop_map(|entries| entries.into_iter().collect::<Map<_, _>>().into()),
        ]
    })
}

/// A call of one of the tools, usually with arguments of its own.
fn tool_call(value: BoxedStrategy<Value>) -> impl Strategy<Value = ToolCall> {
    let tools = Workplace::tools();
    (0..tools.len(), prop::collection::vec((value, any::<u8>()), 9)).prop_map(move |(index, values)| {
        let tool = &tools[index];
        let arguments: Map<String, Value> = tool
            .parameter_names()
            .zip(values)
            // Each is left out now and then.
            .filter(|(_, (_, chance))| *chance >= 25)
            .map(|(name, (value, _))| (name.to_owned(), value))
            .collect();
        ToolCall::new(tool.name(), &arguments.into())
    })
}

/// Sensible calls, calls with any values, and things that are no calls at all.
fn any_call() -> impl Strategy<Value = ToolCall> {
    let noise = (".{0,20}", prop_oneof![".{0,30}", any_json().prop_map(|value| value.to_string())]);
    prop_oneof![
        6 => tool_call(sensible()),
        2 => tool_call(any_json().boxed()),
        1 => noise.prop_map(|(name, arguments)| ToolCall { name, arguments }),
    ]
}

fn calls() -> impl Strategy<Value = Vec<ToolCall>> {
    prop::collection::vec(any_call(), 0..14)
}

/// Calls that reach a tool, as those of a record have to.
fn calls_of_tools() -> impl Strategy<Value = Vec<ToolCall>> {
    prop::collection::vec(prop_oneof![tool_call(sensible()), tool_call(any_json().boxed())], 0..14)
}

fn task() -> impl Strategy<Value = Task> {
    let role = prop::sample::select(vec![Role::System, Role::User, Role::Assistant, Role::Tool]);
    let messages = prop::collection::vec((role, any::<String>()), 1..4);
    let provenance = prop::option::of((any::<String>(), any::<u64>(), 0usize..9, any::<u8>()));
    let temperature = prop::option::of(prop::num::f64::POSITIVE | prop::num::f64::SUBNORMAL | prop::num::f64::ZERO);
    let demonstration = prop::option::of((calls_of_tools(), any::<String>()));
    (
        any::<u64>(),
        messages,
        calls_of_tools(),
        temperature,
        prop::option::of("[a-z0-9-]{1,12}"),
        provenance,
        demonstration,
    )
        .prop_map(|(id, messages, ground_truth, temperature, office, provenance, demonstration)| Task {
            id,
            messages: messages.into_iter().map(|(role, content)| Message::new(role, content)).collect(),
            tools: Workplace::tools(),
            parallel_tool_calls: id % 2 == 0,
            temperature,
            ground_truth,
            category: "workplace_assistant_email".to_owned(),
            environment_name: "workplace_assistant".to_owned(),
            office,
            provenance: provenance.map(|(template, filling, num_steps, difficulty)| Provenance {
                template,
                filling,
                domain: "email".to_owned(),
                num_steps,
                difficulty,
                holdout: Holdout::Filling,
            }),
            demonstration: demonstration.map(|(calls, final_text)| Demonstration { calls, final_text }),
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_calls_leave_the_office_as_it_was(calls in calls()) {
        let untouched = WORKPLACE.session().digests();
        let mut session = WORKPLACE.session();
        for call in &calls {
            let body = session.call(call).body();
            // Whatever was asked, the answer is one JSON object.
            prop_assert!(serde_json::from_str::<Map<String, Value>>(&body).is_ok(), "{call:?} gave {body}");
        }
        prop_assert_eq!(WORKPLACE.session().digests(), untouched.clone());
        prop_assert_eq!(session.changes().is_empty(), session.digests() == untouched);
    }

    #[test]
    fn the_same_calls_give_the_same_answers_and_state(calls in calls()) {
        let (mut one, mut two) = (WORKPLACE.session(), WORKPLACE.session());
        let answers: Vec<String> = calls.iter().map(|call| one.call(call).body()).collect();
        // Another session in between changes nothing about it.
        let mut other = WORKPLACE.session();
        for (call, answer) in calls.iter().zip(&answers) {
            other.call(&ToolCall::new("email_delete_email", &json!({"email_id": "00000001"})));
            prop_assert_eq!(&two.call(call).body(), answer);
        }
        prop_assert_eq!(one.digests(), two.digests());
        prop_assert_eq!(one.changes(), two.changes());
    }

    #[test]
    fn any_calls_equal_themselves(calls in calls()) {
        // Only a column of nothing but numbers cannot be compared, and so few calls cannot make one.
        prop_assert_eq!(WORKPLACE.verify(&calls, &calls), Ok(true));
        let strict = WORKPLACE.score_strictly(&calls, &calls);
        prop_assert_eq!(strict.reward(), 1.0);
    }

    #[test]
    fn calls_that_change_nothing_change_no_reward(calls in calls(), at in 0usize..14) {
        let look = ToolCall::new("calendar_search_events", &json!({"query": "review"}));
        let mut more = calls.clone();
        more.insert(at.min(calls.len()), look);
        prop_assert_eq!(WORKPLACE.verify(&more, &calls), Ok(true));
        prop_assert_eq!(WORKPLACE.score_strictly(&more, &calls).reward(), 1.0);
    }

    #[test]
    fn records_are_read_back_as_they_were_written(task in task()) {
        let line = task.to_json_line();
        prop_assert!(!line.contains('\n'));
        let read = Task::from_json_line(&line).unwrap();
        prop_assert_eq!(read.to_json_line(), line);
        prop_assert_eq!(read, task);
    }

    #[test]
    fn values_come_back_as_they_were_given(value in any_json()) {
        let is_left_out = [json!(null), json!(false), json!(0), json!(0.0), json!(""), json!([]), json!({})];
        prop_assume!(!is_left_out.contains(&value) && value != json!(-0.0));
        let mut session = WORKPLACE.session();
        let event = json!({
            "event_name": value, "participant_email": "a@b.c", "event_start": "2023-12-05 09:00:00", "duration": "30",
        });
        let created: Value = serde_json::from_str(&session.call(&ToolCall::new("calendar_create_event", &event)).body())?;
        let look = json!({"event_id": created["output"], "field": "event_name"});
        let body = session.call(&ToolCall::new("calendar_get_event_information_by_id", &look)).body();
        let read: Value = serde_json::from_str(&body)?;
        prop_assert_eq!(&read["output"]["event_name"], &value, "{}", body);
    }

    #[test]
    fn no_line_is_too_odd_to_be_refused(line in prop_oneof![".{0,80}", any_json().prop_map(|value| value.to_string())]) {
        // Nothing that is not a record is taken for one, and none of it ends the program.
        prop_assert!(Task::from_json_line(&line).is_err());
    }
}
