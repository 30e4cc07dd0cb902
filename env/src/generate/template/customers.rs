//! Templates on customers.

use crate::generate::office::{PRODUCTS, STATUSES, full_name};

use super::scene::{Scene, search_customers, update_customer};
use super::{Draft, Template, call, domain::CUSTOMERS, template, tool};

pub(super) const TEMPLATES: [Template; 4] = [
    template("customer_add", CUSTOMERS, 1, add),
    template("customer_status", CUSTOMERS, 2, status),
    template("customer_delete", CUSTOMERS, 2, delete),
    template("customer_follow_up", CUSTOMERS, 2, follow_up),
];

/// Of 100 fillings, how many name a customer who does not exist.
const NOTHING_FOUND_PERCENT: usize = 15;

fn add(scene: &mut Scene) -> Option<Draft> {
    let name = full_name(scene.random);
    let agent = &scene.agent()?.address;
    let (status, product) = (scene.random.word(&STATUSES), scene.random.word(&PRODUCTS));
    let request = scene.say(
        &[
            "Add the customer {name} for {agent} with status {status}, interested in {product}.",
            "New customer {name}: agent {agent}, status {status}, product {product}.",
            "Enter {name} as a customer of {agent}; status {status}, interest {product}.",
        ],
        &[("name", &name), ("agent", agent), ("status", status), ("product", product)],
    );
    let add = call(
        tool::ADD_CUSTOMER,
        &[("customer_name", &name), ("assigned_to_email", agent), ("status", status), ("product_interest", product)],
    );
    Some(Draft::new(request, [add]))
}

fn status(scene: &mut Scene) -> Option<Draft> {
    let (customer, search) = scene.customer()?;
    let status = scene.other(&STATUSES, customer.status);
    let request = scene.say(
        &[
            "Change the status of the customer {name} to {status}.",
            "Set {name} to {status} in the customer list.",
            "The customer {name} is now {status}, please update the status.",
        ],
        &[("name", &customer.name), ("status", status)],
    );
    let update = update_customer(&customer.id, "status", status);
    Some(Draft::new(request, [search, update]))
}

fn delete(scene: &mut Scene) -> Option<Draft> {
    const WORDINGS: [&str; 3] = [
        "Delete the customer {name}.",
        "Remove {name} from the customers.",
        "{name} is no longer a customer, delete the entry.",
    ];
    if scene.random.chance(NOTHING_FOUND_PERCENT) {
        let name = full_name(scene.random);
        let none = scene.world.customers_matching(&name).is_empty();
        let request = scene.say(&WORDINGS, &[("name", &name)]);
        return none.then(|| Draft::new(request, [search_customers(&name)]));
    }
    let (customer, search) = scene.customer()?;
    let request = scene.say(&WORDINGS, &[("name", &customer.name)]);
    let delete = call(tool::DELETE_CUSTOMER, &[("customer_id", &customer.id)]);
    Some(Draft::new(request, [search, delete]))
}

fn follow_up(scene: &mut Scene) -> Option<Draft> {
    let (customer, search) = scene.customer()?;
    let date = scene.future_day();
    let request = scene.say(
        &[
            "Set the follow-up date of the customer {name} to {date}.",
            "Follow up with the customer {name} by {date}, note that date.",
            "Move the follow-up of {name} to {date}.",
        ],
        &[("name", &customer.name), ("date", &date)],
    );
    let update = update_customer(&customer.id, "follow_up_by", &date);
    Some(Draft::new(request, [search, update]))
}
