//! The two sets of templates. Models are trained on the small one, so it never changes; what is new goes to the full one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{CROWDED_OFFICES, Split};

/// Which templates and offices tasks are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Suite {
    /// 46 templates of at most five calls, in offices where first names and task names are unique.
    #[default]
    Core,
    /// These and as many again of up to nine calls, in offices with namesakes and rows that look alike.
    Full,
}

/// A name that is no suite.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("unknown suite {found:?}; expected `core` or `full`")]
pub struct ParseSuiteError {
    pub found: String,
}

impl Suite {
    pub const ALL: [Self; 2] = [Self::Core, Self::Full];

    pub fn name(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Full => "full",
        }
    }

    /// Number of the first filling of a split, which is also the id of its first task. No two splits of the suites share
    /// one.
    pub fn first_filling(self, split: Split) -> u64 {
        let others = match self {
            Self::Core => 0,
            Self::Full => Split::ALL.len() as u64 * Split::MAX_TASKS,
        };
        others + split.first_filling()
    }

    /// Seed of a split's first office.
    pub(super) fn first_office(self, split: Split) -> u64 {
        match self {
            Self::Core => split.first_office(),
            Self::Full => CROWDED_OFFICES + split.first_office(),
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Suite {
    type Err = ParseSuiteError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let suite = Self::ALL.into_iter().find(|suite| suite.name() == text);
        suite.ok_or_else(|| ParseSuiteError { found: text.to_owned() })
    }
}
