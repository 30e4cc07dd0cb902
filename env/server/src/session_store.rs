//! The sessions of a server: how many there may be, how much they may hold, and which give way.
//!
//! What a session holds is counted from above: whatever a call adds to a table is made of its own arguments or of
//! what an earlier call added (a forwarded mail, with a prefix to its subject), so it is at most that much larger than
//! the largest addition so far. The tables a session starts from are shared and not counted.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::session_cookie::SessionId;
use nemo_env::Session;
use nemo_env::python_compat::Value;

/// A session and its lock: calls of one session run one after the other.
pub(crate) type SessionSlot = Arc<tokio::sync::Mutex<Session>>;

/// What a call costs beside its arguments, which cells share: its row, and the row's entry among the changes of its table.
const CALL_BYTES: usize = 512;

/// What a forwarded or answered mail is longer by (`FW: `).
const PREFIX_BYTES: usize = 4;

/// Bounds of a store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoreLimits {
    pub(crate) max_sessions: usize,
    pub(crate) idle_timeout: Duration,
    pub(crate) max_session_bytes: usize,
    pub(crate) max_total_bytes: usize,
}

/// Sessions by id.
pub(crate) struct SessionStore {
    limits: StoreLimits,
    state: Mutex<State>,
}

/// What asking for a session gave.
pub(crate) enum Opened {
    Session(SessionSlot),
    /// Never seeded, or dropped.
    Unknown,
    /// Its calls have added as much as they may.
    Full,
}

/// Counts since the start, and the present size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoreCounts {
    pub(crate) num_sessions: usize,
    pub(crate) held_bytes: usize,
    pub(crate) num_seeded: u64,
    /// Dropped because there were too many, or they held too much.
    pub(crate) num_displaced: u64,
    /// Dropped because nobody used them.
    pub(crate) num_idle: u64,
}

struct Entry {
    slot: SessionSlot,
    /// Key in `by_use`.
    use_number: u64,
    last_use: Instant,
    held_bytes: usize,
    largest_bytes: usize,
}

#[derive(Default)]
struct State {
    sessions: HashMap<SessionId, Entry>,
    /// Sessions in the order of their last use.
    by_use: BTreeMap<u64, SessionId>,
    num_uses: u64,
    counts: StoreCounts,
}

impl SessionStore {
    pub(crate) fn new(limits: StoreLimits) -> Self {
        Self { limits, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a session under an id, in the place of the one that was there.
    pub(crate) fn seed(&self, id: SessionId, session: Session, now: Instant) {
        let mut state = self.state();
        state.remove(id);
        state.drop_idle(self.limits.idle_timeout, now);
        while state.sessions.len() >= self.limits.max_sessions && state.displace_oldest(None) {}
        let use_number = state.next_use(id);
        let slot = Arc::new(tokio::sync::Mutex::new(session));
        state.sessions.insert(id, Entry { slot, use_number, last_use: now, held_bytes: 0, largest_bytes: 0 });
        state.counts.num_seeded += 1;
    }

    /// The session of an id, for a call whose arguments take `call_bytes`.
    pub(crate) fn open(&self, id: SessionId, call_bytes: usize, now: Instant) -> Opened {
        let mut state = self.state();
        state.drop_idle(self.limits.idle_timeout, now);
        let number = state.num_uses;
        let Some(entry) = state.sessions.get_mut(&id) else {
            return Opened::Unknown;
        };
        entry.last_use = now;
        let old_number = std::mem::replace(&mut entry.use_number, number);
        let largest = entry.largest_bytes.max(call_bytes) + PREFIX_BYTES;
        let added = largest + CALL_BYTES;
        let opened = if entry.held_bytes + added > self.limits.max_session_bytes {
            Opened::Full
        } else {
            entry.largest_bytes = largest;
            entry.held_bytes += added;
            Opened::Session(Arc::clone(&entry.slot))
        };
        state.by_use.remove(&old_number);
        state.by_use.insert(number, id);
        state.num_uses += 1;
        if matches!(opened, Opened::Session(_)) {
            state.counts.held_bytes += added;
            while state.counts.held_bytes > self.limits.max_total_bytes && state.displace_oldest(Some(id)) {}
        }
        opened
    }

    /// Forgets a session.
    pub(crate) fn remove(&self, id: SessionId) {
        self.state().remove(id);
    }

    /// Drops the sessions that nobody used for too long.
    pub(crate) fn drop_idle(&self, now: Instant) {
        self.state().drop_idle(self.limits.idle_timeout, now);
    }

    pub(crate) fn counts(&self) -> StoreCounts {
        let state = self.state();
        StoreCounts { num_sessions: state.sessions.len(), ..state.counts }
    }
}

impl State {
    fn next_use(&mut self, id: SessionId) -> u64 {
        let number = self.num_uses;
        self.num_uses += 1;
        self.by_use.insert(number, id);
        number
    }

    fn remove(&mut self, id: SessionId) {
        if let Some(entry) = self.sessions.remove(&id) {
            self.by_use.remove(&entry.use_number);
            self.counts.held_bytes -= entry.held_bytes;
        }
    }

    fn drop_idle(&mut self, idle_timeout: Duration, now: Instant) {
        while let Some((_, &id)) = self.by_use.first_key_value() {
            let is_idle = |entry: &Entry| now.saturating_duration_since(entry.last_use) >= idle_timeout;
            if !self.sessions.get(&id).is_some_and(is_idle) {
                return;
            }
            self.remove(id);
            self.counts.num_idle += 1;
        }
    }

    /// Drops the session that was not used for longest, unless it is `kept`; false if there is none to drop.
    fn displace_oldest(&mut self, kept: Option<SessionId>) -> bool {
        let Some((_, &id)) = self.by_use.first_key_value() else {
            return false;
        };
        if kept == Some(id) {
            return false;
        }
        self.remove(id);
        self.counts.num_displaced += 1;
        true
    }
}

/// Memory behind the arguments of a call.
pub(crate) fn arguments_bytes(arguments: &[(Arc<str>, Value)]) -> usize {
    arguments.iter().map(|(_, value)| value_bytes(value)).sum()
}

fn value_bytes(value: &Value) -> usize {
    let inside = match value {
        Value::Str(text) => text.len(),
        Value::List(items) => items.iter().map(value_bytes).sum(),
        Value::Dict(entries) => {
            entries.iter().map(|(key, value)| size_of::<Arc<str>>() + key.len() + value_bytes(value)).sum()
        }
        Value::None | Value::Bool(_) | Value::Int(_) | Value::Float(_) => 0,
    };
    size_of::<Value>() + inside
}

#[cfg(test)]
mod tests {
    use super::*;
    use nemo_env::Workplace;

    const LIMITS: StoreLimits = StoreLimits {
        max_sessions: 3,
        idle_timeout: Duration::from_secs(60),
        max_session_bytes: 10_000,
        max_total_bytes: 20_000,
    };

    struct Fixture {
        store: SessionStore,
        workplace: Workplace,
        start: Instant,
    }

    impl Fixture {
        fn new() -> Self {
            let workplace = Workplace::new(nemo_env::generate::office(1));
            Self { store: SessionStore::new(LIMITS), workplace, start: Instant::now() }
        }

        fn seed(&self, number: u8, second: u64) {
            let now = self.start + Duration::from_secs(second);
            self.store.seed(SessionId::numbered(number), self.workplace.session(), now);
        }

        fn open(&self, number: u8, call_bytes: usize, second: u64) -> &'static str {
            let now = self.start + Duration::from_secs(second);
            match self.store.open(SessionId::numbered(number), call_bytes, now) {
                Opened::Session(_) => "session",
                Opened::Unknown => "unknown",
                Opened::Full => "full",
            }
        }
    }

    #[test]
    fn the_session_used_least_recently_gives_way() {
        let fixture = Fixture::new();
        assert_eq!(fixture.open(1, 0, 0), "unknown");
        for number in 1..=3 {
            fixture.seed(number, 0);
        }
        assert_eq!(fixture.open(1, 0, 1), "session");
        fixture.seed(4, 2);
        let found: Vec<&str> = (1..=4).map(|number| fixture.open(number, 0, 3)).collect();
        assert_eq!(found, ["session", "unknown", "session", "session"]);
        // Seeding again takes no second place.
        fixture.seed(4, 4);
        assert_eq!(fixture.open(3, 0, 5), "session");
        let counts = fixture.store.counts();
        assert_eq!((counts.num_sessions, counts.num_seeded, counts.num_displaced), (3, 5, 1));
    }

    #[test]
    fn idle_sessions_are_dropped() {
        let fixture = Fixture::new();
        fixture.seed(1, 0);
        fixture.seed(2, 30);
        assert_eq!(fixture.open(1, 0, 59), "session");
        assert_eq!(fixture.open(2, 0, 90), "unknown");
        assert_eq!(fixture.open(1, 0, 118), "session");
        fixture.store.drop_idle(fixture.start + Duration::from_secs(178));
        assert_eq!(fixture.open(1, 0, 178), "unknown");
        let counts = fixture.store.counts();
        assert_eq!((counts.num_sessions, counts.num_idle, counts.held_bytes), (0, 2, 0));
    }

    #[test]
    fn what_sessions_hold_is_bounded() {
        let fixture = Fixture::new();
        fixture.seed(1, 0);
        fixture.seed(2, 0);
        fixture.seed(3, 0);
        // After a large call every call may add as much again.
        assert_eq!(fixture.open(1, 9_000, 1), "session");
        assert_eq!(fixture.open(1, 10, 2), "full");
        assert_eq!(fixture.open(2, 9_000, 3), "session");
        // The third would bring the total above the bound: the first, not used for longest, gives way.
        assert_eq!(fixture.open(3, 9_000, 4), "session");
        assert_eq!(fixture.open(1, 0, 5), "unknown");
        assert_eq!(fixture.open(2, 0, 5), "full");
        let counts = fixture.store.counts();
        assert_eq!((counts.num_sessions, counts.num_displaced, counts.held_bytes), (2, 1, 2 * 9_516));
        fixture.store.remove(SessionId::numbered(2));
        fixture.store.remove(SessionId::numbered(2));
        assert_eq!(fixture.store.counts().held_bytes, 9_516);
    }

    #[test]
    fn arguments_are_weighed_with_all_they_hold() {
        let weight = |text: &str| match nemo_env::python_compat::json::parse(text) {
            Ok(Value::Dict(arguments)) => arguments_bytes(&arguments),
            other => panic!("{other:?}"),
        };
        assert_eq!(weight("{}"), 0);
        assert_eq!(weight("{\"a\": \"12345\"}"), size_of::<Value>() + 5);
        assert_eq!(weight("{\"a\": [1, [2]]}"), 4 * size_of::<Value>());
        assert!(weight("{\"a\": {\"key\": null}}") > 2 * size_of::<Value>() + 3);
    }
}
