//! Runs the scripts of `tests/scripts`: commands against the decisions of the server end, over an
//! engine in memory. `UPDATE_SCRIPTS=1 cargo test -p damask-txn --test scripts` writes what comes
//! out into the scripts; read the difference before keeping it.
//!
//! A line `> command` runs; the lines after it are what it prints. Every command is run twice: the
//! second time it must write nothing new, or the script shows it.
//!
//! Times: `10` is the timestamp 10; `3ms` is the first one of the third millisecond. Prewrites end
//! in two phases, or by `async` (`async=b,c` with the primary), or in `1pc`; `min` and `max` bound
//! their versions; with `update` they are pessimistic, and `held=101` says which keys are locked.

use damask_kv::{Engine, MemoryEngine, MvccReader, records_to_batch};
use damask_txn::percolator::{Decision, Error, decide};
use damask_txn::{
    Finish, KeyError, LockWait, LockedKey, Mutation, PessimisticLock, Prewrite, Request, Response,
    TxnStatus,
};
use damask_types::ts::LOGICAL_BITS;
use damask_types::{KeyRange, Lock, LockKind, Record, Timestamp, Write, WriteKind};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;

#[test]
fn scripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let update = std::env::var_os("UPDATE_SCRIPTS").is_some();
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .expect("the scripts")
        .map(|entry| entry.expect("a file").path())
        .collect();
    files.sort();
    assert!(files.len() >= 6, "scripts are missing");
    for file in files {
        let script = std::fs::read_to_string(&file).expect("text");
        let printed = run(&script);
        if update {
            std::fs::write(&file, printed).expect("written");
        } else {
            assert_eq!(printed, script, "{}", file.display());
        }
    }
}

/// The script with what its commands print now.
fn run(script: &str) -> String {
    let engine = MemoryEngine::new();
    let mut out = String::new();
    for line in script.lines() {
        if line.is_empty() || line.starts_with('#') {
            writeln!(out, "{line}").expect("a string");
        } else if let Some(command) = line.strip_prefix("> ") {
            writeln!(out, "{line}").expect("a string");
            step(&engine, command, &mut out);
        }
    }
    out
}

fn step(engine: &MemoryEngine, command: &str, out: &mut String) {
    let request = parse(command);
    for round in 0..2 {
        let reader = MvccReader::new(engine.snapshot());
        match decide(&reader, request.clone()) {
            Ok(Decision { records, response }) => {
                if round == 0 {
                    writeln!(out, "{}", show_response(&response)).expect("a string");
                } else if !records.is_empty() {
                    writeln!(out, "again:").expect("a string");
                }
                for record in &records {
                    writeln!(out, "  {}", show_record(record)).expect("a string");
                }
                engine.write(records_to_batch(&records)).expect("written");
            }
            Err(error) if round == 0 => show_error(&error, out),
            Err(error) => {
                let mut text = String::new();
                show_error(&error, &mut text);
                if !out.ends_with(&text) {
                    writeln!(out, "again: {}", text.trim_end()).expect("a string");
                }
            }
        }
    }
}

/// `name=value` words by name, the others in order.
fn words(command: &str) -> (HashMap<&str, &str>, Vec<&str>) {
    let (mut named, mut rest) = (HashMap::new(), Vec::new());
    for word in command.split_whitespace() {
        match word.split_once('=') {
            Some((name, value)) if NAMES.contains(&name) => {
                named.insert(name, value);
            }
            _ => rest.push(word),
        }
    }
    (named, rest)
}

const NAMES: [&str; 14] = [
    "ts", "at", "primary", "ttl", "caller", "now", "limit", "size", "bypass", "update", "held",
    "min", "max", "async",
];
const FLAGS: [&str; 7] =
    ["async", "1pc", "force", "pessimistic", "rollback-if-absent", "values", "allow-conflict"];

fn parse(command: &str) -> Request {
    let (named, rest) = words(command);
    let ts = |name: &str| named.get(name).map_or(Timestamp::ZERO, |text| parse_ts(text));
    let number = |name: &str, default| {
        named.get(name).map_or(default, |text| text.parse::<u64>().expect("a number"))
    };
    let (flags, args): (Vec<_>, Vec<_>) =
        rest[1..].iter().copied().partition(|word| FLAGS.contains(word));
    let flag = |name| flags.contains(&name);
    let keys = || args.iter().map(|key| key.as_bytes().to_vec()).collect::<Vec<_>>();
    let bypass = || named.get("bypass").iter().map(|text| parse_ts(text)).collect::<Vec<_>>();
    let range = || match args.first() {
        Some(range) => {
            let (start, end) = range.split_once("..").expect("a range");
            KeyRange::new(start, end)
        }
        None => KeyRange::all(),
    };
    let limit = number("limit", 100) as usize;
    match rest[0] {
        "prewrite" => Request::Prewrite(Prewrite {
            mutations: args.iter().map(|word| parse_mutation(word)).collect(),
            primary: named["primary"].as_bytes().to_vec(),
            start_ts: ts("ts"),
            ttl_ms: number("ttl", 10),
            txn_size: number("size", 0),
            for_update_ts: ts("update"),
            locked: named.get("held").map_or_else(Vec::new, |held| parse_held(held, ts("update"))),
            min_commit_ts: ts("min"),
            max_commit_ts: ts("max"),
            finish: match named.get("async") {
                Some(keys) => {
                    let secondaries = keys.split(',').map(|key| key.into()).collect();
                    Finish::Async { secondaries }
                }
                None if flag("async") => Finish::Async { secondaries: Vec::new() },
                None if flag("1pc") => Finish::OnePhase,
                None => Finish::TwoPhase,
            },
        }),
        "lock" => Request::PessimisticLock(PessimisticLock {
            keys: keys(),
            primary: named["primary"].as_bytes().to_vec(),
            start_ts: ts("ts"),
            for_update_ts: ts("update"),
            ttl_ms: number("ttl", 10),
            wait: LockWait::No,
            return_values: flag("values"),
            allow_conflict: flag("allow-conflict"),
        }),
        "unlock" => Request::PessimisticRollback {
            keys: keys(),
            start_ts: ts("ts"),
            for_update_ts: ts("update"),
        },
        "secondaries" => Request::CheckSecondaryLocks { keys: keys(), start_ts: ts("ts") },
        "commit" => Request::Commit { keys: keys(), start_ts: ts("ts"), commit_ts: ts("at") },
        "rollback" => Request::Rollback { keys: keys(), start_ts: ts("ts") },
        "resolve" => Request::ResolveLock { start_ts: ts("ts"), commit_ts: ts("at"), keys: keys() },
        "status" => Request::CheckTxnStatus {
            primary: args[0].as_bytes().to_vec(),
            lock_ts: ts("ts"),
            caller_start_ts: ts("caller"),
            current_ts: ts("now"),
            rollback_if_not_exist: flag("rollback-if-absent"),
            force_sync_commit: flag("force"),
            resolving_pessimistic: flag("pessimistic"),
        },
        "heartbeat" => Request::HeartBeat {
            primary: args[0].as_bytes().to_vec(),
            start_ts: ts("ts"),
            ttl_ms: number("ttl", 10),
        },
        "get" if args.len() == 1 => {
            Request::Get { key: keys().remove(0), ts: ts("ts"), bypass: bypass() }
        }
        "get" => Request::BatchGet { keys: keys(), ts: ts("ts"), bypass: bypass() },
        name @ ("scan" | "scan-back") => Request::Scan {
            range: range(),
            ts: ts("ts"),
            limit,
            reverse: name == "scan-back",
            bypass: bypass(),
        },
        "locks" => Request::ScanLocks { range: range(), ts: ts("ts"), limit },
        other => panic!("no command {other}"),
    }
}

/// `key=value` puts, `+key=value` inserts, `-key` deletes, `!key` locks; `key=*N` puts N bytes.
fn parse_mutation(word: &str) -> Mutation {
    if let Some(key) = word.strip_prefix('-') {
        return Mutation::Delete { key: key.into() };
    }
    if let Some(key) = word.strip_prefix('!') {
        return Mutation::Lock { key: key.into() };
    }
    let (key, value) = word.split_once('=').expect("a value");
    let value = match value.strip_prefix('*') {
        Some(count) => vec![b'v'; count.parse().expect("a number")],
        None => value.into(),
    };
    match key.strip_prefix('+') {
        Some(key) => Mutation::Insert { key: key.into(), value },
        None => Mutation::Put { key: key.into(), value },
    }
}

/// For each mutation: `1` held at `update`, `0` not held; or after `@` its versions, with commas.
fn parse_held(text: &str, update: Timestamp) -> Vec<Timestamp> {
    match text.strip_prefix('@') {
        Some(versions) => versions.split(',').map(parse_ts).collect(),
        None => text.bytes().map(|b| if b == b'1' { update } else { Timestamp::ZERO }).collect(),
    }
}

fn parse_ts(text: &str) -> Timestamp {
    match text.strip_suffix("ms") {
        Some(ms) => Timestamp::compose(ms.parse().expect("a number"), 0),
        None if text == "max" => Timestamp::MAX,
        None => Timestamp(text.parse().expect("a number")),
    }
}

fn show_ts(ts: Timestamp) -> String {
    match (ts.0 >> LOGICAL_BITS, ts.logical()) {
        (0, logical) => logical.to_string(),
        (ms, 0) => format!("{ms}ms"),
        (ms, logical) => format!("{ms}ms+{logical}"),
    }
}

fn show_bytes(bytes: &[u8]) -> String {
    match bytes.len() {
        0..40 => String::from_utf8_lossy(bytes).into_owned(),
        len => format!("({len} bytes)"),
    }
}

fn show_lock(lock: &Lock) -> String {
    let kind = match lock.kind {
        LockKind::Put => "put",
        LockKind::Delete => "delete",
        LockKind::Lock => "lock",
        LockKind::Pessimistic => "pessimistic",
    };
    let mut text = format!(
        "{kind} of {} primary {} ttl {}",
        show_ts(lock.start_ts),
        show_bytes(&lock.primary),
        lock.ttl_ms
    );
    if lock.min_commit_ts != Timestamp::ZERO {
        write!(text, " not below {}", show_ts(lock.min_commit_ts)).expect("a string");
    }
    if lock.for_update_ts != Timestamp::ZERO {
        write!(text, " update {}", show_ts(lock.for_update_ts)).expect("a string");
    }
    if let Some(keys) = &lock.secondaries {
        let keys: Vec<_> = keys.iter().map(|key| show_bytes(key)).collect();
        write!(text, " async [{}]", keys.join(" ")).expect("a string");
    }
    for ts in &lock.rollback_ts {
        write!(text, " remembers {}", show_ts(*ts)).expect("a string");
    }
    if let Some(value) = &lock.short_value {
        write!(text, " = {}", show_bytes(value)).expect("a string");
    }
    text
}

fn show_write(write: &Write) -> String {
    let kind = match write.kind {
        WriteKind::Put => "put",
        WriteKind::Delete => "delete",
        WriteKind::Lock => "lock",
        WriteKind::Rollback if write.is_protected() => "rollback (protected)",
        WriteKind::Rollback => "rollback",
    };
    let mut text = format!("{kind} of {}", show_ts(write.start_ts));
    if write.kind == WriteKind::Put
        && let Some(value) = &write.short_value
    {
        write!(text, " = {}", show_bytes(value)).expect("a string");
    }
    if write.overlapped_rollback {
        text.push_str(" and a rollback");
    }
    if let Some(fence) = write.gc_fence {
        write!(text, " fence {}", show_ts(fence)).expect("a string");
    }
    text
}

fn show_record(record: &Record) -> String {
    let key = show_bytes(record.key());
    match record {
        Record::Lock { lock, .. } => format!("lock {key}: {}", show_lock(lock)),
        Record::Unlock { .. } => format!("unlock {key}"),
        Record::Value { start_ts, value, .. } => {
            format!("value {key} @{}: {}", show_ts(*start_ts), show_bytes(value))
        }
        Record::DropValue { start_ts, .. } => {
            format!("drop value {key} @{}", show_ts(*start_ts))
        }
        Record::Write { commit_ts, write, .. } => {
            format!("write {key} @{}: {}", show_ts(*commit_ts), show_write(write))
        }
        Record::DropWrite { commit_ts, .. } => {
            format!("drop write {key} @{}", show_ts(*commit_ts))
        }
    }
}

fn show_value(value: &Option<Vec<u8>>) -> String {
    value.as_deref().map_or_else(|| "(none)".to_owned(), show_bytes)
}

fn show_response(response: &Response) -> String {
    match response {
        Response::Ok => "ok".to_owned(),
        Response::Value(value) => show_value(value),
        Response::Values(values) => values.iter().map(show_value).collect::<Vec<_>>().join(" "),
        Response::Pairs(pairs) if pairs.is_empty() => "(nothing)".to_owned(),
        Response::Pairs(pairs) => {
            let show = |(k, v): &(Vec<u8>, Vec<u8>)| format!("{}={}", show_bytes(k), show_bytes(v));
            pairs.iter().map(show).collect::<Vec<_>>().join(" ")
        }
        Response::Locks(locks) if locks.is_empty() => "(no locks)".to_owned(),
        Response::Locks(locks) => {
            let lines = locks.iter();
            let lines = lines.map(|l| format!("{}: {}", show_bytes(&l.key), show_lock(&l.lock)));
            lines.collect::<Vec<_>>().join("\n")
        }
        Response::Status(TxnStatus::Committed(ts)) => format!("committed at {}", show_ts(*ts)),
        Response::Status(TxnStatus::RolledBack) => "rolled back".to_owned(),
        Response::Status(TxnStatus::Locked { lock }) => format!("alive: {}", show_lock(lock)),
        Response::Status(TxnStatus::Unknown) => "not known".to_owned(),
        Response::Prewritten { min_commit_ts, commit_ts } => match (*min_commit_ts, *commit_ts) {
            (Timestamp::ZERO, Timestamp::ZERO) => "prewritten".to_owned(),
            (min, Timestamp::ZERO) => format!("prewritten, not below {}", show_ts(min)),
            (_, at) => format!("committed at {}", show_ts(at)),
        },
        Response::PessimisticLocked(keys) => {
            format!("locked {}", keys.iter().map(show_locked).collect::<Vec<_>>().join(" "))
        }
        Response::SecondaryLocks { locks, commit_ts } if *commit_ts == Timestamp::ZERO => {
            let lines = locks.iter();
            let lines = lines.map(|l| format!("{}: {}", show_bytes(&l.key), show_lock(&l.lock)));
            let lines: Vec<_> = lines.collect();
            format!("{} stand {}", lines.len(), lines.join(", ")).trim_end().to_owned()
        }
        Response::SecondaryLocks { commit_ts, .. } => {
            format!("committed at {}", show_ts(*commit_ts))
        }
        Response::ReadIndex(_) => unreachable!("decisions give no read index"),
    }
}

fn show_locked(key: &LockedKey) -> String {
    match (key.conflict_ts, &key.value) {
        (Timestamp::ZERO, None) => "-".to_owned(),
        (Timestamp::ZERO, Some(value)) => show_bytes(value),
        (ts, value) => format!("{} of {}", show_value(value), show_ts(ts)),
    }
}

fn show_error(error: &Error, out: &mut String) {
    let Error::Keys(keys) = error else {
        writeln!(out, "! {error}").expect("a string");
        return;
    };
    for key in keys {
        let text = match key {
            KeyError::Locked(lock) => {
                format!("locked {}: {}", show_bytes(&lock.key), show_lock(&lock.lock))
            }
            KeyError::AlreadyExists { key } => format!("{} exists", show_bytes(key)),
            KeyError::WriteConflict { key, conflict_start_ts, conflict_commit_ts, .. } => {
                format!(
                    "conflict on {} with {} at {}",
                    show_bytes(key),
                    show_ts(*conflict_start_ts),
                    show_ts(*conflict_commit_ts)
                )
            }
            other => other.to_string(),
        };
        writeln!(out, "! {text}").expect("a string");
    }
}
