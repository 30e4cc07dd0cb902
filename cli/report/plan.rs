//! A plan as text: one block before a run, a table for the command.

use nemo_rl::plan::{Item, Plan, Rates, size_text as size};

use super::table::Table;

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
            "backward" => format!(", {}", kept(plan)),
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

/// Every item of every phase, for one device.
pub fn table(plan: &Plan) -> String {
    let mut table = Table::new(&["memory of each device", "size", "in all"]);
    let add = |table: &mut Table, items: &[Item]| {
        for item in items.iter().filter(|item| item.bytes > 0) {
            table.row(vec![format!("  {}", item.name), size(item.bytes)]);
        }
    };
    table.row(vec!["always".to_owned(), String::new(), size(plan.resident_bytes())]);
    add(&mut table, &plan.resident);
    for phase in &plan.phases {
        table.row(vec![phase.name.to_owned(), String::new(), size(plan.phase_bytes(phase.name))]);
        add(&mut table, &phase.items);
    }
    table.text()
}

/// What has room, and how long a step takes at least at these rates.
pub fn figures(plan: &Plan, rates: Rates, of: &str) -> String {
    let (engine, work) = (&plan.engine, &plan.work);
    let seconds = work.seconds(rates);
    let mut table = Table::new(&["step", ""]);
    let mut add = |name: &str, value: String| table.row(vec![name.to_owned(), value]);
    add("sequences at a time", engine.num_sequences.to_string());
    add("tokens of keys and values", engine.num_tokens.to_string());
    add("room for graphs", size(plan.kept_bytes));
    add("blocks that run twice", format!("{:.0} %", 100.0 * work.rerun));
    add("tokens trained through", format!("{:.0}", work.training_tokens));
    add("operations of generation", operations(work.prefill_flops + work.decode_passes * work.decode_flops));
    add("operations of training", operations(work.training_flops));
    for (name, seconds) in [
        ("generation, at least", seconds.generation),
        ("backward, at least", seconds.backward),
        ("update, at least", seconds.update),
        ("a step, at least", seconds.total()),
    ] {
        add(name, duration(seconds));
    }
    format!(
        "{}\n\nRates: {}/s, {:.1} GB/s ({of}). Every sequence is taken to have the longest length.",
        table.text(),
        operations(rates.matmul_flops),
        rates.memory_bytes / 1e9
    )
}

fn operations(count: f64) -> String {
    let (value, unit) = scaled(count, 1000.0, &["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP", "ZFLOP"]);
    format!("{value:.1} {unit}")
}

fn scaled<'u>(mut value: f64, step: f64, units: &[&'u str]) -> (f64, &'u str) {
    let mut unit = 0;
    while value >= step && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    (value, units.get(unit).copied().unwrap_or_default())
}

fn duration(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 1.0 => format!("{:.1} ms", 1000.0 * seconds),
        seconds if seconds < 120.0 => format!("{seconds:.1} s"),
        seconds if seconds < 7200.0 => format!("{:.1} min", seconds / 60.0),
        seconds => format!("{:.1} h", seconds / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_suitable_units() {
        assert_eq!(operations(6.2e13), "62.0 TFLOP");
        assert_eq!(
            [duration(0.004), duration(1.5), duration(600.0), duration(36000.0)].join(" "),
            "4.0 ms 1.5 s 10.0 min 10.0 h"
        );
    }
}
