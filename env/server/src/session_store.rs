//! The sessions of a server: how many there may be, how much they may hold, and which give way.
//!
//! What a session holds is what its calls have added to its tables; calls that only read are free. The tables a session
//! starts from are shared and not counted.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::session_cookie::SessionId;
use nemo_env::Session;

/// A session and its lock: calls of one session run one after the other.
pub(crate) type SessionSlot = Arc<tokio::sync::Mutex<Session>>;

/// Bounds of a store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoreLimits {
    pub(crate) max_sessions: usize,
    pub(crate) idle_timeout: Duration,
    pub(crate) max_total_bytes: usize,
}

/// Sessions by id.
pub(crate) struct SessionStore {
    limits: StoreLimits,
    state: Mutex<State>,
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
        state.sessions.insert(id, Entry { slot, use_number, last_use: now, held_bytes: 0 });
        state.counts.num_seeded += 1;
    }

    /// The session of an id; `None` if it was never seeded, or dropped.
    pub(crate) fn open(&self, id: SessionId, now: Instant) -> Option<SessionSlot> {
        let mut state = self.state();
        state.drop_idle(self.limits.idle_timeout, now);
        let number = state.num_uses;
        let entry = state.sessions.get_mut(&id)?;
        entry.last_use = now;
        let old_number = std::mem::replace(&mut entry.use_number, number);
        let slot = Arc::clone(&entry.slot);
        state.by_use.remove(&old_number);
        state.by_use.insert(number, id);
        state.num_uses += 1;
        Some(slot)
    }

    /// Notes that the session in `slot`, which was opened under `id`, now holds `held_bytes`.
    pub(crate) fn charge(&self, id: SessionId, slot: &SessionSlot, held_bytes: usize) {
        let mut state = self.state();
        // It may have been dropped or seeded anew since.
        let Some(entry) = state.sessions.get_mut(&id).filter(|entry| Arc::ptr_eq(&entry.slot, slot)) else { return };
        let before = std::mem::replace(&mut entry.held_bytes, held_bytes);
        state.counts.held_bytes = state.counts.held_bytes - before + held_bytes;
        while state.counts.held_bytes > self.limits.max_total_bytes && state.displace_oldest(Some(id)) {}
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

#[cfg(test)]
mod tests {
    use super::*;
    use nemo_env::Workplace;

    const LIMITS: StoreLimits =
        StoreLimits { max_sessions: 3, idle_timeout: Duration::from_secs(60), max_total_bytes: 20_000 };

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

        fn open(&self, number: u8, second: u64) -> Option<SessionSlot> {
            self.store.open(SessionId::numbered(number), self.start + Duration::from_secs(second))
        }

        /// A call after which the session holds so much; false if there is none.
        fn charge(&self, number: u8, held_bytes: usize, second: u64) -> bool {
            let slot = self.open(number, second);
            slot.inspect(|slot| self.store.charge(SessionId::numbered(number), slot, held_bytes)).is_some()
        }
    }

    #[test]
    fn the_session_used_least_recently_gives_way() {
        let fixture = Fixture::new();
        assert!(fixture.open(1, 0).is_none());
        for number in 1..=3 {
            fixture.seed(number, 0);
        }
        assert!(fixture.open(1, 1).is_some());
        fixture.seed(4, 2);
        let found: Vec<bool> = (1..=4).map(|number| fixture.open(number, 3).is_some()).collect();
        assert_eq!(found, [true, false, true, true]);
        // Seeding again takes no second place.
        fixture.seed(4, 4);
        assert!(fixture.open(3, 5).is_some());
        let counts = fixture.store.counts();
        assert_eq!((counts.num_sessions, counts.num_seeded, counts.num_displaced), (3, 5, 1));
    }

    #[test]
    fn idle_sessions_are_dropped() {
        let fixture = Fixture::new();
        fixture.seed(1, 0);
        fixture.seed(2, 30);
        assert!(fixture.open(1, 59).is_some());
        assert!(fixture.open(2, 90).is_none());
        assert!(fixture.open(1, 118).is_some());
        fixture.store.drop_idle(fixture.start + Duration::from_secs(178));
        assert!(fixture.open(1, 178).is_none());
        let counts = fixture.store.counts();
        assert_eq!((counts.num_sessions, counts.num_idle, counts.held_bytes), (0, 2, 0));
    }

    #[test]
    fn what_sessions_hold_is_bounded() {
        let fixture = Fixture::new();
        fixture.seed(1, 0);
        fixture.seed(2, 0);
        fixture.seed(3, 0);
        assert!(fixture.charge(1, 9_000, 1));
        assert!(fixture.charge(2, 9_000, 2));
        // What was freed again is not counted.
        assert!(fixture.charge(2, 8_000, 3));
        assert_eq!(fixture.store.counts().held_bytes, 17_000);
        // The third would bring the total above the bound: the first, not used for longest, gives way.
        assert!(fixture.charge(3, 9_000, 4));
        assert!(!fixture.charge(1, 0, 5));
        let counts = fixture.store.counts();
        assert_eq!((counts.num_sessions, counts.num_displaced, counts.held_bytes), (2, 1, 17_000));
        // A call that ends after its session was seeded anew is none of the new one's.
        let old = fixture.open(2, 6).unwrap();
        fixture.seed(2, 7);
        fixture.store.charge(SessionId::numbered(2), &old, 5_000);
        assert_eq!(fixture.store.counts().held_bytes, 9_000);
        fixture.store.remove(SessionId::numbered(3));
        fixture.store.remove(SessionId::numbered(3));
        assert_eq!(fixture.store.counts().held_bytes, 0);
    }
}
