//! Makes an office from a seed. Row counts, columns, orders, id formats and date ranges are those of
//! the Workplace Assistant's own tables; names and texts are invented.
//!
//! Ids are shuffled, so that an id says nothing about its row and has to be read from a tool result.

use std::collections::{BTreeMap, BTreeSet};

use super::CROWDED_OFFICES;
use super::crowd::crowd;
use super::dates::{
    Day, FIRST_DUE, FIRST_EVENT, FIRST_MAIL, FIRST_VISIT, LAST_DUE, LAST_EVENT, LAST_FOLLOW_UP, TODAY, clock,
};
use super::names::{COMPANIES, FIRST_NAMES, SURNAMES};
use super::phrases;
use super::random::{Purpose, Random};
use super::world::{Customer, Event, Mail, Person, ProjectTask, Visit, World};

pub(super) const NUM_PEOPLE: usize = 20;
pub(super) const NUM_MAILS: usize = 500;
pub(super) const NUM_EVENTS: usize = 300;
pub(super) const NUM_VISITS: usize = 1000;
pub(super) const NUM_TASKS: usize = 300;
pub(super) const NUM_CUSTOMERS: usize = 200;
const NUM_TEAM: usize = 15;
const NUM_AGENTS: usize = 5;
const NUM_WITHOUT_PHONE: usize = 100;
const NUM_WITHOUT_NOTES: usize = 44;
/// Subjects per sender; with 25 mails each, most subjects have one to three mails.
const SUBJECTS_PER_SENDER: usize = 16;
/// Different event names; some of the 300 events share one.
const NUM_EVENT_NAMES: usize = 230;

pub(super) const LISTS: [&str; 4] = ["Backlog", "In Progress", "In Review", "Completed"];
const LIST_WEIGHTS: [usize; 4] = [5, 2, 2, 2];
pub(super) const BOARDS: [&str; 3] = ["Back end", "Front end", "Design"];
pub(super) const STATUSES: [&str; 5] = ["Qualified", "Won", "Lost", "Lead", "Proposal"];
pub(super) const PRODUCTS: [&str; 5] = ["Software", "Hardware", "Services", "Consulting", "Training"];
const SOURCES: [&str; 4] = ["direct", "social media", "search engine", "referral"];
const SOURCE_WEIGHTS: [usize; 4] = [50, 28, 11, 11];

/// The office of a seed; the same seed gives the same office for ever.
pub(super) fn world(seed: u64) -> World {
    let random = &mut Random::keyed(Purpose::Office, seed, 0);
    let people = people(random);
    let mut order: Vec<usize> = (0..NUM_PEOPLE).collect();
    random.shuffle(&mut order);
    let team = order[..NUM_TEAM].to_vec();
    let agents = order[NUM_PEOPLE - NUM_AGENTS..].to_vec();
    let mut world = World {
        mails: mails(random, &people),
        events: events(random, &people),
        visits: visits(random),
        tasks: tasks(random, &team),
        customers: customers(random, &agents),
        people,
        team,
        agents,
    };
    if seed >= CROWDED_OFFICES {
        crowd(&mut world, &mut Random::keyed(Purpose::Crowd, seed, 0));
    }
    world
}

/// `count` ids of 8 digits in random order.
fn ids(random: &mut Random, count: usize) -> Vec<String> {
    let mut numbers: Vec<usize> = (0..count).collect();
    random.shuffle(&mut numbers);
    numbers.iter().map(|number| format!("{number:08}")).collect()
}

/// People of whom each is found by first name alone: no first name occurs in another's address.
fn people(random: &mut Random) -> Vec<Person> {
    let mut people: Vec<Person> = Vec::new();
    while people.len() < NUM_PEOPLE {
        let person = Person::new(random.word(&FIRST_NAMES), random.word(&SURNAMES));
        let found_in = |first: &str, address: &str| address.contains(&first.to_lowercase());
        let clash = people
            .iter()
            .any(|other| found_in(&other.first, &person.address) || found_in(&person.first, &other.address));
        if !clash {
            people.push(person);
        }
    }
    people
}

fn mails(random: &mut Random, people: &[Person]) -> Vec<Mail> {
    let subjects: Vec<Vec<String>> =
        (0..people.len()).map(|_| (0..SUBJECTS_PER_SENDER).map(|_| phrases::subject(random)).collect()).collect();
    let mut times = BTreeSet::new();
    while times.len() < NUM_MAILS {
        let day = Day::draw(random, FIRST_MAIL, TODAY);
        let minutes = random.within(8 * 60, 18 * 60);
        times.insert((day, minutes, random.below(60)));
    }
    let ids = ids(random, NUM_MAILS);
    let mut mails = Vec::with_capacity(NUM_MAILS);
    for ((day, minutes, second), id) in times.into_iter().zip(ids) {
        let sender = random.below(people.len());
        let subject = random.pick(&subjects[sender]).clone();
        let body = phrases::body(random);
        mails.push(Mail {
            haystack: format!("{subject} {body} {}", people[sender].address).to_lowercase(),
            sent: format!("{} {}:{second:02}", day.iso(), clock(minutes)),
            id,
            sender,
            subject,
            body,
        });
    }
    mails
}

fn events(random: &mut Random, people: &[Person]) -> Vec<Event> {
    let names: Vec<String> = (0..NUM_EVENT_NAMES).map(|_| phrases::event_name(random)).collect();
    let mut slots = BTreeSet::new();
    while slots.len() < NUM_EVENTS {
        let day = Day::draw_weekday(random, FIRST_EVENT, LAST_EVENT);
        slots.insert((day, 9 * 60 + 30 * random.below(15)));
    }
    let ids = ids(random, NUM_EVENTS);
    let mut events = Vec::with_capacity(NUM_EVENTS);
    for ((day, start), id) in slots.into_iter().zip(ids) {
        // The last slot starts at 16:00, so two hours still end at 18:00.
        events.push(Event {
            id,
            name: random.pick(&names).clone(),
            participant: random.below(people.len()),
            start: format!("{} {}:00", day.iso(), clock(start)),
            minutes: *random.pick(&[30, 60, 90, 120]),
        });
    }
    events
}

fn visits(random: &mut Random) -> Vec<Visit> {
    let num_days = TODAY.0 - FIRST_VISIT.0 + 1;
    // Three visits a day at least, the rest by a weight per day: busy and quiet days.
    let mut days: Vec<usize> = (0..num_days).flat_map(|day| [day; 3]).collect();
    let weights: Vec<usize> = (0..num_days).map(|_| random.within(1, 10)).collect();
    while days.len() < NUM_VISITS {
        days.push(random.weighted(&weights));
    }
    random.shuffle(&mut days);
    let mut visits = Vec::with_capacity(NUM_VISITS);
    for day in days {
        visits.push(Visit {
            day: Day(FIRST_VISIT.0 + day),
            visitor: format!("{:04}", random.below(10_000)),
            page_views: random.within(1, 15),
            seconds: random.within(1, 60),
            source: SOURCES[random.weighted(&SOURCE_WEIGHTS)],
            engaged: random.chance(49),
        });
    }
    visits
}

fn tasks(random: &mut Random, team: &[usize]) -> Vec<ProjectTask> {
    let mut names = BTreeMap::new();
    while names.len() < NUM_TASKS {
        names.insert(phrases::task_name(random), Day::draw(random, FIRST_DUE, LAST_DUE));
    }
    let mut named: Vec<(String, Day)> = names.into_iter().collect();
    random.shuffle(&mut named);
    named.sort_by_key(|&(_, due)| due);
    let ids = ids(random, NUM_TASKS);
    let mut tasks = Vec::with_capacity(NUM_TASKS);
    for (index, ((name, due), id)) in named.into_iter().zip(ids).enumerate() {
        // Everybody of the team has a task: only current assignees may be given new ones.
        let assignee = team.get(index).copied().unwrap_or_else(|| *random.pick(team));
        tasks.push(ProjectTask {
            id,
            name,
            assignee,
            list: LISTS[random.weighted(&LIST_WEIGHTS)],
            due,
            board: random.word(&BOARDS),
        });
    }
    tasks
}

/// A full name, as customers have it.
pub(super) fn full_name(random: &mut Random) -> String {
    format!("{} {}", random.word(&FIRST_NAMES), random.word(&SURNAMES))
}

/// An address at a customer's company, in the table's form (no top-level domain).
pub(super) fn customer_address(random: &mut Random, name: &str) -> String {
    let local = name.to_lowercase().replace(' ', ".");
    format!("{local}@{}", random.word(&COMPANIES))
}

fn customers(random: &mut Random, agents: &[usize]) -> Vec<Customer> {
    let mut names = BTreeSet::new();
    while names.len() < NUM_CUSTOMERS {
        names.insert(full_name(random));
    }
    let mut names: Vec<String> = names.into_iter().collect();
    random.shuffle(&mut names);
    let mut contacts: Vec<Day> = (0..NUM_CUSTOMERS).map(|_| Day::draw(random, FIRST_MAIL, TODAY)).collect();
    contacts.sort_unstable_by(|a, b| b.cmp(a));
    let mut without_phone: Vec<bool> = (0..NUM_CUSTOMERS).map(|i| i < NUM_WITHOUT_PHONE).collect();
    random.shuffle(&mut without_phone);
    let mut without_notes: Vec<bool> = (0..NUM_CUSTOMERS).map(|i| i < NUM_WITHOUT_NOTES).collect();
    random.shuffle(&mut without_notes);
    let ids = ids(random, NUM_CUSTOMERS);
    let mut customers = Vec::with_capacity(NUM_CUSTOMERS);
    for (index, (name, id)) in names.into_iter().zip(ids).enumerate() {
        let last_contact = contacts[index];
        let phone = format!("{}-{}-{:04}", random.within(200, 999), random.within(200, 999), random.below(10_000));
        let notes = format!("{}: {}", last_contact.iso(), phrases::note(random));
        let follow_up = Day(last_contact.0 + random.within(12, LAST_FOLLOW_UP.0 - TODAY.0));
        customers.push(Customer {
            id,
            agent: *random.pick(agents),
            address: customer_address(random, &name),
            name,
            phone: (!without_phone[index]).then_some(phone),
            last_contact,
            product: random.word(&PRODUCTS),
            status: random.word(&STATUSES),
            follow_up,
            notes: (!without_notes[index]).then_some(notes),
        });
    }
    customers
}
