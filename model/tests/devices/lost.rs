//! What a device loses in the middle of a generation ends the step, and leaves an engine that goes on.

use burn::tensor::{DType, Tensor};
use nemo_model::EngineError;
use nemo_model::generate::{Engine, EngineOptions, SampleKey, SamplingParams};

use crate::device::named_device;
use crate::golden::load;
use crate::model_folders;

const PROMPT: [u32; 20] = [3, 9, 4, 1, 7, 5, 2, 8, 6, 3, 1, 4, 9, 5, 7, 2, 6, 8, 3, 5];

/// The tokens of one greedy turn.
fn turn(engine: &mut Engine) -> Result<Vec<u32>, EngineError> {
    let id = engine.begin(&PROMPT, 1)?[0];
    let key = SampleKey { seed: 1, step: 0, task: 0, sample: 0 };
    let sampling = SamplingParams { temperature: 0.0, top_p: 1.0, min_p: 0.0, top_k: None, max_new_tokens: 6 };
    engine.begin_turn(id, &[], key, &sampling)?;
    let mut ended = Vec::new();
    while engine.has_open_turns() {
        let step = engine.step();
        if step.is_err() {
            engine.finish(id);
        }
        ended.extend(step?);
    }
    engine.finish(id);
    Ok(ended.remove(0).tokens)
}

#[test]
fn a_lost_weight_ends_the_step_and_not_the_engine() {
    let Some((name, device)) = named_device() else { return };
    if !name.starts_with("cuda") {
        return println!("skipped: {device:?} does not report what it loses");
    }
    for folder in model_folders() {
        // As few state slots and pages as one sequence takes, so that any that leaks is missed.
        let options = EngineOptions { num_slots: 3, num_pages: 3, ..EngineOptions::default() };
        let mut engine = Engine::new(load(&folder, "config.json", &device), options);
        if engine.model().config().layers.to_string().contains('E') {
            // Experts are chosen on the host, which panics where it reads what was lost: the program ends there.
            println!("skipped: {} has experts", folder.display());
            continue;
        }
        let expected = turn(&mut engine).unwrap();
        let mut kept = None;
        engine.update_model(|model| {
            model.visit_mut(&mut |_, mut parameter| {
                let length = parameter.flat().dims()[0];
                if kept.is_none() && parameter.rank() == 1 {
                    parameter.update_flat(|weights| {
                        kept = Some(weights.clone() * 1.0);
                        // More memory than any device has.
                        Tensor::empty([1usize << 38], (&device, DType::F32)).narrow(0, 0, length) * 1.0
                    });
                }
            });
        });
        for _ in 0..3 {
            let error = turn(&mut engine).unwrap_err();
            assert!(matches!(error, EngineError::Device(_)), "{}: {error}", folder.display());
        }
        engine.update_model(|model| {
            model.visit_mut(&mut |_, mut parameter| {
                if parameter.rank() == 1
                    && let Some(weights) = kept.take()
                {
                    parameter.update_flat(|_| weights);
                }
            });
        });
        assert_eq!(turn(&mut engine).unwrap(), expected, "{}", folder.display());
    }
}
