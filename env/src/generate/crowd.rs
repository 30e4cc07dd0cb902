//! Makes an office harder to find one's way in: namesakes among colleagues and customers, tasks and events of the same
//! name, mails on the same subject from several people. Ids, dates and the number of rows stay as they are.

use super::office::customer_address;
use super::random::Random;
use super::world::{Person, World};

/// Colleagues who take the first name of another one.
const NUM_NAMESAKES: usize = 4;
/// Those who look after customers and keep a first name of their own.
const NUM_ALONE_AGENTS: usize = 2;
/// Mails that take over the subject of another one, from whomever.
const NUM_COPIED_SUBJECTS: usize = 120;
const NUM_COPIED_EVENT_NAMES: usize = 60;
const NUM_COPIED_TASK_NAMES: usize = 70;
/// Customers who take the name of another one.
const NUM_CUSTOMER_NAMESAKES: usize = 30;

pub(super) fn crowd(world: &mut World, random: &mut Random) {
    namesakes(world, random);
    for _ in 0..NUM_COPIED_SUBJECTS {
        let (from, to) = two(random, world.mails.len());
        world.mails[to].subject = world.mails[from].subject.clone();
    }
    for mail in &mut world.mails {
        mail.haystack = format!("{} {} {}", mail.subject, mail.body, world.people[mail.sender].address).to_lowercase();
    }
    for _ in 0..NUM_COPIED_EVENT_NAMES {
        let (from, to) = two(random, world.events.len());
        world.events[to].name = world.events[from].name.clone();
    }
    for _ in 0..NUM_COPIED_TASK_NAMES {
        let (from, to) = two(random, world.tasks.len());
        world.tasks[to].name = world.tasks[from].name.clone();
    }
    for _ in 0..NUM_CUSTOMER_NAMESAKES {
        let (from, to) = two(random, world.customers.len());
        let name = world.customers[from].name.clone();
        world.customers[to].address = customer_address(random, &name);
        world.customers[to].name = name;
    }
}

/// Two different positions of a list.
fn two(random: &mut Random, length: usize) -> (usize, usize) {
    let first = random.below(length);
    let second = random.below(length - 1);
    (first, if second < first { second } else { second + 1 })
}

/// Gives some colleagues the first name of a colleague who has had it alone, so that there are pairs.
fn namesakes(world: &mut World, random: &mut Random) {
    let kept = &world.agents[..NUM_ALONE_AGENTS];
    let mut order: Vec<usize> = (0..world.people.len()).filter(|person| !kept.contains(person)).collect();
    random.shuffle(&mut order);
    for pair in order.chunks_exact(2).take(NUM_NAMESAKES) {
        let (named, other) = (&world.people[pair[0]], &world.people[pair[1]]);
        if named.last != other.last {
            world.people[pair[1]] = Person::new(&named.first, &other.last);
        }
    }
}
