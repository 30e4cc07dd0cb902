//! Templates on customers.

use crate::generate::office::{PRODUCTS, STATUSES};
use crate::generate::phrases::body;
use crate::generate::template::domain::CUSTOMERS;
use crate::generate::template::scene::{Scene, update_customer};
use crate::generate::template::{call, tool};

use super::{Draft, Template, full};

pub(super) const TEMPLATES: [Template; 6] = [
    full("customer_note", CUSTOMERS, 2, note),
    full("customer_unknown_status", CUSTOMERS, 2, unknown_status),
    full("customer_status_of_company", CUSTOMERS, 3, status_of_company),
    full("customer_contacted", CUSTOMERS, 3, contacted),
    full("customer_reassign_group", CUSTOMERS, 4, reassign_group),
    full("customer_delete_group", CUSTOMERS, 4, delete_group),
];

/// What no customer's status can be.
const UNKNOWN_STATUSES: [&str; 5] = ["Maybe", "Pending", "Interested", "Closed", "Dormant"];

fn note(scene: &mut Scene) -> Option<Draft> {
    let (customer, search, claim) = scene.only_customer()?;
    let text = body(scene.random);
    let request = scene.say(
        &[
            "Replace the notes on the customer {name} by '{text}'",
            "The notes on the customer {name} should read '{text}'",
        ],
        &[("name", &customer.name), ("text", &text)],
    );
    Some(Draft::unique(request, [search, update_customer(&customer.id, "notes", &text)], [claim]))
}

fn unknown_status(scene: &mut Scene) -> Option<Draft> {
    let (customer, search, claim) = scene.only_customer()?;
    let status = scene.random.word(&UNKNOWN_STATUSES);
    let request = scene.say(
        &[
            "Give the customer {name} the status {status}.",
            "The status of the customer {name} is now {status}, change it.",
        ],
        &[("name", &customer.name), ("status", status)],
    );
    Some(Draft::unique(request, [search], [claim]))
}

fn status_of_company(scene: &mut Scene) -> Option<Draft> {
    let (customer, company, search, claim) = scene.customer_of_company()?;
    let status = scene.other(&STATUSES, customer.status);
    let request = scene.say(
        &[
            "Change the status of the customer {name} of {company} to {status}.",
            "We have more than one {name}. The one at {company} is now {status}, please update the status.",
        ],
        &[("name", &customer.name), ("company", company), ("status", status)],
    );
    Some(Draft::unique(request, [search, update_customer(&customer.id, "status", status)], [claim]))
}

fn contacted(scene: &mut Scene) -> Option<Draft> {
    let (customer, search, claim) = scene.only_customer()?;
    let (contact, follow_up) = (scene.lately(10).day.iso(), scene.future_day());
    if customer.last_contact.iso() == contact {
        return None;
    }
    let request = scene.say(
        &[
            "I spoke to the customer {name}: set the last contact to {contact} and the follow-up date to {follow_up}.",
            "The last contact date of the customer {name} is {contact} and the follow-up is on {follow_up}, update both.",
        ],
        &[("name", &customer.name), ("contact", &contact), ("follow_up", &follow_up)],
    );
    let calls = [
        search,
        update_customer(&customer.id, "last_contact_date", &contact),
        update_customer(&customer.id, "follow_up_by", &follow_up),
    ];
    Some(Draft::unique(request, calls, [claim]))
}

fn reassign_group(scene: &mut Scene) -> Option<Draft> {
    let (from, to) = (scene.customer_agent(), scene.customer_agent());
    let (status, product) = (scene.random.word(&STATUSES), scene.random.word(&PRODUCTS));
    let (customers, search) = scene.customers_of(&from, (status, product), 3)?;
    if from.index == to.index {
        return None;
    }
    let request = scene.say(
        &[
            "Give all customers of {from} with status {status} and an interest in {product} to {to}.",
            "{to} takes over the {status} customers of {from} who are interested in {product}, please reassign them.",
        ],
        &[("from", &from.name), ("to", &to.name), ("status", status), ("product", product)],
    );
    let mut calls = vec![from.find, search, to.find];
    calls.extend(customers.hits.iter().map(|c| update_customer(&c.id, "assigned_to_email", to.address)));
    Some(Draft::unique(request, calls, [customers.claim, from.claim, to.claim]))
}

fn delete_group(scene: &mut Scene) -> Option<Draft> {
    let agent = scene.customer_agent();
    let (status, product) = (scene.random.word(&STATUSES), scene.random.word(&PRODUCTS));
    let (customers, search) = scene.customers_of(&agent, (status, product), 4)?;
    let request = scene.say(
        &[
            "Delete all customers of {name} with status {status} and an interest in {product}.",
            "Remove the {status} customers of {name} who are interested in {product}.",
        ],
        &[("name", &agent.name), ("status", status), ("product", product)],
    );
    let mut calls = vec![agent.find, search];
    calls.extend(customers.hits.iter().map(|c| call(tool::DELETE_CUSTOMER, &[("customer_id", &c.id)])));
    Some(Draft::unique(request, calls, [customers.claim, agent.claim]))
}
