//! Schemas of the analytics tools.

use super::{Parameter, TEXT, Tool};
use crate::workplace::analytics;

const FIRST_DAY: Parameter = ("time_min", TEXT, "First day to include, as YYYY-MM-DD");
const LAST_DAY: Parameter = ("time_max", TEXT, "Last day to include, as YYYY-MM-DD");

pub(super) static TOOLS: [Tool; 6] = [
    Tool {
        name: "analytics_get_visitor_information_by_id",
        method: "AnalyticsTool.get_visitor_information_by_id",
        description: "List the website visits of one visitor.",
        parameters: &[("visitor_id", TEXT, "The visitor's ID")],
        num_required: 1,
        run: analytics::get_visitor_information_by_id,
    },
    Tool {
        name: "analytics_create_plot",
        method: "AnalyticsTool.create_plot",
        description: "Draw a plot of one figure of the website's visits over some days.",
        parameters: &[
            FIRST_DAY,
            LAST_DAY,
            (
                "value_to_plot",
                TEXT,
                "Which figure: 'total_visits', 'session_duration_seconds', 'user_engaged', 'visits_direct', 'visits_referral', 'visits_search_engine' or 'visits_social_media'",
            ),
            ("plot_type", TEXT, "Kind of plot: 'bar', 'line', 'scatter' or 'histogram'"),
        ],
        num_required: 4,
        run: analytics::create_plot,
    },
    Tool {
        name: "analytics_total_visits_count",
        method: "AnalyticsTool.total_visits_count",
        description: "Count the website's visits, day by day.",
        parameters: &[FIRST_DAY, LAST_DAY],
        num_required: 0,
        run: analytics::total_visits_count,
    },
    Tool {
        name: "analytics_engaged_users_count",
        method: "AnalyticsTool.engaged_users_count",
        description: "Count the website's engaged users, day by day.",
        parameters: &[FIRST_DAY, LAST_DAY],
        num_required: 0,
        run: analytics::engaged_users_count,
    },
    Tool {
        name: "analytics_traffic_source_count",
        method: "AnalyticsTool.traffic_source_count",
        description: "Count the website's visits that came from one source, day by day.",
        parameters: &[
            FIRST_DAY,
            LAST_DAY,
            ("traffic_source", TEXT, "Which source: 'direct', 'referral', 'search engine' or 'social media'"),
        ],
        num_required: 0,
        run: analytics::traffic_source_count,
    },
    Tool {
        name: "analytics_get_average_session_duration",
        method: "AnalyticsTool.get_average_session_duration",
        description: "Average length of a visit to the website in seconds, day by day.",
        parameters: &[FIRST_DAY, LAST_DAY],
        num_required: 0,
        run: analytics::get_average_session_duration,
    },
];
