//! A model: its configuration, its tokenizer's files and its weights, in one folder of the cache.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cache::{RepositoryCache, io_error, is_commit, is_plain};
use crate::download::Facts;
use crate::request::Client;
use crate::{Hub, HubError, Kind, Repository};

/// Revision meant when a name gives none.
const DEFAULT_REVISION: &str = "main";
const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// What a LoRA adapter has instead of weights.
const ADAPTER: &str = "adapter_model.safetensors";
/// Files that a model may have beside its configuration and its weights.
const COMPANIONS: [&str; 11] = [
    TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "additional_chat_templates/tool_use.jinja",
    "chat_template.json",
    "generation_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
];
/// How often a download starts over because the branch moved meanwhile.
const MAX_MOVES: usize = 3;

/// `ORG/NAME`, optionally with a branch, tag or commit behind an `@`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelName(Repository);

impl ModelName {
    /// The name, if it has the form of one on the hub.
    pub fn parse(name: &str) -> Option<Self> {
        let (repository, revision) = name.split_once('@').unwrap_or((name, DEFAULT_REVISION));
        let (owner, model) = repository.split_once('/')?;
        let is_word = |part: &str| {
            is_plain(part) && part.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(letter))
        };
        let is_revision = revision.split('/').all(is_plain);
        (is_word(owner) && is_word(model) && is_revision)
            .then(|| Self(Repository { kind: Kind::Model, name: repository.to_owned(), revision: revision.to_owned() }))
    }
}

/// A download of one commit, file by file.
struct Snapshot<'a> {
    hub: &'a Hub,
    client: Client,
    cache: RepositoryCache,
    repository: &'a Repository,
    commit: String,
    /// The branch is at another commit by now.
    has_moved: bool,
}

impl Hub {
    /// The folder of a model's configuration, companions and weights, downloaded if need be.
    ///
    /// The weights are `model.safetensors` or, where there is none, the shards of the index. If the hub does not answer
    /// or refuses, a complete model in the cache has to do, which is noted.
    ///
    /// # Errors
    /// There is no such model, it may not be read, it has no weights in safetensors, or it cannot be downloaded; while
    /// offline, it is not in the cache.
    pub fn model(&self, name: &ModelName) -> Result<PathBuf, HubError> {
        self.folder(&name.0, CONFIG, true)
    }

    /// The folder of a model's tokenizer and its companions, without weights.
    ///
    /// # Errors
    /// As [`Self::model`].
    pub fn tokenizer(&self, name: &ModelName) -> Result<PathBuf, HubError> {
        self.folder(&name.0, TOKENIZER, false)
    }

    /// A folder with at least the file `first`.
    fn folder(&self, repository: &Repository, first: &str, has_weights: bool) -> Result<PathBuf, HubError> {
        let cache = RepositoryCache::of(&self.settings.cache, repository)?;
        let cached = cache.snapshot(&cache.commit(&repository.revision));
        let cached = (cached.join(first).exists() && (!has_weights || has_all_weights(&cached))).then_some(cached);
        if self.settings.is_offline {
            let place = format!("a complete model {} ({})", repository.name, repository.revision);
            let found = cached.ok_or_else(|| HubError::Offline { place, cache: self.settings.cache.clone() })?;
            self.listener.note(&format!(
                "HF_HUB_OFFLINE is set: {} is taken from {}",
                repository.name,
                found.display()
            ));
            return Ok(found);
        }
        // A commit never changes.
        if let Some(found) = cached.clone().filter(|_| is_commit(&repository.revision)) {
            return Ok(found);
        }
        let client = Client::new(&self.settings)?;
        for _ in 0..MAX_MOVES {
            let asked = match &cached {
                // Whoever has the model need not wait for a hub that is away.
                Some(_) => self.once().facts(&client, repository, first),
                None => self.facts(&client, repository, first),
            };
            let facts = match (asked, &cached) {
                (Err(error), None) if has_weights && error.names_missing_entry() => {
                    return Err(self.adapter_alone(&client, repository).unwrap_or(error));
                }
                (Err(error), Some(found)) => {
                    self.listener.note(&format!("{error}; taken from the cache: {}", found.display()));
                    return Ok(found.clone());
                }
                (facts, _) => facts?,
            };
            let (client, cache) =
                (Client::new(&self.settings)?, RepositoryCache::of(&self.settings.cache, repository)?);
            let commit = facts.commit.clone();
            let mut snapshot = Snapshot { hub: self, client, cache, repository, commit, has_moved: false };
            snapshot.take(first, &facts)?;
            snapshot.take_rest(has_weights)?;
            if !snapshot.has_moved {
                // Last, so that a download that is broken off leaves the branch at a complete model.
                snapshot.cache.write_ref(&repository.revision, &snapshot.commit)?;
                return Ok(snapshot.cache.snapshot(&snapshot.commit));
            }
        }
        let problem = format!("it changed {MAX_MOVES} times while it was downloaded; name a commit with @");
        Err(HubError::NotAModel { place: repository.place(first), problem })
    }

    /// The error of a repository that has a LoRA adapter where a model is looked for, if it has one.
    fn adapter_alone(&self, client: &Client, repository: &Repository) -> Option<HubError> {
        self.once().facts(client, repository, ADAPTER).ok()?;
        let problem = format!(
            "the repository has {ADAPTER}, a LoRA adapter, which is no model by itself: merge it into its base model and \
             give that"
        );
        Some(HubError::NotAModel { place: repository.name.clone(), problem })
    }

    /// The same hub, asked once.
    fn once(&self) -> Self {
        let mut hub = self.clone();
        hub.backoff.max_attempts = 1;
        hub
    }
}

impl Snapshot<'_> {
    fn take_rest(&mut self, has_weights: bool) -> Result<(), HubError> {
        for file in COMPANIONS {
            self.take_if_there(file)?;
        }
        if !has_weights || self.take_if_there(WEIGHTS)?.is_some() {
            return Ok(());
        }
        let Some(index) = self.take_if_there(INDEX)? else {
            if self.has_moved {
                return Ok(());
            }
            let problem = format!("the repository has neither {WEIGHTS} nor {INDEX}; expected a model in safetensors");
            let neither = HubError::NotAModel { place: self.repository.name.clone(), problem };
            return Err(self.hub.adapter_alone(&self.client, self.repository).unwrap_or(neither));
        };
        for shard in shards(&index)? {
            if self.take_if_there(&shard)?.is_none() && !self.has_moved {
                let place = self.repository.place(INDEX);
                return Err(HubError::NotAModel { place, problem: format!("it names {shard}, which is not there") });
            }
        }
        Ok(())
    }

    /// The path of a file; nothing if the repository has none of that name, or if the branch has moved.
    fn take_if_there(&mut self, file: &str) -> Result<Option<PathBuf>, HubError> {
        let path = self.cache.snapshot(&self.commit).join(file);
        if path.exists() {
            return Ok(Some(path));
        }
        if self.has_moved || self.cache.is_known_absent(&self.commit, file) {
            return Ok(None);
        }
        match self.hub.facts(&self.client, self.repository, file) {
            Err(error) if error.is_missing_entry() => {
                self.cache.note_absence(&self.commit, file)?;
                Ok(None)
            }
            facts => self.take(file, &facts?),
        }
    }

    fn take(&mut self, file: &str, facts: &Facts) -> Result<Option<PathBuf>, HubError> {
        self.has_moved |= facts.commit != self.commit;
        if self.has_moved {
            return Ok(None);
        }
        let (path, _) = self.hub.fetch(&self.client, &self.cache, self.repository, file, facts)?;
        Ok(Some(path))
    }
}

/// The files an index names.
fn shards(index: &Path) -> Result<BTreeSet<String>, HubError> {
    let text = std::fs::read_to_string(index).map_err(io_error(index))?;
    let unusable = |problem: String| HubError::NotAModel { place: index.display().to_string(), problem };
    let value: Value = serde_json::from_str(&text).map_err(|error| unusable(error.to_string()))?;
    let map = value["weight_map"].as_object();
    let map = map.ok_or_else(|| unusable("it has no object \"weight_map\"; is it an index of shards?".to_owned()))?;
    map.values()
        .map(|shard| match shard.as_str() {
            Some(name) if is_plain(name) => Ok(name.to_owned()),
            _ => Err(unusable(format!("weight_map names {shard}; expected a file name"))),
        })
        .collect()
}

/// Whether the weights of a folder are complete.
fn has_all_weights(folder: &Path) -> bool {
    let has = |file: &str| folder.join(file).exists();
    has(WEIGHTS) || shards(&folder.join(INDEX)).is_ok_and(|shards| shards.iter().all(|shard| has(shard)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_hub_are_told_from_paths() {
        let named = |name: &str| ModelName::parse(name).map(|name| (name.0.name, name.0.revision));
        let pair = |name: &str, revision: &str| Some((name.to_owned(), revision.to_owned()));
        assert_eq!(named("org/tiny"), pair("org/tiny", "main"));
        assert_eq!(named("org/tiny@refs/pr/1"), pair("org/tiny", "refs/pr/1"));
        for path in ["tiny", "a/b/c", "../x", "./x", "/nope", "a/", "a/b@", "a/b@../c", "a/b@/c", "a b/c"] {
            assert_eq!(named(path), None, "{path}");
        }
    }
}
