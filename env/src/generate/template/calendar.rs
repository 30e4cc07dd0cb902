//! Templates on calendar events.

use crate::generate::phrases::event_name;

use super::scene::{Scene, create_event, find_address, search_events, update_event};
use super::{Draft, Template, call, domain::CALENDAR, template, tool};

pub(super) const TEMPLATES: [Template; 6] = [
    template("calendar_create", CALENDAR, 1, create),
    template("calendar_move_by_id", CALENDAR, 1, move_by_id),
    template("calendar_schedule", CALENDAR, 2, schedule),
    template("calendar_cancel", CALENDAR, 2, cancel),
    template("calendar_move", CALENDAR, 2, move_event),
    template("calendar_rename", CALENDAR, 2, rename),
];

/// Of 100 fillings, how many name an event that does not exist.
const NOTHING_FOUND_PERCENT: usize = 15;

fn create(scene: &mut Scene) -> Option<Draft> {
    let with = &scene.person().address;
    let (name, slot) = (event_name(scene.random), scene.slot());
    let request = scene.say(
        &[
            "Create the event '{name}' with {with} on {date} at {time} for {minutes} minutes.",
            "Put '{name}' with {with} in the calendar: {date} at {time}, {minutes} minutes.",
            "Add a {minutes} minute event '{name}' with {with} on {date} at {time}.",
        ],
        &[("name", &name), ("with", with), ("date", &slot.date), ("time", &slot.time), ("minutes", &slot.minutes)],
    );
    Some(Draft::new(request, [create_event(&name, with, &slot)]))
}

fn move_by_id(scene: &mut Scene) -> Option<Draft> {
    let id = &scene.random.pick(&scene.world.events).id;
    let slot = scene.slot();
    let request = scene.say(
        &["Move event {id} to {date} at {time}.", "Let the event with id {id} start on {date} at {time}."],
        &[("id", id), ("date", &slot.date), ("time", &slot.time)],
    );
    Some(Draft::new(request, [update_event(id, "event_start", &slot.start())]))
}

fn schedule(scene: &mut Scene) -> Option<Draft> {
    let with = scene.person();
    let (name, slot) = (event_name(scene.random), scene.slot());
    let request = scene.say(
        &[
            "Schedule a {minutes} minute meeting '{name}' with {with} on {date} at {time}.",
            "Meet {with} for '{name}' on {date} at {time} for {minutes} minutes.",
            "Book '{name}' with {with} on {date} at {time}, {minutes} minutes.",
        ],
        &[
            ("name", &name),
            ("with", &with.first),
            ("date", &slot.date),
            ("time", &slot.time),
            ("minutes", &slot.minutes),
        ],
    );
    let calls = [find_address(&with.first), create_event(&name, &with.address, &slot)];
    Some(Draft::new(request, calls))
}

fn cancel(scene: &mut Scene) -> Option<Draft> {
    const WORDINGS: [&str; 3] =
        ["Cancel the event '{name}'.", "Delete '{name}' from my calendar.", "Please call off the event '{name}'."];
    if scene.random.chance(NOTHING_FOUND_PERCENT) {
        let name = event_name(scene.random);
        let none = scene.world.events_matching(&name).is_empty();
        let request = scene.say(&WORDINGS, &[("name", &name)]);
        return none.then(|| Draft::new(request, [search_events(&name)]));
    }
    let (event, search) = scene.event()?;
    let request = scene.say(&WORDINGS, &[("name", &event.name)]);
    let delete = call(tool::DELETE_EVENT, &[("event_id", &event.id)]);
    Some(Draft::new(request, [search, delete]))
}

fn move_event(scene: &mut Scene) -> Option<Draft> {
    let (event, search) = scene.event()?;
    let slot = scene.slot();
    let request = scene.say(
        &[
            "Move the event '{name}' to {date} at {time}.",
            "Reschedule '{name}' to {date} at {time}.",
            "Let '{name}' start on {date} at {time}.",
        ],
        &[("name", &event.name), ("date", &slot.date), ("time", &slot.time)],
    );
    let update = update_event(&event.id, "event_start", &slot.start());
    Some(Draft::new(request, [search, update]))
}

fn rename(scene: &mut Scene) -> Option<Draft> {
    let (event, search) = scene.event()?;
    let new = event_name(scene.random);
    if new == event.name {
        return None;
    }
    let request = scene.say(
        &[
            "Rename the event '{name}' to '{new}'.",
            "Change the name of the event '{name}' to '{new}'.",
            "Give the event '{name}' the new name '{new}'.",
        ],
        &[("name", &event.name), ("new", &new)],
    );
    let update = update_event(&event.id, "event_name", &new);
    Some(Draft::new(request, [search, update]))
}
