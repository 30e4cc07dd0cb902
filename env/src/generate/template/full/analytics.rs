//! Templates on website visits. Dates and limits stand in the request, so there are no rows to tell apart.

use crate::generate::dates::{Day, TODAY};
use crate::generate::template::domain::ANALYTICS;
use crate::generate::template::scene::{Plot, Scene, count_source, count_visits};

use super::look_up::When;
use super::{Draft, Template, full};

pub(super) const TEMPLATES: [Template; 4] = [
    full("analytics_plot_since", ANALYTICS, 1, plot_since),
    full("analytics_plot_if_source", ANALYTICS, 3, plot_if_source),
    full("analytics_plot_busier", ANALYTICS, 3, plot_busier),
    full("analytics_plot_else", ANALYTICS, 3, plot_else),
];

const SOURCES: [&str; 4] = ["direct", "referral", "search engine", "social media"];

/// A plot from a day to the present.
pub(super) fn plot_from(scene: &mut Scene, day: Day) -> Plot {
    Plot { from: day.iso(), to: TODAY.iso(), ..scene.plot() }
}

/// A day with visits, in words.
pub(super) fn past_day(scene: &mut Scene) -> When {
    scene.lately(TODAY.0 - crate::generate::dates::FIRST_VISIT.0)
}

fn plot_since(scene: &mut Scene) -> Option<Draft> {
    let since = past_day(scene);
    let plot = plot_from(scene, since.day);
    let request = scene.say(
        &[
            "Make a {kind} chart of {words} since {since}.",
            "Can you plot {words} since {since} as a {kind} chart?",
            "I want to see {words} since {since} in a {kind} chart.",
        ],
        &[("words", plot.words), ("since", &since.words), ("kind", plot.kind)],
    );
    Some(Draft::unique(request, [plot.call()], []))
}

fn plot_if_source(scene: &mut Scene) -> Option<Draft> {
    let day = scene.visit_day();
    let (one, two) = (scene.random.word(&SOURCES), scene.random.word(&SOURCES));
    let visits = |source: &str| scene.world.visits.iter().filter(|v| v.day == day && v.source == source).count();
    let (first, second) = (visits(one), visits(two));
    if first == second || scene.random.chance(60) != (first > second) {
        return None;
    }
    let (date, plot) = (day.iso(), plot_from(scene, day));
    let request = scene.say(
        &[
            "If more visits on {date} were {one} visits than {two} visits, plot {words} since {date} as a {kind} chart.",
            "Count the {one} visits and the {two} visits on {date}. If there are more of the former, make a {kind} chart of {words} since {date}.",
        ],
        &[("date", &date), ("one", one), ("two", two), ("words", plot.words), ("kind", plot.kind)],
    );
    let mut calls = vec![count_source(&date, one), count_source(&date, two)];
    calls.extend((first > second).then(|| plot.call()));
    Some(Draft::unique(request, calls, []))
}

fn plot_busier(scene: &mut Scene) -> Option<Draft> {
    let (one, two) = (scene.visit_day(), scene.visit_day());
    let (first, second) = (scene.world.visits_on(one).0, scene.world.visits_on(two).0);
    if first == second || one == two {
        return None;
    }
    let plot = plot_from(scene, if first > second { one } else { two });
    let (one, two) = (one.iso(), two.iso());
    let request = scene.say(
        &[
            "Were there more visits on {one} or on {two}? Plot {words} since the busier day as a {kind} chart.",
            "Make a {kind} chart of {words} since {one} or {two}, whichever had more visits.",
        ],
        &[("one", &one), ("two", &two), ("words", plot.words), ("kind", plot.kind)],
    );
    Some(Draft::unique(request, [count_visits(&one), count_visits(&two), plot.call()], []))
}

fn plot_else(scene: &mut Scene) -> Option<Draft> {
    let day = scene.visit_day();
    let met = scene.random.chance(50);
    let limit = scene.limit(scene.world.visits_on(day).0, met)?.to_string();
    let (one, two) = (plot_from(scene, day), plot_from(scene, day));
    if one.value == two.value {
        return None;
    }
    let two = Plot { kind: one.kind, ..two };
    let date = day.iso();
    let request = scene.say(
        &[
            "If there were more than {limit} visits on {date}, plot {one} since {date}, otherwise {two}, as a {kind} chart.",
            "Make a {kind} chart since {date}: {one} if that day had more than {limit} visits, and {two} if not.",
        ],
        &[("limit", &limit), ("date", &date), ("one", one.words), ("two", two.words), ("kind", one.kind)],
    );
    let plot = if met { one } else { two };
    Some(Draft::unique(request, [count_visits(&date), plot.call()], []))
}
