//! Templates over several domains.

use crate::generate::office::LISTS;
use crate::generate::phrases::{body, event_name, subject};

use super::analytics::CONDITION_MET_PERCENT;
use super::scene::{
    Scene, count_engaged, count_visits, create_event, find_address, reply_mail, send_mail, update_task,
};
use super::{Draft, Template, domain::MULTI, template};

pub(super) const TEMPLATES: [Template; 3] = [
    template("mail_if_count", MULTI, 3, mail_if_count),
    template("reply_and_schedule", MULTI, 3, reply_and_schedule),
    template("task_move_and_mail", MULTI, 3, move_and_mail),
];

fn mail_if_count(scene: &mut Scene) -> Option<Draft> {
    let day = scene.visit_day();
    let date = day.iso();
    let (visits, engaged) = scene.world.visits_on(day);
    let (what, count, look_up) = if scene.random.chance(50) {
        ("visits", visits, count_visits(&date))
    } else {
        ("engaged users", engaged, count_engaged(&date))
    };
    let met = scene.random.chance(CONDITION_MET_PERCENT);
    let limit = scene.limit(count, met)?.to_string();
    let to = scene.person();
    let (subject, body) = (subject(scene.random), body(scene.random));
    let request = scene.say(
        &[
            "If there were more than {limit} {what} on {date}, send {name} a mail with subject '{subject}' and body '{body}'",
            "If {date} had more than {limit} {what}, mail {name} about '{subject}' and say '{body}'",
        ],
        &[
            ("limit", &limit),
            ("what", what),
            ("date", &date),
            ("name", &to.first),
            ("subject", &subject),
            ("body", &body),
        ],
    );
    let mut calls = vec![look_up];
    if met {
        calls.push(find_address(&to.first));
        calls.push(send_mail(&to.address, &subject, &body));
    }
    Some(Draft::new(request, calls))
}

fn reply_and_schedule(scene: &mut Scene) -> Option<Draft> {
    let (mail, sender, search) = scene.newest_mail()?;
    let body = body(scene.random);
    let (name, slot) = (event_name(scene.random), scene.slot());
    let request = scene.say(
        &[
            "Reply to the last mail from {name} about {subject} with '{body}' and book '{event}' with the sender on {date} at {time}, {minutes} minutes.",
            "Answer the newest mail that {name} sent about {subject}: '{body}' Then schedule a {minutes} minute meeting '{event}' with {name} on {date} at {time}.",
        ],
        &[
            ("name", &sender.first),
            ("subject", &mail.subject),
            ("body", &body),
            ("event", &name),
            ("date", &slot.date),
            ("time", &slot.time),
            ("minutes", &slot.minutes),
        ],
    );
    // The sender's address stands in the result of the search.
    let calls = [search, reply_mail(&mail.id, &body), create_event(&name, &sender.address, &slot)];
    Some(Draft::new(request, calls))
}

fn move_and_mail(scene: &mut Scene) -> Option<Draft> {
    let (task, search) = scene.task()?;
    let list = scene.other(&LISTS, task.list);
    let (subject, body) = (subject(scene.random), body(scene.random));
    let request = scene.say(
        &[
            "Move the task '{name}' to {list} and mail its owner with subject '{subject}' and body '{body}'",
            "Put '{name}' in the list {list}, then write to whoever has it, subject '{subject}', text '{body}'",
        ],
        &[("name", &task.name), ("list", list), ("subject", &subject), ("body", &body)],
    );
    let owner = &scene.world.people[task.assignee].address;
    let calls = [search, update_task(&task.id, "list_name", list), send_mail(owner, &subject, &body)];
    Some(Draft::new(request, calls))
}
