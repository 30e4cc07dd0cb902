//! The four uses of generated tasks and what keeps them apart.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::task::record::Holdout;

/// What tasks are for. Splits share neither offices nor fillings nor requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Demonstrations for the supervised warm start.
    WarmStart,
    /// Tasks for reinforcement learning.
    #[default]
    Train,
    /// Validation: training templates with fillings that no training split can produce.
    UnseenFillings,
    /// Validation: templates that no training split uses.
    UnseenTemplates,
}

/// A name that is no split.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("unknown split {found:?}; expected `warm_start`, `train`, `unseen_fillings` or `unseen_templates`")]
pub struct ParseSplitError {
    pub found: String,
}

impl Split {
    pub const ALL: [Self; 4] = [Self::WarmStart, Self::Train, Self::UnseenFillings, Self::UnseenTemplates];
    /// Largest number of tasks of one split; the ranges of fillings have this size.
    pub const MAX_TASKS: u64 = 1_000_000_000;

    pub fn name(self) -> &'static str {
        match self {
            Self::WarmStart => "warm_start",
            Self::Train => "train",
            Self::UnseenFillings => "unseen_fillings",
            Self::UnseenTemplates => "unseen_templates",
        }
    }

    fn index(self) -> u64 {
        match self {
            Self::WarmStart => 0,
            Self::Train => 1,
            Self::UnseenFillings => 2,
            Self::UnseenTemplates => 3,
        }
    }

    /// Number of the split's first filling, which is also the id of its first task.
    pub fn first_filling(self) -> u64 {
        self.index() * Self::MAX_TASKS
    }

    /// Seed of the split's first office.
    pub(super) fn first_office(self) -> u64 {
        self.index() * super::MAX_OFFICES as u64
    }

    /// How the split's tasks are held out.
    pub(super) fn holdout(self) -> Holdout {
        match self {
            Self::WarmStart | Self::Train => Holdout::None,
            Self::UnseenFillings => Holdout::Filling,
            Self::UnseenTemplates => Holdout::Template,
        }
    }

    /// Whether a request may occur in this split. Three splits draw from the same templates and
    /// names; each owns the texts whose hash falls into its eighths.
    pub(super) fn owns(self, request: &str) -> bool {
        let eighth = fnv1a(request) >> 61;
        match self {
            Self::WarmStart => eighth < 3,
            Self::Train => (3..6).contains(&eighth),
            Self::UnseenFillings => eighth >= 6,
            Self::UnseenTemplates => true,
        }
    }
}

/// 64-bit FNV-1a with a final multiplication, since its upper bits alone mix late.
fn fnv1a(text: &str) -> u64 {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl fmt::Display for Split {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Split {
    type Err = ParseSplitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|split| split.name() == text)
            .ok_or_else(|| ParseSplitError { found: text.to_owned() })
    }
}
