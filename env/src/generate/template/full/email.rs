//! Templates on mails.

use crate::generate::claim::Claim;
use crate::generate::names::FIRST_NAMES;
use crate::generate::phrases::{body, subject};
use crate::generate::template::domain::EMAIL;
use crate::generate::template::scene::{Scene, delete_mail, find_address, reply_mail, send_mail};
use crate::generate::template::{call, tool};

use super::{Draft, Template, full};

pub(super) const TEMPLATES: [Template; 6] = [
    full("email_send_namesake", EMAIL, 2, send_namesake),
    full("email_send_unclear", EMAIL, 2, send_unclear),
    full("email_send_stranger", EMAIL, 2, send_stranger),
    full("email_delete_since", EMAIL, 4, delete_since),
    full("email_forward_both", EMAIL, 4, forward_both),
    full("email_reply_if_sender", EMAIL, 3, reply_if_sender),
];

const SEND: [&str; 3] = [
    "Could you send {name} a mail? The subject is '{subject}', the text '{body}'",
    "{name} should hear from me: subject '{subject}', text '{body}'",
    "I want to write to {name} with the subject '{subject}': '{body}'",
];

fn send_namesake(scene: &mut Scene) -> Option<Draft> {
    let to = scene.namesake()?;
    let (subject, body) = (subject(scene.random), body(scene.random));
    let request = scene.say(&SEND, &[("name", &to.name), ("subject", &subject), ("body", &body)]);
    Some(Draft::unique(request, [to.find, send_mail(to.address, &subject, &body)], [to.claim]))
}

/// Two colleagues have the name, and nothing says which one is meant.
fn send_unclear(scene: &mut Scene) -> Option<Draft> {
    let namesake = scene.namesake()?;
    let name = &scene.world.people[namesake.index].first;
    let (subject, body) = (subject(scene.random), body(scene.random));
    let request = scene.say(&SEND, &[("name", name), ("subject", &subject), ("body", &body)]);
    Some(Draft::unique(request, [find_address(name)], [Claim::Colleagues { name: name.clone(), count: 2 }]))
}

/// Nobody has the name.
fn send_stranger(scene: &mut Scene) -> Option<Draft> {
    let name = scene.random.word(&FIRST_NAMES);
    if scene.world.people.iter().any(|person| person.address.contains(&name.to_lowercase())) {
        return None;
    }
    let (subject, body) = (subject(scene.random), body(scene.random));
    let request = scene.say(&SEND, &[("name", name), ("subject", &subject), ("body", &body)]);
    Some(Draft::unique(request, [find_address(name)], [Claim::Colleagues { name: name.to_owned(), count: 0 }]))
}

fn delete_since(scene: &mut Scene) -> Option<Draft> {
    let from = scene.anybody();
    let since = scene.lately(14);
    let (mails, search) = scene.mails_since(&from, since.day);
    if !(1..=4).contains(&mails.hits.len()) {
        return None;
    }
    let request = scene.say(
        &[
            "Delete all mails that {name} has sent me since {since}.",
            "I no longer need what {name} has written since {since}, please delete these mails.",
            "Get rid of every mail from {name} since {since}.",
        ],
        &[("name", &from.name), ("since", &since.words)],
    );
    let mut calls = vec![search];
    calls.extend(mails.hits.iter().map(|mail| delete_mail(&mail.id)));
    Some(Draft::unique(request, calls, [mails.claim, from.claim]))
}

fn forward_both(scene: &mut Scene) -> Option<Draft> {
    let (newest, from, search, _) = scene.last_mail()?;
    let mails = scene.mails_about(&from, &newest.subject);
    let to = scene.anybody();
    let [newer, older] = mails.hits[..] else { return None };
    if to.index == from.index {
        return None;
    }
    let request = scene.say(
        &[
            "Forward both mails from {name} about {subject} to {to}, first the older and then the newer one.",
            "{to} needs the two mails that {name} sent about {subject}: first forward the older one, then the other.",
        ],
        &[("name", &from.name), ("subject", &newest.subject), ("to", &to.name)],
    );
    let forward = |id: &str| call(tool::FORWARD_MAIL, &[("email_id", id), ("recipient", to.address)]);
    let calls = [search, to.find.clone(), forward(&older.id), forward(&newer.id)];
    Some(Draft::unique(request, calls, [mails.claim, from.claim, to.claim.clone()]))
}

fn reply_if_sender(scene: &mut Scene) -> Option<Draft> {
    let (mail, search, claim) = scene.last_mail_about()?;
    let sender = scene.whom(mail.sender);
    let other = scene.anybody();
    let met = scene.random.chance(60);
    if other.index == sender.index {
        return None;
    }
    let asked = if met { sender } else { other };
    let body = body(scene.random);
    let request = scene.say(
        &[
            "If the newest mail about {subject} is from {name}, reply to it with '{body}'",
            "See who wrote the newest mail about {subject}. If it was {name}, answer '{body}'",
        ],
        &[("subject", &mail.subject), ("name", &asked.name), ("body", &body)],
    );
    let mut calls = vec![search];
    calls.extend(met.then(|| reply_mail(&mail.id, &body)));
    Some(Draft::unique(request, calls, [claim, asked.claim]))
}
