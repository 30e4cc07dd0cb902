//! The demonstrations that a warm start is given: listed or generated, in a seeded order, from any position.

use std::sync::Arc;

use nemo_env::Task;
use nemo_env::generate::{self, GenerateError, GeneratorConfig};

use crate::config::CurriculumStage;
use crate::shuffle::{KeyedRng, Purpose};

/// Where demonstrations come from: an endless sequence of chunks of the same number of tasks, each a
/// function of its number, so that a position in it is one number.
pub trait DemonstrationSource {
    /// Tasks of a chunk, at least 1.
    fn chunk_size(&self) -> usize;
    /// The tasks of a chunk, none above the stage's difficulty.
    ///
    /// # Errors
    /// When they cannot be generated.
    fn chunk(&self, number: u64, stage: Option<CurriculumStage>) -> Result<Vec<Task>, GenerateError>;
}

/// The same tasks over and over; stages of a curriculum are for generated ones.
pub struct Listed(pub Vec<Task>);

impl DemonstrationSource for Listed {
    fn chunk_size(&self) -> usize {
        self.0.len()
    }

    fn chunk(&self, _number: u64, _stage: Option<CurriculumStage>) -> Result<Vec<Task>, GenerateError> {
        Ok(self.0.clone())
    }
}

/// New tasks from the generator in every chunk, so that none comes again (but by chance). The configurations
/// say which and in what proportion; a chunk holds at most `MAX_CHUNK` of each, since all are made at once.
pub struct Generated(pub Vec<GeneratorConfig>);

/// Tasks of one configuration in a chunk.
const MAX_CHUNK: usize = 1024;

impl Generated {
    fn count(&self, config: &GeneratorConfig) -> usize {
        let largest = self.0.iter().map(|config| config.count).max().unwrap_or(0).max(1);
        // Rounded up: a configuration that asks for few tasks still gives some.
        (config.count * largest.min(MAX_CHUNK)).div_ceil(largest)
    }
}

impl DemonstrationSource for Generated {
    fn chunk_size(&self) -> usize {
        self.0.iter().map(|config| self.count(config)).sum()
    }

    fn chunk(&self, number: u64, stage: Option<CurriculumStage>) -> Result<Vec<Task>, GenerateError> {
        let mut tasks = Vec::with_capacity(self.chunk_size());
        for config in &self.0 {
            // The first chunk is the one the configuration's seed names.
            let seed = match number {
                0 => config.seed,
                _ => KeyedRng::new(Purpose::DemonstrationChunk, &[config.seed, number]).next_u64(),
            };
            let count = self.count(config);
            let of_stage = stage.map(|stage| stage.max_difficulty);
            let max_difficulty = config.max_difficulty.into_iter().chain(of_stage).min();
            tasks.extend(generate::tasks(&GeneratorConfig { seed, count, max_difficulty, ..config.clone() })?);
        }
        if stage.is_some_and(|stage| !stage.tools_in_prompt) {
            tasks.iter_mut().for_each(|task| task.tools = Arc::default());
        }
        Ok(tasks)
    }
}

/// Reads a source in a seeded order from any position.
pub struct Stream<'a> {
    source: &'a dyn DemonstrationSource,
    seed: u64,
    held: Option<HeldChunk>,
}

/// A chunk's tasks, permuted, and what they are: its number and the stage it is for.
type HeldChunk = ((u64, Option<CurriculumStage>), Vec<Task>);

impl<'a> Stream<'a> {
    /// Starts at any position; the order is a function of `seed`.
    pub fn new(source: &'a dyn DemonstrationSource, seed: u64) -> Self {
        Self { source, seed, held: None }
    }

    /// Tasks after which new ones come, or the same in another order.
    pub fn chunk_size(&self) -> usize {
        self.source.chunk_size().max(1)
    }

    /// The task at a position.
    ///
    /// # Errors
    /// When its chunk cannot be generated.
    pub fn get(&mut self, position: u64, stage: Option<CurriculumStage>) -> Result<&Task, GenerateError> {
        let size = self.chunk_size() as u64;
        let (number, offset) = (position / size, (position % size) as usize);
        let wanted = (number, stage);
        let tasks = match self.held.take() {
            Some((held, tasks)) if held == wanted => tasks,
            _ => {
                let mut tasks = self.source.chunk(number, stage)?;
                KeyedRng::new(Purpose::DemonstrationOrder, &[self.seed, number]).shuffle(&mut tasks);
                tasks
            }
        };
        let (_, tasks) = self.held.insert((wanted, tasks));
        Ok(&tasks[offset % tasks.len().max(1)])
    }
}
