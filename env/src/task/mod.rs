//! Tasks: one record of a dataset, the dataset file, and its split into training and validation.

pub mod dataset;
pub mod record;
pub mod split;
