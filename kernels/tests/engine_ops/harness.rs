//! Reproducible inputs and comparisons.

use burn::tensor::{DType, Device, Tensor, TensorData};

pub fn device() -> Device {
    Device::flex()
}

/// A small generator, so that every test's inputs are fixed.
pub struct Inputs(pub u64);

impl Inputs {
    pub fn value(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let mut x = self.0;
        x ^= x >> 33;
        x = x.wrapping_mul(0xff51afd7ed558ccd);
        x ^= x >> 33;
        (x >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
    pub fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.value()).collect()
    }
    pub fn tensor<const D: usize>(&mut self, shape: [usize; D]) -> Tensor<D> {
        let values = self.values(shape.iter().product());
        Tensor::from_data(TensorData::new(values, shape), &device())
    }
}

pub fn bits<const D: usize>(tensor: &Tensor<D>) -> Vec<u32> {
    values(tensor).into_iter().map(f32::to_bits).collect()
}

pub fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.clone().cast(DType::F32).into_data().try_to_vec().unwrap()
}

#[track_caller]
pub fn assert_close<const D: usize>(got: &Tensor<D>, want: &Tensor<D>, tolerance: f32) {
    assert_eq!(got.dims(), want.dims());
    for (i, (got, want)) in values(got).into_iter().zip(values(want)).enumerate() {
        assert!((got - want).abs() <= tolerance * want.abs().max(1.0), "element {i}: {got} vs {want}");
    }
}

/// Where a tensor's buffer lies.
pub fn address<const D: usize>(tensor: &Tensor<D>) -> usize {
    let primitive = tensor.clone().try_into_primitive::<burn::backend::Flex>().unwrap();
    primitive.bytes().as_ptr() as usize
}

/// Runs `f` in a pool of `threads` threads.
pub fn with_threads<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
}

/// Nanoseconds of the fastest of many calls: other load on the machine disturbs most of them.
pub fn fastest_ns(mut f: impl FnMut()) -> f64 {
    let mut fastest = f64::MAX;
    let begin = std::time::Instant::now();
    while begin.elapsed().as_millis() < 100 {
        let start = std::time::Instant::now();
        f();
        fastest = fastest.min(start.elapsed().as_nanos() as f64);
    }
    fastest
}
