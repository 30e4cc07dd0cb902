//! On the device, too, a sequence has the same bits whatever else is in the batch and where its prompt is cut at a chunk.
//!
//! In f32 the kernel of matrix products has other tiles where there are few rows, but adds along the inner axis one by one,
//! whatever the tiles are. Tensor cores, which take over where numbers are narrower or TF32 is allowed, do not.

use nemo_model::generate::{Engine, EngineOptions, SampleKey, SamplingParams};
use nemo_model::parallel::ForwardContext;
use nemo_model::{HybridState, LayerState, NemotronH};

use crate::golden::{load, values};
use crate::{model_folders, test_device};

/// A multiple of every chunk that the scan kernel takes.
const CHUNK: usize = 32;

fn tokens(model: &NemotronH, count: usize, salt: u32) -> Vec<u32> {
    let vocabulary = model.config().vocab_size as u32;
    (0..count as u32).map(|i| (i * 7 + i * i * 3 + salt) % vocabulary).collect()
}

/// Logits of rows padded on the right, without the padding, and the state behind them.
fn forward(model: &NemotronH, rows: &[&[u32]], state: HybridState) -> (Vec<Vec<f64>>, HybridState) {
    let lengths: Vec<usize> = rows.iter().map(|row| row.len()).collect();
    let longest = lengths.iter().copied().max().unwrap();
    let padded = lengths.iter().any(|&length| length < longest);
    let context = ForwardContext { lengths: padded.then_some(&lengths[..]) };
    let (hidden, state) = model.forward(model.token_tensor(rows, longest, 0), state, context);
    let logits = values(model.logits(model.normalize(hidden)));
    let row_size = logits.len() / rows.len();
    let valid = lengths.iter().enumerate().map(|(row, length)| {
        let size = row_size / longest * length;
        logits[row * row_size..][..size].to_vec()
    });
    (valid.collect(), state)
}

fn flat(state: &HybridState) -> Vec<Vec<f64>> {
    let mut all = Vec::new();
    for layer in &state.layers {
        match layer {
            LayerState::Mamba2 { window, ssm } => all.extend([values(window.clone()), values(ssm.clone())]),
            LayerState::Attention { keys_values } => {
                let (keys, kept) = keys_values.clone().unwrap();
                all.extend([values(keys), values(kept)]);
            }
            LayerState::Stateless => {}
        }
    }
    all
}

#[test]
fn a_sequence_does_not_see_its_batch() {
    let Some(device) = test_device() else { return };
    let folders = model_folders();
    for folder in &folders {
        let model = load(folder, "config.json", &device);
        let rows: Vec<Vec<u32>> =
            [40, 17, 1, 33].iter().enumerate().map(|(row, &count)| tokens(&model, count, row as u32 * 31)).collect();
        let views: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
        let (together, state) = forward(&model, &views, model.empty_state());
        for (row, view) in views.iter().enumerate() {
            let (alone, last) = forward(&model, &[view], model.empty_state());
            assert!(together[row] == alone[0], "{}: row {row} has other logits alone", folder.display());
            assert!(flat(&state.row(row)) == flat(&last), "{}: row {row} has another state alone", folder.display());
        }
    }
    println!("invariance on {device:?}: batches of {} models ran", folders.len());
}

#[test]
fn a_prompt_cut_at_a_chunk_is_one_prompt() {
    let Some(device) = test_device() else { return };
    let folders = model_folders();
    for folder in &folders {
        let model = load(folder, "config.json", &device);
        let prompt = tokens(&model, 2 * CHUNK + 11, 5);
        let (whole, last) = forward(&model, &[&prompt], model.empty_state());
        for cut in [CHUNK, 2 * CHUNK] {
            let (mut found, middle) = forward(&model, &[&prompt[..cut]], model.empty_state());
            let (rest, end) = forward(&model, &[&prompt[cut..]], middle);
            found[0].extend(&rest[0]);
            assert!(found == whole, "{}: other logits when cut at {cut}", folder.display());
            assert!(flat(&end) == flat(&last), "{}: another state when cut at {cut}", folder.display());
        }
    }
    println!("invariance on {device:?}: cut prompts of {} models ran", folders.len());
}

/// Samples of one prompt and their log-probabilities, sampled in the company of other prompts or without.
fn sampled(model: NemotronH, prompts: &[Vec<u32>]) -> Vec<(Vec<u32>, Vec<f32>)> {
    let mut engine = Engine::new(model, EngineOptions { num_pages: 64, num_slots: 12, ..EngineOptions::default() });
    let mut handles = Vec::new();
    for prompt in prompts {
        let id = engine.begin(prompt, 1).unwrap()[0];
        // The key is the prompt's, not its place's.
        let key = SampleKey { seed: 3, step: 0, task: prompt.len() as u64, sample: 0 };
        let sampling = SamplingParams { temperature: 1.0, top_p: 1.0, min_p: 0.0, top_k: None, max_new_tokens: 12 };
        engine.begin_turn(id, &[], key, &sampling).unwrap();
        handles.push(id);
    }
    let mut ended = Vec::new();
    while engine.has_open_turns() {
        ended.extend(engine.step().unwrap());
    }
    let turn = |id| ended.iter().find(|turn| turn.sequence == id).unwrap();
    handles.into_iter().map(|id| (turn(id).tokens.clone(), turn(id).log_probs.clone())).collect()
}

#[test]
fn company_changes_no_sample() {
    let Some(device) = test_device() else { return };
    let folders = model_folders();
    for folder in &folders {
        let model = load(folder, "config.json", &device);
        let prompts: Vec<Vec<u32>> = [21, 5, 50].iter().map(|&count| tokens(&model, count, count as u32)).collect();
        let together = sampled(model.clone(), &prompts);
        for (prompt, expected) in prompts.iter().zip(&together) {
            let alone = sampled(model.clone(), std::slice::from_ref(prompt));
            assert!(&alone[0] == expected, "{}: {alone:?} and {expected:?}", folder.display());
        }
    }
    println!("invariance on {device:?}: samples of {} models ran", folders.len());
}
