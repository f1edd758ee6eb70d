//! How a transaction and its statements behave. Plain choices; nothing here may act on them.

/// When conflicts between writers are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// At the commit: the first to commit wins, nobody waits before.
    #[default]
    Optimistic,
    /// When a statement writes or locks a row: the second waits for the first.
    Pessimistic,
}

/// What a statement that does not lock sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Isolation {
    /// The state at the transaction's start (snapshot isolation).
    #[default]
    RepeatableRead,
    /// The state at the statement's start. An optimistic transaction reads as with
    /// [`Isolation::RepeatableRead`]: its commit refuses whatever changed since its start.
    ReadCommitted,
}

/// How a transaction behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Options {
    /// When conflicts are found.
    pub mode: Mode,
    /// What statements see.
    pub isolation: Isolation,
}

/// Who answers reads at a timestamp.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ReadFrom {
    /// The leader of each region.
    #[default]
    Leader,
    /// Any replica that is safe up to the timestamp; else the leader.
    Any,
}

/// Which version a statement reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reads {
    /// The transaction's snapshot; with read committed, a fresh one.
    Snapshot,
    /// The newest version, if the transaction is pessimistic: what a statement reads that writes
    /// or locks what it finds.
    Current,
}

/// What to do about another transaction's lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wait {
    /// Fail at once (`NOWAIT`).
    No,
    /// Wait so long in all (`innodb_lock_wait_timeout`).
    Millis(u64),
}
