//! Lines, completions, and a task played from beginning to end.

use serde_json::json;

use super::*;

fn read(line: &str) -> Result<Input, InputError> {
    read_line(line, &Workplace::tools())
}

fn arguments(line: &str) -> Value {
    match read(line) {
        Ok(Input::Call(call)) => serde_json::from_str(&call.arguments).unwrap(),
        other => panic!("{line:?} is {other:?}"),
    }
}

#[test]
fn lines_are_commands_or_calls() {
    assert_eq!(read("  "), Ok(Input::Nothing));
    assert_eq!(read(" done "), Ok(Input::Command(Command::Done)));
    assert_eq!(read("done now"), Err(InputError::Unknown { word: "done".to_owned() }));
    assert_eq!(read("email_fly"), Err(InputError::Unknown { word: "email_fly".to_owned() }));
    assert_eq!(arguments("email_search_emails"), json!({}));
    assert_eq!(arguments("email_search_emails query=x page=2"), json!({"query": "x", "page": 2}));
    assert_eq!(arguments("email_search_emails page=two"), json!({"page": "two"}));
    // Text stays text, whatever it looks like.
    let line = r#"calendar_create_event event_name="Say \"hi\" = now" duration=30 event_start="2023-12-01 09:00:00""#;
    let expected = json!({"event_name": "Say \"hi\" = now", "duration": "30", "event_start": "2023-12-01 09:00:00"});
    assert_eq!(arguments(line), expected);
    assert_eq!(arguments("email_delete_email email_id=00000007"), json!({"email_id": "00000007"}));
    assert_eq!(arguments("email_delete_email email_id=\"\""), json!({"email_id": ""}));
    let raw = read("email_delete_email {\"email_id\": broken").unwrap();
    let expected = ToolCall { name: "email_delete_email".to_owned(), arguments: "{\"email_id\": broken".to_owned() };
    assert_eq!(raw, Input::Call(expected));
}

#[test]
fn lines_that_mean_nothing_say_why() {
    assert_eq!(read("email_delete_email 7"), Err(InputError::NotAnArgument { word: "7".to_owned() }));
    assert_eq!(read("email_delete_email email_id=\"7"), Err(InputError::OpenQuote));
    let twice = read("email_delete_email email_id=7 email_id=8");
    assert_eq!(twice, Err(InputError::Repeated { name: "email_id".to_owned() }));
}

#[test]
fn completions_follow_the_line() {
    let complete = |line: &str| {
        let Completion { start, candidates } = super::complete(line, &Workplace::tools());
        (start, candidates)
    };
    let (start, all) = complete("");
    assert_eq!((start, all.len()), (0, Command::ALL.len() + 27));
    assert_eq!(complete("email_for"), (0, vec!["email_forward_email ".to_owned()]));
    assert_eq!(complete("do"), (0, vec!["done".to_owned()]));
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(complete("email_forward_email "), (20, names(&["email_id=", "recipient="])));
    assert_eq!(complete("email_forward_email email_id=7 "), (31, names(&["recipient="])));
    assert_eq!(complete("email_forward_email email_id=7 x"), (31, names(&[])));
    // Values that the description names.
    assert_eq!(complete("email_get_email_information_by_id field=su"), (40, names(&["subject"])));
    assert_eq!(quoted("The mail's field: 'a', 'b c' or 'd'"), ["a", "b c", "d"]);
    assert_eq!(complete("email_delete_email\u{a0}em"), (20, names(&["email_id="])));
    for nothing in ["nowhere ", "email_send_email body=\"a b", "email_send_email {\"re"] {
        assert_eq!(complete(nothing).1, names(&[]), "{nothing:?}");
    }
}

#[test]
fn every_completion_can_be_typed() {
    let tools = Workplace::tools();
    for tool in tools.iter() {
        let mut line = format!("{} ", tool.name());
        loop {
            let Completion { start, candidates } = complete(&line, &tools);
            let Some(next) = candidates.first() else { break };
            line.truncate(start);
            line.push_str(&format!("{next}x "));
        }
        let Ok(Input::Call(call)) = read_line(&line, &tools) else {
            panic!("{line:?}");
        };
        let arguments: Map<String, Value> = serde_json::from_str(&call.arguments).unwrap();
        assert!(arguments.keys().map(String::as_str).eq(tool.parameter_names()), "{line:?}");
    }
}

#[test]
fn a_task_is_played() {
    let offices = Offices::new();
    let delete = |id: &str| ToolCall::new("email_delete_email", &json!({"email_id": id}));
    let task = Task {
        id: 1,
        messages: Vec::new(),
        tools: Workplace::tools(),
        parallel_tool_calls: false,
        temperature: None,
        ground_truth: vec![delete("00000007")],
        category: String::new(),
        environment_name: String::new(),
        office: Some("office-0003".to_owned()),
        provenance: None,
        demonstration: None,
    };
    let mut play = Play::start(&offices, task).unwrap();
    let look = play.call(ToolCall::new("email_search_emails", &json!({})));
    assert!(look.answer.starts_with("{\"output\":{\"emails\":[") && look.made.is_empty() && look.undone.is_empty());
    let turn = play.call(delete("00000007"));
    assert_eq!(turn.answer, "{\"output\":\"Email deleted successfully.\"}");
    assert_eq!((turn.made, turn.undone), (vec!["email - \"00000007\"".to_owned()], vec![]));
    assert_eq!(play.changes(), ["email - \"00000007\""]);
    let verdict = play.verdict(&offices).unwrap();
    assert_eq!((verdict.outcome.reward, verdict.strict.reward(), verdict.num_calls), (1.0, 1.0, 2));
    assert!(verdict.to_string().starts_with("solved: reward 1 after 2 call(s)\nby the stricter scoring: 1\n"));

    // An event that is made and removed: the change comes and goes.
    let arguments = json!({
        "event_name": "Talk", "participant_email": "a@b.cd", "event_start": "2023-12-01 09:00:00", "duration": "30",
    });
    let made = play.call(ToolCall::new("calendar_create_event", &arguments)).made;
    assert!(made.len() == 1 && made[0].starts_with("calendar + [\"00000300\",\"Talk\""), "{made:?}");
    let removed = play.call(ToolCall::new("calendar_delete_event", &json!({"event_id": "00000300"})));
    assert_eq!((removed.made, removed.undone), (vec![], made));
    let verdict = play.verdict(&offices).unwrap();
    assert_eq!((verdict.outcome.reward, verdict.strict.reward(), verdict.strict.num_superfluous), (1.0, 0.0, 2));
    assert!(verdict.to_string().contains("2 change(s) that were not needed"));

    play.restart();
    assert!(play.changes().is_empty());
    let verdict = play.verdict(&offices).unwrap();
    assert_eq!((verdict.outcome.reward, verdict.num_calls), (0.0, 0));
    assert!(
        verdict.to_string().contains("the calls that were wanted:\n  email_delete_email {\"email_id\":\"00000007\"}")
    );
}
