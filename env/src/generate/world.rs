//! A generated office as typed rows, with the look-ups that task templates need to choose fillings.
//! The look-ups answer as the tools do for plain words; every finished task is run through the real
//! tools afterwards, so a difference cannot go unnoticed.

use crate::workplace::tables::{Row, Tables};

use super::dates::Day;
use super::names::COMPANY_DOMAIN;

pub(super) struct Person {
    pub first: String,
    pub last: String,
    pub address: String,
}

impl Person {
    pub fn new(first: &str, last: &str) -> Self {
        Self {
            first: first.to_owned(),
            last: last.to_owned(),
            address: format!("{first}.{last}@{COMPANY_DOMAIN}").to_lowercase(),
        }
    }
}

pub(super) struct Mail {
    pub id: String,
    /// Index into [`World::people`].
    pub sender: usize,
    pub subject: String,
    pub sent: String,
    pub body: String,
    /// What a search looks at, lower-cased.
    pub haystack: String,
}

pub(super) struct Event {
    pub id: String,
    pub name: String,
    pub participant: usize,
    pub start: String,
    pub minutes: usize,
}

pub(super) struct Visit {
    pub day: Day,
    pub visitor: String,
    pub page_views: usize,
    pub seconds: usize,
    pub source: &'static str,
    pub engaged: bool,
}

pub(super) struct ProjectTask {
    pub id: String,
    pub name: String,
    pub assignee: usize,
    pub list: &'static str,
    pub due: Day,
    pub board: &'static str,
}

pub(super) struct Customer {
    pub id: String,
    pub agent: usize,
    pub name: String,
    pub address: String,
    pub phone: Option<String>,
    pub last_contact: Day,
    pub product: &'static str,
    pub status: &'static str,
    pub follow_up: Day,
    pub notes: Option<String>,
}

/// One office.
pub(super) struct World {
    /// The directory, in its order.
    pub people: Vec<Person>,
    /// People who have project tasks.
    pub team: Vec<usize>,
    /// People who look after customers.
    pub agents: Vec<usize>,
    /// Oldest first.
    pub mails: Vec<Mail>,
    /// Earliest first.
    pub events: Vec<Event>,
    pub visits: Vec<Visit>,
    /// By due date.
    pub tasks: Vec<ProjectTask>,
    /// Latest contact first.
    pub customers: Vec<Customer>,
}

impl World {
    /// Whether nobody shares the first name of the person with this index.
    pub fn is_alone(&self, person: usize) -> bool {
        let first = &self.people[person].first;
        self.people.iter().filter(|other| other.first == *first).count() == 1
    }

    /// Mails that contain every word of the query, newest first.
    pub fn mails_matching(&self, query: &str) -> Vec<usize> {
        let query = query.to_lowercase();
        let words: Vec<&str> = query.split_whitespace().collect();
        let hits = self.mails.iter().enumerate().rev();
        hits.filter(|(_, mail)| words.iter().all(|word| mail.haystack.contains(word))).map(|(index, _)| index).collect()
    }

    /// Events whose name or participant contains the text, latest first.
    pub fn events_matching(&self, text: &str) -> Vec<usize> {
        let hits = self.events.iter().enumerate().rev();
        hits.filter(|(_, event)| event.name.contains(text) || self.people[event.participant].address.contains(text))
            .map(|(index, _)| index)
            .collect()
    }

    /// Tasks whose name contains the text, in table order.
    pub fn tasks_matching(&self, text: &str) -> Vec<usize> {
        let hits = self.tasks.iter().enumerate();
        hits.filter(|(_, task)| task.name.contains(text)).map(|(index, _)| index).collect()
    }

    /// Customers whose name contains the text, in table order.
    pub fn customers_matching(&self, text: &str) -> Vec<usize> {
        let text = text.to_lowercase();
        let hits = self.customers.iter().enumerate();
        hits.filter(|(_, customer)| customer.name.to_lowercase().contains(&text)).map(|(index, _)| index).collect()
    }

    /// Number of visits on a day and how many of them were engaged.
    pub fn visits_on(&self, day: Day) -> (usize, usize) {
        let today = || self.visits.iter().filter(|visit| visit.day == day);
        (today().count(), today().filter(|visit| visit.engaged).count())
    }

    /// The office in the form the tools work on.
    pub fn tables(&self) -> Tables {
        let address = |person: usize| self.people[person].address.as_str();
        Tables {
            emails: (self.mails.iter())
                .map(|mail| {
                    let sender = address(mail.sender);
                    row([&mail.id, "inbox", sender, &mail.subject, &mail.sent, &mail.body])
                })
                .collect(),
            calendar_events: (self.events.iter())
                .map(|event| {
                    let minutes = event.minutes.to_string();
                    let participant = address(event.participant);
                    row([&event.id, &event.name, participant, &event.start, &minutes])
                })
                .collect(),
            analytics: (self.visits.iter())
                .map(|visit| {
                    row([
                        &visit.day.iso(),
                        &visit.visitor,
                        &visit.page_views.to_string(),
                        &visit.seconds.to_string(),
                        visit.source,
                        if visit.engaged { "True" } else { "False" },
                    ])
                })
                .collect(),
            project_tasks: (self.tasks.iter())
                .map(|task| {
                    let assignee = address(task.assignee);
                    let due = task.due.iso();
                    row([&task.id, &task.name, assignee, task.list, &due, task.board])
                })
                .collect(),
            customers: (self.customers.iter())
                .map(|customer| {
                    let mut cells = row([
                        &customer.id,
                        address(customer.agent),
                        &customer.name,
                        &customer.address,
                        "",
                        &customer.last_contact.end(),
                        customer.product,
                        customer.status,
                        &customer.follow_up.end(),
                        "",
                    ]);
                    cells[4] = customer.phone.clone();
                    cells[9] = customer.notes.clone();
                    cells
                })
                .collect(),
            directory: self.people.iter().map(|person| person.address.clone()).collect(),
        }
    }
}

fn row<const N: usize>(cells: [&str; N]) -> Row {
    cells.iter().map(|&cell| Some(cell.to_owned())).collect()
}
