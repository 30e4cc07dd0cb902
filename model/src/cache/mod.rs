//! Device memory of the generation engine: pages of keys and values, slots of recurrent state.
//!
//! [`BlockAllocator`] decides who owns what and touches no tensors; the pools hold the tensors and know no owners.

mod block_allocator;
mod growth;
mod kv_pool;
mod ssm_pool;

pub use block_allocator::{BlockAllocator, BlockId};
pub use kv_pool::KvPool;
pub use ssm_pool::SsmPool;
