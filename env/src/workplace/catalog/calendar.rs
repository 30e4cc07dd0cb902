//! Schemas of the calendar tools.

use super::{PAGE, PAGE_SIZE, Parameter, TEXT, Tool};
use crate::workplace::calendar;

const EVENT_ID: Parameter = ("event_id", TEXT, "The event's ID, eight digits");
const NEW_VALUE: Parameter = ("new_value", TEXT, "What the field should hold from now on");

pub(super) static TOOLS: [Tool; 5] = [
    Tool {
        name: "calendar_get_event_information_by_id",
        method: "CalendarTool.get_event_information_by_id",
        description: "Read one field of a calendar event whose ID is known.",
        parameters: &[
            EVENT_ID,
            (
                "field",
                TEXT,
                "Which field to read: 'event_id', 'event_name', 'participant_email', 'event_start' or 'duration'",
            ),
        ],
        num_required: 2,
        run: calendar::get_event_information_by_id,
    },
    Tool {
        name: "calendar_search_events",
        method: "CalendarTool.search_events",
        description: "Find calendar events by name or participant and by start, latest first.",
        parameters: &[
            ("query", TEXT, "Text to look for in names and participants' email addresses"),
            ("time_min", TEXT, "Earliest start to include, as YYYY-MM-DD HH:MM:SS"),
            ("time_max", TEXT, "Latest start to include, as YYYY-MM-DD HH:MM:SS"),
            PAGE,
            PAGE_SIZE,
        ],
        num_required: 0,
        run: calendar::search_events,
    },
    Tool {
        name: "calendar_create_event",
        method: "CalendarTool.create_event",
        description: "Put a new event into the calendar.",
        parameters: &[
            ("event_name", TEXT, "What the event is called"),
            ("participant_email", TEXT, "Email address of who takes part"),
            ("event_start", TEXT, "When it starts, as YYYY-MM-DD HH:MM:SS"),
            ("duration", TEXT, "How many minutes it lasts"),
        ],
        num_required: 4,
        run: calendar::create_event,
    },
    Tool {
        name: "calendar_delete_event",
        method: "CalendarTool.delete_event",
        description: "Take an event out of the calendar.",
        parameters: &[EVENT_ID],
        num_required: 1,
        run: calendar::delete_event,
    },
    Tool {
        name: "calendar_update_event",
        method: "CalendarTool.update_event",
        description: "Change one field of a calendar event.",
        parameters: &[
            EVENT_ID,
            ("field", TEXT, "Which field to change: 'event_name', 'participant_email', 'event_start' or 'duration'"),
            NEW_VALUE,
        ],
        num_required: 3,
        run: calendar::update_event,
    },
];
