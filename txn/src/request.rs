//! The wire between the two ends of a transaction: requests to one region and their answers.
//! Plain data with TiKV's meaning; it must hold nothing that could not be sent.

use damask_kv::BelowSafePoint;
use damask_raftstore::Error as RegionError;
use damask_types::{Epoch, KeyLock, KeyRange, Lock, RegionId, Timestamp};

/// Pairs (or locks) that one scan request may ask for.
pub const SCAN_PAIRS_MAX: usize = 4096;

/// Which region, as the sender knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// The region.
    pub region: RegionId,
    /// Its epoch.
    pub epoch: Epoch,
}

/// A change to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// Set.
    Put {
        /// The key.
        key: Vec<u8>,
        /// Its value.
        value: Vec<u8>,
    },
    /// Set, and fail with `AlreadyExists` if the key has a value.
    Insert {
        /// The key.
        key: Vec<u8>,
        /// Its value.
        value: Vec<u8>,
    },
    /// Remove.
    Delete {
        /// The key.
        key: Vec<u8>,
    },
    /// Only lock: conflicts are found, nothing changes.
    Lock {
        /// The key.
        key: Vec<u8>,
    },
}

impl Mutation {
    /// Its key.
    pub fn key(&self) -> &[u8] {
        match self {
            Mutation::Put { key, .. }
            | Mutation::Insert { key, .. }
            | Mutation::Delete { key }
            | Mutation::Lock { key } => key,
        }
    }

    /// Its key, taken.
    pub fn into_key(self) -> Vec<u8> {
        match self {
            Mutation::Put { key, .. }
            | Mutation::Insert { key, .. }
            | Mutation::Delete { key }
            | Mutation::Lock { key } => key,
        }
    }

    /// Bytes of key and value.
    pub fn bytes(&self) -> usize {
        match self {
            Mutation::Put { key, value } | Mutation::Insert { key, value } => {
                key.len() + value.len()
            }
            Mutation::Delete { key } | Mutation::Lock { key } => key.len(),
        }
    }
}

/// A request to one region.
#[derive(Clone, Debug)]
pub enum Request {
    /// The newest value at or below `ts` (`Timestamp::MAX` = latest).
    Get {
        /// The key.
        key: Vec<u8>,
        /// Version.
        ts: Timestamp,
        /// Transactions whose locks are to be ignored: rolled back, or committed above `ts` only.
        bypass: Vec<Timestamp>,
    },
    /// Several keys at once; answers `Values` in the same order.
    BatchGet {
        /// The keys.
        keys: Vec<Vec<u8>>,
        /// Version.
        ts: Timestamp,
        /// As in `Get`.
        bypass: Vec<Timestamp>,
    },
    /// Pairs in key order (or backwards).
    Scan {
        /// Part of the region.
        range: KeyRange,
        /// Version.
        ts: Timestamp,
        /// Pairs at most; up to [`SCAN_PAIRS_MAX`].
        limit: usize,
        /// From the end.
        reverse: bool,
        /// As in `Get`.
        bypass: Vec<Timestamp>,
    },
    /// First phase; answers `Prewritten`.
    Prewrite(Prewrite),
    /// Second phase.
    Commit {
        /// Keys in this region.
        keys: Vec<Vec<u8>>,
        /// The transaction.
        start_ts: Timestamp,
        /// Its version.
        commit_ts: Timestamp,
    },
    /// Give up.
    Rollback {
        /// Keys in this region.
        keys: Vec<Vec<u8>>,
        /// The transaction.
        start_ts: Timestamp,
    },
    /// What became of the transaction with this primary? May roll it back when expired.
    CheckTxnStatus {
        /// The deciding key.
        primary: Vec<u8>,
        /// The transaction.
        lock_ts: Timestamp,
        /// Who asks; pushes `min_commit_ts` above it. ZERO: do not push.
        caller_start_ts: Timestamp,
        /// Now.
        current_ts: Timestamp,
        /// If nothing is known of it, write a rollback.
        rollback_if_not_exist: bool,
        /// Treat an async-commit lock as one of two phases: its secondaries are known to lack a
        /// lock of that kind.
        force_sync_commit: bool,
        /// The asker met a pessimistic lock: a pessimistic primary is removed without a trace, and
        /// where nothing is known nothing is written.
        resolving_pessimistic: bool,
    },
    /// What became of these keys of an async-commit transaction? Answers `SecondaryLocks`; where
    /// no lock stands a rollback is left, so that a late prewrite fails.
    CheckSecondaryLocks {
        /// Keys in this region.
        keys: Vec<Vec<u8>>,
        /// The transaction.
        start_ts: Timestamp,
    },
    /// Lock keys at the newest version before they are written; answers `PessimisticLocked`.
    PessimisticLock(PessimisticLock),
    /// Give up pessimistic locks with `for_update_ts` at or below the given; other locks stay.
    PessimisticRollback {
        /// Keys in this region.
        keys: Vec<Vec<u8>>,
        /// The transaction.
        start_ts: Timestamp,
        /// Newer locks stay.
        for_update_ts: Timestamp,
    },
    /// A reader elsewhere (a learner) will read this range at `ts`; answers `ReadIndex`. No
    /// commit at or below `ts` that the index does not cover can follow.
    ReadIndex {
        /// Part of the region.
        range: KeyRange,
        /// Version.
        ts: Timestamp,
    },
    /// A `Get`, `BatchGet` or `Scan` of any replica, if its timestamp is safe there: nobody is
    /// asked, and locks are no matter. Else `DataIsNotReady`: ask the leader, without this.
    Stale(Box<Request>),
    /// Commit (or, with ZERO, roll back) locks of a transaction in this region.
    ResolveLock {
        /// The transaction.
        start_ts: Timestamp,
        /// Its outcome.
        commit_ts: Timestamp,
        /// These keys only; empty: scan the region's locks.
        keys: Vec<Vec<u8>>,
    },
    /// The transaction is alive.
    HeartBeat {
        /// The deciding key.
        primary: Vec<u8>,
        /// The transaction.
        start_ts: Timestamp,
        /// New lifetime, if larger.
        ttl_ms: u64,
    },
    /// Locks with `start_ts <= ts`, in key order.
    ScanLocks {
        /// Part of the region.
        range: KeyRange,
        /// Version.
        ts: Timestamp,
        /// Locks at most; up to [`SCAN_PAIRS_MAX`].
        limit: usize,
    },
}

/// How a prewrite may end the transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Finish {
    /// By a commit of the primary.
    #[default]
    TwoPhase,
    /// By the last key's prewrite. The primary's lock names the other keys of the transaction;
    /// in a request without the primary the list is empty.
    Async {
        /// All keys but the primary.
        secondaries: Vec<Vec<u8>>,
    },
    /// At once: the request holds the whole transaction.
    OnePhase,
}

/// The first phase, for one region's keys of a transaction.
#[derive(Clone, Debug, Default)]
pub struct Prewrite {
    /// Changes; all keys in this region.
    pub mutations: Vec<Mutation>,
    /// The deciding key.
    pub primary: Vec<u8>,
    /// The transaction.
    pub start_ts: Timestamp,
    /// Lock lifetime.
    pub ttl_ms: u64,
    /// Keys of the whole transaction.
    pub txn_size: u64,
    /// Pessimistic: the newest version that a statement saw, not below that of any key which it
    /// writes and holds. ZERO: optimistic.
    pub for_update_ts: Timestamp,
    /// Pessimistic: for each mutation, the version at which the transaction holds a pessimistic
    /// lock on its key: nothing newer was there, and the transaction has read up to it (tikv#14311,
    /// `for_update_ts_constraints`). ZERO: not locked, checked for newer versions, as all are in
    /// an optimistic transaction (empty).
    pub locked: Vec<Timestamp>,
    /// Async and one-phase commit: not below this version (linearizability, tikv#8589).
    pub min_commit_ts: Timestamp,
    /// Async and one-phase commit: not above this version, else two phases. ZERO: no limit.
    pub max_commit_ts: Timestamp,
    /// How it may end.
    pub finish: Finish,
}

/// What a waiter for a lock is ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockWait {
    /// Answer `Locked` at once.
    No,
    /// Wait in the key's queue for so long, then answer `Locked`; at once if its time is up.
    Millis(u64),
    /// The same, and wait for the locks of this transaction however old they look, since its
    /// primary has just said that it is alive. That is believed for a short time; then `Locked`,
    /// and the primary has to be asked again. (Only the primary's lock is kept alive: without this
    /// nobody would stand in the queue behind a transaction that lasts, nor be seen in a circle.)
    Behind {
        /// The transaction that is alive.
        holder: Timestamp,
        /// As in `Millis`.
        millis: u64,
    },
}

impl LockWait {
    /// How long in all, milliseconds.
    pub fn millis(self) -> u64 {
        match self {
            LockWait::No => 0,
            LockWait::Millis(millis) | LockWait::Behind { millis, .. } => millis,
        }
    }
}

/// Locks on keys that will be written later.
#[derive(Clone, Debug)]
pub struct PessimisticLock {
    /// The keys, all in this region, rising.
    pub keys: Vec<Vec<u8>>,
    /// The deciding key: the first key that the transaction ever locked.
    pub primary: Vec<u8>,
    /// The transaction.
    pub start_ts: Timestamp,
    /// The version that the statement reads; a newer one is a conflict.
    pub for_update_ts: Timestamp,
    /// Lock lifetime.
    pub ttl_ms: u64,
    /// When another transaction holds one.
    pub wait: LockWait,
    /// Also answer the values at the newest version.
    pub return_values: bool,
    /// On a newer version (only with one key): lock it at that version instead of refusing, and
    /// say so, with the value. A waiter then gets the key from its holder's last log entry, and
    /// needs neither a second round nor a read.
    pub allow_conflict: bool,
}

/// One key of an answered [`PessimisticLock`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockedKey {
    /// The newest value, if asked for, or if there is a `conflict_ts`.
    pub value: Option<Vec<u8>>,
    /// Not ZERO: a version above `for_update_ts` was met and the lock is at this one.
    pub conflict_ts: Timestamp,
}

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnStatus {
    /// Its lock stands for so long yet.
    Locked {
        /// The lock, after any push.
        lock: Box<Lock>,
    },
    /// Committed at this version.
    Committed(Timestamp),
    /// Rolled back (perhaps just now).
    RolledBack,
    /// A pessimistic lock was asked about and nothing is known, or the primary was only locked and
    /// its lock has just been removed: nothing was written, the owner may go on.
    Unknown,
}

/// Why a key refused a command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Another transaction's lock: resolve it.
    #[error("the key is locked by transaction {}", .0.lock.start_ts)]
    Locked(Box<KeyLock>),
    /// A newer version exists.
    #[error("write conflict: transaction {start_ts} found a commit at {conflict_commit_ts}")]
    WriteConflict {
        /// The key.
        key: Vec<u8>,
        /// The loser.
        start_ts: Timestamp,
        /// The winner.
        conflict_start_ts: Timestamp,
        /// The winner's version.
        conflict_commit_ts: Timestamp,
    },
    /// Prewrite: the pessimistic lock is gone and the key may have changed since.
    #[error("the pessimistic lock of transaction {start_ts} is not there")]
    PessimisticLockNotFound {
        /// The key.
        key: Vec<u8>,
        /// The transaction.
        start_ts: Timestamp,
    },
    /// A pessimistic lock came after its transaction was rolled back.
    #[error("transaction {start_ts} was rolled back")]
    PessimisticLockRolledBack {
        /// The transaction.
        start_ts: Timestamp,
    },
    /// Waiting would close a circle; nobody else of it is a victim.
    #[error("deadlock: transaction {start_ts} waits for {holder}")]
    Deadlock {
        /// The victim.
        start_ts: Timestamp,
        /// Whom it would wait for.
        holder: Timestamp,
        /// The key.
        key: Vec<u8>,
        /// (waiter, holder) around the circle, the victim's wait last.
        circle: Vec<(Timestamp, Timestamp)>,
    },
    /// An `Insert` found a value.
    #[error("the key exists")]
    AlreadyExists {
        /// The key.
        key: Vec<u8>,
    },
    /// Commit: the lock is gone and no commit record stands; the transaction was rolled back.
    #[error("the lock of transaction {start_ts} is not there")]
    TxnLockNotFound {
        /// The transaction.
        start_ts: Timestamp,
    },
    /// Commit below `min_commit_ts`: take a newer version and try again.
    #[error("commit timestamp {commit_ts} is below {min_commit_ts}")]
    CommitTsExpired {
        /// As asked.
        commit_ts: Timestamp,
        /// As needed.
        min_commit_ts: Timestamp,
    },
    /// Nothing is known of the transaction.
    #[error("transaction {start_ts} is not known")]
    TxnNotFound {
        /// The transaction.
        start_ts: Timestamp,
    },
    /// Rollback of a transaction that has committed.
    #[error("transaction {start_ts} has committed at {commit_ts}")]
    Committed {
        /// The transaction.
        start_ts: Timestamp,
        /// Its version.
        commit_ts: Timestamp,
    },
    /// The lock named as primary is not one.
    #[error("the lock is not the primary of transaction {start_ts}")]
    PrimaryMismatch {
        /// The transaction.
        start_ts: Timestamp,
    },
}

/// A request's answer.
#[derive(Clone, Debug)]
pub enum Response {
    /// Get.
    Value(Option<Vec<u8>>),
    /// BatchGet, in the order asked.
    Values(Vec<Option<Vec<u8>>>),
    /// Scan.
    Pairs(Vec<(Vec<u8>, Vec<u8>)>),
    /// ScanLocks.
    Locks(Vec<KeyLock>),
    /// CheckTxnStatus, HeartBeat.
    Status(TxnStatus),
    /// Prewrite.
    Prewritten {
        /// Async commit: no version below it. ZERO: two phases are needed.
        min_commit_ts: Timestamp,
        /// The transaction is committed at this version: in one phase, or (whatever was asked for)
        /// this is a second try and the first one came further than its answer. ZERO: only
        /// prewritten.
        commit_ts: Timestamp,
    },
    /// PessimisticLock, in the order asked.
    PessimisticLocked(Vec<LockedKey>),
    /// CheckSecondaryLocks.
    SecondaryLocks {
        /// Those that stand.
        locks: Vec<KeyLock>,
        /// Not ZERO: a key has been committed at this version. With ZERO and fewer locks than
        /// keys the transaction is rolled back.
        commit_ts: Timestamp,
    },
    /// ReadIndex: read when this index is applied.
    ReadIndex(u64),
    /// Done.
    Ok,
}

/// Why a request failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RequestError {
    /// About the region: reroute or retry.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// What is asked about may have been collected: nothing was done, and nothing ever will be.
    #[error(transparent)]
    BelowSafePoint(#[from] BelowSafePoint),
    /// About keys.
    #[error("{}", .0.first().map_or_else(String::new, ToString::to_string))]
    Keys(Vec<KeyError>),
}

/// The server end, on the store that leads the region (but for [`Request::Stale`]): a wire when
/// stores are processes.
pub trait Service: Send + Sync + 'static {
    /// Blocks until answered.
    fn call(&self, context: Context, request: Request) -> Result<Response, RequestError>;
}
