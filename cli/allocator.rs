//! The allocator of the program and of its benches.
//!
//! A training step allocates and frees gigabytes of activations. An allocator that gives them back to the kernel at once pays
//! for it in page faults, a third of a step where this was measured; one that never does keeps what a past phase needed on
//! top of what the present one needs. This one gives back what was not used again for a second.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc's enumeration of options.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
/// Milliseconds that freed memory is kept: longer than a layer waits for the next one, shorter than any phase of a run.
const DELAY: std::ffi::c_long = 1000;

/// Gives back what the calling thread has freed.
pub fn give_back() {
    // SAFETY: it may be called at any time, from any thread.
    unsafe { libmimalloc_sys::mi_collect(true) };
}

/// Keeps freed memory for a while before it returns to the kernel, unless the user has set `MIMALLOC_PURGE_DELAY`.
pub fn keep_freed_memory() {
    // SAFETY: the option exists in every version the crate can be built with, and setting its default has no conditions.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, DELAY) };
}
