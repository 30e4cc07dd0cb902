//! Templates that are never trained on: other fields, other conditions and other combinations of the
//! same tools. They show whether a policy has learned the tools or only the training requests.

use crate::generate::office::{BOARDS, LISTS, PRODUCTS, STATUSES};
use crate::generate::phrases::{body, event_name, subject, task_name};
use crate::generate::random::Random;

use super::domain::{ANALYTICS, CALENDAR, CUSTOMERS, EMAIL, MULTI, PROJECTS};
use super::scene::{
    Scene, count_engaged, count_visits, create_event, create_task, delete_mail, find_address, reply_mail, send_mail,
    update_customer, update_event, update_task,
};
use super::{Draft, Template, template};

pub(super) const TEMPLATES: [Template; 16] = [
    template("email_reply_and_delete", EMAIL, 3, reply_and_delete).held_out(),
    template("email_delete_two", EMAIL, 4, delete_two).held_out(),
    template("calendar_rename_by_id", CALENDAR, 1, rename_by_id).held_out(),
    template("calendar_duration", CALENDAR, 2, duration).held_out(),
    template("calendar_participant", CALENDAR, 3, participant).held_out(),
    template("analytics_plot_three", ANALYTICS, 3, plot_three).held_out(),
    template("analytics_plot_if_engaged", ANALYTICS, 3, plot_if_engaged).held_out(),
    template("task_due_by_id", PROJECTS, 1, due_by_id).held_out(),
    template("task_board", PROJECTS, 2, board).held_out(),
    template("task_rename", PROJECTS, 2, rename_task).held_out(),
    template("customer_status_by_id", CUSTOMERS, 1, status_by_id).held_out(),
    template("customer_product", CUSTOMERS, 2, product).held_out(),
    template("customer_reassign", CUSTOMERS, 3, reassign).held_out(),
    template("customer_status_if", CUSTOMERS, 3, status_if).held_out(),
    template("visits_task_if", MULTI, 3, task_if_visits).held_out(),
    template("schedule_and_mail", MULTI, 3, schedule_and_mail).held_out(),
];

/// Of 100 fillings of a template with a condition, how many meet it; three of sixteen have one.
const CONDITION_MET_PERCENT: usize = 60;

fn met(random: &mut Random) -> bool {
    random.chance(CONDITION_MET_PERCENT)
}

fn reply_and_delete(scene: &mut Scene) -> Option<Draft> {
    let (mail, sender, search) = scene.newest_mail()?;
    let body = body(scene.random);
    let request = scene.say(
        &[
            "Reply to the last mail from {name} about {subject} with '{body}' and then delete that mail.",
            "Answer the newest mail that {name} sent about {subject}: '{body}' Then remove it.",
        ],
        &[("name", &sender.first), ("subject", &mail.subject), ("body", &body)],
    );
    let calls = [search, reply_mail(&mail.id, &body), delete_mail(&mail.id)];
    Some(Draft::new(request, calls))
}

fn delete_two(scene: &mut Scene) -> Option<Draft> {
    let (first, one, search_first) = scene.newest_mail()?;
    let (second, two, search_second) = scene.newest_mail()?;
    if one.first == two.first {
        return None;
    }
    let request = scene.say(
        &[
            "Delete the last mail from {one} about {first} and the last mail from {two} about {second}.",
            "Remove the newest mail that {one} sent about {first} and the newest that {two} sent about {second}.",
        ],
        &[("one", &one.first), ("first", &first.subject), ("two", &two.first), ("second", &second.subject)],
    );
    let calls = [search_first, delete_mail(&first.id), search_second, delete_mail(&second.id)];
    Some(Draft::new(request, calls))
}

fn rename_by_id(scene: &mut Scene) -> Option<Draft> {
    let event = scene.random.pick(&scene.world.events);
    let new = event_name(scene.random);
    if new == event.name {
        return None;
    }
    let request = scene.say(
        &["Rename event {id} to '{new}'.", "Change the name of the event with id {id} to '{new}'."],
        &[("id", &event.id), ("new", &new)],
    );
    Some(Draft::new(request, [update_event(&event.id, "event_name", &new)]))
}

fn duration(scene: &mut Scene) -> Option<Draft> {
    let (event, search) = scene.event()?;
    let minutes = 5 * scene.random.within(2, 60);
    if minutes == event.minutes {
        return None;
    }
    let minutes = minutes.to_string();
    let request = scene.say(
        &[
            "Change the duration of the event '{name}' to {minutes} minutes.",
            "Let '{name}' take {minutes} minutes.",
            "The event '{name}' needs {minutes} minutes, please change it.",
        ],
        &[("name", &event.name), ("minutes", &minutes)],
    );
    let update = update_event(&event.id, "duration", &minutes);
    Some(Draft::new(request, [search, update]))
}

fn participant(scene: &mut Scene) -> Option<Draft> {
    let (event, search) = scene.event()?;
    let with = scene.person();
    if with.address == scene.world.people[event.participant].address {
        return None;
    }
    let request = scene.say(
        &[
            "Change the participant of the event '{name}' to {with}.",
            "Let {with} take part in the event '{name}' instead.",
        ],
        &[("name", &event.name), ("with", &with.first)],
    );
    let update = update_event(&event.id, "participant_email", &with.address);
    Some(Draft::new(request, [search, find_address(&with.first), update]))
}

fn plot_three(scene: &mut Scene) -> Option<Draft> {
    let (one, mut two, mut three) = (scene.plot(), scene.plot(), scene.plot());
    if one.value == two.value || one.value == three.value || two.value == three.value {
        return None;
    }
    for plot in [&mut two, &mut three] {
        plot.from.clone_from(&one.from);
        plot.to.clone_from(&one.to);
        plot.kind = one.kind;
    }
    let request = scene.say(
        &[
            "Plot first {one}, then {two} and then {three} from {from} to {to}, all as {kind} charts.",
            "Make three {kind} charts from {from} to {to}: {one}, then {two}, then {three}.",
        ],
        &[
            ("one", one.words),
            ("two", two.words),
            ("three", three.words),
            ("from", &one.from),
            ("to", &one.to),
            ("kind", one.kind),
        ],
    );
    Some(Draft::new(request, [one.call(), two.call(), three.call()]))
}

fn plot_if_engaged(scene: &mut Scene) -> Option<Draft> {
    let day = scene.visit_day();
    let (_, count) = scene.world.visits_on(day);
    let met = met(scene.random);
    let limit = scene.limit(count, met)?.to_string();
    let plot = scene.plot();
    let date = day.iso();
    let request = scene.say(
        &[
            "If there were more than {limit} engaged users on {date}, plot {words} from {from} to {to} as a {kind} chart.",
            "Plot {words} from {from} to {to} as a {kind} chart if {date} had more than {limit} engaged users.",
        ],
        &[
            ("limit", &limit),
            ("date", &date),
            ("words", plot.words),
            ("from", &plot.from),
            ("to", &plot.to),
            ("kind", plot.kind),
        ],
    );
    let mut calls = vec![count_engaged(&date)];
    calls.extend(met.then(|| plot.call()));
    Some(Draft::new(request, calls))
}

fn due_by_id(scene: &mut Scene) -> Option<Draft> {
    let task = scene.random.pick(&scene.world.tasks);
    let due = scene.future_day();
    if due == task.due.iso() {
        return None;
    }
    let request = scene.say(
        &["Change the due date of task {id} to {due}.", "The task with id {id} is now due {due}."],
        &[("id", &task.id), ("due", &due)],
    );
    Some(Draft::new(request, [update_task(&task.id, "due_date", &due)]))
}

fn board(scene: &mut Scene) -> Option<Draft> {
    let (task, search) = scene.task()?;
    let board = scene.other(&BOARDS, task.board);
    let request = scene.say(
        &["Move the task '{name}' to the {board} board.", "Put '{name}' on the board {board}."],
        &[("name", &task.name), ("board", board)],
    );
    let update = update_task(&task.id, "board", board);
    Some(Draft::new(request, [search, update]))
}

fn rename_task(scene: &mut Scene) -> Option<Draft> {
    let (task, search) = scene.task()?;
    let new = task_name(scene.random);
    if new == task.name {
        return None;
    }
    let request = scene.say(
        &["Rename the task '{name}' to '{new}'.", "Change the name of the task '{name}' to '{new}'."],
        &[("name", &task.name), ("new", &new)],
    );
    let update = update_task(&task.id, "task_name", &new);
    Some(Draft::new(request, [search, update]))
}

fn status_by_id(scene: &mut Scene) -> Option<Draft> {
    let customer = scene.random.pick(&scene.world.customers);
    let status = scene.other(&STATUSES, customer.status);
    let request = scene.say(
        &[
            "Change the status of customer {id} to {status}.",
            "The customer with id {id} is now {status}, please update the status.",
        ],
        &[("id", &customer.id), ("status", status)],
    );
    Some(Draft::new(request, [update_customer(&customer.id, "status", status)]))
}

fn product(scene: &mut Scene) -> Option<Draft> {
    let (customer, search) = scene.customer()?;
    let product = scene.other(&PRODUCTS, customer.product);
    let request = scene.say(
        &[
            "Change the product interest of the customer {name} to {product}.",
            "The customer {name} is now interested in {product}, please update that.",
        ],
        &[("name", &customer.name), ("product", product)],
    );
    let update = update_customer(&customer.id, "product_interest", product);
    Some(Draft::new(request, [search, update]))
}

fn reassign(scene: &mut Scene) -> Option<Draft> {
    let (customer, search) = scene.customer()?;
    let to = scene.agent()?;
    if to.address == scene.world.people[customer.agent].address {
        return None;
    }
    let request = scene.say(
        &[
            "Reassign the customer {name} to {to}.",
            "{to} takes over the customer {name}, please reassign the customer.",
        ],
        &[("name", &customer.name), ("to", &to.first)],
    );
    let update = update_customer(&customer.id, "assigned_to_email", &to.address);
    Some(Draft::new(request, [search, find_address(&to.first), update]))
}

fn status_if(scene: &mut Scene) -> Option<Draft> {
    let (customer, search) = scene.customer()?;
    let met = met(scene.random);
    let old = if met { customer.status } else { scene.other(&STATUSES, customer.status) };
    let new = scene.other(&STATUSES, old);
    let request = scene.say(
        &[
            "If the status of the customer {name} is {old}, change it to {new}.",
            "Change the status of the customer {name} to {new} if it is still {old}.",
        ],
        &[("name", &customer.name), ("old", old), ("new", new)],
    );
    let mut calls = vec![search];
    calls.extend(met.then(|| update_customer(&customer.id, "status", new)));
    Some(Draft::new(request, calls))
}

fn task_if_visits(scene: &mut Scene) -> Option<Draft> {
    let day = scene.visit_day();
    let (count, _) = scene.world.visits_on(day);
    let met = met(scene.random);
    let limit = scene.limit(count, met)?.to_string();
    let date = day.iso();
    let to = &scene.assignee().address;
    let (name, due) = (task_name(scene.random), scene.future_day());
    let (list, board) = (scene.random.word(&LISTS), scene.random.word(&BOARDS));
    let request = scene.say(
        &[
            "If there were more than {limit} visits on {date}, create the task '{name}' for {to} in {list} on the {board} board, due {due}.",
            "If {date} had more than {limit} visits, add '{name}' to {list} on the {board} board, assigned to {to} and due {due}.",
        ],
        &[
            ("limit", &limit),
            ("date", &date),
            ("name", &name),
            ("to", to),
            ("list", list),
            ("board", board),
            ("due", &due),
        ],
    );
    let mut calls = vec![count_visits(&date)];
    calls.extend(met.then(|| create_task(&name, to, list, &due, board)));
    Some(Draft::new(request, calls))
}

fn schedule_and_mail(scene: &mut Scene) -> Option<Draft> {
    let with = scene.person();
    let (name, slot) = (event_name(scene.random), scene.slot());
    let (subject, body) = (subject(scene.random), body(scene.random));
    let request = scene.say(
        &[
            "Schedule a {minutes} minute meeting '{name}' with {with} on {date} at {time} and send a mail with subject '{subject}' and body '{body}'",
            "Book '{name}' with {with} on {date} at {time}, {minutes} minutes, then write to {with}, subject '{subject}', text '{body}'",
        ],
        &[
            ("name", &name),
            ("with", &with.first),
            ("date", &slot.date),
            ("time", &slot.time),
            ("minutes", &slot.minutes),
            ("subject", &subject),
            ("body", &body),
        ],
    );
    let calls = [
        find_address(&with.first),
        create_event(&name, &with.address, &slot),
        send_mail(&with.address, &subject, &body),
    ];
    Some(Draft::new(request, calls))
}
