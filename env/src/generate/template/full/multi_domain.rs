//! Templates over several domains, of one to six changes.

use crate::generate::office::{BOARDS, LISTS, PRODUCTS, STATUSES, full_name};
use crate::generate::phrases::{body, event_name, subject, task_name};
use crate::generate::template::domain::MULTI;
use crate::generate::template::scene::{
    Scene, Slot, count_visits, create_event, create_task, delete_mail, reply_mail, send_mail, update_customer,
    update_task,
};
use crate::generate::template::{call, tool};

use super::analytics::plot_from;
use super::calendar::delete_event;
use super::look_up::{PAGE, When};
use super::{Draft, Template, full};

pub(super) const TEMPLATES: [Template; 11] = [
    full("overdue_or_praise", MULTI, 3, overdue_or_praise),
    full("reply_and_task", MULTI, 3, reply_and_task),
    full("meeting_and_task", MULTI, 3, meeting_and_task),
    full("visits_plot_or_task", MULTI, 3, visits_plot_or_task),
    full("customer_won", MULTI, 4, customer_won),
    full("clear_inbox_and_calendar", MULTI, 4, clear_inbox_and_calendar),
    full("colleague_away", MULTI, 4, colleague_away),
    full("task_handover", MULTI, 4, task_handover),
    full("new_customer", MULTI, 4, new_customer),
    full("customers_and_agent", MULTI, 4, customers_and_agent),
    full("launch", MULTI, 4, launch),
];

/// A mail to be written.
pub(super) struct Letter {
    pub subject: String,
    pub body: String,
}

/// A meeting to be booked.
pub(super) struct Meeting {
    pub name: String,
    pub when: When,
    pub slot: Slot,
}

impl Scene<'_> {
    pub(super) fn letter(&mut self) -> Letter {
        Letter { subject: subject(self.random), body: body(self.random) }
    }

    pub(super) fn meeting(&mut self) -> Meeting {
        let (name, when) = (event_name(self.random), self.soon());
        Meeting { name, slot: self.slot_on(&when), when }
    }
}

impl Meeting {
    /// `{event}`, `{when}`, `{time}` and `{minutes}` of a request.
    pub(super) fn slots(&self) -> [(&str, &str); 4] {
        [("event", &self.name), ("when", &self.when.words), ("time", &self.slot.time), ("minutes", &self.slot.minutes)]
    }
}

impl Letter {
    /// `{subject}` and `{body}` of a request.
    pub(super) fn slots(&self) -> [(&str, &str); 2] {
        [("subject", &self.subject), ("body", &self.body)]
    }
}

fn overdue_or_praise(scene: &mut Scene) -> Option<Draft> {
    let to = scene.teammate();
    let (tasks, search) = scene.overdue(&to);
    let (late, fine) = (scene.letter(), scene.letter());
    let request = scene.say(
        &[
            "If {name} has tasks that are not completed although they were due before today, mail {name} with subject '{late}' and body '{late_body}', otherwise with subject '{fine}' and body '{fine_body}'",
            "Does {name} have overdue tasks that are not completed? If so, send {name} a mail, subject '{late}', text '{late_body}'. If not, subject '{fine}', text '{fine_body}'",
        ],
        &[
            ("name", &to.name),
            ("late", &late.subject),
            ("late_body", &late.body),
            ("fine", &fine.subject),
            ("fine_body", &fine.body),
        ],
    );
    let letter = if tasks.hits.is_empty() { fine } else { late };
    let calls = [to.find, search, send_mail(to.address, &letter.subject, &letter.body)];
    Some(Draft::unique(request, calls, [tasks.claim, to.claim]))
}

fn reply_and_task(scene: &mut Scene) -> Option<Draft> {
    let (mail, from, search, claim) = scene.last_mail()?;
    let (to, text, name, when) = (scene.teammate(), body(scene.random), task_name(scene.random), scene.soon());
    let (list, board) = (scene.random.word(&LISTS), scene.random.word(&BOARDS));
    let request = scene.say(
        &[
            "Reply to the last mail from {from} about {subject} with '{body}' and create the task '{task}' for {to} in {list} on the {board} board, due {when}.",
            "Answer {from}'s newest mail about {subject}: '{body}' Also give {to} the new task '{task}' in {list} on the {board} board, due {when}.",
        ],
        &[
            ("from", &from.name),
            ("subject", &mail.subject),
            ("body", &text),
            ("task", &name),
            ("to", &to.name),
            ("list", list),
            ("board", board),
            ("when", &when.words),
        ],
    );
    let create = create_task(&name, to.address, list, &when.day.iso(), board);
    let calls = [search, reply_mail(&mail.id, &text), to.find, create];
    Some(Draft::unique(request, calls, [claim, from.claim, to.claim]))
}

fn meeting_and_task(scene: &mut Scene) -> Option<Draft> {
    let with = scene.teammate();
    let (meeting, name, due) = (scene.meeting(), task_name(scene.random), scene.future_day());
    let (list, board) = (scene.random.word(&LISTS), scene.random.word(&BOARDS));
    let request = scene.say(
        &[
            "Book '{event}' with {name} {when} at {time}, {minutes} minutes, and create the task '{task}' for {name} in {list} on the {board} board, due {due}.",
            "{name} gets the task '{task}' in {list} on the {board} board, due {due}. We meet {when} at {time} for {minutes} minutes to talk about it, call the event '{event}'.",
        ],
        &[
            &meeting.slots()[..],
            &[("name", &with.name), ("task", &name), ("list", list), ("board", board), ("due", &due)],
        ]
        .concat(),
    );
    let calls = [
        with.find,
        create_event(&meeting.name, with.address, &meeting.slot),
        create_task(&name, with.address, list, &due, board),
    ];
    Some(Draft::unique(request, calls, [with.claim]))
}

fn visits_plot_or_task(scene: &mut Scene) -> Option<Draft> {
    let day = scene.visit_day();
    let met = scene.random.chance(50);
    let limit = scene.limit(scene.world.visits_on(day).0, met)?.to_string();
    let plot = plot_from(scene, day);
    let (to, letter, name, when) = (scene.teammate(), scene.letter(), task_name(scene.random), scene.soon());
    let (date, board) = (day.iso(), scene.random.word(&BOARDS));
    let request = scene.say(
        &[
            "If there were more than {limit} visits on {date}, plot {words} since {date} as a {kind} chart and mail {name} with subject '{subject}' and body '{body}' Otherwise create the task '{task}' for {name} in Backlog on the {board} board, due {when}.",
            "Count the visits on {date}. If they are more than {limit}, make a {kind} chart of {words} since {date} and write to {name}, subject '{subject}', text '{body}' If not, {name} gets the task '{task}' in Backlog on the {board} board, due {when}.",
        ],
        &[
            &letter.slots()[..],
            &[
                ("limit", &limit),
                ("date", &date),
                ("words", plot.words),
                ("kind", plot.kind),
                ("name", &to.name),
                ("task", &name),
                ("board", board),
                ("when", &when.words),
            ],
        ]
        .concat(),
    );
    let mut calls = vec![count_visits(&date)];
    if met {
        calls.extend([plot.call(), to.find, send_mail(to.address, &letter.subject, &letter.body)]);
    } else {
        calls.extend([to.find, create_task(&name, to.address, "Backlog", &when.day.iso(), board)]);
    }
    Some(Draft::unique(request, calls, [to.claim]))
}

fn customer_won(scene: &mut Scene) -> Option<Draft> {
    let (customer, search, claim) = scene.only_customer()?;
    let (letter, date) = (scene.letter(), scene.future_day());
    if customer.status == "Won" {
        return None;
    }
    let request = scene.say(
        &[
            "The customer {customer} has signed: set the status to Won and the follow-up date to {date}, and write to the customer's agent, subject '{subject}', text '{body}'",
            "We have won {customer}. Update the customer's status, follow up on {date}, and mail the agent with subject '{subject}' and body '{body}'",
        ],
        &[&letter.slots()[..], &[("customer", &customer.name), ("date", &date)]].concat(),
    );
    let agent = &scene.world.people[customer.agent].address;
    let calls = [
        search,
        update_customer(&customer.id, "status", "Won"),
        update_customer(&customer.id, "follow_up_by", &date),
        send_mail(agent, &letter.subject, &letter.body),
    ];
    Some(Draft::unique(request, calls, [claim]))
}

fn clear_inbox_and_calendar(scene: &mut Scene) -> Option<Draft> {
    let from = scene.anybody();
    let since = scene.lately(14);
    let (mails, search_mails) = scene.mails_since(&from, since.day);
    let (next, search_events, next_claim) = scene.next_event(&from)?;
    if !(1..=PAGE).contains(&mails.hits.len()) {
        return None;
    }
    let request = scene.say(
        &[
            "Delete all mails from {name} since {since} and cancel my next meeting with {name}.",
            "Call off the next meeting with {name} and remove the mails that {name} has sent since {since}.",
        ],
        &[("name", &from.name), ("since", &since.words)],
    );
    let mut calls = vec![search_mails];
    calls.extend(mails.hits.iter().map(|mail| delete_mail(&mail.id)));
    calls.extend([search_events, delete_event(&next?.id)]);
    Some(Draft::unique(request, calls, [mails.claim, next_claim, from.claim]))
}

fn colleague_away(scene: &mut Scene) -> Option<Draft> {
    let who = scene.anybody();
    let (events, search) = scene.events_next_week(&who);
    let letter = scene.letter();
    if !(1..=4).contains(&events.hits.len()) {
        return None;
    }
    let request = scene.say(
        &[
            "{name} is away next week: cancel our meetings of that week and send {name} a mail with subject '{subject}' and body '{body}'",
            "Delete all my meetings with {name} next week and mail {name}, subject '{subject}', text '{body}'",
        ],
        &[&letter.slots()[..], &[("name", &who.name)]].concat(),
    );
    let mut calls = vec![search];
    calls.extend(events.hits.iter().map(|event| delete_event(&event.id)));
    calls.extend([who.find, send_mail(who.address, &letter.subject, &letter.body)]);
    Some(Draft::unique(request, calls, [events.claim, who.claim]))
}

fn task_handover(scene: &mut Scene) -> Option<Draft> {
    let (task, search, claim) = scene.only_task()?;
    let (to, letter, meeting) = (scene.teammate(), scene.letter(), scene.meeting());
    if to.index == task.assignee {
        return None;
    }
    let request = scene.say(
        &[
            "Hand the task '{task}' over to {to}: reassign it, mail {to} with subject '{subject}' and body '{body}', and book '{event}' with {to} {when} at {time}, {minutes} minutes.",
            "{to} takes over the task '{task}'. Change the assignee, meet {to} {when} at {time} for '{event}', {minutes} minutes, and write to {to}, subject '{subject}', text '{body}'",
        ],
        &[&letter.slots()[..], &meeting.slots(), &[("task", &task.name), ("to", &to.name)]].concat(),
    );
    let calls = [
        search,
        to.find,
        update_task(&task.id, "assigned_to_email", to.address),
        send_mail(to.address, &letter.subject, &letter.body),
        create_event(&meeting.name, to.address, &meeting.slot),
    ];
    Some(Draft::unique(request, calls, [claim, to.claim]))
}

fn new_customer(scene: &mut Scene) -> Option<Draft> {
    let (agent, letter, meeting) = (scene.customer_agent(), scene.letter(), scene.meeting());
    let name = full_name(scene.random);
    let (status, product) = (scene.random.word(&STATUSES), scene.random.word(&PRODUCTS));
    let request = scene.say(
        &[
            "New customer {customer} for {agent}: add the entry with status {status} and interest {product}, book '{event}' with {agent} {when} at {time}, {minutes} minutes, and mail {agent}, subject '{subject}', text '{body}'",
            "{agent} has a new customer, {customer}, status {status}, interested in {product}. Enter that, write to {agent} with subject '{subject}': '{body}' Also put '{event}' with {agent} in my calendar {when} at {time} for {minutes} minutes.",
        ],
        &[
            &letter.slots()[..],
            &meeting.slots(),
            &[("customer", &name), ("agent", &agent.name), ("status", status), ("product", product)],
        ]
        .concat(),
    );
    let add = call(
        tool::ADD_CUSTOMER,
        &[
            ("customer_name", &name),
            ("assigned_to_email", agent.address),
            ("status", status),
            ("product_interest", product),
        ],
    );
    let calls = [
        agent.find,
        add,
        create_event(&meeting.name, agent.address, &meeting.slot),
        send_mail(agent.address, &letter.subject, &letter.body),
    ];
    Some(Draft::unique(request, calls, [agent.claim]))
}

fn customers_and_agent(scene: &mut Scene) -> Option<Draft> {
    let (agent, letter) = (scene.customer_agent(), scene.letter());
    let (status, product) = (scene.random.word(&STATUSES), scene.random.word(&PRODUCTS));
    let new = scene.other(&STATUSES, status);
    let (customers, search) = scene.customers_of(&agent, (status, product), PAGE)?;
    let request = scene.say(
        &[
            "All customers of {agent} with status {status} and an interest in {product} now have the status {new}. Update them and tell {agent}, subject '{subject}', text '{body}'",
            "Change the {status} customers of {agent} who are interested in {product} to {new} and mail {agent} with subject '{subject}' and body '{body}'",
        ],
        &[
            &letter.slots()[..],
            &[("agent", &agent.name), ("status", status), ("product", product), ("new", new)],
        ]
        .concat(),
    );
    let mut calls = vec![agent.find, search];
    calls.extend(customers.hits.iter().map(|customer| update_customer(&customer.id, "status", new)));
    calls.push(send_mail(agent.address, &letter.subject, &letter.body));
    Some(Draft::unique(request, calls, [customers.claim, agent.claim]))
}

fn launch(scene: &mut Scene) -> Option<Draft> {
    let (one, two, meeting, letter) = (scene.teammate(), scene.teammate(), scene.meeting(), scene.letter());
    let (customer, search, claim) = scene.only_customer()?;
    let (first, second) = (task_name(scene.random), task_name(scene.random));
    let (due, follow_up) = (scene.future_day(), scene.future_day());
    let (list, board) = (scene.random.word(&LISTS), scene.random.word(&BOARDS));
    if one.index == two.index {
        return None;
    }
    let request = scene.say(
        &[
            "Prepare the work for the customer {customer}: first create the task '{first}' for {one} and then the task '{second}' for {two}, both in {list} on the {board} board, due {due}. Book '{event}' with {one} {when} at {time}, {minutes} minutes. Mail first {one} and then {two}, both with subject '{subject}' and body '{body}' Follow up with the customer on {follow_up}.",
            "For the customer {customer}, who is to be followed up on {follow_up}, two tasks in {list} on the {board} board are due {due}: create first '{first}' for {one}, then '{second}' for {two}. Write to {one} and then to {two}, subject '{subject}', text '{body}' I meet {one} {when} at {time} for '{event}', {minutes} minutes, book that too.",
        ],
        &[
            &letter.slots()[..],
            &meeting.slots(),
            &[
                ("customer", &customer.name),
                ("first", &first),
                ("second", &second),
                ("one", &one.name),
                ("two", &two.name),
                ("list", list),
                ("board", board),
                ("due", &due),
                ("follow_up", &follow_up),
            ],
        ]
        .concat(),
    );
    let calls = [
        one.find,
        two.find,
        search,
        create_task(&first, one.address, list, &due, board),
        create_task(&second, two.address, list, &due, board),
        create_event(&meeting.name, one.address, &meeting.slot),
        send_mail(one.address, &letter.subject, &letter.body),
        send_mail(two.address, &letter.subject, &letter.body),
        update_customer(&customer.id, "follow_up_by", &follow_up),
    ];
    Some(Draft::unique(request, calls, [claim, one.claim, two.claim]))
}
