//! The texts and configurations of nemo-model, compiled from its sources without what computes: a fuzzer with Burn in it
//! would take an hour to compile. From this folder:
//!
//! ```sh
//! mkdir -p corpus/templates corpus/generation_config
//! cp ../../configs/models/tiny/chat_template.jinja corpus/templates
//! cp ../../configs/models/tiny/generation_config.json corpus/generation_config
//! cargo run --release --bin templates -- corpus/templates -max_total_time=600 -timeout=30 -print_final_stats=1
//! cargo run --release --bin generation_config -- corpus/generation_config -max_total_time=600 -print_final_stats=1
//! ```

#[path = "config.rs"]
pub mod config;
#[path = "../src/git_lfs.rs"]
pub mod git_lfs;
#[path = "../src/text/mod.rs"]
pub mod text;

/// What the sources name of the rest of the crate.
pub mod checkpoint {
    /// A file that is saved beside the weights.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct SidecarFile {
        pub name: String,
        pub contents: Vec<u8>,
    }
}
