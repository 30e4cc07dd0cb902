//! One file: what the hub knows of it, and its contents, continued where an earlier download stopped.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::cache::{RepositoryCache, io_error, is_plain};
use crate::request::{Answer, Client, text};
use crate::{Failure, Hub, HubError, Origin, Repository};

/// Length of a SHA-256 in hexadecimal digits, which is the entity tag of a large file.
const SHA256_LENGTH: usize = 64;
const PIECE: usize = 1 << 18;
/// A download that has brought so much since it last gave up may go on: a long one meets more than a few hiccups.
const WORTH_GOING_ON: u64 = 64 << 20;

/// What the hub knows of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) commit: String,
    /// Without quotes and `W/`.
    pub(crate) etag: String,
    size: Option<u64>,
}

impl Hub {
    /// Asks what the hub knows of a file. A redirect to where the file is stored says it all, so that the store need
    /// not be asked.
    pub(crate) fn facts(&self, client: &Client, repository: &Repository, file: &str) -> Result<Facts, HubError> {
        self.patiently(|attempt| facts_once(client, repository, file, attempt))
    }

    /// The file's path, after its contents are there.
    pub(crate) fn fetch(
        &self,
        client: &Client,
        cache: &RepositoryCache,
        repository: &Repository,
        file: &str,
        facts: &Facts,
    ) -> Result<(PathBuf, Origin), HubError> {
        let path = cache.snapshot(&facts.commit).join(file);
        if path.exists() {
            return Ok((path, Origin::Cached));
        }
        let blob = cache.blob(&facts.etag);
        let _lock = cache.lock(&facts.etag, &*self.listener)?;
        let mut origin = Origin::Cached;
        if !blob.exists() {
            origin = Origin::Downloaded;
            let folder = blob.parent().unwrap_or(&blob);
            fs::create_dir_all(folder).map_err(io_error(folder))?;
            let incomplete = folder.join(format!("{}.incomplete", facts.etag));
            loop {
                let before = length(&incomplete);
                let result = self.patiently(|attempt| {
                    self.go_on(client, repository, file, facts, &incomplete, attempt)?;
                    Ok(())
                });
                match result {
                    Err(HubError::Connection { .. }) if length(&incomplete) >= before + WORTH_GOING_ON => {}
                    result => break result?,
                }
            }
            fs::rename(&incomplete, &blob).map_err(io_error(&blob))?;
        }
        Ok((cache.link(&facts.commit, file, &facts.etag)?, origin))
    }

    /// Appends what is missing to the incomplete file, and checks it when it is whole.
    fn go_on(
        &self,
        client: &Client,
        repository: &Repository,
        file: &str,
        facts: &Facts,
        incomplete: &Path,
        attempt: u32,
    ) -> Result<(), Failure<HubError>> {
        let on_disk = |source| Failure::ForGood(HubError::Io { path: incomplete.to_owned(), source });
        let broken_off = |problem: String| {
            let place = repository.place(file);
            Failure::ForNow(HubError::Connection { place, problem, attempts: attempt }, None)
        };
        let mut out = File::options().create(true).append(true).open(incomplete).map_err(on_disk)?;
        let mut done = out.metadata().map_err(on_disk)?.len();
        if facts.size.is_some_and(|size| done > size) {
            out.set_len(0).map_err(on_disk)?;
            done = 0;
        }
        let is_continued = done > 0;
        if facts.size.is_none_or(|size| done < size) {
            let range = is_continued.then(|| format!("bytes={done}-"));
            let mut answer = client.get(repository, file, range.as_deref(), attempt, |_| false)?;
            let start = match answer.response.status().as_u16() {
                206 => content_range(&answer).map_or(done, |(start, _)| start),
                200 => 0,
                _ => {
                    out.set_len(0).map_err(on_disk)?;
                    return Err(broken_off("the server has no such part of it".to_owned()));
                }
            };
            if start != done {
                // A server that does not do parts sends the whole; one that sends another part is asked anew.
                out.set_len(0).map_err(on_disk)?;
                done = 0;
                if start != 0 {
                    return Err(broken_off(format!("the server sends byte {start} on, which it was not asked for")));
                }
            }
            let mut body = answer.response.body_mut().as_reader();
            let mut piece = vec![0; PIECE];
            self.listener.progress(file, done, facts.size.unwrap_or(done));
            loop {
                let count = match body.read(&mut piece) {
                    Ok(0) => break,
                    Ok(count) => count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(broken_off(format!("broke off after {done} bytes: {error}"))),
                };
                out.write_all(&piece[..count]).map_err(on_disk)?;
                done += count as u64;
                if facts.size.is_some_and(|size| done > size) {
                    break;
                }
                self.listener.progress(file, done, facts.size.unwrap_or(done));
            }
        }
        if let Some(size) = facts.size.filter(|size| *size != done) {
            if done > size {
                out.set_len(0).map_err(on_disk)?;
            }
            return Err(broken_off(format!("{done} bytes came of {size}")));
        }
        out.sync_all().map_err(on_disk)?;
        let found = match facts.etag.len() {
            SHA256_LENGTH => sha256(incomplete).map_err(on_disk)?,
            _ => return Ok(()),
        };
        if found.eq_ignore_ascii_case(&facts.etag) {
            return Ok(());
        }
        fs::remove_file(incomplete).map_err(on_disk)?;
        let error = HubError::Checksum { place: repository.place(file), found, expected: facts.etag.clone() };
        // What an earlier download left may be to blame: then once more from the start.
        Err(if is_continued { Failure::ForNow(error, None) } else { Failure::ForGood(error) })
    }
}

fn facts_once(client: &Client, repository: &Repository, file: &str, attempt: u32) -> Result<Facts, Failure<HubError>> {
    let is_enough = |answer: &Answer| answer.first("x-linked-etag").and(answer.first("x-repo-commit")).is_some();
    // One byte instead of HEAD, which addresses signed for GET refuse.
    let answer = client.get(repository, file, Some("bytes=0-0"), attempt, is_enough)?;
    let refused = |problem: &str| {
        Failure::ForGood(HubError::Answer { place: repository.place(file), problem: problem.to_owned() })
    };
    let etag = answer.first("x-linked-etag").or_else(|| answer.last("etag"));
    let etag = etag.ok_or_else(|| refused("the answer has no ETag, by which files are told apart"))?;
    let etag = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
    let commit = answer.first("x-repo-commit").ok_or_else(|| refused("the answer has no X-Repo-Commit"))?;
    if !is_plain(etag) || !is_plain(commit) {
        return Err(refused(&format!("ETag {etag:?} or commit {commit:?} is no word that a file could be named by")));
    }
    let linked = answer.first("x-linked-size").and_then(|size| size.parse().ok());
    let size = linked.or_else(|| match answer.response.status().as_u16() {
        200 => text(answer.response.headers(), "content-length")?.parse().ok(),
        206 | 416 => content_range(&answer).map(|(_, size)| size),
        // The redirect's own length is not the file's.
        _ => None,
    });
    Ok(Facts { commit: commit.to_owned(), etag: etag.to_owned(), size })
}

/// Start and whole length of `bytes 0-0/17`, or of `bytes */17`.
fn content_range(answer: &Answer) -> Option<(u64, u64)> {
    let (range, size) = text(answer.response.headers(), "content-range")?.strip_prefix("bytes ")?.split_once('/')?;
    let start = range.split('-').next()?.parse().unwrap_or(0);
    Some((start, size.trim().parse().ok()?))
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |file| file.len())
}

/// SHA-256 of a file in hexadecimal digits.
fn sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut digest = Sha256::new();
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece)? {
            0 => break,
            count => digest.update(&piece[..count]),
        }
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
