//! `checkpointing.checkpoint_must_save_by`: a time span written as NeMo RL writes it.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, Unexpected, Visitor};
use serde::{Serialize, Serializer};

/// `DD:HH:MM:SS` after the start of the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SaveDeadline {
    text: String,
    duration: Duration,
}

impl SaveDeadline {
    /// The time between the start of the process and the deadline.
    pub fn duration(&self) -> Duration {
        self.duration
    }
}

fn parse(text: &str) -> Option<Duration> {
    let parts: Vec<u64> = text.split(':').map(|part| part.trim().parse().ok()).collect::<Option<_>>()?;
    let [days, hours, minutes, seconds] = parts.as_slice() else { return None };
    let hours = days.checked_mul(24)?.checked_add(*hours)?;
    let minutes = hours.checked_mul(60)?.checked_add(*minutes)?;
    Some(Duration::from_secs(minutes.checked_mul(60)?.checked_add(*seconds)?))
}

impl Serialize for SaveDeadline {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for SaveDeadline {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = SaveDeadline;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("days:hours:minutes:seconds, for example `00:03:45:00`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<SaveDeadline, E> {
                let duration = parse(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))?;
                Ok(SaveDeadline { text: text.to_owned(), duration })
            }
        }
        deserializer.deserialize_str(Text)
    }
}
