//! What would make a run fit: each setting is changed on its own, as little as helps, and the plan made anew.

use super::{ElementBytes, Plan, PlanInput};
use crate::config::{MomentDtype, Precision};

/// Devices that are tried.
const DEVICES: [usize; 6] = [2, 4, 8, 16, 32, 64];
/// Shortest batch and sequence that are proposed, in tokens.
const LEAST_TOKENS: usize = 256;

/// The settings that would make `input` fit, one sentence part each; of several at once if none does alone. Empty if it fits.
pub fn remedies(input: &PlanInput<'_>) -> Vec<String> {
    let fits = |input: &PlanInput<'_>| Plan::new(input).is_some_and(|plan| plan.fits());
    if fits(input) {
        return Vec::new();
    }
    let mut found: Vec<String> = single_changes(input)
        .into_iter()
        .filter_map(|ladder| ladder.into_iter().find(|(changed, _)| fits(changed)).map(|(_, text)| text))
        .collect();
    if found.is_empty() {
        found.extend(all_together(input, &fits));
    }
    found.extend(more_memory(input));
    found
}

type Change<'a> = (PlanInput<'a>, String);

/// Each setting from the smallest change to the largest.
fn single_changes<'a>(input: &PlanInput<'a>) -> Vec<Vec<Change<'a>>> {
    let halvings = |start: usize| {
        std::iter::successors(Some(start / 2), |tokens| Some(tokens / 2)).take_while(|&tokens| tokens >= LEAST_TOKENS)
    };
    let workload = input.workload;
    let mut ladders = Vec::new();
    if input.settings.trains {
        let longest = workload.longest_sequence;
        ladders.push(
            halvings(workload.max_batch_tokens)
                .map(|max_batch_tokens| {
                    let mut changed = input.clone();
                    changed.workload.max_batch_tokens = max_batch_tokens;
                    let key = "policy.dynamic_batching";
                    (changed, format!("{key}.enabled=true with {key}.train_mb_tokens={max_batch_tokens}"))
                })
                .collect(),
        );
        ladders.push(
            halvings(workload.chunk_tokens)
                .map(|chunk_tokens| {
                    let mut changed = input.clone();
                    changed.workload.chunk_tokens = chunk_tokens;
                    (changed, format!("policy.chunk_tokens={chunk_tokens}"))
                })
                .collect(),
        );
        ladders.push(
            halvings(longest)
                .map(|tokens| (shorter(input, tokens), format!("policy.max_total_sequence_length={tokens}")))
                .collect(),
        );
    }
    if input.settings.element_bytes == ElementBytes::FLOAT32 {
        let mut changed = input.clone();
        changed.settings.element_bytes = ElementBytes::BFLOAT16;
        ladders.push(vec![(changed, "policy.precision=bfloat16".to_owned())]);
    }
    ladders.push(leaner_optimizers(input));
    let more_devices = DEVICES.into_iter().filter(|&devices| devices > input.machine.devices);
    ladders.push(
        more_devices
            .map(|devices| {
                let mut changed = input.clone();
                changed.machine.devices = devices;
                (changed, format!("{devices} such devices, each with a part of every layer"))
            })
            .collect(),
    );
    ladders
}

/// The optimizer's state in fewer bits: first the moments, then also without masters.
fn leaner_optimizers<'a>(input: &PlanInput<'a>) -> Vec<Change<'a>> {
    const BLOCK: &str = "policy.megatron_cfg.optimizer";
    let (settings, mut changed) = (input.settings, input.clone());
    if !settings.trains {
        return Vec::new();
    }
    let mut steps = Vec::new();
    let (mut text, optimizer) = (String::new(), &mut changed.settings.optimizer);
    if [optimizer.exp_avg, optimizer.exp_avg_sq] != [MomentDtype::Uint8; 2] {
        (optimizer.exp_avg, optimizer.exp_avg_sq) = (MomentDtype::Uint8, MomentDtype::Uint8);
        text = format!("{BLOCK}.exp_avg_dtype=uint8 with {BLOCK}.exp_avg_sq_dtype=uint8");
        steps.push((changed.clone(), text.clone()));
    }
    if input.master_bytes() > 0 {
        changed.settings.optimizer.main_params = Precision::Bfloat16;
        let and = if text.is_empty() { "" } else { " and " };
        steps.push((changed, format!("{text}{and}{BLOCK}.main_params_dtype=bfloat16")));
    }
    steps
}

/// Sequences of half the length have half the prompt, in batches of as many rows.
fn shorter<'a>(input: &PlanInput<'a>, tokens: usize) -> PlanInput<'a> {
    let mut changed = input.clone();
    let workload = &mut changed.workload;
    let scaled = |part: usize| part * tokens / input.workload.longest_sequence.max(1);
    workload.shared_prefix = scaled(workload.shared_prefix);
    workload.prompt = scaled(workload.prompt);
    workload.max_batch_tokens = scaled(workload.max_batch_tokens).max(1);
    workload.leaf_tokens = workload.leaf_tokens.min(tokens);
    workload.longest_sequence = tokens;
    changed
}

/// The largest change of batches, of precision and of the optimizer's state together with the fewest devices that help then.
fn all_together(input: &PlanInput<'_>, fits: &dyn Fn(&PlanInput<'_>) -> bool) -> Option<String> {
    let mut changed = input.clone();
    let mut parts = Vec::new();
    if input.settings.trains && input.workload.max_batch_tokens > LEAST_TOKENS {
        changed.workload.max_batch_tokens = LEAST_TOKENS;
        parts.push(format!("batches of {LEAST_TOKENS} tokens"));
    }
    if input.settings.element_bytes == ElementBytes::FLOAT32 {
        changed.settings.element_bytes = ElementBytes::BFLOAT16;
        parts.push("policy.precision=bfloat16".to_owned());
    }
    if let Some((leanest, text)) = leaner_optimizers(&changed).pop() {
        changed = leanest;
        parts.push(text);
    }
    let devices = std::iter::once(input.machine.devices).chain(DEVICES).find(|&devices| {
        changed.machine.devices = devices;
        devices >= input.machine.devices && fits(&changed)
    })?;
    if devices > input.machine.devices {
        parts.push(format!("{devices} such devices"));
    }
    Some(format!("all of these together: {}", parts.join(", ")))
}

/// The memory at which the run fits as it is.
fn more_memory(input: &PlanInput<'_>) -> Option<String> {
    let mut changed = input.clone();
    let fits = |changed: &mut PlanInput<'_>, memory: usize| {
        changed.machine.device_memory = memory;
        Plan::new(changed).is_some_and(|plan| plan.fits())
    };
    let mut most = input.machine.device_memory.max(1 << 20);
    while !fits(&mut changed, most) {
        most = most.checked_mul(2)?;
    }
    let (mut too_little, mut enough) = (input.machine.device_memory, most);
    while enough - too_little > 1 << 20 {
        let middle = too_little + (enough - too_little) / 2;
        if fits(&mut changed, middle) { enough = middle } else { too_little = middle }
    }
    Some(format!("{} of memory on each device", size_text(enough)))
}

/// Bytes in the unit that suits them, rounded up.
pub fn size_text(bytes: usize) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let exponent = (bytes.max(1).ilog2() / 10).min(UNITS.len() as u32 - 1);
    let value = bytes as f64 / (1_u64 << (10 * exponent)) as f64;
    format!("{:.1} {}", (value * 10.0).ceil() / 10.0, UNITS[exponent as usize])
}
