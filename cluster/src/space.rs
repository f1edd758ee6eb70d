//! Keeps a part of the disk free: with less, the stores refuse what would need more room, and go on
//! by themselves when there is room again. Without it a full disk would stop every store on it. It
//! must never refuse what ends transactions, removes rows, or changes the catalog (DROP TABLE).

use damask_env::{Closing, Task, space, spawn};
use damask_raftstore::Error as RegionError;
use damask_txn::Service;
use damask_txn::request::{Context, Mutation, Request, RequestError, Response};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Between two looks at the file system.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Kept free at most, unless the configuration says otherwise.
const RESERVE_MAX: u64 = 512 << 20;
/// Of the file system, unless the configuration says otherwise: one in so many.
const RESERVE_PART: u64 = 20;
/// The catalog's keys.
const CATALOG: &[u8] = b"m";

/// Is there little room?
#[derive(Default)]
pub struct Room {
    little: AtomicBool,
}

impl Room {
    /// Is there?
    pub fn is_little(&self) -> bool {
        self.little.load(Ordering::Relaxed)
    }
}

/// Looks at a folder's file system until `closing` is closed.
pub fn watch(
    room: Arc<Room>,
    folder: PathBuf,
    reserve: Option<u64>,
    closing: Arc<Closing>,
) -> Task {
    let look = move || match space(&folder) {
        Ok(found) => {
            let keep = reserve.unwrap_or((found.total / RESERVE_PART).min(RESERVE_MAX));
            let little = found.free < keep;
            if room.little.swap(little, Ordering::Relaxed) != little {
                let free = found.free;
                match little {
                    true => tracing::error!(free, keep, "the disk is nearly full"),
                    false => tracing::info!(free, keep, "there is room on the disk again"),
                }
            }
        }
        Err(e) => tracing::warn!("{}: how full it is cannot be seen: {e}", folder.display()),
    };
    look();
    spawn("space", move || {
        while !closing.wait(LOOK_EVERY) {
            look();
        }
    })
}

/// A store's service while there is room.
pub struct WhileRoom {
    /// The service.
    pub service: Arc<dyn Service>,
    /// Is there?
    pub room: Arc<Room>,
}

impl Service for WhileRoom {
    fn call(&self, context: Context, request: Request) -> Result<Response, RequestError> {
        if self.room.is_little() && needs_room(&request) {
            let refused = "less is free than is kept in reserve".to_owned();
            return Err(RegionError::DiskFull(refused).into());
        }
        self.service.call(context, request)
    }
}

/// Does it put rows where there were none?
fn needs_room(request: &Request) -> bool {
    let Request::Prewrite(prewrite) = request else { return false };
    prewrite.mutations.iter().any(|mutation| match mutation {
        Mutation::Put { key, .. } | Mutation::Insert { key, .. } => !key.starts_with(CATALOG),
        Mutation::Delete { .. } | Mutation::Lock { .. } => false,
    })
}
