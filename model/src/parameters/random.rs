//! The family's initial values. Any part of a tensor can be drawn without the rest: whoever has no room for a tensor
//! draws it in pieces, and threads share one.

use nemo_kernels::RandomKey;
use nemo_kernels::sample::uniforms;
use rayon::prelude::*;

use super::{Initialization, WeightSource};
use crate::error::ModelError;

/// Draws initial values. Each tensor has its own stream, keyed by its name, so their order does not matter.
pub(crate) struct RandomWeights {
    pub seed: u64,
}

impl WeightSource for RandomWeights {
    fn values(&mut self, name: &str, shape: &[usize], initialization: Initialization) -> Result<Vec<f32>, ModelError> {
        let mut values = vec![0.0; shape.iter().product()];
        self.fill(name, initialization, 0, &mut values);
        Ok(values)
    }
}

impl RandomWeights {
    /// Fills `values` with those of the tensor `name` that begin at `start`, row-major. The bits depend on neither the
    /// pieces nor the threads.
    pub fn fill(&self, name: &str, initialization: Initialization, start: usize, values: &mut [f32]) {
        /// Values of one parallel task: enough to drown the cost of the task.
        const TASK: usize = 1 << 14;
        let stream = UniformStream::new(self.seed, name);
        values.par_chunks_mut(TASK).enumerate().for_each(|(task, values)| {
            let start = start + task * TASK;
            for (block, values) in values.chunks_mut(BLOCK).enumerate() {
                initialization.fill(&stream, start + block * BLOCK, values);
            }
        });
    }
}

/// Values drawn at once: their uniform numbers lie on the stack.
const BLOCK: usize = 512;

impl Initialization {
    /// Fills at most [`BLOCK`] values, the first of which is the tensor's value `start`.
    fn fill(self, stream: &UniformStream, start: usize, values: &mut [f32]) {
        let mut uniforms = [0.0; 2 * BLOCK];
        match self {
            Self::Zeros => values.fill(0.0),
            Self::Ones => values.fill(1.0),
            Self::LogRange => {
                for (value, number) in values.iter_mut().zip(start + 1..) {
                    *value = (number as f64).ln() as f32;
                }
            }
            Self::Normal(deviation) => {
                let uniforms = stream.read(2 * start, &mut uniforms[..2 * values.len()]);
                for (value, pair) in values.iter_mut().zip(uniforms.as_chunks().0) {
                    *value = (normal(*pair) * deviation) as f32;
                }
            }
            Self::Uniform(bound) => {
                let uniforms = stream.read(start, &mut uniforms[..values.len()]);
                for (value, uniform) in values.iter_mut().zip(uniforms) {
                    *value = ((2.0 * f64::from(*uniform) - 1.0) * bound) as f32;
                }
            }
            Self::TimeStepBias { minimum, maximum, floor } => {
                let uniforms = stream.read(start, &mut uniforms[..values.len()]);
                for (value, uniform) in values.iter_mut().zip(uniforms) {
                    let log = minimum.ln() + f64::from(*uniform) * (maximum.ln() - minimum.ln());
                    let step = log.exp().max(floor);
                    // Inverse of softplus: log(exp(step) - 1).
                    *value = (step + (-(-step).exp_m1()).ln()) as f32;
                }
            }
        }
    }
}

/// Standard normal of two numbers in `[0, 1)`, by Box and Muller.
fn normal(uniforms: [f32; 2]) -> f64 {
    let [first, second] = uniforms.map(f64::from);
    let radius = (-2.0 * (1.0 - first).ln()).sqrt();
    radius * (std::f64::consts::TAU * second).cos()
}

/// Uniform numbers from the counter-based generator that sampling uses.
struct UniformStream(RandomKey);

impl UniformStream {
    fn new(seed: u64, name: &str) -> Self {
        // FNV-1a: any fixed hash does, the generator mixes it.
        let hash = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Self(RandomKey { seed, step: hash, task: 0, sample: 0, position: 0 })
    }

    /// Fills `numbers` with those of the stream that follow its first `skipped`, in `[0, 1)`.
    fn read<'a>(&self, skipped: usize, numbers: &'a mut [f32]) -> &'a [f32] {
        // The first has position 1.
        uniforms(RandomKey { position: skipped as u64 + 1, ..self.0 }, numbers);
        numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, number by number.
    fn one(seed: u64, name: &str, initialization: Initialization, index: usize) -> f32 {
        let key = UniformStream::new(seed, name).0;
        let uniform =
            |position: usize| f64::from(nemo_kernels::sample::uniform(RandomKey { position: position as u64, ..key }));
        match initialization {
            Initialization::Normal(deviation) => {
                let radius = (-2.0 * (1.0 - uniform(2 * index + 1)).ln()).sqrt();
                (radius * (std::f64::consts::TAU * uniform(2 * index + 2)).cos() * deviation) as f32
            }
            Initialization::Uniform(bound) => ((2.0 * uniform(index + 1) - 1.0) * bound) as f32,
            Initialization::Zeros => 0.0,
            Initialization::Ones => 1.0,
            Initialization::LogRange => ((index + 1) as f64).ln() as f32,
            Initialization::TimeStepBias { minimum, maximum, floor } => {
                let log = minimum.ln() + uniform(index + 1) * (maximum.ln() - minimum.ln());
                let step = log.exp().max(floor);
                (step + (-(-step).exp_m1()).ln()) as f32
            }
        }
    }

    #[test]
    fn pieces_have_the_values_of_the_whole() {
        let time_step = Initialization::TimeStepBias { minimum: 1e-3, maximum: 0.1, floor: 1e-4 };
        for initialization in [
            Initialization::Normal(0.02),
            Initialization::Uniform(0.3),
            Initialization::Zeros,
            Initialization::Ones,
            Initialization::LogRange,
            time_step,
        ] {
            // More than one parallel task, and no multiple of a block.
            let shape = [3, 11_111];
            let mut source = RandomWeights { seed: 7 };
            let whole = source.values("x", &shape, initialization).unwrap();
            for index in (0..whole.len()).step_by(97).chain([511, 512, 16_383, 16_384, whole.len() - 1]) {
                assert_eq!(whole[index], one(7, "x", initialization, index), "{initialization:?} at {index}");
            }
            for length in [1000, 16_384, 20_001] {
                let mut pieces = vec![f32::NAN; whole.len()];
                for (piece, values) in pieces.chunks_mut(length).enumerate() {
                    source.fill("x", initialization, piece * length, values);
                }
                assert!(pieces == whole, "{initialization:?} in pieces of {length}");
            }
        }
    }
}
