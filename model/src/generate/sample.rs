//! The last part of a pass: from hidden values to tokens, and the turns that end with them.

use burn::tensor::{Int, Tensor, TensorData};
use nemo_kernels::{DeviceError, RandomKey, SamplingOptions, sample_rows};

use super::engine::Engine;
use super::request::{SampleKey, SequenceId, StopReason, TurnEnd};
use super::sequence::{Phase, Turn};
use crate::error::EngineError;

impl Engine {
    /// Draws one token for each `(sequence, row of hidden)` and ends the turns that are over. A row without finite
    /// values fails alone.
    ///
    /// # Errors
    /// When the device fails; nothing is drawn then.
    pub(super) fn sample(&mut self, rows: &[(SequenceId, usize)], hidden: Tensor<2>) -> Result<(), DeviceError> {
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
        let logits = self.model.logits(hidden.reshape([rows.len(), 1, width])).try_into_data();
        let logits = logits.map_err(|error| self.lose(&mut [], DeviceError::from_message(&error.to_string())))?;
        let logits = match logits.try_into_vec_as::<f32>() {
            Ok(logits) => logits,
            Err(error) => unreachable!("logits are floats: {error:?}"),
        };
        let mut requests = Vec::with_capacity(rows.len());
        for (id, _) in rows {
            let sequence = &self.sequences[id];
            if let Some(turn) = sequence.turn() {
                let options = SamplingOptions {
                    temperature: turn.sampling.temperature_f32(),
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
        for (&(id, _), token) in rows.iter().zip(drawn) {
            let Some(token) = token else {
                // Its state is of no use either; a later turn computes it anew.
                self.fail(id, EngineError::NotFinite { sequence: id });
                continue;
            };
            let Some(sequence) = self.sequences.get_mut(&id) else { continue };
            let Phase::Sampled(turn) = &mut sequence.phase else { continue };
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
                self.ended.extend(sequence.end_turn().map(|turn| turn.end(id, reason)));
            }
        }
        Ok(())
    }
}

impl Turn {
    /// The turn as it is reported.
    pub(super) fn end(self, sequence: SequenceId, reason: StopReason) -> TurnEnd {
        TurnEnd { sequence, tokens: self.tokens, log_probs: self.log_probs, reason }
    }
}
