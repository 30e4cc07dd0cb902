//! Fast forms equal references, references equal their formulas.

mod causal_conv;
mod harness;
mod norm;
mod ssd_scan;
