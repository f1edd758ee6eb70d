//! What GC does with each version of one key: a pure machine fed from the newest record to the
//! oldest. It must never say `Remove` of a record that a read at or above the safe point sees.
//!
//! ```text
//! Rewind ──(first record <= safe point)──► RemoveIdempotent ──(Put or Delete)──► RemoveAll
//!   keep                                     Lock, Rollback: remove                remove
//!                                            Put: keep; Delete: remove last
//! ```

use damask_types::{Timestamp, WriteKind, WriteRef};

/// What becomes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stays.
    Keep,
    /// It may go now.
    Remove,
    /// It may go once no older record of its key is left, and not before: until then it hides them.
    RemoveLast,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Rewind,
    RemoveIdempotent,
    RemoveAll,
}

/// The machine for one key.
#[derive(Clone, Copy, Debug)]
pub struct KeyGc {
    safe_point: Timestamp,
    state: State,
}

impl KeyGc {
    /// For a key of which no record was seen yet.
    pub fn new(safe_point: Timestamp) -> KeyGc {
        KeyGc { safe_point, state: State::Rewind }
    }

    /// The next older record of the key.
    pub fn visit(&mut self, commit_ts: Timestamp, write: &WriteRef<'_>) -> Verdict {
        if commit_ts > self.safe_point {
            return Verdict::Keep;
        }
        if self.state == State::RemoveAll {
            return Verdict::Remove;
        }
        self.state = State::RemoveIdempotent;
        match write.kind {
            WriteKind::Lock | WriteKind::Rollback => return Verdict::Remove,
            WriteKind::Put | WriteKind::Delete => self.state = State::RemoveAll,
        }
        // A Put whose fence names a version at or below the safe point is seen by nobody, and hides
        // older versions as a Delete does: that version was there and GC has removed it since.
        if write.kind == WriteKind::Put && write.is_current_at(self.safe_point) {
            Verdict::Keep
        } else {
            Verdict::RemoveLast
        }
    }
}
