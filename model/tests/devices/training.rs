//! Loss and gradients of a shared prefix with two continuations, on the device and by the host kernels.

use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData};
use nemo_model::NemotronH;
use nemo_model::adapter::{FactorInitialization, FreshAdapter, LoraSettings, linear_maps};
use nemo_model::parallel::ForwardContext;

use crate::golden::{load, relative_error, values};
use crate::{model_folders, test_device};

/// Largest relative difference of the losses. Both are f32, summed in another order; software Vulkan and CUDA come within 2e-7.
const LOSS_TOLERANCE: f64 = 2e-6;
/// Largest relative L2 difference of a parameter's gradient; software Vulkan comes within 1e-5, CUDA within 2e-5.
const GRADIENT_TOLERANCE: f64 = 5e-5;

/// Loss of the continuations' own tokens, and its gradient by every trained parameter, under the parameter's name.
///
/// The prefix goes through the model once, so the gradient comes back through its state, as in training over shared
/// prefixes; the shorter continuation is padded.
fn train(mut model: NemotronH) -> (f64, Vec<(String, Vec<f64>)>) {
    let vocabulary = model.config().vocab_size as u32;
    let run = |count: u32, salt: u32| (0..count).map(|i| (i * 7 + salt) % vocabulary).collect::<Vec<u32>>();
    let (prefix, rows) = (run(37, 3), [run(11, 20), run(6, 90)]);
    model = model.tracked();
    let prefix = model.token_tensor(&[&prefix], prefix.len(), 0);
    let (_, state) = model.forward(prefix, model.empty_state(), ForwardContext::default());
    let longest = rows[0].len();
    let lengths: Vec<usize> = rows.iter().map(Vec::len).collect();
    let tokens = model.token_tensor(&[&rows[0], &rows[1]], longest, 0);
    let normed = model.normalize(model.forward_last(tokens, state, Some(&lengths)));
    let [_, _, width] = normed.dims();
    // Every token but a row's last has a next one to be scored.
    let (mut scored, mut targets) = (Vec::new(), Vec::new());
    for (row, tokens) in rows.iter().enumerate() {
        scored.extend((0..tokens.len() - 1).map(|token| (row * longest + token) as i64));
        targets.extend(tokens[1..].iter().map(|&id| i64::from(id)));
    }
    let count = scored.len();
    let device = model.device();
    let indices = |list: Vec<i64>| Tensor::<1, Int>::from_data(TensorData::new(list, [count]), &device);
    let hidden = normed.reshape([rows.len() * longest, width]).select(0, indices(scored));
    let output = nemo_kernels::linear_log_prob(hidden, model.head_weight(), indices(targets), 0.8);
    let loss = output.log_prob.mean().neg();
    let value = values(loss.clone())[0];
    let mut gradients = loss.backward();
    let mut by_name = Vec::new();
    model.visit_trained_mut(&mut |name, parameter| {
        let gradient =
            parameter.take_gradient(&mut gradients).map(|gradient| values(gradient.add_to(None))).unwrap_or_default();
        by_name.push((name.to_owned(), gradient));
    });
    (value, by_name)
}

/// The model of a folder on a device; with an adapter that changes what it says, if that is asked for.
fn loaded(folder: &Path, device: &Device, is_adapted: bool) -> NemotronH {
    let mut model = load(folder, "config.json", device);
    if is_adapted {
        let adapter = FreshAdapter {
            settings: LoraSettings { rank: 5, alpha: 10.0 },
            targets: linear_maps(model.config()).into_iter().map(|map| map.target).collect(),
            initialization: FactorInitialization::Kaiming,
            seed: 6,
        };
        model.add_adapter(&adapter).expect("an adapter");
        model.visit_trained_mut(&mut |_, mut parameter| {
            parameter.update_flat(|values| {
                let wave: Vec<f32> = (0..values.dims()[0]).map(|i| 0.05 * (i as f32 * 0.7).sin()).collect();
                values + Tensor::from_floats(wave.as_slice(), device)
            });
        });
    }
    model
}

#[test]
fn training_is_that_of_the_host() {
    let Some(device) = test_device() else { return };
    let mut checks = 0;
    let mut largest: (f64, String) = (0.0, String::new());
    let mut largest_loss: f64 = 0.0;
    for (folder, is_adapted) in model_folders().into_iter().flat_map(|folder| [(folder.clone(), false), (folder, true)])
    {
        let (loss, gradients) = train(loaded(&folder, &device, is_adapted));
        let (expected_loss, expected) = train(loaded(&folder, &Device::flex(), is_adapted));
        let error = (loss - expected_loss).abs() / expected_loss;
        assert!(error <= LOSS_TOLERANCE, "{}: loss {loss}, on the host {expected_loss}", folder.display());
        largest_loss = largest_loss.max(error);
        for ((name, found), (_, expected)) in gradients.iter().zip(&expected) {
            assert_eq!(found.len(), expected.len(), "{} {name}", folder.display());
            let error = relative_error(found, expected);
            assert!(error <= GRADIENT_TOLERANCE, "{} {name}: relative L2 {error:e}", folder.display());
            if error > largest.0 {
                largest = (error, format!("{} {name}", folder.display()));
            }
            checks += usize::from(expected.iter().any(|&v| v != 0.0));
        }
    }
    assert!(checks > 0, "no gradient was compared");
    println!("training on {device:?}: {checks} gradients within {:.1e} ({})", largest.0, largest.1);
    println!("  losses within {largest_loss:.1e}");
}
