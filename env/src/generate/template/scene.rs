//! What a template has at hand while it is filled: an office, random draws, and the calls that many
//! templates share.

use crate::generate::dates::{Day, FIRST_VISIT, LAST_FUTURE, TODAY, clock};
use crate::generate::random::Random;
use crate::generate::world::{Customer, Event, Mail, Person, ProjectTask, World};
use crate::tool::ToolCall;

use super::{call, tool};

/// What can be plotted: the words of a request and the argument.
const PLOT_VALUES: [(&str, &str); 7] = [
    ("total visits", "total_visits"),
    ("session duration", "session_duration_seconds"),
    ("engaged users", "user_engaged"),
    ("direct visits", "visits_direct"),
    ("referral visits", "visits_referral"),
    ("search engine visits", "visits_search_engine"),
    ("social media visits", "visits_social_media"),
];
const PLOT_TYPES: [&str; 4] = ["bar", "line", "scatter", "histogram"];

/// An office and a stream of random numbers.
pub(in crate::generate) struct Scene<'a> {
    pub world: &'a World,
    pub random: &'a mut Random,
}

/// Something to plot.
pub(in crate::generate) struct Plot {
    pub from: String,
    pub to: String,
    /// As a request says it.
    pub words: &'static str,
    pub value: &'static str,
    pub kind: &'static str,
}

impl Plot {
    pub fn call(&self) -> ToolCall {
        call(
            tool::CREATE_PLOT,
            &[
                ("time_min", &self.from),
                ("time_max", &self.to),
                ("value_to_plot", self.value),
                ("plot_type", self.kind),
            ],
        )
    }
}

/// When a new meeting is.
pub(in crate::generate) struct Slot {
    pub date: String,
    /// `10:30`
    pub time: String,
    pub minutes: String,
}

impl Slot {
    /// `2023-12-05 10:30:00`
    pub fn start(&self) -> String {
        format!("{} {}:00", self.date, self.time)
    }
}

impl<'a> Scene<'a> {
    /// One of several wordings with its `{slots}` filled.
    pub fn say(&mut self, wordings: &[&str], slots: &[(&str, &str)]) -> String {
        let mut text = (*self.random.pick(wordings)).to_owned();
        for (slot, value) in slots {
            text = text.replace(&format!("{{{slot}}}"), value);
        }
        text
    }

    /// One of several wordings as the beginning of a sentence, whatever slot it starts with.
    pub fn say_capitalized(&mut self, wordings: &[&str], slots: &[(&str, &str)]) -> String {
        let text = self.say(wordings, slots);
        let first = text.chars().next().map(|first| first.to_ascii_uppercase());
        first.into_iter().chain(text.chars().skip(1)).collect()
    }

    /// Somebody whose first name nobody shares.
    pub fn person(&mut self) -> &'a Person {
        loop {
            let index = self.random.below(self.world.people.len());
            if self.world.is_alone(index) {
                return &self.world.people[index];
            }
        }
    }

    /// Index of a person with project tasks, whose first name nobody shares.
    pub fn team_member(&mut self) -> usize {
        loop {
            let index = *self.random.pick(&self.world.team);
            if self.world.is_alone(index) {
                return index;
            }
        }
    }

    /// Somebody with project tasks.
    pub fn assignee(&mut self) -> &'a Person {
        let index = self.team_member();
        &self.world.people[index]
    }

    /// Somebody who looks after customers, whose first name nobody shares.
    pub fn agent(&mut self) -> Option<&'a Person> {
        let index = *self.random.pick(&self.world.agents);
        self.world.is_alone(index).then(|| &self.world.people[index])
    }

    /// A weekday after today.
    pub fn meeting_day(&mut self) -> Day {
        Day::draw_weekday(self.random, Day(TODAY.0 + 1), LAST_FUTURE)
    }

    /// A day after today, for due dates and follow-ups.
    pub fn future_day(&mut self) -> String {
        Day::draw(self.random, Day(TODAY.0 + 1), LAST_FUTURE).iso()
    }

    /// A meeting between 9:00 and 18:00, of 10 to 300 minutes in steps of five.
    pub fn slot(&mut self) -> Slot {
        let minutes = 5 * self.random.within(2, 60);
        let latest_quarter = (18 * 60 - minutes) / 15;
        let start = 15 * self.random.within(9 * 4, latest_quarter);
        Slot { date: self.meeting_day().iso(), time: clock(start), minutes: minutes.to_string() }
    }

    pub fn visit_day(&mut self) -> Day {
        Day::draw(self.random, FIRST_VISIT, TODAY)
    }

    pub fn plot(&mut self) -> Plot {
        let first = self.random.within(FIRST_VISIT.0, TODAY.0 - 7);
        let last = self.random.within(first + 1, TODAY.0);
        let &(words, value) = self.random.pick(&PLOT_VALUES);
        Plot { from: Day(first).iso(), to: Day(last).iso(), words, value, kind: self.random.word(&PLOT_TYPES) }
    }

    /// A limit for "more than `limit`": below `count` by one to four when the condition is to be
    /// met, otherwise `count` itself or up to three more. `None` when no positive limit is below.
    pub fn limit(&mut self, count: usize, met: bool) -> Option<usize> {
        if met {
            let most = count.checked_sub(1)?.min(4);
            (most > 0).then(|| count - self.random.within(1, most))
        } else {
            Some(count + self.random.below(4))
        }
    }

    /// A mail, the search that finds it first and the number of mails found.
    pub fn newest_mail(&mut self) -> Option<(&'a Mail, &'a Person, ToolCall)> {
        let picked = self.random.pick(&self.world.mails);
        let sender = &self.world.people[picked.sender];
        let query = format!("{} {}", sender.first, picked.subject);
        let hits = self.world.mails_matching(&query);
        let newest = &self.world.mails[*hits.first()?];
        let same = |&hit: &usize| {
            let mail = &self.world.mails[hit];
            mail.sender == picked.sender && mail.subject == picked.subject
        };
        // Something else that happens to contain the words would make the request ambiguous.
        (hits.len() <= 3 && hits.iter().all(same)).then(|| (newest, sender, search_mails(&query)))
    }

    /// A sender and a subject without any mail, and the search that shows it.
    pub fn no_mail(&mut self) -> Option<(&'a Person, String, ToolCall)> {
        let sender = self.person();
        let subject = crate::generate::phrases::subject(self.random);
        let query = format!("{} {subject}", sender.first);
        let none = self.world.mails_matching(&query).is_empty();
        none.then(|| (sender, subject, search_mails(&query)))
    }

    /// An event whose name is unique, and the search for it.
    pub fn event(&mut self) -> Option<(&'a Event, ToolCall)> {
        let event = self.random.pick(&self.world.events);
        let unique = self.world.events_matching(&event.name).len() == 1;
        unique.then(|| (event, search_events(&event.name)))
    }

    /// A task whose name is unique, and the search for it.
    pub fn task(&mut self) -> Option<(&'a ProjectTask, ToolCall)> {
        let task = self.random.pick(&self.world.tasks);
        let unique = self.world.tasks_matching(&task.name).len() == 1;
        unique.then(|| (task, search_tasks(&task.name)))
    }

    /// A customer whose name is unique, and the search for it.
    pub fn customer(&mut self) -> Option<(&'a Customer, ToolCall)> {
        let customer = self.random.pick(&self.world.customers);
        let unique = self.world.customers_matching(&customer.name).len() == 1;
        unique.then(|| (customer, search_customers(&customer.name)))
    }

    /// One of `choices` other than `current`.
    pub fn other(&mut self, choices: &[&'static str], current: &str) -> &'static str {
        loop {
            let choice = *self.random.pick(choices);
            if choice != current {
                return choice;
            }
        }
    }
}

pub(super) fn find_address(first: &str) -> ToolCall {
    call(tool::FIND_ADDRESS, &[("name", first)])
}

pub(super) fn search_mails(query: &str) -> ToolCall {
    call(tool::SEARCH_MAILS, &[("query", query)])
}

pub(super) fn search_events(query: &str) -> ToolCall {
    call(tool::SEARCH_EVENTS, &[("query", query)])
}

pub(super) fn search_tasks(name: &str) -> ToolCall {
    call(tool::SEARCH_TASKS, &[("task_name", name)])
}

pub(super) fn search_customers(name: &str) -> ToolCall {
    call(tool::SEARCH_CUSTOMERS, &[("customer_name", name)])
}

pub(super) fn send_mail(recipient: &str, subject: &str, body: &str) -> ToolCall {
    call(tool::SEND_MAIL, &[("recipient", recipient), ("subject", subject), ("body", body)])
}

pub(super) fn delete_mail(id: &str) -> ToolCall {
    call(tool::DELETE_MAIL, &[("email_id", id)])
}

pub(super) fn reply_mail(id: &str, body: &str) -> ToolCall {
    call(tool::REPLY_MAIL, &[("email_id", id), ("body", body)])
}

pub(super) fn create_event(name: &str, participant: &str, slot: &Slot) -> ToolCall {
    call(
        tool::CREATE_EVENT,
        &[
            ("event_name", name),
            ("participant_email", participant),
            ("event_start", &slot.start()),
            ("duration", &slot.minutes),
        ],
    )
}

pub(super) fn update_event(id: &str, field: &str, value: &str) -> ToolCall {
    call(tool::UPDATE_EVENT, &[("event_id", id), ("field", field), ("new_value", value)])
}

pub(super) fn create_task(name: &str, assignee: &str, list: &str, due: &str, board: &str) -> ToolCall {
    call(
        tool::CREATE_TASK,
        &[
            ("task_name", name),
            ("assigned_to_email", assignee),
            ("list_name", list),
            ("due_date", due),
            ("board", board),
        ],
    )
}

pub(super) fn update_task(id: &str, field: &str, value: &str) -> ToolCall {
    call(tool::UPDATE_TASK, &[("task_id", id), ("field", field), ("new_value", value)])
}

pub(super) fn update_customer(id: &str, field: &str, value: &str) -> ToolCall {
    call(tool::UPDATE_CUSTOMER, &[("customer_id", id), ("field", field), ("new_value", value)])
}

pub(super) fn count_visits(date: &str) -> ToolCall {
    call(tool::COUNT_VISITS, &[("time_min", date), ("time_max", date)])
}

pub(super) fn count_engaged(date: &str) -> ToolCall {
    call(tool::COUNT_ENGAGED, &[("time_min", date), ("time_max", date)])
}

pub(super) fn count_source(date: &str, source: &str) -> ToolCall {
    call(tool::COUNT_SOURCE, &[("time_min", date), ("time_max", date), ("traffic_source", source)])
}
