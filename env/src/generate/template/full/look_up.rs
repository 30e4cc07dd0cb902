//! What the full suite's templates have at hand besides [`Scene`]'s own: colleagues by whatever name is enough, days in
//! words, and groups of rows with the claim that singles them out.

use crate::generate::claim::{Claim, TableName, Test};
use crate::generate::dates::{Day, LAST_EVENT, NEXT_MONDAY, NEXT_SUNDAY, TODAY};
use crate::generate::template::scene::{Scene, Slot, find_address};
use crate::generate::template::{call, tool};
use crate::generate::world::{Customer, Event, Mail, ProjectTask};
use crate::tool::ToolCall;

/// Columns of the tables, for claims.
pub(super) mod column {
    pub const MAIL_SENDER: usize = 2;
    pub const MAIL_SUBJECT: usize = 3;
    pub const MAIL_SENT: usize = 4;
    pub const EVENT_NAME: usize = 1;
    pub const EVENT_WITH: usize = 2;
    pub const EVENT_START: usize = 3;
    pub const TASK_NAME: usize = 1;
    pub const TASK_ASSIGNEE: usize = 2;
    pub const TASK_LIST: usize = 3;
    pub const TASK_DUE: usize = 4;
    pub const TASK_BOARD: usize = 5;
    pub const CUSTOMER_AGENT: usize = 1;
    pub const CUSTOMER_NAME: usize = 2;
    pub const CUSTOMER_ADDRESS: usize = 3;
    pub const CUSTOMER_PRODUCT: usize = 6;
    pub const CUSTOMER_STATUS: usize = 7;
}

/// The present, as the calendar writes it.
const NOW: &str = "2023-11-30 23:59:00";
/// Hits that fit on the first page of a search.
pub(super) const PAGE: usize = 5;
/// Name of the list of tasks that are done.
pub(super) const COMPLETED: &str = "Completed";

/// A colleague as a request names them.
pub(super) struct Whom<'a> {
    pub index: usize,
    /// The first name, or both names where the first is not enough.
    pub name: String,
    pub address: &'a str,
    /// The look-up of the address.
    pub find: ToolCall,
    /// The name means nobody else.
    pub claim: Claim,
}

impl Whom<'_> {
    /// What finds them in mails and events, and nobody else.
    pub fn query(&self) -> String {
        self.name.replace(' ', ".")
    }

    fn is(&self, column: usize) -> (usize, Test) {
        (column, Test::Is(self.address.to_owned()))
    }
}

/// A day in words.
pub(super) struct When {
    /// `tomorrow`, `next Friday`, `in two weeks`, `on December 12`
    pub words: String,
    pub day: Day,
}

/// All that fits a description, and the claim that nothing else does.
pub(super) struct Group<'a, T> {
    pub hits: Vec<&'a T>,
    pub claim: Claim,
}

fn claim<'a>(table: TableName, tests: Vec<(usize, Test)>, ids: impl Iterator<Item = &'a String>) -> Claim {
    Claim::Rows { table, tests, ids: ids.cloned().collect() }
}

pub(super) fn is(column: usize, text: &str) -> (usize, Test) {
    (column, Test::Is(text.to_owned()))
}

fn at_least(column: usize, text: &str) -> (usize, Test) {
    (column, Test::AtLeast(text.to_owned()))
}

fn at_most(column: usize, text: &str) -> (usize, Test) {
    (column, Test::AtMost(text.to_owned()))
}

/// The earliest and the latest moment of a day or of several.
fn bounds(first: Day, last: Day) -> (String, String) {
    (format!("{} 00:00:00", first.iso()), format!("{} 23:59:59", last.iso()))
}

/// Whether an event that starts at a time of day (`10:30`) and takes so long ends in working hours.
pub(super) fn ends_in_hours(start: &str, minutes: usize) -> bool {
    let parts = start.split_once(':').and_then(|(hour, minute)| Some((hour.parse().ok()?, minute.parse().ok()?)));
    parts.is_some_and(|(hour, minute): (usize, usize)| 60 * hour + minute + minutes <= 18 * 60)
}

impl<'a> Scene<'a> {
    /// A colleague, by first name if nobody shares it.
    pub(super) fn whom(&mut self, index: usize) -> Whom<'a> {
        let person = &self.world.people[index];
        let name =
            if self.world.is_alone(index) { person.first.clone() } else { format!("{} {}", person.first, person.last) };
        let claim = Claim::Colleagues { name: name.clone(), count: 1 };
        Whom { index, name, address: &person.address, find: find_address(&person.first), claim }
    }

    pub(super) fn anybody(&mut self) -> Whom<'a> {
        let index = self.random.below(self.world.people.len());
        self.whom(index)
    }

    /// Somebody with project tasks.
    pub(super) fn teammate(&mut self) -> Whom<'a> {
        let index = *self.random.pick(&self.world.team);
        self.whom(index)
    }

    /// Somebody who looks after customers.
    pub(super) fn customer_agent(&mut self) -> Whom<'a> {
        let index = *self.random.pick(&self.world.agents);
        self.whom(index)
    }

    /// Somebody who shares a first name.
    pub(super) fn namesake(&mut self) -> Option<Whom<'a>> {
        let index = self.random.below(self.world.people.len());
        (!self.world.is_alone(index)).then(|| self.whom(index))
    }

    /// A weekday to come.
    pub(super) fn soon(&mut self) -> When {
        const WEEKDAYS: [&str; 5] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday"];
        match self.random.below(10) {
            0 => When { words: "tomorrow".to_owned(), day: Day(TODAY.0 + 1) },
            1..=5 => {
                let number = self.random.below(WEEKDAYS.len());
                When { words: format!("next {}", WEEKDAYS[number]), day: Day(NEXT_MONDAY.0 + number) }
            }
            6 => When { words: "in two weeks".to_owned(), day: Day(TODAY.0 + 14) },
            _ => {
                let day = Day::draw_weekday(self.random, Day(TODAY.0 + 1), Day(TODAY.0 + 31));
                When { words: format!("on {}", day.in_words()), day }
            }
        }
    }

    /// A day that is past, for `since {words}`.
    pub(super) fn lately(&mut self, most_days: usize) -> When {
        let day = Day(TODAY.0 - self.random.within(1, most_days));
        let words = match TODAY.0 - day.0 {
            1 => "yesterday".to_owned(),
            3 => "Monday".to_owned(),
            _ => day.in_words(),
        };
        When { words, day }
    }

    /// A meeting on a day given in words.
    pub(super) fn slot_on(&mut self, when: &When) -> Slot {
        Slot { date: when.day.iso(), ..self.slot() }
    }

    /// The mails of somebody from a day on, newest first, and the search for them.
    pub(super) fn mails_since(&mut self, from: &Whom, day: Day) -> (Group<'a, Mail>, ToolCall) {
        let since = day.iso();
        let mails = self.world.mails.iter().rev();
        let hits: Vec<&Mail> = mails.filter(|mail| mail.sender == from.index && mail.sent >= since).collect();
        let tests = vec![from.is(column::MAIL_SENDER), at_least(column::MAIL_SENT, &since)];
        let claim = claim(TableName::Mails, tests, hits.iter().map(|mail| &mail.id));
        (Group { hits, claim }, call(tool::SEARCH_MAILS, &[("query", &from.query()), ("date_min", &since)]))
    }

    /// The mails of somebody on a subject, newest first.
    pub(super) fn mails_about(&mut self, from: &Whom, subject: &str) -> Group<'a, Mail> {
        let mails = self.world.mails.iter().rev();
        let hits: Vec<&Mail> = mails.filter(|mail| mail.sender == from.index && mail.subject == subject).collect();
        let tests = vec![from.is(column::MAIL_SENDER), is(column::MAIL_SUBJECT, subject)];
        let claim = claim(TableName::Mails, tests, hits.iter().map(|mail| &mail.id));
        Group { hits, claim }
    }

    /// The newest mail of a sender on a subject, whoever else wrote about it, with the search that has it on top.
    pub(super) fn last_mail(&mut self) -> Option<(&'a Mail, Whom<'a>, ToolCall, Claim)> {
        let picked = self.random.pick(&self.world.mails);
        let from = self.whom(picked.sender);
        let newest = *self.mails_about(&from, &picked.subject).hits.first()?;
        let query = format!("{} {}", from.query(), picked.subject);
        let found = self.world.mails_matching(&query);
        let on_top = *found.first()?;
        let tests = vec![
            from.is(column::MAIL_SENDER),
            is(column::MAIL_SUBJECT, &newest.subject),
            at_least(column::MAIL_SENT, &newest.sent),
        ];
        let claim = claim(TableName::Mails, tests, std::iter::once(&newest.id));
        let search = call(tool::SEARCH_MAILS, &[("query", &query)]);
        let is_shown = self.world.mails[on_top].id == newest.id && found.len() <= PAGE;
        is_shown.then_some((newest, from, search, claim))
    }

    /// The newest mail on a subject from anybody, with the search that has it on top.
    pub(super) fn last_mail_about(&mut self) -> Option<(&'a Mail, ToolCall, Claim)> {
        let subject = &self.random.pick(&self.world.mails).subject;
        let hits = self.world.mails_matching(subject);
        let newest = &self.world.mails[*hits.first()?];
        let tests = vec![is(column::MAIL_SUBJECT, subject), at_least(column::MAIL_SENT, &newest.sent)];
        let claim = claim(TableName::Mails, tests, std::iter::once(&newest.id));
        let search = call(tool::SEARCH_MAILS, &[("query", subject)]);
        (newest.subject == *subject).then_some((newest, search, claim))
    }

    /// The events of a day, earliest first, and the search for them.
    pub(super) fn events_on(&mut self, day: Day) -> (Group<'a, Event>, ToolCall) {
        let (min, max) = bounds(day, day);
        let hits: Vec<&Event> = self.world.events.iter().filter(|e| e.start >= min && e.start <= max).collect();
        let tests = vec![at_least(column::EVENT_START, &min), at_most(column::EVENT_START, &max)];
        let claim = claim(TableName::Events, tests, hits.iter().map(|event| &event.id));
        (Group { hits, claim }, call(tool::SEARCH_EVENTS, &[("time_min", &min), ("time_max", &max)]))
    }

    /// A day to come that has events, in words, with its events.
    pub(super) fn busy_day(&mut self, most: usize) -> Option<(When, Group<'a, Event>, ToolCall)> {
        let when = self.soon();
        let (group, search) = self.events_on(when.day);
        let fits = when.day <= LAST_EVENT && (1..=most).contains(&group.hits.len());
        fits.then_some((when, group, search))
    }

    /// The events with somebody between two days, earliest first, and the search for them.
    pub(super) fn events_with(&mut self, with: &Whom, first: Day, last: Day) -> (Group<'a, Event>, ToolCall) {
        let (min, max) = bounds(first, last);
        let events = self.world.events.iter();
        let hits: Vec<&Event> =
            events.filter(|e| e.participant == with.index && e.start >= min && e.start <= max).collect();
        let tests =
            vec![with.is(column::EVENT_WITH), at_least(column::EVENT_START, &min), at_most(column::EVENT_START, &max)];
        let claim = claim(TableName::Events, tests, hits.iter().map(|event| &event.id));
        let query = with.query();
        let search = call(tool::SEARCH_EVENTS, &[("query", &query), ("time_min", &min), ("time_max", &max)]);
        (Group { hits, claim }, search)
    }

    /// The events with somebody next week.
    pub(super) fn events_next_week(&mut self, with: &Whom) -> (Group<'a, Event>, ToolCall) {
        self.events_with(with, NEXT_MONDAY, NEXT_SUNDAY)
    }

    /// The next event with somebody, if there is one, and the search that shows it. `None` where the search has further
    /// pages.
    pub(super) fn next_event(&mut self, with: &Whom) -> Option<(Option<&'a Event>, ToolCall, Claim)> {
        let events = self.world.events.iter();
        let hits: Vec<&Event> = events.filter(|e| e.participant == with.index && e.start.as_str() > NOW).collect();
        let next = hits.first().copied();
        let mut tests = vec![with.is(column::EVENT_WITH), at_least(column::EVENT_START, NOW)];
        tests.extend(next.map(|event| at_most(column::EVENT_START, &event.start)));
        let claim = claim(TableName::Events, tests, next.iter().map(|event| &event.id));
        let search = call(tool::SEARCH_EVENTS, &[("query", &with.query()), ("time_min", NOW)]);
        (hits.len() <= PAGE).then_some((next, search, claim))
    }

    /// A task whose name others on other boards share.
    pub(super) fn task_on_board(&mut self) -> Option<(&'a ProjectTask, ToolCall, Claim)> {
        let task = self.random.pick(&self.world.tasks);
        let same = || self.world.tasks.iter().filter(move |other| other.name == task.name);
        let is_shared = same().count() > 1 && same().filter(|other| other.board == task.board).count() == 1;
        let tests = vec![is(column::TASK_NAME, &task.name), is(column::TASK_BOARD, task.board)];
        let claim = claim(TableName::Tasks, tests, std::iter::once(&task.id));
        is_shared.then(|| (task, call(tool::SEARCH_TASKS, &[("task_name", &task.name)]), claim))
    }

    /// A task whose name is unique.
    pub(super) fn only_task(&mut self) -> Option<(&'a ProjectTask, ToolCall, Claim)> {
        let (task, search) = self.task()?;
        let claim = claim(TableName::Tasks, vec![is(column::TASK_NAME, &task.name)], std::iter::once(&task.id));
        Some((task, search, claim))
    }

    /// The tasks of somebody that are not completed although they were due before today, and the search that shows them.
    pub(super) fn overdue(&mut self, of: &Whom) -> (Group<'a, ProjectTask>, ToolCall) {
        let tasks = self.world.tasks.iter();
        let hits: Vec<&ProjectTask> =
            tasks.filter(|task| task.assignee == of.index && task.due < TODAY && task.list != COMPLETED).collect();
        let tests = vec![
            of.is(column::TASK_ASSIGNEE),
            at_most(column::TASK_DUE, &Day(TODAY.0 - 1).iso()),
            (column::TASK_LIST, Test::IsNot(COMPLETED.to_owned())),
        ];
        let claim = claim(TableName::Tasks, tests, hits.iter().map(|task| &task.id));
        (Group { hits, claim }, call(tool::SEARCH_TASKS, &[("assigned_to_email", of.address)]))
    }

    /// The tasks of somebody in a list of a board, and the search for them.
    pub(super) fn tasks_in(&mut self, of: &Whom, list: &str, board: &str) -> (Group<'a, ProjectTask>, ToolCall) {
        let tasks = self.world.tasks.iter();
        let hits: Vec<&ProjectTask> =
            tasks.filter(|task| task.assignee == of.index && task.list == list && task.board == board).collect();
        let tests = vec![of.is(column::TASK_ASSIGNEE), is(column::TASK_LIST, list), is(column::TASK_BOARD, board)];
        let claim = claim(TableName::Tasks, tests, hits.iter().map(|task| &task.id));
        let search =
            call(tool::SEARCH_TASKS, &[("assigned_to_email", of.address), ("list_name", list), ("board", board)]);
        (Group { hits, claim }, search)
    }

    /// A customer whose name another one has too, and the company that tells them apart.
    pub(super) fn customer_of_company(&mut self) -> Option<(&'a Customer, &'a str, ToolCall, Claim)> {
        let customer = self.random.pick(&self.world.customers);
        let company = customer.address.split_once('@')?.1;
        let same = || self.world.customers.iter().filter(move |other| other.name == customer.name);
        let is_shared = (2..=PAGE).contains(&same().count())
            && same().filter(|other| other.address.ends_with(company)).count() == 1;
        let tests = vec![
            is(column::CUSTOMER_NAME, &customer.name),
            (column::CUSTOMER_ADDRESS, Test::Contains(format!("@{company}"))),
        ];
        let claim = claim(TableName::Customers, tests, std::iter::once(&customer.id));
        let search = call(tool::SEARCH_CUSTOMERS, &[("customer_name", &customer.name)]);
        is_shared.then_some((customer, company, search, claim))
    }

    /// A customer whose name is unique.
    pub(super) fn only_customer(&mut self) -> Option<(&'a Customer, ToolCall, Claim)> {
        let (customer, search) = self.customer()?;
        let tests = vec![is(column::CUSTOMER_NAME, &customer.name)];
        let claim = claim(TableName::Customers, tests, std::iter::once(&customer.id));
        Some((customer, search, claim))
    }

    /// Customers of an agent with a status and an interest, and the search for them; one to `most`.
    pub(super) fn customers_of(
        &mut self,
        agent: &Whom,
        (status, product): (&str, &str),
        most: usize,
    ) -> Option<(Group<'a, Customer>, ToolCall)> {
        let customers = self.world.customers.iter();
        let hits: Vec<&Customer> =
            customers.filter(|c| c.agent == agent.index && c.status == status && c.product == product).collect();
        let tests = vec![
            agent.is(column::CUSTOMER_AGENT),
            is(column::CUSTOMER_STATUS, status),
            is(column::CUSTOMER_PRODUCT, product),
        ];
        let claim = claim(TableName::Customers, tests, hits.iter().map(|customer| &customer.id));
        let search = call(
            tool::SEARCH_CUSTOMERS,
            &[("product_interest", product), ("status", status), ("assigned_to_email", agent.address)],
        );
        (1..=most).contains(&hits.len()).then_some((Group { hits, claim }, search))
    }
}
