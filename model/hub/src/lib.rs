//! Files of the Hugging Face hub, in the cache that Python's `huggingface_hub` uses too.
//!
//! A file is downloaded once per commit, a download that was broken off goes on where it stopped, and several processes
//! may work on one cache. Nothing here reads environment variables or prints: a [`Listener`] is told what happens.

mod backoff;
mod cache;
mod download;
mod error;
mod model;
mod request;
mod settings;

use std::fmt::{Debug, Formatter};
use std::path::PathBuf;
use std::sync::Arc;

pub use backoff::{Backoff, Failure, Pause, Reason, Retry, is_for_now, retry_after};
pub use error::HubError;
pub use model::ModelName;
pub use settings::HubSettings;

use cache::RepositoryCache;
use request::Client;

/// Hears what the hub is being asked for, and waits when it asks for patience.
pub trait Listener: Send + Sync {
    /// Waits before a request is repeated.
    fn pause(&self, retry: &Retry);
    /// `done` of `total` bytes of a file are there; called at the beginning, with every piece, and at the end.
    fn progress(&self, file: &str, done: u64, total: u64);
    /// Something worth knowing, such as that only the cache was asked.
    fn note(&self, text: &str);
}

/// The hub, its cache, and how patiently it is asked.
#[derive(Clone)]
pub struct Hub {
    pub settings: HubSettings,
    pub backoff: Backoff,
    pub listener: Arc<dyn Listener>,
}

impl Debug for Hub {
    // The token is nobody's business.
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        let (endpoint, cache) = (&self.settings.endpoint, &self.settings.cache);
        formatter.debug_struct("Hub").field("endpoint", endpoint).field("cache", cache).finish_non_exhaustive()
    }
}

/// What a repository holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Model,
    DataSet,
}

/// A repository at a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    pub kind: Kind,
    /// Such as `nvidia/Nemotron-RL-agent-workplace_assistant`.
    pub name: String,
    /// A branch, a tag or a commit.
    pub revision: String,
}

impl Repository {
    /// The file in words, for messages.
    fn place(&self, file: &str) -> String {
        let kind = match self.kind {
            Kind::Model => "model",
            Kind::DataSet => "data set",
        };
        format!("{file} of the {kind} {} ({})", self.name, self.revision)
    }
}

/// How a file was come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Downloaded,
    /// It was in the cache and is what the hub has.
    Cached,
    /// It was in the cache; the hub was not asked or did not answer.
    CachedUnasked,
}

impl Hub {
    /// The path of one file, which is downloaded if it is not in the cache.
    ///
    /// # Errors
    /// The file is not there, may not be read, or cannot be downloaded; while offline, it is not in the cache.
    pub fn file(&self, repository: &Repository, file: &str) -> Result<(PathBuf, Origin), HubError> {
        let cache = RepositoryCache::of(&self.settings.cache, repository)?;
        let cached = cache.find(&repository.revision, file);
        if self.settings.is_offline {
            let offline = || HubError::Offline { place: repository.place(file), cache: self.settings.cache.clone() };
            return Ok((cached.ok_or_else(offline)?, Origin::CachedUnasked));
        }
        let client = Client::new(&self.settings)?;
        let facts = match self.facts(&client, repository, file) {
            // Without an answer what is there has to do.
            Err(HubError::Connection { .. }) if cached.is_some() => {
                return Ok((cached.unwrap_or_default(), Origin::CachedUnasked));
            }
            facts => facts?,
        };
        let found = self.fetch(&client, &cache, repository, file, &facts)?;
        cache.write_ref(&repository.revision, &facts.commit)?;
        Ok(found)
    }

    fn patiently<T>(&self, attempt: impl FnMut(u32) -> Result<T, Failure<HubError>>) -> Result<T, HubError> {
        self.backoff.run(&|retry| self.listener.pause(retry), attempt)
    }
}
