//! The order in which a run sees its tasks, and every other random choice of the loop.
//!
//! Random numbers are a function of a key (seed, purpose, position), never of how many were drawn before.
//! A resumed run therefore needs no generator state: its step number is enough.

/// What random numbers are drawn for; different purposes never share a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Order of the tasks in an epoch.
    TaskOrder = 1,
    /// Rewards of a group, in the control experiment.
    RewardControl = 2,
    /// Order of the demonstrations in a chunk of the stream.
    DemonstrationOrder = 3,
    /// Seeds of the generated chunks of the stream.
    DemonstrationChunk = 4,
    /// Answers of the scripted policy.
    Script = 5,
}

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014), keyed.
/// Only for orders and choices on the host; token sampling has its own generator.
#[derive(Clone, Debug)]
pub struct KeyedRng {
    state: u64,
}

const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl KeyedRng {
    /// The stream of a purpose and a position.
    pub fn new(purpose: Purpose, key: &[u64]) -> Self {
        let state =
            key.iter().fold(mix(purpose as u64), |state, &part| mix(state ^ mix(part.wrapping_add(GOLDEN_GAMMA))));
        Self { state }
    }

    /// 64 uniform bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN_GAMMA);
        mix(self.state)
    }

    /// Uniform in `0..bound` without bias (Lemire 2019); `bound` must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "a choice among nothing");
        let threshold = bound.wrapping_neg() % bound;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(bound);
            if product as u64 >= threshold {
                return (product >> 64) as u64;
            }
        }
    }

    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Fisher-Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.below(i as u64 + 1) as usize;
            items.swap(i, j);
        }
    }
}

/// Which tasks a step trains on: each epoch is a fresh permutation of the tasks, cut into batches of
/// `batch_size`; the remainder of an epoch is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskOrder {
    /// Seed of the run.
    pub seed: u64,
    /// Number of tasks, at least `batch_size`.
    pub num_tasks: usize,
    /// Tasks of a step, at least 1.
    pub batch_size: usize,
    /// Whether an epoch is permuted.
    pub shuffle: bool,
}

impl TaskOrder {
    /// Steps of an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.num_tasks / self.batch_size.max(1)
    }

    /// The epoch a step (counted from 0) lies in.
    pub fn epoch(&self, step: u64) -> u64 {
        step / self.steps_per_epoch().max(1) as u64
    }

    /// Positions of the tasks of a step (counted from 0) in the dataset.
    pub fn batch(&self, step: u64) -> Vec<usize> {
        let epoch = self.epoch(step);
        let mut order: Vec<usize> = (0..self.num_tasks).collect();
        if self.shuffle {
            KeyedRng::new(Purpose::TaskOrder, &[self.seed, epoch]).shuffle(&mut order);
        }
        let start = (step % self.steps_per_epoch().max(1) as u64) as usize * self.batch_size;
        order.into_iter().skip(start).take(self.batch_size).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_visits_every_task_once_and_epochs_differ() {
        let order = TaskOrder { seed: 3, num_tasks: 12, batch_size: 4, shuffle: true };
        let epoch = |first: u64| -> Vec<usize> { (first..first + 3).flat_map(|step| order.batch(step)).collect() };
        let mut sorted = epoch(0);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..12).collect::<Vec<_>>());
        assert_ne!(epoch(0), epoch(3));
        assert_eq!(order.epoch(2), 0);
        assert_eq!(order.epoch(3), 1);
        assert_ne!(order.batch(0), TaskOrder { seed: 4, ..order }.batch(0));
        assert_eq!(TaskOrder { shuffle: false, ..order }.batch(4), vec![4, 5, 6, 7]);
    }

    #[test]
    fn the_remainder_of_an_epoch_is_dropped() {
        let order = TaskOrder { seed: 0, num_tasks: 11, batch_size: 4, shuffle: false };
        assert_eq!(order.steps_per_epoch(), 2);
        assert_eq!(order.batch(2), vec![0, 1, 2, 3]);
    }

    #[test]
    fn choices_are_in_range_and_cover_it() {
        let mut rng = KeyedRng::new(Purpose::Script, &[1, 2]);
        let mut seen = [0usize; 5];
        for _ in 0..1000 {
            seen[rng.below(5) as usize] += 1;
        }
        assert!(seen.iter().all(|&count| count > 120), "{seen:?}");
        assert!((0..100).all(|_| (0.0..1.0).contains(&rng.uniform())));
    }
}
