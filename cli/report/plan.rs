//! A plan as text.

use nemo_rl::plan::{Plan, size_text as size};

/// The plan in a few lines: what each phase takes at most, and what was chosen for it.
pub fn summary(plan: &Plan) -> String {
    let mut text = format!(
        "plan: {} of the {} that may be used; weights and optimizer take {}",
        size(plan.peak_bytes()),
        size(plan.device_memory),
        size(plan.resident_bytes())
    );
    for phase in &plan.phases {
        let chosen = match phase.name {
            "generation" => format!(", room for {} sequences", plan.engine.num_sequences),
            "backward" => format!(", chunks of {} tokens, {}", plan.chunk_tokens, kept(plan)),
            _ => String::new(),
        };
        text.push_str(&format!("\n  {:<10}  {:>10} beside those{chosen}", phase.name, size(phase.bytes())));
    }
    text
}

/// What is said of graphs.
fn kept(plan: &Plan) -> &'static str {
    match plan.work.rerun {
        0.0 => "every block's graph kept",
        1.0 => "every block run twice",
        _ => "some blocks run twice",
    }
}
