//! Templates on website visits.

use super::scene::{Scene, count_visits};
use super::{Draft, Template, domain::ANALYTICS, template};

pub(super) const TEMPLATES: [Template; 3] = [
    template("analytics_plot", ANALYTICS, 1, plot),
    template("analytics_plot_two", ANALYTICS, 2, plot_two),
    template("analytics_plot_if_visits", ANALYTICS, 3, plot_if_visits),
];

/// Of 100 fillings of a template with a condition, how many meet it.
pub(super) const CONDITION_MET_PERCENT: usize = 55;

fn plot(scene: &mut Scene) -> Option<Draft> {
    let plot = scene.plot();
    let request = scene.say(
        &[
            "Plot {words} from {from} to {to} as a {kind} chart.",
            "Make a {kind} chart of {words} between {from} and {to}.",
            "Show {words} from {from} to {to} in a {kind} plot.",
        ],
        &[("words", plot.words), ("from", &plot.from), ("to", &plot.to), ("kind", plot.kind)],
    );
    Some(Draft::new(request, [plot.call()]))
}

fn plot_two(scene: &mut Scene) -> Option<Draft> {
    let first = scene.plot();
    let mut second = scene.plot();
    if first.value == second.value {
        return None;
    }
    second.from.clone_from(&first.from);
    second.to.clone_from(&first.to);
    second.kind = first.kind;
    let request = scene.say(
        &[
            "Plot first {one} and then {two} from {from} to {to}, both as {kind} charts.",
            "Make two {kind} charts from {from} to {to}: {one}, then {two}.",
        ],
        &[("one", first.words), ("two", second.words), ("from", &first.from), ("to", &first.to), ("kind", first.kind)],
    );
    Some(Draft::new(request, [first.call(), second.call()]))
}

fn plot_if_visits(scene: &mut Scene) -> Option<Draft> {
    let day = scene.visit_day();
    let (count, _) = scene.world.visits_on(day);
    let met = scene.random.chance(CONDITION_MET_PERCENT);
    let limit = scene.limit(count, met)?.to_string();
    let plot = scene.plot();
    let date = day.iso();
    let request = scene.say(
        &[
            "If there were more than {limit} visits on {date}, plot {words} from {from} to {to} as a {kind} chart.",
            "Plot {words} from {from} to {to} as a {kind} chart if {date} had more than {limit} visits.",
        ],
        &[
            ("limit", &limit),
            ("date", &date),
            ("words", plot.words),
            ("from", &plot.from),
            ("to", &plot.to),
            ("kind", plot.kind),
        ],
    );
    let mut calls = vec![count_visits(&date)];
    calls.extend(met.then(|| plot.call()));
    Some(Draft::new(request, calls))
}
