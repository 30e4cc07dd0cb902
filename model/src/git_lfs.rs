//! Pointers that Git leaves in the place of large files where its extension LFS is not at work.

use std::io;

/// What such a pointer starts with.
const START: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Refuses a pointer.
///
/// # Errors
/// The bytes are those of a pointer.
pub(crate) fn refuse(bytes: &[u8]) -> io::Result<()> {
    let problem = "it is a pointer of Git LFS instead of the file; run `git lfs pull` in its folder to get the file";
    if bytes.starts_with(START) { Err(io::Error::other(problem)) } else { Ok(()) }
}
