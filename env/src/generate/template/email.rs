//! Templates on mails.

use crate::generate::phrases::{body, subject};

use super::scene::{Scene, delete_mail, find_address, reply_mail, search_mails, send_mail};
use super::{Draft, Template, call, domain::EMAIL, template, tool};

pub(super) const TEMPLATES: [Template; 7] = [
    template("email_send", EMAIL, 1, send),
    template("email_reply_by_id", EMAIL, 1, reply_by_id),
    template("email_send_by_name", EMAIL, 2, send_by_name),
    template("email_delete_last", EMAIL, 2, delete_last),
    template("email_reply_last", EMAIL, 2, reply_last),
    template("email_forward_last", EMAIL, 3, forward_last),
    template("email_delete_all", EMAIL, 3, delete_all),
];

/// Of 100 fillings, how many name a mail that does not exist.
const NOTHING_FOUND_PERCENT: usize = 15;

fn send(scene: &mut Scene) -> Option<Draft> {
    let to = &scene.person().address;
    let (subject, body) = (subject(scene.random), body(scene.random));
    let request = scene.say(
        &[
            "Send a mail to {to} with subject '{subject}' and body '{body}'",
            "Write to {to}, subject '{subject}', text '{body}'",
            "Mail {to} about '{subject}' and say '{body}'",
        ],
        &[("to", to), ("subject", &subject), ("body", &body)],
    );
    Some(Draft::new(request, [send_mail(to, &subject, &body)]))
}

fn reply_by_id(scene: &mut Scene) -> Option<Draft> {
    let id = &scene.random.pick(&scene.world.mails).id;
    let body = body(scene.random);
    let request = scene.say(
        &["Reply to mail {id} with '{body}'", "Answer the mail with id {id}: '{body}'"],
        &[("id", id), ("body", &body)],
    );
    Some(Draft::new(request, [reply_mail(id, &body)]))
}

fn send_by_name(scene: &mut Scene) -> Option<Draft> {
    let to = scene.person();
    let (subject, body) = (subject(scene.random), body(scene.random));
    let request = scene.say(
        &[
            "Send {name} a mail with subject '{subject}' and body '{body}'",
            "Mail {name} about '{subject}' and say '{body}'",
            "Write to {name}, subject '{subject}', text '{body}'",
        ],
        &[("name", &to.first), ("subject", &subject), ("body", &body)],
    );
    let calls = [find_address(&to.first), send_mail(&to.address, &subject, &body)];
    Some(Draft::new(request, calls))
}

fn delete_last(scene: &mut Scene) -> Option<Draft> {
    const WORDINGS: [&str; 3] = [
        "Delete the last mail from {name} about {subject}.",
        "Remove the newest mail that {name} sent about {subject}.",
        "Please delete my latest mail from {name} about {subject}.",
    ];
    if scene.random.chance(NOTHING_FOUND_PERCENT) {
        let (sender, subject, search) = scene.no_mail()?;
        let slots = [("name", sender.first.as_str()), ("subject", &subject)];
        return Some(Draft::new(scene.say(&WORDINGS, &slots), [search]));
    }
    let (mail, sender, search) = scene.newest_mail()?;
    let slots = [("name", sender.first.as_str()), ("subject", &mail.subject)];
    let request = scene.say(&WORDINGS, &slots);
    Some(Draft::new(request, [search, delete_mail(&mail.id)]))
}

fn reply_last(scene: &mut Scene) -> Option<Draft> {
    let (mail, sender, search) = scene.newest_mail()?;
    let body = body(scene.random);
    let request = scene.say(
        &[
            "Reply to the last mail from {name} about {subject} with '{body}'",
            "Answer the newest mail that {name} sent about {subject}: '{body}'",
            "Tell {name} '{body}' in reply to the latest mail about {subject}.",
        ],
        &[("name", &sender.first), ("subject", &mail.subject), ("body", &body)],
    );
    Some(Draft::new(request, [search, reply_mail(&mail.id, &body)]))
}

fn forward_last(scene: &mut Scene) -> Option<Draft> {
    let (mail, sender, search) = scene.newest_mail()?;
    let to = scene.person();
    if to.first == sender.first {
        return None;
    }
    let request = scene.say(
        &[
            "Forward the last mail from {name} about {subject} to {to}.",
            "Pass on to {to} the newest mail that {name} sent about {subject}.",
            "Send {to} a copy of the latest mail from {name} about {subject}.",
        ],
        &[("name", &sender.first), ("subject", &mail.subject), ("to", &to.first)],
    );
    let forward = call(tool::FORWARD_MAIL, &[("email_id", &mail.id), ("recipient", &to.address)]);
    Some(Draft::new(request, [search, find_address(&to.first), forward]))
}

fn delete_all(scene: &mut Scene) -> Option<Draft> {
    let (mail, sender, _) = scene.newest_mail()?;
    let query = format!("{} {}", sender.first, mail.subject);
    let hits = scene.world.mails_matching(&query);
    if hits.len() < 2 {
        return None;
    }
    let request = scene.say(
        &["Delete all mails from {name} about {subject}.", "Remove every mail that {name} sent about {subject}."],
        &[("name", &sender.first), ("subject", &mail.subject)],
    );
    let mut calls = vec![search_mails(&query)];
    calls.extend(hits.iter().map(|&hit| delete_mail(&scene.world.mails[hit].id)));
    Some(Draft::new(request, calls))
}
