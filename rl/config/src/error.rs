//! What can be wrong with a configuration; every variant says where, what was found and what is expected.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// 1-based line and column of a file.
    File { path: Arc<str>, line: u32, column: u32 },
    /// A `key=value` argument.
    Override(Arc<str>),
    /// The built-in defaults.
    Default,
    /// A reference to keys that a configuration sets: where it is written, and those keys with their places.
    Reference { site: Box<Origin>, targets: Vec<(String, Origin)> },
}

impl Origin {
    /// Of a value that is written at `site` and refers to `targets`, which are the keys that a configuration sets.
    pub(crate) fn referring(site: Origin, targets: Vec<(String, Origin)>) -> Origin {
        match targets.is_empty() {
            true => site,
            false => Origin::Reference { site: Box::new(site), targets },
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { path, line, column } => write!(f, "{path}:{line}:{column}"),
            Origin::Override(text) => write!(f, "override `{}`", shortened(text)),
            Origin::Default => f.write_str("built-in defaults"),
            // What a user did not write is blamed on what it follows.
            Origin::Reference { site, targets } => match (site.as_ref(), targets.first()) {
                (Origin::Default, Some((_, target))) => target.fmt(f),
                (site, _) => site.fmt(f),
            },
        }
    }
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read configuration {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },

    #[error("{origin}: not valid YAML: {}", shortened(message))]
    Syntax { origin: Origin, message: String },

    #[error("{origin}: unknown key `{}`{}", shortened(key), hint(.suggestion))]
    UnknownKey { origin: Origin, key: String, suggestion: Option<Box<str>> },

    #[error("{origin}: `{}`{} is {}, expected {expected}{}", shortened(key), followed(origin), shortened(found), hint(.suggestion))]
    WrongValue { origin: Origin, key: String, found: String, expected: String, suggestion: Option<Box<str>> },

    #[error("{origin}: `{key}` has to be set: write it in the configuration or pass `{key}=...`")]
    Missing { origin: Origin, key: String },

    #[error(
        "{origin}: `{}`{} cannot be resolved from `{}`: {}",
        shortened(key),
        followed(origin),
        shortened(text),
        shortened(reason)
    )]
    Interpolation { origin: Origin, key: String, text: String, reason: String },

    #[error("override `{}`: {}", shortened(text), shortened(reason))]
    Override { text: String, reason: String },

    #[error("{origin}: `{key}: {}`{} is not supported: {reason}", shortened(found), followed(origin))]
    Refused { origin: Origin, key: String, found: String, reason: String },

    /// The reason ends with the values and places of the keys that it names.
    #[error("{origin}: `{key}: {}`{} does not fit: {reason}", shortened(found), followed(origin))]
    Inconsistent { origin: Origin, key: String, found: String, reason: String },

    /// A value that fits the rest of the configuration, but not the command.
    #[error("`{key}: {found}` does not fit: {reason}")]
    OtherCommand { key: String, found: String, reason: String },

    #[error("{origin}: `defaults` form a circle: {}", chain.join(" -> "))]
    InheritanceCircle { origin: Origin, chain: Vec<String> },

    #[error("{origin}: {what} than the limit of {limit}; is the file what it should be?")]
    TooMuch { origin: Origin, what: &'static str, limit: usize },

    #[error("cannot write the configuration as YAML: {message}")]
    Dump { message: String },
}

/// Which keys a value was taken from, with the places that the origin does not begin with.
fn followed(origin: &Origin) -> String {
    let Origin::Reference { site, targets } = origin else { return String::new() };
    let quoted_first = **site == Origin::Default;
    let names: Vec<String> = targets
        .iter()
        .enumerate()
        .map(|(index, (key, origin))| match index == 0 && quoted_first {
            true => format!("`{key}`"),
            false => format!("`{key}` in {origin}"),
        })
        .collect();
    format!(" (from {})", names.join(", "))
}

fn hint(suggestion: &Option<Box<str>>) -> String {
    suggestion.as_ref().map(|text| format!(" (did you mean `{text}`?)")).unwrap_or_default()
}

/// What a user wrote, cut where it would fill the screen.
pub(crate) fn shortened(text: &str) -> Cow<'_, str> {
    const MOST_CHARACTERS: usize = 300;
    match text.char_indices().nth(MOST_CHARACTERS) {
        Some((end, _)) => Cow::Owned(format!("{}... ({} bytes)", &text[..end], text.len())),
        None => Cow::Borrowed(text),
    }
}

/// The candidate a mistyped word most likely stands for, if any is close enough to be worth saying.
pub(crate) fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<Box<str>> {
    // Keeps one or two slips in a short word and rejects unrelated keys.
    const LEAST_SIMILARITY: f64 = 0.8;
    // Nothing that long is a slip of a key, and comparing it with all of them takes a while.
    const LONGEST_WORD: usize = 200;
    if word.len() > LONGEST_WORD {
        return None;
    }
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&word.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(similarity, _)| *similarity >= LEAST_SIMILARITY)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate.into())
}
