//! Attention.

use crate::harness::*;
use burn::tensor::{DType, Tensor};
use nemo_kernels::causal_attention;

type Attention =
    fn(Tensor<4>, Tensor<4>, Tensor<4>, Option<(Tensor<4>, Tensor<4>)>, Option<&[usize]>, f64) -> Tensor<4>;

pub struct Shape {
    /// batch, tokens, query heads, key heads, head width, prefix batch, prefix tokens
    pub sizes: [usize; 7],
    pub prefix_lengths: Option<Vec<usize>>,
}

impl Shape {
    pub fn new(sizes: [usize; 7], prefix_lengths: Option<&[usize]>) -> Self {
        Self { sizes, prefix_lengths: prefix_lengths.map(<[usize]>::to_vec) }
    }

    pub fn inputs(&self) -> Vec<Vec<f64>> {
        let [batch, tokens, query_heads, key_heads, width, prefix_batch, prefix] = self.sizes;
        let mut noise = Noise::new(6);
        let mut sharp = |len: usize| noise.vector(len).iter().map(|v| 2.0 * v).collect::<Vec<_>>();
        vec![
            sharp(batch * tokens * query_heads * width),
            sharp(batch * tokens * key_heads * width),
            sharp(batch * tokens * key_heads * width),
            sharp((prefix_batch * prefix * key_heads * width).max(1)),
            sharp((prefix_batch * prefix * key_heads * width).max(1)),
        ]
    }

    pub fn run(&self, flat: &[Tensor<1>], attention: Attention) -> Vec<Tensor<1>> {
        let [batch, tokens, query_heads, key_heads, width, prefix_batch, prefix] = self.sizes;
        let own = [batch, tokens, key_heads, width];
        let before = [prefix_batch, prefix, key_heads, width];
        let prefix = (prefix > 0).then(|| (flat[3].clone().reshape(before), flat[4].clone().reshape(before)));
        let y = attention(
            flat[0].clone().reshape([batch, tokens, query_heads, width]),
            flat[1].clone().reshape(own),
            flat[2].clone().reshape(own),
            prefix,
            self.prefix_lengths.as_deref(),
            1.0 / (width as f64).sqrt(),
        );
        vec![y.flatten(0, 3)]
    }
}

#[test]
fn fast_form_is_the_reference() {
    let reference = nemo_kernels::causal_attention::reference::causal_attention;
    for (sizes, prefix_lengths) in [
        ([1, 1, 1, 1, 1, 1, 0], None),
        ([2, 3, 2, 1, 4, 1, 2], None),
        ([2, 4, 2, 2, 5, 2, 3], Some(&[3, 0][..])),
        ([2, 65, 4, 2, 16, 1, 0], None),
        ([2, 70, 4, 1, 32, 1, 100], None),
        ([3, 33, 4, 2, 24, 3, 130], Some(&[130, 64, 1])),
        ([1, 130, 2, 2, 64, 1, 63], None),
        ([2, 1, 4, 2, 48, 2, 127], None),
        ([1, 40, 2, 1, 128, 1, 10], None),
        // More keys than the host's gradient takes at a time.
        ([2, 20, 32, 2, 128, 2, 600], Some(&[600, 510])),
    ] {
        let shape = Shape::new(sizes, prefix_lengths);
        let inputs = shape.inputs();
        let name = format!("{sizes:?} prefix lengths {prefix_lengths:?}");
        let found = evaluate(&inputs, DType::F32, &[], &|flat| shape.run(flat, causal_attention));
        let expected = evaluate(&inputs, DType::F64, &[], &|flat| shape.run(flat, reference));
        assert_close(&name, &found.outputs, &expected.outputs, 1e-6);
        assert_close(&name, &found.gradients, &expected.gradients, 3e-6);
        if inputs[0].len() < 200 {
            let slopes = finite_differences(&inputs, &|flat| shape.run(flat, reference));
            assert_close(&name, &expected.gradients, &slopes, 1e-7);
        }
    }
}
