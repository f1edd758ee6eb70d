//! Bytes that disks get for a byte of user data: of a whole replica, and of each row engine alone.
//! It must never count what the page cache still holds as free: `write_bytes` counts pages made
//! dirty.

use crate::{Run, key, shuffled, start, value};
use damask_benches::measure::Spread;
use damask_benches::report::Line;
use damask_benches::{Error, machine};
use damask_kv::{Engine, EngineConfig, EngineKind, records_to_batch};
use damask_types::{Lock, LockKind, Record, Timestamp, Write, WriteKind};

/// Rows of a transaction.
const TXN_ROWS: u64 = 500;
/// Transactions between two syncs of an engine alone: a store syncs when its log is to be cut.
const SYNC_TXNS: u64 = 40;
/// Times that every row is written.
const PASSES: u64 = 3;

fn user_bytes(rows: u64) -> f64 {
    rows as f64 * value(0).len() as f64 + rows as f64 * key(0).len() as f64
}

/// The locks of a transaction, then its commits.
fn transaction(rows: &[u64], start_ts: Timestamp) -> [Vec<Record>; 2] {
    let primary = key(rows[0]);
    let (mut locks, mut commits) = (Vec::new(), Vec::new());
    for n in rows {
        let mut lock = Lock::new(LockKind::Put, primary.clone(), start_ts, 3_000);
        lock.short_value = Some(value(*n));
        locks.push(Record::Lock { key: key(*n), lock });
        let write = Write::new(WriteKind::Put, start_ts, Some(value(*n)));
        commits.push(Record::Write { key: key(*n), commit_ts: start_ts.next(), write });
        commits.push(Record::Unlock { key: key(*n) });
    }
    [locks, commits]
}

impl Run {
    pub(crate) fn bytes(&self) -> Result<(), Error> {
        let folder = self.folder("bytes")?;
        let mut cluster = start(folder.path(), 1)?;
        let rows = self.arguments.pick(200_000u64, 1_000);
        let before = machine::written_bytes()?;
        for first in (0..rows).step_by(TXN_ROWS as usize) {
            let mut txn = cluster.client().begin()?;
            for n in first..first + TXN_ROWS {
                txn.put(key(n), value(n))?;
            }
            txn.commit()?;
        }
        cluster.client().flush();
        cluster.stop();
        let written = machine::written_bytes()? - before;
        let ours = Spread::of(&[written as f64 / user_bytes(rows)]);
        let ours = Line::new("one replica, 500 rows a transaction", ours);
        self.show("bytes: written for a byte of keys and values", "x", ours, None, &[]);
        self.engine_bytes(EngineKind::Rocks)?;
        self.engine_bytes(EngineKind::Fjall)
    }

    /// Locks and commits of every row, several times over, in an engine alone.
    fn engine_bytes(&self, kind: EngineKind) -> Result<(), Error> {
        let folder = self.folder("engine-bytes")?;
        let engine = damask_kv::open(kind, &folder.path().join("kv"), &EngineConfig::default())?;
        let rows = self.arguments.pick(100_000u64, 1_000);
        let before = machine::written_bytes()?;
        let mut ratios = Vec::new();
        for pass in 0..PASSES {
            let order: Vec<u64> = match pass {
                0 => (0..rows).collect(),
                _ => shuffled(rows).collect(),
            };
            for (n, txn) in order.chunks(TXN_ROWS as usize).enumerate() {
                let start_ts = Timestamp((pass * rows + n as u64) * 10 + 10);
                for records in transaction(txn, start_ts) {
                    engine.write(records_to_batch(&records))?;
                }
                if (n as u64).is_multiple_of(SYNC_TXNS) {
                    engine.sync()?;
                }
            }
            engine.sync()?;
            let written = (machine::written_bytes()? - before) as f64;
            ratios.push(written / user_bytes(rows * (pass + 1)));
        }
        for (pass, ratio) in ratios.iter().enumerate() {
            let name = match pass {
                0 => "every row once, in order".to_owned(),
                _ => format!("and {pass} times more, in no order"),
            };
            let title = format!("bytes: {kind} alone, locks and commits, for a byte of data");
            self.show(&title, "x", Line::new(name, Spread::of(&[*ratio])), None, &[]);
        }
        for (name, value) in engine.statistics() {
            if ["written_bytes", "flushed_bytes", "compaction_written_bytes"].contains(&&*name) {
                println!("  {name:<44} {value:>16}");
            }
        }
        Ok(())
    }
}
