//! Fast forms equal references, references equal their formulas.

mod causal_attention;
mod causal_conv;
mod harness;
mod invariance;
mod linear_log_prob;
mod norm;
mod ssd_scan;
mod timing;
