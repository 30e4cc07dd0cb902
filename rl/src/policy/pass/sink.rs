//! Where gradients go: one sum per parameter, added to in place.
//!
//! Of a model with an adapter only the adapter's factors have gradients. Everything that happens to a gradient between the
//! backward pass and the optimizer happens here, and nowhere is a second tensor as large as a parameter made for a batch:
//! products add into their sum, embedding rows are scattered into it.

use std::collections::BTreeMap;

use burn::tensor::{Gradients, IndexingUpdateOp, Int, Tensor, TensorData};
use nemo_model::checkpoint::{EMBEDDINGS, FINAL_NORM};
use nemo_model::{Block, NemotronH, RmsNorm};

use crate::policy::api::TokenId;

/// Gradients by parameter name, flat `[n]`.
pub(in crate::policy) type ParameterGradients = BTreeMap<String, Tensor<1>>;

/// The sums of the parameters' gradients.
#[derive(Debug, Default)]
pub(super) struct GradientSink {
    sums: ParameterGradients,
}

impl GradientSink {
    /// What was added up.
    pub fn into_sums(self) -> ParameterGradients {
        self.sums
    }

    /// Adds the gradients of block `index`, whose graph's leaves `block` holds.
    pub fn add_block(&mut self, index: usize, block: &mut Block, gradients: &mut Gradients) {
        block.visit_trained_mut(&NemotronH::block_path(index), &mut |name, parameter| {
            if let Some(gradient) = parameter.take_gradient(gradients) {
                self.update(name, |sum| gradient.add_to(sum));
            }
        });
    }

    /// Adds the gradient of the norm before the head.
    pub fn add_final_norm(&mut self, norm: &mut RmsNorm, gradients: &mut Gradients) {
        norm.visit_mut(FINAL_NORM, &mut |name, parameter| {
            if let Some(gradient) = parameter.take_gradient(gradients) {
                self.update(name, |sum| gradient.add_to(sum));
            }
        });
    }

    /// Adds the gradients of embedding rows, of a model whose embedding is trained.
    ///
    /// # Shapes
    /// - ids: one per row
    /// - rows: `[ids, hidden]`
    pub fn add_embeddings(&mut self, model: &NemotronH, ids: &[TokenId], rows: Tensor<2>) {
        // The rows of a token are summed before they join what is there: the sum of a batch does not depend on it.
        let mut places = BTreeMap::new();
        for &id in ids {
            let next = places.len();
            places.entry(id).or_insert(next);
        }
        let (count, width, device) = (places.len(), rows.dims()[1], rows.device());
        let indices = |values: Vec<i64>| {
            let count = values.len();
            Tensor::<1, Int>::from_data(TensorData::new(values, [count]), &device)
        };
        let mut tokens = vec![0; count];
        for (&id, &place) in &places {
            tokens[place] = i64::from(id);
        }
        let to = indices(ids.iter().map(|id| places[id] as i64).collect());
        let rows =
            Tensor::zeros([count, width], (&device, rows.dtype())).select_assign(0, to, rows, IndexingUpdateOp::Add);
        self.update_table(model, EMBEDDINGS, |sum| sum.select_assign(0, indices(tokens), rows, IndexingUpdateOp::Add));
    }

    /// Replaces the sum of a matrix `[vocab, hidden]`, zero so far if there is none, in the dtype that gradients have.
    pub fn update_table(&mut self, model: &NemotronH, name: &str, update: impl FnOnce(Tensor<2>) -> Tensor<2>) {
        let config = model.config();
        let shape = [config.vocab_size, config.hidden_size];
        let dtype = model.dtypes().gradients();
        self.update(name, |sum| {
            // The host's own zeros exist twice for a moment.
            let zeros = || Tensor::full(shape, 0.0, (&model.device(), dtype));
            let sum = sum.map_or_else(zeros, |sum| sum.reshape(shape));
            update(sum).reshape([shape[0] * shape[1]])
        });
    }

    /// Replaces a sum; `update` gets the only handle, so that it can write in place.
    fn update(&mut self, name: &str, update: impl FnOnce(Option<Tensor<1>>) -> Tensor<1>) {
        match self.sums.get_mut(name) {
            Some(sum) => sum.inplace(|sum| update(Some(sum))),
            None => {
                self.sums.insert(name.to_owned(), update(None));
            }
        }
    }
}
