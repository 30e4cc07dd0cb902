//! The last part of a pass: from hidden values to tokens, and the turns that end with them.

use burn::tensor::{Int, Tensor, TensorData};
use nemo_kernels::{RandomKey, SamplingOptions, sample_rows};

use super::engine::Engine;
use super::request::{SampleKey, SequenceId, StopReason, TurnEnd};
use super::sequence::Turn;
use crate::error::EngineError;

impl Engine {
    /// Draws one token for each `(sequence, row of hidden)` and ends the turns that are over. A row without finite
    /// values fails alone.
    pub(super) fn sample(&mut self, rows: &[(SequenceId, usize)], hidden: Tensor<2>) -> Result<(), EngineError> {
        if rows.is_empty() {
            return Ok(());
        }
        let [all_rows, width] = hidden.dims();
        let hidden = if rows.len() == all_rows {
            hidden
        } else {
            let indices: Vec<i64> = rows.iter().map(|&(_, row)| row as i64).collect();
            let indices = TensorData::new(indices, [rows.len()]);
            hidden.select(0, Tensor::<1, Int>::from_data(indices, &self.model.device()))
        };
        let logits = self.model.logits(hidden.reshape([rows.len(), 1, width])).into_data();
        let logits = match logits.try_into_vec_as::<f32>() {
            Ok(logits) => logits,
            Err(error) => unreachable!("logits are floats: {error:?}"),
        };
        let mut requests = Vec::with_capacity(rows.len());
        for (id, _) in rows {
            let sequence = &self.sequences[id];
            if let Some(turn) = &sequence.turn {
                let options = SamplingOptions {
                    temperature: turn.sampling.temperature as f32,
                    top_k: turn.sampling.top_k,
                    top_p: turn.sampling.top_p as f32,
                    min_p: turn.sampling.min_p as f32,
                };
                let SampleKey { seed, step, task, sample } = turn.key;
                let position = sequence.run.tokens.len() as u64;
                requests.push((options, RandomKey { seed, step, task, sample, position }));
            }
        }
        let drawn = sample_rows(&logits, self.model.config().vocab_size, &requests);
        let mut failed = None;
        for ((id, _), token) in rows.iter().zip(drawn) {
            let Some(sequence) = self.sequences.get_mut(id) else { continue };
            let Some(token) = token else {
                // Its state is of no use either; a later turn computes it anew.
                sequence.turn = None;
                self.memory.preempt(&mut sequence.run);
                failed = failed.or(Some(EngineError::NotFinite { sequence: *id }));
                continue;
            };
            let Some(turn) = &mut sequence.turn else { continue };
            sequence.run.tokens.push(token.id);
            turn.tokens.push(token.id);
            turn.log_probs.push(token.log_prob);
            let reason = if self.options.stop_tokens.contains(&token.id) {
                Some(StopReason::EndOfTurn)
            } else if turn.tokens.len() >= turn.sampling.max_new_tokens {
                Some(StopReason::Length)
            } else {
                None
            };
            if let Some(reason) = reason {
                self.ended.extend(sequence.turn.take().map(|turn| turn.end(*id, reason)));
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

impl Turn {
    /// The turn as it is reported.
    pub(super) fn end(self, sequence: SequenceId, reason: StopReason) -> TurnEnd {
        TurnEnd { sequence, tokens: self.tokens, log_probs: self.log_probs, reason }
    }
}
