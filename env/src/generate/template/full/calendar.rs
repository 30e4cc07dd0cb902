//! Templates on calendar events.

use crate::generate::claim::{Claim, TableName};
use crate::generate::phrases::event_name;
use crate::generate::template::domain::CALENDAR;
use crate::generate::template::scene::{Scene, create_event, search_events, update_event};
use crate::generate::template::{call, tool};
use crate::tool::ToolCall;

use super::look_up::{PAGE, column, ends_in_hours, is};
use super::{Draft, Template, full};

pub(super) const TEMPLATES: [Template; 7] = [
    full("calendar_schedule_soon", CALENDAR, 2, schedule_soon),
    full("calendar_too_late", CALENDAR, 2, too_late),
    full("calendar_cancel_next", CALENDAR, 3, cancel_next),
    full("calendar_rename_first", CALENDAR, 3, rename_first),
    full("calendar_move_with", CALENDAR, 3, move_with),
    full("calendar_book_if_free", CALENDAR, 3, book_if_free),
    full("calendar_clear_day", CALENDAR, 4, clear_day),
];

const BOOK: [&str; 3] = [
    "Book '{event}' with {name} {when} at {time}, {minutes} minutes.",
    "Please set up a {minutes} minute meeting '{event}' with {name} {when} at {time}.",
    "{when} at {time} I want to meet {name} for '{event}', {minutes} minutes.",
];

/// Times at which no meeting may be.
const OUT_OF_HOURS: [&str; 6] = ["06:30", "07:15", "19:00", "20:30", "21:15", "22:00"];

pub(super) fn delete_event(id: &str) -> ToolCall {
    call(tool::DELETE_EVENT, &[("event_id", id)])
}

fn schedule_soon(scene: &mut Scene) -> Option<Draft> {
    let with = scene.anybody();
    let (event, when) = (event_name(scene.random), scene.soon());
    let slot = scene.slot_on(&when);
    let request = scene.say_capitalized(
        &BOOK,
        &[
            ("event", &event),
            ("name", &with.name),
            ("when", &when.words),
            ("time", &slot.time),
            ("minutes", &slot.minutes),
        ],
    );
    Some(Draft::unique(request, [with.find, create_event(&event, with.address, &slot)], [with.claim]))
}

fn too_late(scene: &mut Scene) -> Option<Draft> {
    let with = scene.anybody();
    let (event, when) = (event_name(scene.random), scene.soon());
    let minutes = scene.slot().minutes;
    let time = scene.random.word(&OUT_OF_HOURS);
    let request = scene.say_capitalized(
        &BOOK,
        &[("event", &event), ("name", &with.name), ("when", &when.words), ("time", time), ("minutes", &minutes)],
    );
    Some(Draft::unique(request, [with.find], [with.claim]))
}

fn cancel_next(scene: &mut Scene) -> Option<Draft> {
    let with = scene.anybody();
    let (next, search, claim) = scene.next_event(&with)?;
    let request = scene.say(
        &[
            "Cancel my next meeting with {name}, if there is one.",
            "If I have another meeting with {name}, call off the next one.",
        ],
        &[("name", &with.name)],
    );
    let mut calls = vec![search];
    calls.extend(next.map(|event| delete_event(&event.id)));
    Some(Draft::unique(request, calls, [claim, with.claim]))
}

fn rename_first(scene: &mut Scene) -> Option<Draft> {
    let (when, events, search) = scene.busy_day(PAGE)?;
    let new = event_name(scene.random);
    let (which, event) =
        if scene.random.chance(50) { ("first", events.hits.first()?) } else { ("last", events.hits.last()?) };
    if new == event.name {
        return None;
    }
    let request = scene.say(
        &[
            "Rename the {which} event {when} to '{new}'.",
            "My {which} event {when} should be called '{new}', change its name.",
        ],
        &[("which", which), ("when", &when.words), ("new", &new)],
    );
    Some(Draft::unique(request, [search, update_event(&event.id, "event_name", &new)], [events.claim]))
}

/// Several events have the name; the participant tells them apart.
fn move_with(scene: &mut Scene) -> Option<Draft> {
    let event = scene.random.pick(&scene.world.events);
    let with = scene.whom(event.participant);
    let hits = scene.world.events_matching(&event.name);
    let is_it = |&&hit: &&usize| scene.world.events[hit].participant == event.participant;
    if !(2..=PAGE).contains(&hits.len()) || hits.iter().filter(is_it).count() != 1 {
        return None;
    }
    let when = scene.soon();
    let slot = scene.slot_on(&when);
    if !ends_in_hours(&slot.time, event.minutes) {
        return None;
    }
    let request = scene.say(
        &[
            "Move the event '{event}' with {name} to another time: {when} at {time}.",
            "I have to change the event '{event}' with {name}, let it start {when} at {time}.",
        ],
        &[("event", &event.name), ("name", &with.name), ("when", &when.words), ("time", &slot.time)],
    );
    let tests = vec![is(column::EVENT_NAME, &event.name), is(column::EVENT_WITH, with.address)];
    let claim = Claim::Rows { table: TableName::Events, tests, ids: vec![event.id.clone()] };
    let calls = [search_events(&event.name), update_event(&event.id, "event_start", &slot.start())];
    Some(Draft::unique(request, calls, [claim, with.claim]))
}

fn book_if_free(scene: &mut Scene) -> Option<Draft> {
    let with = scene.anybody();
    let (events, search) = scene.events_next_week(&with);
    let (event, when) = (event_name(scene.random), scene.soon());
    let slot = scene.slot_on(&when);
    let request = scene.say(
        &[
            "If I have no meeting with {name} next week, book '{event}' with {name} {when} at {time}, {minutes} minutes.",
            "Do I meet {name} next week? If not, put '{event}' with {name} in my calendar {when} at {time} for {minutes} minutes.",
        ],
        &[
            ("event", &event),
            ("name", &with.name),
            ("when", &when.words),
            ("time", &slot.time),
            ("minutes", &slot.minutes),
        ],
    );
    let mut calls = vec![search];
    if events.hits.is_empty() {
        calls.extend([with.find, create_event(&event, with.address, &slot)]);
    }
    Some(Draft::unique(request, calls, [events.claim, with.claim]))
}

fn clear_day(scene: &mut Scene) -> Option<Draft> {
    let (when, events, search) = scene.busy_day(4)?;
    let request = scene.say(
        &[
            "Cancel everything that is in my calendar {when}.",
            "I am not in the office {when}, delete all events of that day.",
            "Clear my calendar {when}.",
        ],
        &[("when", &when.words)],
    );
    let mut calls = vec![search];
    calls.extend(events.hits.iter().map(|event| delete_event(&event.id)));
    Some(Draft::unique(request, calls, [events.claim]))
}
