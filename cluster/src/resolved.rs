//! Moves the timestamps up to which any replica of rows may be read without asking its leader. It
//! must never decide how far: that is `damask_txn`'s.
//!
//! A lock that stays in the way for long is asked about: a transaction that is alive is pushed above
//! the timestamp, one that is dead is ended. So a large transaction holds nothing back for long.

use crate::nodes::{Content, Shared};
use crate::placement::{Member, Members};
use damask_env::{Closing, Task, spawn};
use damask_txn::{Client, TxnServer};
use damask_types::{KeyLock, RegionId, Timestamp};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// A lock that is older than this, in milliseconds, is asked about.
const HELD_MS_MAX: u64 = 10_000;

/// The thread that moves them, until `closing` is closed; `None`: they stay.
pub fn start(
    interval: Duration,
    shared: Weak<Shared>,
    client: Client,
    closing: Arc<Closing>,
) -> Option<Task> {
    let run = move || {
        while !closing.wait(interval) {
            let Some(shared) = shared.upgrade() else { return };
            let servers = shared.transactions.running();
            drop(shared);
            servers.iter().for_each(|server| advance(server, &client));
        }
    };
    (!interval.is_zero()).then(|| spawn("resolved-ts", run))
}

fn advance(server: &TxnServer, client: &Client) {
    let advance = match server.advance() {
        Ok(advance) => advance,
        // Nothing has moved: the next round tries again.
        Err(error) => return tracing::debug!(%error, "safe timestamps do not move"),
    };
    let old = |lock: &KeyLock| {
        lock.lock.start_ts.physical_ms().saturating_add(HELD_MS_MAX) < advance.ts.physical_ms()
    };
    let held: Vec<KeyLock> = advance.held.into_iter().filter(old).collect();
    if held.is_empty() {
        return;
    }
    match client.push_locks(&held, advance.ts) {
        Ok(pushed) => server.pushed(&pushed, advance.ts),
        Err(error) => tracing::debug!(%error, "what holds safe timestamps back stays"),
    }
}

/// Up to where every replica of rows that runs may be read; ZERO: nowhere.
pub fn safe_everywhere(members: &Members) -> Timestamp {
    let is_rows = |member: &&Member| matches!(member.content, Content::Rows(_));
    let mut least = None;
    for member in members.read().values().filter(is_rows) {
        for status in member.handle.replicas() {
            let safe = member.handle.safe_ts(status.region.id);
            least = Some(least.map_or(safe, |least: Timestamp| least.min(safe)));
        }
    }
    least.unwrap_or_default()
}

/// The same of one region.
pub fn safe_of(members: &Members, region: RegionId) -> Timestamp {
    let is_rows = |member: &&Member| matches!(member.content, Content::Rows(_));
    let members = members.read();
    let here = members.values().filter(is_rows).filter(|m| m.handle.replica(region).is_some());
    here.map(|member| member.handle.safe_ts(region)).min().unwrap_or_default()
}
