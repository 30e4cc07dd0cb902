//! Models whose every weight is in bf16, against the truth in float64.

use burn::tensor::{Device, Int, Tensor, TensorData};
use nemo_model::parallel::ForwardContext;
use nemo_model::{Dtypes, WeightStorage};

use crate::fixture::{Cases, folders};
use crate::golden::values;

/// Largest difference of logits and log-probabilities where weights are widened and everything else is f32.
const WIDENED: f64 = 5e-5;

/// The logits of all stored lengths, in bf16 as it lies in the file and in f32: the truth, and the same bits.
pub fn bf16_models_match() {
    let mut checks = 0;
    let mut largest = 0.0f64;
    for folder in folders("bf16") {
        let cases = Cases::open(&folder);
        let device = Device::flex();
        let [narrow, wide] = [Dtypes::stored(WeightStorage::Bf16), Dtypes::F32]
            .map(|dtypes| nemo_model::load(&folder, &device, dtypes).expect("the checkpoint loads"));
        for length in cases.lengths() {
            let ids = cases.ints(&format!("len{length}.input_ids"));
            let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, length]), &device);
            let [found, in_f32] = [&narrow, &wide].map(|model| {
                let (hidden, _) = model.forward(ids.clone(), model.empty_state(), ForwardContext::default());
                values(model.logits(model.normalize(hidden)))
            });
            assert_eq!(found, in_f32, "{} of {length} tokens", folder.display());
            let expected = cases.floats(&format!("len{length}.logits"));
            assert_eq!(found.len(), expected.len());
            let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(worst <= WIDENED, "{} of {length} tokens differs by {worst:e}", folder.display());
            largest = largest.max(worst);
            checks += 1;
        }
    }
    println!("bf16: {checks} passes, logits within {largest:.1e}");
}
