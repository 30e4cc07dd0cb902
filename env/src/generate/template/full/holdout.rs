//! Templates of the full suite that are never trained on: other fields, other groups and other combinations.

use crate::generate::claim::Claim;
use crate::generate::names::FIRST_NAMES;
use crate::generate::office::{BOARDS, LISTS, PRODUCTS, STATUSES};
use crate::generate::phrases::{event_name, task_name};
use crate::generate::template::domain::{ANALYTICS, CALENDAR, CUSTOMERS, EMAIL, MULTI, PROJECTS};
use crate::generate::template::scene::{
    Scene, count_visits, create_event, create_task, find_address, send_mail, update_customer, update_event, update_task,
};
use crate::generate::template::{call, tool};

use super::analytics::plot_from;
use super::look_up::ends_in_hours;
use super::{Draft, Template, full};

pub(super) const TEMPLATES: [Template; 12] = [
    full("email_forward_namesake", EMAIL, 3, forward_namesake).held_out(),
    full("calendar_stranger", CALENDAR, 2, stranger).held_out(),
    full("calendar_extend_next", CALENDAR, 3, extend_next).held_out(),
    full("analytics_plot_if_quieter", ANALYTICS, 3, plot_if_quieter).held_out(),
    full("task_delete_on_board", PROJECTS, 3, delete_on_board).held_out(),
    full("task_take_over", PROJECTS, 4, take_over).held_out(),
    full("customer_product_of_company", CUSTOMERS, 3, product_of_company).held_out(),
    full("customer_follow_up_group", CUSTOMERS, 4, follow_up_group).held_out(),
    full("plot_and_meeting", MULTI, 3, plot_and_meeting).held_out(),
    full("meeting_moved", MULTI, 4, meeting_moved).held_out(),
    full("customer_lost", MULTI, 4, customer_lost).held_out(),
    full("kickoff", MULTI, 4, kickoff).held_out(),
];

fn forward_namesake(scene: &mut Scene) -> Option<Draft> {
    let to = scene.namesake()?;
    let (mail, from, search, claim) = scene.last_mail()?;
    if to.index == from.index {
        return None;
    }
    let request = scene.say(
        &[
            "Let {to} have the last mail from {from} about {subject}.",
            "The newest mail that {from} sent about {subject} should go to {to}, please forward it.",
        ],
        &[("to", &to.name), ("from", &from.name), ("subject", &mail.subject)],
    );
    let forward = call(tool::FORWARD_MAIL, &[("email_id", &mail.id), ("recipient", to.address)]);
    Some(Draft::unique(request, [search, to.find, forward], [claim, from.claim, to.claim]))
}

/// Nobody has the name.
fn stranger(scene: &mut Scene) -> Option<Draft> {
    let name = scene.random.word(&FIRST_NAMES);
    if scene.world.people.iter().any(|person| person.address.contains(&name.to_lowercase())) {
        return None;
    }
    let meeting = scene.meeting();
    let request = scene.say(
        &[
            "Arrange '{event}' with {name} {when} at {time}, {minutes} minutes.",
            "I would like to meet {name} {when} at {time} for '{event}', {minutes} minutes. Please book that.",
        ],
        &[&meeting.slots()[..], &[("name", name)]].concat(),
    );
    Some(Draft::unique(request, [find_address(name)], [Claim::Colleagues { name: name.to_owned(), count: 0 }]))
}

fn extend_next(scene: &mut Scene) -> Option<Draft> {
    let with = scene.anybody();
    let (next, search, claim) = scene.next_event(&with)?;
    let event = next?;
    let minutes = 5 * scene.random.within(2, 60);
    if minutes == event.minutes || !ends_in_hours(&event.start[11..16], minutes) {
        return None;
    }
    let minutes = minutes.to_string();
    let request = scene.say(
        &[
            "My next meeting with {name} takes {minutes} minutes, change that.",
            "Set the duration of the next event with {name} to {minutes} minutes.",
        ],
        &[("name", &with.name), ("minutes", &minutes)],
    );
    Some(Draft::unique(request, [search, update_event(&event.id, "duration", &minutes)], [claim, with.claim]))
}

fn plot_if_quieter(scene: &mut Scene) -> Option<Draft> {
    let (one, two) = (scene.visit_day(), scene.visit_day());
    let is_quieter = scene.world.visits_on(one).0 < scene.world.visits_on(two).0;
    if one == two || scene.random.chance(60) != is_quieter {
        return None;
    }
    let plot = plot_from(scene, one.min(two));
    let (one, two) = (one.iso(), two.iso());
    let request = scene.say(
        &[
            "If {one} had fewer visits than {two}, plot {words} since {from} as a {kind} chart.",
            "Was it quieter on {one} than on {two}, by number of visits? If so, make a {kind} chart of {words} since {from}.",
        ],
        &[("one", &one), ("two", &two), ("words", plot.words), ("from", &plot.from), ("kind", plot.kind)],
    );
    let mut calls = vec![count_visits(&one), count_visits(&two)];
    calls.extend(is_quieter.then(|| plot.call()));
    Some(Draft::unique(request, calls, []))
}

fn delete_on_board(scene: &mut Scene) -> Option<Draft> {
    let (task, search, claim) = scene.task_on_board()?;
    let request = scene.say(
        &[
            "Delete the task '{name}' of the {board} board.",
            "Nobody needs '{name}' on the {board} board any more, delete it.",
        ],
        &[("name", &task.name), ("board", task.board)],
    );
    Some(Draft::unique(request, [search, call(tool::DELETE_TASK, &[("task_id", &task.id)])], [claim]))
}

fn take_over(scene: &mut Scene) -> Option<Draft> {
    let (from, to) = (scene.teammate(), scene.teammate());
    let (tasks, search) = scene.overdue(&from);
    if from.index == to.index || !(1..=3).contains(&tasks.hits.len()) {
        return None;
    }
    let request = scene.say(
        &[
            "{to} takes over whatever {from} has not completed although it was due before today.",
            "Reassign the overdue tasks of {from}, those that are not completed, to {to}.",
        ],
        &[("to", &to.name), ("from", &from.name)],
    );
    let mut calls = vec![from.find, search, to.find];
    calls.extend(tasks.hits.iter().map(|task| update_task(&task.id, "assigned_to_email", to.address)));
    Some(Draft::unique(request, calls, [tasks.claim, from.claim, to.claim]))
}

fn product_of_company(scene: &mut Scene) -> Option<Draft> {
    let (customer, company, search, claim) = scene.customer_of_company()?;
    let product = scene.other(&PRODUCTS, customer.product);
    let request = scene.say(
        &[
            "The customer {name} of {company} is interested in {product} now, update the product interest.",
            "Set the product interest of {name}, the one at {company}, to {product}.",
        ],
        &[("name", &customer.name), ("company", company), ("product", product)],
    );
    Some(Draft::unique(request, [search, update_customer(&customer.id, "product_interest", product)], [claim]))
}

fn follow_up_group(scene: &mut Scene) -> Option<Draft> {
    let agent = scene.customer_agent();
    let (status, product) = (scene.random.word(&STATUSES), scene.random.word(&PRODUCTS));
    let (customers, search) = scene.customers_of(&agent, (status, product), 4)?;
    let date = scene.future_day();
    let request = scene.say(
        &[
            "Set the follow-up date of all customers of {name} with status {status} and an interest in {product} to {date}.",
            "The {status} customers of {name} who are interested in {product} are to be followed up by {date}, note that.",
        ],
        &[("name", &agent.name), ("status", status), ("product", product), ("date", &date)],
    );
    let mut calls = vec![agent.find, search];
    calls.extend(customers.hits.iter().map(|customer| update_customer(&customer.id, "follow_up_by", &date)));
    Some(Draft::unique(request, calls, [customers.claim, agent.claim]))
}

fn plot_and_meeting(scene: &mut Scene) -> Option<Draft> {
    let day = scene.visit_day();
    let plot = plot_from(scene, day);
    let (with, meeting) = (scene.anybody(), scene.meeting());
    let request = scene.say(
        &[
            "Make a {kind} chart of {words} since {from} and book '{event}' with {name} {when} at {time}, {minutes} minutes.",
            "I want to discuss {words} since {from} with {name}: plot them as a {kind} chart and put '{event}' in my calendar {when} at {time}, {minutes} minutes.",
        ],
        &[
            &meeting.slots()[..],
            &[("kind", plot.kind), ("words", plot.words), ("from", &plot.from), ("name", &with.name)],
        ]
        .concat(),
    );
    let calls = [plot.call(), with.find, create_event(&meeting.name, with.address, &meeting.slot)];
    Some(Draft::unique(request, calls, [with.claim]))
}

fn meeting_moved(scene: &mut Scene) -> Option<Draft> {
    let with = scene.anybody();
    let (next, search, claim) = scene.next_event(&with)?;
    let (event, when, letter) = (next?, scene.soon(), scene.letter());
    let slot = scene.slot_on(&when);
    if !ends_in_hours(&slot.time, event.minutes) {
        return None;
    }
    let request = scene.say(
        &[
            "Move my next meeting with {name} to another time, {when} at {time}, and mail {name} with subject '{subject}' and body '{body}'",
            "The next meeting with {name} starts {when} at {time} instead. Change that and write to {name}, subject '{subject}', text '{body}'",
        ],
        &[&letter.slots()[..], &[("name", &with.name), ("when", &when.words), ("time", &slot.time)]].concat(),
    );
    let calls = [
        search,
        update_event(&event.id, "event_start", &slot.start()),
        with.find,
        send_mail(with.address, &letter.subject, &letter.body),
    ];
    Some(Draft::unique(request, calls, [claim, with.claim]))
}

fn customer_lost(scene: &mut Scene) -> Option<Draft> {
    let (customer, search, claim) = scene.only_customer()?;
    let (to, letter, name, when) = (scene.teammate(), scene.letter(), task_name(scene.random), scene.soon());
    let board = scene.random.word(&BOARDS);
    if customer.status == "Lost" {
        return None;
    }
    let request = scene.say(
        &[
            "The customer {customer} is lost: change the status, write to the customer's agent, subject '{subject}', text '{body}', and create the task '{task}' for {to} in Backlog on the {board} board, due {when}.",
            "Set the customer {customer} to Lost, give {to} the new task '{task}' in Backlog on the {board} board, due {when}, and mail the agent of the customer with subject '{subject}' and body '{body}'",
        ],
        &[
            &letter.slots()[..],
            &[
                ("customer", &customer.name),
                ("task", &name),
                ("to", &to.name),
                ("board", board),
                ("when", &when.words),
            ],
        ]
        .concat(),
    );
    let agent = &scene.world.people[customer.agent].address;
    let calls = [
        search,
        update_customer(&customer.id, "status", "Lost"),
        send_mail(agent, &letter.subject, &letter.body),
        to.find,
        create_task(&name, to.address, "Backlog", &when.day.iso(), board),
    ];
    Some(Draft::unique(request, calls, [claim, to.claim]))
}

fn kickoff(scene: &mut Scene) -> Option<Draft> {
    let (one, two, letter) = (scene.teammate(), scene.teammate(), scene.letter());
    let (meeting, second) = (scene.meeting(), event_name(scene.random));
    let (task, search, claim) = scene.only_task()?;
    let (name, due) = (task_name(scene.random), scene.future_day());
    let list = scene.other(&LISTS, task.list);
    let board = scene.random.word(&BOARDS);
    if one.index == two.index || meeting.name == second {
        return None;
    }
    let request = scene.say(
        &[
            "Book first '{event}' with {one} and then '{second}' with {two}, both {when} at {time} for {minutes} minutes. Send both a mail with subject '{subject}' and body '{body}', first {one}, then {two}. Move the task '{task}' to {list} and create the task '{new}' for {one} in {list} on the {board} board, due {due}.",
            "Mail {one} and then {two}, each with subject '{subject}' and text '{body}' Create the task '{new}' for {one} in {list} on the {board} board, due {due}, and move '{task}' to the same list. Then two meetings {when} at {time}, {minutes} minutes each: first '{event}' with {one}, then '{second}' with {two}.",
        ],
        &[
            &letter.slots()[..],
            &meeting.slots(),
            &[
                ("second", &second),
                ("one", &one.name),
                ("two", &two.name),
                ("task", &task.name),
                ("new", &name),
                ("list", list),
                ("board", board),
                ("due", &due),
            ],
        ]
        .concat(),
    );
    let calls = [
        one.find,
        two.find,
        create_event(&meeting.name, one.address, &meeting.slot),
        create_event(&second, two.address, &meeting.slot),
        send_mail(one.address, &letter.subject, &letter.body),
        send_mail(two.address, &letter.subject, &letter.body),
        search,
        update_task(&task.id, "list_name", list),
        create_task(&name, one.address, list, &due, board),
    ];
    Some(Draft::unique(request, calls, [claim, one.claim, two.claim]))
}
