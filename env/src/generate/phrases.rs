//! The words of an office: subjects, event names, task names, message texts and notes. Everything is
//! composed from small pools, so that there are thousands of each and a tokenizer of modest size
//! still knows every word.

use super::random::Random;

#[rustfmt::skip] // one word a line would hide the list
pub(super) const TOPICS: [&str; 90] = [
    "harbor", "garden", "bridge", "kitchen", "battery", "camera", "canteen", "carpet", "ceiling",
    "charity", "climate", "coffee", "cooling", "courier", "bicycle", "daylight", "delivery",
    "desk", "door", "drainage", "elevator", "energy", "engine", "fabric", "fence", "ferry",
    "filter", "fleet", "floor", "forklift", "furnace", "gallery", "gate", "glass", "heating",
    "hotel", "insurance", "intern", "ladder", "lamp", "laundry", "library", "locker", "loyalty",
    "mailbox", "market", "medical", "mobile", "museum", "network", "orchard", "packaging",
    "parking", "patio", "payroll", "pension", "pipeline", "platform", "poster", "printer", "pump",
    "radio", "railway", "recycling", "roof", "safety", "scanner", "sensor", "shuttle", "signage",
    "solar", "stage", "storage", "studio", "supplier", "tablet", "terrace", "ticket", "timber",
    "tower", "transit", "travel", "tunnel", "uniform", "vendor", "warehouse", "water", "wellness",
    "window", "workshop",
];

#[rustfmt::skip] // one word a line would hide the list
pub(super) const ARTIFACTS: [&str; 60] = [
    "survey", "invoice", "draft", "quote", "budget", "audit", "report", "plan", "contract",
    "checklist", "forecast", "memo", "summary", "estimate", "repair", "order", "upgrade", "layout",
    "prototype", "receipt", "rollout", "roadmap", "sample", "shortlist", "sketch", "spec",
    "statement", "tender", "timetable", "outline", "inventory", "launch", "lease", "license", "log",
    "map", "mockup", "notice", "pilot", "poll", "policy", "price", "process", "profile", "program",
    "record", "refund", "rental", "request", "result", "route", "script", "setup", "guide", "list",
    "offer", "slides", "test", "trial", "update",
];

#[rustfmt::skip] // one word a line would hide the list
pub(super) const EVENT_KINDS: [&str; 30] = [
    "briefing", "sync", "standup", "retreat", "demo", "session", "call", "lunch", "panel",
    "debrief", "kickoff", "meetup", "clinic", "forum", "rehearsal", "tour", "huddle", "seminar",
    "hearing", "interview", "tasting", "walkthrough", "roundtable", "checkin", "showcase",
    "hackday", "breakfast", "planning", "handover", "review",
];

#[rustfmt::skip] // one word a line would hide the list
pub(super) const VERBS: [&str; 40] = [
    "check", "print", "repair", "order", "draft", "replace", "test", "clean", "paint", "measure",
    "label", "pack", "scan", "sort", "translate", "approve", "compare", "collect", "count",
    "design", "export", "fix", "import", "inspect", "install", "merge", "polish", "publish",
    "rebuild", "rewrite", "ship", "trim", "verify", "wire", "tidy", "share", "finish", "simplify",
    "sign", "revise",
];

#[rustfmt::skip] // one word a line would hide the list
const TIMES: [&str; 16] = [
    "today", "tomorrow", "this week", "next week", "on Monday", "on Tuesday", "on Wednesday",
    "on Thursday", "on Friday", "before noon", "this month", "next month", "tonight",
    "after lunch", "this morning", "very soon",
];

#[rustfmt::skip] // one word a line would hide the list
const NOTES: [&str; 12] = [
    "Asked for a price.", "Wants a demo.", "Met at a fair.", "Sent a brochure.", "No answer yet.",
    "Prefers mail.", "Likes the offer.", "Needs more time.", "Asked for references.",
    "Had a short call.", "Budget is open.", "Will decide soon.",
];

/// Subject of a mail: two words, such as `harbor survey`; 5,400 different ones.
pub(super) fn subject(random: &mut Random) -> String {
    format!("{} {}", random.word(&TOPICS), random.word(&ARTIFACTS))
}

/// Name of an event: two words, such as `harbor briefing`; 2,700 different ones.
pub(super) fn event_name(random: &mut Random) -> String {
    format!("{} {}", random.word(&TOPICS), random.word(&EVENT_KINDS))
}

/// Name of a task: three words, such as `print harbor survey`; 216,000 different ones.
pub(super) fn task_name(random: &mut Random) -> String {
    format!("{} {}", random.word(&VERBS), subject(random))
}

/// Text of a mail: 4 to 9 words.
pub(super) fn body(random: &mut Random) -> String {
    let subject = subject(random);
    let verb = random.word(&VERBS);
    let time = random.word(&TIMES);
    match random.below(6) {
        0 => format!("Please {verb} the {subject} {time}."),
        1 => format!("The {subject} is ready {time}."),
        2 => format!("We need the {subject} {time}."),
        3 => format!("I will {verb} the {subject} {time}."),
        4 => format!("Thanks for the {subject}."),
        _ => format!("You can {verb} the {subject} {time}."),
    }
}

/// Remark on a customer, without its date.
pub(super) fn note(random: &mut Random) -> &'static str {
    random.word(&NOTES)
}
