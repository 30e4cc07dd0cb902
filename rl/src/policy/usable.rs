//! Whether a model can act with the weights it has: whatever is saved has to be loaded, run and stored again.

use burn::tensor::{DType, Tensor};
use nemo_model::NemotronH;
use nemo_model::checkpoint::StoredDtype;

use super::api::PolicyError;

/// Weights beyond this have no square in f32, and norms square whatever weights have made.
const LARGEST: f32 = 1.8e19;
/// Tokens of the trial run; more would show nothing new, since the head multiplies with the whole vocabulary.
const TRIAL_TOKENS: usize = 32;

/// Checks every weight that training changes by itself, and all weights together in a run over a few tokens.
///
/// # Errors
/// [`PolicyError::Unusable`] with the tensor at fault: one that holds no numbers or numbers beyond its stored type, or the
/// one with the largest where the run overflows.
pub fn check(model: &NemotronH) -> Result<(), PolicyError> {
    let stored = match model.adapter() {
        Some(_) => StoredDtype::F32,
        None => StoredDtype::from(model.config().dtype),
    };
    let largest_stored = match stored {
        StoredDtype::F16 => 65_504.0,
        _ => LARGEST,
    };
    let mut fault = None;
    let mut largest = (String::new(), 0.0f32);
    // The copy shares storage; only the traversal is asked for.
    model.clone().visit_trained_mut(&mut |name, parameter| {
        if fault.is_some() {
            return;
        }
        let peak = peak(parameter.flat());
        if !peak.is_finite() || peak > LARGEST {
            fault = Some((name.to_owned(), format!("holds {peak:e}, with which the model cannot be run")));
        } else if peak > largest_stored {
            let reason = format!(
                "holds {peak:e}, and the model is stored in {}, which ends at {largest_stored:e} (torch_dtype of its \
                 config.json)",
                stored.name()
            );
            fault = Some((name.to_owned(), reason));
        } else if peak > largest.1 {
            largest = (name.to_owned(), peak);
        }
    });
    if fault.is_none() && !runs(model) {
        let (name, peak) = largest;
        fault = Some((name, format!("holds numbers up to {peak:e}, with which the model's outputs are not finite")));
    }
    match fault {
        None => Ok(()),
        Some((tensor, reason)) => Err(PolicyError::Unusable { tensor, reason }),
    }
}

/// The largest magnitude; NaN or infinity if there is one.
fn peak(values: Tensor<1>) -> f32 {
    let data = values.cast(DType::F32).into_data();
    data.iter::<f32>().map(f32::abs).fold(0.0, |peak, value| if value.is_nan() || value > peak { value } else { peak })
}

/// Whether a run over tokens from the whole vocabulary gives finite logits. What the blocks give has to have finite squares:
/// the norm before the head would hide an overflow behind zeros.
fn runs(model: &NemotronH) -> bool {
    let vocab = model.config().vocab_size;
    let count = TRIAL_TOKENS.min(vocab);
    let tokens: Vec<u32> = (0..count).map(|i| (i * vocab / count) as u32).collect();
    let hidden = model.forward_last(model.token_tensor(&[&tokens], count, 0), model.empty_state(), None);
    let squares = hidden.clone().powi_scalar(2).sum_dim(2).reshape([count]);
    let logits = model.logits(model.normalize(hidden)).reshape([count * vocab]);
    peak(squares).is_finite() && peak(logits).is_finite()
}
