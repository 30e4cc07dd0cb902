//! The scan against a plain recurrence, finite differences, and its own fast form.

use crate::harness::*;
use burn::tensor::{DType, Tensor};
use nemo_kernels::{SsdInputs, ssd_scan};

#[derive(Clone, Debug)]
pub struct Shape {
    pub batch: usize,
    pub tokens: usize,
    pub heads: usize,
    pub width: usize,
    pub groups: usize,
    pub state: usize,
    pub state_batch: usize,
    pub lengths: Option<Vec<usize>>,
    pub dt_limit: (f64, f64),
}

impl Shape {
    pub fn new(sizes: [usize; 7], lengths: Option<&[usize]>) -> Self {
        let [batch, tokens, heads, width, groups, state, state_batch] = sizes;
        Self {
            batch,
            tokens,
            heads,
            width,
            groups,
            state,
            state_batch,
            lengths: lengths.map(<[usize]>::to_vec),
            dt_limit: (0.0, f64::INFINITY),
        }
    }

    /// x, dt, a_log, b, c, d, dt_bias, state
    pub fn inputs(&self, seed: u64) -> Vec<Vec<f64>> {
        let mut noise = Noise::new(seed);
        let Self { batch, tokens, heads, width, groups, state, state_batch, .. } = *self;
        vec![
            noise.vector(batch * tokens * heads * width),
            noise.vector(batch * tokens * heads),
            noise.vector(heads),
            noise.vector(batch * tokens * groups * state),
            noise.vector(batch * tokens * groups * state),
            noise.vector(heads),
            noise.vector(heads),
            noise.vector(state_batch * heads * width * state),
        ]
    }

    pub fn arguments(&self, flat: &[Tensor<1>]) -> SsdInputs {
        let Self { batch, tokens, heads, width, groups, state, state_batch, .. } = *self;
        SsdInputs {
            x: flat[0].clone().reshape([batch, tokens, heads, width]),
            dt: flat[1].clone().reshape([batch, tokens, heads]),
            a_log: flat[2].clone(),
            b: flat[3].clone().reshape([batch, tokens, groups, state]),
            c: flat[4].clone().reshape([batch, tokens, groups, state]),
            d: flat[5].clone(),
            dt_bias: flat[6].clone(),
            state: flat[7].clone().reshape([state_batch, heads, width, state]),
        }
    }

    /// Outputs with padded tokens removed, since those are arbitrary.
    fn valid(&self, y: Tensor<4>, state: Tensor<4>) -> Vec<Tensor<1>> {
        let rows: Vec<Tensor<1>> = (0..self.batch)
            .filter_map(|row| {
                let length = self.lengths.as_ref().map_or(self.tokens, |l| l[row]);
                let size = length * self.heads * self.width;
                (length > 0).then(|| y.clone().narrow(0, row, 1).narrow(1, 0, length).reshape([size]))
            })
            .collect();
        vec![Tensor::cat(rows, 0), state.flatten(0, 3)]
    }

    pub fn fast(&self, flat: &[Tensor<1>]) -> Vec<Tensor<1>> {
        let (y, state) = ssd_scan(self.arguments(flat), self.dt_limit, self.lengths.as_deref());
        self.valid(y, state)
    }

    pub fn reference(&self, flat: &[Tensor<1>]) -> Vec<Tensor<1>> {
        let inputs = self.arguments(flat);
        let lengths = self.lengths.as_deref();
        let (y, state) = nemo_kernels::ssd_scan::reference::ssd_scan(inputs, self.dt_limit, lengths);
        self.valid(y, state)
    }

    /// The recurrence as written in the paper.
    fn recurrence(&self, inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let Self { batch, tokens, heads, width, groups, state, state_batch, .. } = *self;
        let [x, dt, a_log, b, c, d, dt_bias, start] = inputs else { unreachable!() };
        let mut y = Vec::new();
        let mut last = vec![0.0; batch * heads * width * state];
        for row in 0..batch {
            let length = self.lengths.as_ref().map_or(tokens, |l| l[row]);
            let from = if state_batch == 1 { 0 } else { row };
            let size = heads * width * state;
            let s = &mut last[row * size..][..size];
            s.copy_from_slice(&start[from * size..][..size]);
            for t in (0..length).map(|t| row * tokens + t) {
                for h in 0..heads {
                    let g = h / (heads / groups);
                    let step = (dt[t * heads + h] + dt_bias[h]).exp().ln_1p();
                    let step = step.clamp(self.dt_limit.0, self.dt_limit.1);
                    let decay = (-step * a_log[h].exp()).exp();
                    for p in 0..width {
                        let xv = x[(t * heads + h) * width + p];
                        let mut sum = d[h] * xv;
                        for n in 0..state {
                            let cell = &mut s[(h * width + p) * state + n];
                            *cell = decay * *cell + step * xv * b[(t * groups + g) * state + n];
                            sum += *cell * c[(t * groups + g) * state + n];
                        }
                        y.push(sum);
                    }
                }
            }
        }
        vec![y, last]
    }
}

pub fn shapes() -> Vec<Shape> {
    let mut shapes = vec![
        Shape::new([1, 1, 2, 4, 1, 8, 1], None),
        Shape::new([2, 5, 2, 3, 2, 5, 2], None),
        Shape::new([3, 33, 4, 8, 2, 16, 1], Some(&[33, 7, 0])),
        Shape::new([2, 64, 2, 16, 1, 16, 2], None),
        Shape::new([2, 70, 2, 32, 1, 32, 1], Some(&[70, 41])),
        Shape::new([1, 129, 3, 5, 3, 7, 1], None),
        Shape::new([2, 40, 8, 32, 2, 64, 2], Some(&[1, 40])),
        Shape::new([1, 37, 2, 64, 1, 128, 1], None),
        Shape::new([1, 70, 2, 130, 1, 20, 1], None),
        Shape::new([1, 40, 1, 33, 1, 200, 1], None),
    ];
    shapes[1].dt_limit = (0.4, 1.1);
    shapes[2].dt_limit = (0.001, 0.9);
    shapes
}

#[test]
fn reference_is_the_recurrence() {
    for shape in shapes() {
        let inputs = shape.inputs(1);
        let found = outputs(&inputs, DType::F64, &|flat| shape.reference(flat));
        assert_close(&format!("{shape:?}"), &found, &shape.recurrence(&inputs), 1e-12);
    }
}

#[test]
fn reference_gradients_are_finite_differences() {
    for shape in &shapes()[..3] {
        let inputs = shape.inputs(2);
        let operation = |flat: &[Tensor<1>]| shape.reference(flat);
        let found = evaluate(&inputs, DType::F64, &[], &operation).gradients;
        let expected = finite_differences(&inputs, &operation);
        assert_close(&format!("{shape:?}"), &found, &expected, 1e-7);
    }
}

#[test]
fn fast_form_is_the_reference() {
    for shape in shapes() {
        let inputs = shape.inputs(3);
        for which in [&[][..], &[0], &[1]] {
            let fast = evaluate(&inputs, DType::F32, which, &|flat| shape.fast(flat));
            let reference = evaluate(&inputs, DType::F64, which, &|flat| shape.reference(flat));
            let name = format!("{shape:?} cotangents {which:?}");
            assert_close(&name, &fast.outputs, &reference.outputs, 1e-6);
            assert_close(&name, &fast.gradients, &reference.gradients, 5e-6);
        }
    }
}
