//! What clients do: transfers, lists that grow, registers, rows with index entries, and reads of
//! whole tables from rows and from columns. It must never write what another seed would not.

use crate::clients::{Recorded, Session};
use crate::columns;
use crate::extras;
use crate::history::{History, Latest, Outcome, Scan};
use crate::nodes::Life;
use crate::plan::Workload;
use crate::stale;
use crate::tables::{BANK, INDEX, ITEMS, LISTS, REGISTERS, Value, WITH_COLUMNS, decode, key};
use damask_kv::{Engine, MvccReader};
use damask_txn::gc::Publish;
use damask_txn::history::Op;
use damask_txn::{Error, Gc, Mode, Options, SnapshotReader};
use damask_types::key::{decode_index_key, decode_row_key, index_key, index_prefix, row_range};
use damask_types::{Datum, KeyRange, Region, TableId, Timestamp};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Accounts, and what each has at first.
pub const ACCOUNTS: i64 = 10;
/// See [`ACCOUNTS`].
pub const START: i64 = 100;
/// Lists.
pub const LIST_KEYS: i64 = 6;
/// Items.
const ITEM_KEYS: i64 = 10;
/// Registers.
pub const REGISTER_KEYS: i64 = 5;
/// Pairs of one scan.
const SCAN_MAX: usize = 4_000;

/// One thing that a client does.
pub fn once(session: &mut Session) {
    let reads = session.chance.below(100);
    match reads {
        0..12 => drop(scan_some(session)),
        12..26 if session.world.plan.limits.columns > 0 => columns::read_some(session),
        26..34 if session.world.plan.limits.resolved_ms > 0 => stale::read_some(session),
        _ => {
            let mix = session.world.plan.limits.mix.clone();
            match session.chance.pick(&mix) {
                Some(Workload::Bank) => transfer(session),
                Some(Workload::Lists) => append(session),
                Some(Workload::Register) => register(session),
                Some(Workload::Index) => item(session),
                Some(Workload::Set) => extras::add(session),
                Some(Workload::LongFork) => extras::fork(session),
                Some(Workload::Monotonic) => extras::count(session),
                None => {}
            }
        }
    }
}

/// The rows that are there before anything else: every account, and nothing more.
///
/// # Errors
/// If the cluster does not take them.
pub fn set_up(session: &mut Session) -> Result<(), Error> {
    let outcome = session.transact(|txn| {
        for handle in 0..ACCOUNTS {
            txn.put_row(&key(BANK, handle), &Value::Number(START))?;
        }
        Ok(())
    });
    match outcome {
        Some(Outcome::Committed(_)) => Ok(()),
        other => Err(Error::Invalid(format!("the first transaction: {other:?}"))),
    }
}

fn broken(what: &str) -> Error {
    Error::Invalid(what.to_owned())
}

fn number(table: TableId, bytes: Option<Vec<u8>>) -> Result<i64, Error> {
    match bytes.map(|bytes| decode(table, &bytes)) {
        Some(Ok(Value::Number(number))) => Ok(number),
        other => Err(broken(&format!("a number was {other:?}"))),
    }
}

fn transfer(session: &mut Session) {
    let chance = &mut session.chance;
    let from = chance.below(ACCOUNTS as u64) as i64;
    let to = (from + 1 + chance.below(ACCOUNTS as u64 - 1) as i64) % ACCOUNTS;
    let slow = session.world.plan.limits.pessimistic_percent > 0 && chance.permille(60);
    if !slow {
        transfer_between(session, (from, to));
        return;
    }
    // A lock may be lost meanwhile.
    let longest = 2_000 * session.world.plan.limits.ttl_ms;
    let wait = Duration::from_micros(session.chance.between(1, longest));
    slow_transfer(session, (from, to), wait);
}

/// From one account to another one; true: it has been done.
pub fn transfer_between(session: &mut Session, (from, to): (i64, i64)) -> bool {
    let amount = session.chance.between(1, 5) as i64;
    let outcome = session.transact(|txn| {
        let (a, b) = (key(BANK, from), key(BANK, to));
        let left = number(BANK, txn.get(&a)?)? - amount;
        let right = number(BANK, txn.get(&b)?)? + amount;
        txn.put_row(&a, &Value::Number(left))?;
        txn.put_row(&b, &Value::Number(right))
    });
    matches!(outcome, Some(Outcome::Committed(_)))
}

/// The same in two statements with time between them.
pub fn slow_transfer(session: &mut Session, (from, to): (i64, i64), wait: Duration) {
    let amount = session.chance.between(1, 5) as i64;
    let add = |handle, amount| {
        move |txn: &mut Recorded| {
            let row = key(BANK, handle);
            let sum = number(BANK, txn.get(&row)?)? + amount;
            txn.put_row(&row, &Value::Number(sum))
        }
    };
    session.transact_in_two(add(from, -amount), wait, add(to, amount));
}

/// The elements of a list.
pub fn elements(bytes: Option<&[u8]>) -> Result<Vec<u32>, Error> {
    let Some(bytes) = bytes else { return Ok(Vec::new()) };
    let Ok(Value::Text(text)) = decode(LISTS, bytes) else { return Err(broken("a list")) };
    let parsed: Result<Vec<u32>, _> =
        text.split(',').filter(|part| !part.is_empty()).map(str::parse).collect();
    parsed.map_err(|_| broken("an element"))
}

fn append(session: &mut Session) {
    let steps: Vec<(u32, bool)> = (0..session.chance.between(1, 4))
        .map(|_| (session.chance.below(LIST_KEYS as u64) as u32, session.chance.permille(600)))
        .collect();
    let world = session.world.clone();
    let elements_of: Vec<u32> = steps.iter().map(|_| world.history.lock().place() as u32).collect();
    session.transact(|txn| {
        for ((list, appends), element) in steps.iter().zip(&elements_of) {
            let row = key(LISTS, i64::from(*list));
            let mut seen = elements(txn.get(&row)?.as_deref())?;
            if *appends {
                seen.push(*element);
                let text = seen.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
                txn.put_row(&row, &Value::Text(text))?;
                txn.step(Op::Append { key: *list, element: *element });
            } else {
                txn.step(Op::Read { key: *list, list: seen });
            }
        }
        Ok(())
    });
}

fn register(session: &mut Session) {
    let row = key(REGISTERS, session.chance.below(REGISTER_KEYS as u64) as i64);
    let begun = session.world.history.lock().place();
    if session.chance.permille(500) {
        session.transact(|txn| txn.put_row(&row, &Value::Number(begun as i64)));
    } else if let Ok(value) = session.client.get_latest(&row)
        && session.alive.get()
    {
        let mut history = session.world.history.lock();
        let answered = history.place();
        history.latest.push(Latest { key: row, value, begun, answered });
    }
}

/// One transaction that writes to this table.
pub fn write_some(session: &mut Session, table: TableId) {
    match table {
        BANK => transfer(session),
        LISTS => append(session),
        ITEMS => item(session),
        _ => register(session),
    }
}

fn entry(value: i64, handle: i64) -> Vec<u8> {
    index_key(ITEMS, INDEX, &[Datum::Int(value)], Some(handle))
}

fn item(session: &mut Session) {
    let handle = session.chance.below(ITEM_KEYS as u64) as i64;
    let value = session.chance.below(50) as i64;
    let removes = session.chance.permille(300);
    session.transact(|txn| change_item(txn, handle, value, removes));
}

/// Items that come and go as a whole: behind all others, where no region ends.
pub fn fleeting(pick: u64) -> std::ops::Range<i64> {
    let first = 20 + 4 * (pick % 64) as i64;
    first..first + 4
}

/// Gives an item a value, or removes it; true: it has been done.
pub fn set_item(session: &mut Session, handle: i64, value: Option<i64>) -> bool {
    let change = |txn: &mut Recorded| match value {
        Some(value) => change_item(txn, handle, value, false),
        None if txn.get(&key(ITEMS, handle))?.is_none() => Ok(()),
        None => change_item(txn, handle, 0, true),
    };
    matches!(session.transact(change), Some(Outcome::Committed(_)))
}

/// Puts an item with its entry; or removes it, if it is there.
fn change_item(txn: &mut Recorded, handle: i64, value: i64, removes: bool) -> Result<(), Error> {
    let row = key(ITEMS, handle);
    let before = txn.get(&row)?;
    if let Some(bytes) = before {
        let old = number(ITEMS, Some(bytes))?;
        txn.delete(&entry(old, handle))?;
        if removes {
            return txn.delete(&row);
        }
    }
    txn.put_row(&row, &Value::Number(value))?;
    txn.put(&entry(value, handle), vec![b'0'])
}

/// A timestamp to read at: a new one, or one at which somebody has begun before.
pub fn some_ts(session: &mut Session) -> Option<Timestamp> {
    if session.chance.permille(300) {
        let old: Vec<Timestamp> =
            session.world.history.lock().runs.iter().map(|run| run.start_ts).collect();
        if let Some(ts) = session.chance.pick(&old) {
            return Some(*ts);
        }
    }
    session.client.timestamp().ok()
}

fn scan_some(session: &mut Session) -> Option<()> {
    let ts = some_ts(session)?;
    let table = *session.chance.pick(&[BANK, LISTS, ITEMS, REGISTERS])?;
    let reverse = session.chance.permille(300);
    let reader = session.client.snapshot(ts);
    scan_rows(session, table, &reader, reverse)
}

/// Reads a whole table from rows; `None`: it cannot be read now.
pub fn scan_rows(
    session: &mut Session,
    table: TableId,
    reader: &SnapshotReader,
    reverse: bool,
) -> Option<()> {
    let ts = reader.ts();
    let rows = scan_range(session, &row_range(table), reader, reverse)?;
    if table == ITEMS {
        let range = KeyRange::prefix(&index_prefix(ITEMS, INDEX));
        let entries = scan_range(session, &range, reader, reverse)?;
        check_index(session, ts, &rows, &entries);
    }
    session.world.counts.lock().scans += 1;
    check_table(session, table, ts, &rows, "rows");
    Some(())
}

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// Reads a range of rows; `None`: it cannot be read now.
pub fn scan_range(
    session: &Session,
    range: &KeyRange,
    reader: &SnapshotReader,
    reverse: bool,
) -> Option<Pairs> {
    let ts = reader.ts();
    let mut pairs = reader.scan(range, SCAN_MAX, reverse).ok()?;
    if reverse {
        pairs.reverse();
    }
    if !session.alive.get() {
        return None;
    }
    let (start, end) = (range.start.clone(), range.end.clone());
    let scan = Scan { start, end, ts, pairs: pairs.clone(), columns: false, dropped: 0 };
    session.world.history.lock().scans.push(scan);
    Some(pairs)
}

/// What must hold of a table at any timestamp after the first rows are there.
pub fn check_table(session: &Session, table: TableId, ts: Timestamp, pairs: &Pairs, what: &str) {
    if table != BANK || pairs.is_empty() {
        return;
    }
    let sum: Result<i64, Error> =
        pairs.iter().map(|(_, value)| number(BANK, Some(value.clone()))).sum();
    if sum.as_ref().ok() != Some(&(ACCOUNTS * START)) {
        session.world.fail(format!("the bank's {what} hold {sum:?} at {ts}"));
    }
}

fn check_index(session: &Session, ts: Timestamp, rows: &Pairs, entries: &Pairs) {
    let by_row: BTreeSet<(i64, i64)> = rows
        .iter()
        .filter_map(|(key, value)| {
            let (_, handle) = decode_row_key(key)?;
            Some((number(ITEMS, Some(value.clone())).ok()?, handle))
        })
        .collect();
    let by_entry: BTreeSet<(i64, i64)> = entries
        .iter()
        .filter_map(|(key, _)| match decode_index_key(key, 1).ok()? {
            (values, Some(handle)) => match values.first()? {
                Datum::Int(value) => Some((*value, handle)),
                _ => None,
            },
            _ => None,
        })
        .collect();
    if by_row != by_entry {
        session.world.fail(format!("the index at {ts} has {by_entry:?}, the rows {by_row:?}"));
    }
}

/// Reads everything there is, so that nothing is left undecided, and compares rows with columns;
/// false: something cannot be read now.
pub fn audit(session: &mut Session) -> bool {
    let Ok(ts) = session.client.timestamp() else { return false };
    for table in [BANK, LISTS, ITEMS, REGISTERS] {
        let reader = session.client.snapshot(ts);
        if scan_rows(session, table, &reader, false).is_none() {
            return false;
        }
    }
    if session.world.plan.limits.columns > 0 {
        let kept = session.world.safe_point.get();
        let starts = |history: &History| history.runs.iter().map(|run| run.start_ts).collect();
        let mut old: Vec<Timestamp> = starts(&session.world.history.lock());
        old.retain(|ts| *ts >= kept);
        let some = (0..4).filter_map(|_| session.chance.pick(&old).copied()).collect::<Vec<_>>();
        for ts in some.into_iter().chain([ts]) {
            for table in WITH_COLUMNS {
                if columns::read(session, table, ts).is_none() {
                    return false;
                }
            }
        }
    }
    let last = session.client.timestamp().is_ok_and(|now| extras::read_set(session, now));
    last && read_lists(session) && takes_writes(session) && ends_locks(session)
}

/// Does every region take a write? A lock that is rolled back changes nothing that was read.
fn takes_writes(session: &Session) -> bool {
    let options = Options { mode: Mode::Pessimistic, ..Options::default() };
    let takes = |region: &Region| -> Result<bool, Error> {
        let reader = session.client.snapshot(session.client.timestamp()?);
        let first = reader.scan(&region.range, 1, false)?.into_iter().next();
        let start =
            if region.range.start.is_empty() { b"a".to_vec() } else { region.range.start.clone() };
        let key = first.map_or(start, |(key, _)| key);
        let mut txn = session.client.begin_with(options)?;
        let held = txn.try_lock(&[key])?;
        txn.rollback();
        session.client.flush();
        Ok(held == [true])
    };
    let regions = session.world.led();
    !regions.is_empty() && regions.iter().all(|(_, region)| takes(region).is_ok_and(|taken| taken))
}

/// Are all locks ended, as garbage collection ends them before a safe point? Whoever held one is
/// gone, and its time runs out.
fn ends_locks(session: &Session) -> bool {
    struct Nowhere;
    impl Publish for Nowhere {
        fn published(&self) -> Timestamp {
            Timestamp::ZERO
        }
        fn publish(&self, _: Timestamp) -> damask_txn::Result<()> {
            Ok(())
        }
    }
    let client = &session.client;
    let ended = client
        .timestamp()
        .and_then(|now| Gc::new(Arc::new(Nowhere)).advance(client, now, Duration::ZERO, None));
    client.flush();
    ended.is_ok_and(|advanced| advanced.held_back.is_none())
        && session.world.led().iter().all(|(life, region)| no_lock_in(life, region))
}

/// Does no lock stand in a region, as its leader has it?
fn no_lock_in(life: &Life, region: &Region) -> bool {
    life.engine.as_ref().is_some_and(|engine| {
        let reader = MvccReader::new(engine.snapshot());
        reader.scan_locks(&region.range, |_| true, 1).is_ok_and(|locks| locks.is_empty())
    })
}

/// The last transaction of a list-append history reads every list.
fn read_lists(session: &mut Session) -> bool {
    let outcome = session.transact(|txn| {
        for list in 0..LIST_KEYS as u32 {
            let seen = elements(txn.get(&key(LISTS, i64::from(list)))?.as_deref())?;
            txn.step(Op::Read { key: list, list: seen });
        }
        Ok(())
    });
    matches!(outcome, Some(Outcome::Committed(_)))
}
