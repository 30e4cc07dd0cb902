//! Results for people: tables, a curve in the terminal, a plot.

pub mod curve;
pub mod evaluation;
pub mod plan;
pub mod plot;
pub mod summary;
mod table;
