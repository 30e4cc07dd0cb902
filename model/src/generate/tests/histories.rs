//! Every history of a few calls, with whatever fails in it.

use super::*;

/// What is held always has a holder, every turn is reported once, and what is sampled is what an engine samples that never
/// failed.
#[test]
fn small_histories_keep_the_books() {
    const NUM_CALLS: usize = 7;
    const LENGTH: u32 = 5;
    let (model, mut undisturbed) = (model(), Undisturbed::default());
    let (mut num_ended, mut num_not_finite, mut num_too_large, mut num_device_errors) = (0, 0, 0, 0);
    let mut num_preempted = 0;
    for history in 0..NUM_CALLS.pow(LENGTH) {
        let mut engine = Observed::new(&model, tight());
        for place in 0..LENGTH {
            let call = history / NUM_CALLS.pow(place) % NUM_CALLS;
            match call {
                // A sample whose turn begins and one that waits for it.
                0 => {
                    let begun = engine.open(&prompt(10, 0), 2)[0];
                    engine.begin_turn(begun, &[], false);
                }
                1 => drop(engine.begin(&prompt(13, 1), 1, true)),
                2 => drop(engine.begin(&prompt(25, 2), 2, false)),
                3 => engine.step(&mut undisturbed),
                // The next turn of the oldest sequence that has none; its prompt may still be queued.
                4 => {
                    let waiting = engine.tokens.keys().find(|id| !engine.turns.contains_key(id)).copied();
                    waiting.into_iter().for_each(|id| engine.begin_turn(id, &[7, 8, 9], false));
                }
                5 => {
                    let oldest = engine.tokens.keys().next().copied();
                    oldest.into_iter().for_each(|id| engine.finish(id));
                }
                // The device fails: at once, or some passes later.
                _ => engine.engine.checks_before_failure = Some(place as usize % 3),
            }
            assert_all_memory_has_a_holder(&engine.engine, &format!("call {place} of history {history}"));
        }
        engine.drain(&mut undisturbed);
        num_ended += engine.ended.len();
        num_not_finite += engine.not_finite.len();
        num_too_large += engine.too_large.len();
        num_device_errors += engine.num_device_errors;
        num_preempted += engine.engine.memory_use().num_preempted;
        engine.tokens.keys().copied().collect::<Vec<_>>().into_iter().for_each(|id| engine.finish(id));
        assert_all_memory_has_a_holder(&engine.engine, &format!("the end of history {history}"));
        let left = engine.engine.prefixes.runs.iter().map(|run| run.pages.len()).sum::<usize>();
        assert_eq!(engine.engine.memory_use().pages, left);
    }
    assert!(num_ended > 0 && num_preempted > 0);
    assert!(num_not_finite > 0 && num_too_large > 0 && num_device_errors > 0);
}
