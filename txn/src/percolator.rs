//! What each command decides, as pure functions: a view of the data and a request in, records to
//! replicate and an answer out. It must never write, wait, read a clock or know who leads.
//!
//! ```text
//!   lock       no lock of another, no version unread        ─► Lock(pessimistic)
//!   prewrite   no lock of another, no newer version         ─► Lock [Value]
//!              in one phase                                ─► [Value] Write [Unlock]
//!   commit     my lock is there                             ─► Write(commit_ts) Unlock
//!   rollback   my lock is there: Write(R at start_ts) Unlock [DropValue]
//!              nothing is there: Write(R at start_ts), so that a late prewrite fails
//!   status     primary's lock expired                       ─► as rollback
//!   secondaries   a lock is missing                         ─► Write(R at start_ts, protected)
//! ```
//!
//! Async and one-phase commit: the caller computes `Prewrite::min_commit_ts` (above every read that
//! was served here) while the keys are in its table of locks (`concurrency`); here it only rises,
//! above the versions that the keys have.
//!
//! The caller keeps other commands off the keys (latches) from before the view was taken until the
//! records are applied. The meaning is TiKV's (`src/storage/txn/{actions,commands}`): every command
//! may come twice, late, or never, and answers the same.

mod finish;
mod pessimistic;
mod prewrite;
mod probe;
mod read;
mod secondaries;
mod status;

pub(crate) use pessimistic::{may_be_passed, pass_on};
pub(crate) use status::is_expired;

use crate::request::{KeyError, Request, Response};
use damask_kv::MvccReader;
use damask_types::Record;

/// Locks that one refused request names at most.
pub const LOCKS_NAMED_MAX: usize = 256;

/// What a command came to.
#[derive(Clone, Debug)]
pub struct Decision {
    /// To be replicated and applied, all together, before the answer is given. Often empty.
    pub records: Vec<Record>,
    /// The answer.
    pub response: Response,
}

impl Decision {
    fn answer(response: Response) -> Decision {
        Decision { records: Vec::new(), response }
    }
}

/// Why a command came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Keys refused it.
    #[error("{} keys refused the command", .0.len())]
    Keys(Vec<KeyError>),
    /// The view could not be read.
    #[error(transparent)]
    Engine(#[from] damask_kv::Error),
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
}

impl From<KeyError> for Error {
    fn from(e: KeyError) -> Error {
        Error::Keys(vec![e])
    }
}

/// The result of a decision.
pub type Result<T> = std::result::Result<T, Error>;

/// Decides one command. `ResolveLock` without keys comes to nothing: the server, which knows the
/// region, names them.
pub fn decide(reader: &MvccReader, request: Request) -> Result<Decision> {
    match request {
        Request::Get { key, ts, bypass } => read::get(reader, &key, ts, bypass),
        Request::BatchGet { keys, ts, bypass } => read::batch_get(reader, &keys, ts, bypass),
        Request::Scan { range, ts, limit, reverse, bypass } => {
            read::scan(reader, &range, ts, limit, reverse, bypass)
        }
        Request::ScanLocks { range, ts, limit } => {
            let locks = reader.scan_locks(&range, |lock| lock.start_ts <= ts, limit)?;
            Ok(Decision::answer(Response::Locks(locks)))
        }
        Request::Prewrite(request) => prewrite::prewrite(reader, request),
        Request::Commit { keys, start_ts, commit_ts } => {
            finish::commit(reader, keys, start_ts, commit_ts)
        }
        Request::Rollback { keys, start_ts } => finish::rollback(reader, keys, start_ts),
        Request::ResolveLock { start_ts, commit_ts, keys } => {
            finish::resolve(reader, keys, start_ts, commit_ts)
        }
        Request::CheckTxnStatus {
            primary,
            lock_ts,
            caller_start_ts,
            current_ts,
            rollback_if_not_exist,
            force_sync_commit,
            resolving_pessimistic,
        } => {
            let ask = status::Ask {
                lock_ts,
                caller_start_ts,
                current_ts,
                rollback_if_not_exist,
                force_sync_commit,
                resolving_pessimistic,
            };
            status::check(reader, primary, &ask)
        }
        Request::HeartBeat { primary, start_ts, ttl_ms } => {
            status::heart_beat(reader, primary, start_ts, ttl_ms)
        }
        Request::CheckSecondaryLocks { keys, start_ts } => {
            secondaries::check(reader, keys, start_ts)
        }
        Request::PessimisticLock(request) => pessimistic::lock(reader, &request),
        Request::PessimisticRollback { keys, start_ts, for_update_ts } => {
            pessimistic::rollback(reader, keys, start_ts, for_update_ts)
        }
        Request::ReadIndex { .. } | Request::Stale(_) => {
            Err(Error::Invalid("how fresh a view is is the replica's to say".to_owned()))
        }
    }
}
