//! The wrapper that fails on purpose fails once, cleanly, wherever the operation is; and what reads
//! through it never hides the failure.

use damask_kv::gc::{Budget, sweep};
use damask_kv::testing::Faulty;
use damask_kv::{Cf, Engine, MemoryEngine, MvccReader, Read, Rows, WriteBatch, records_to_batch};
use damask_types::{ErrorKind, KeyRange, Record, Timestamp, Write, WriteKind};

/// A small life: two writes, a sync, a read by key and one by cursor.
fn life(engine: &dyn Engine) -> damask_kv::Result<usize> {
    for key in ["a", "b"] {
        let mut batch = WriteBatch::default();
        batch.put(Cf::Default, key, "1");
        engine.write(batch)?;
    }
    engine.sync()?;
    let snapshot = engine.snapshot();
    snapshot.get(Cf::Default, b"a")?;
    let mut cursor = snapshot.cursor(Cf::Default, b"", b"")?;
    let mut pair = cursor.seek(b"")?;
    let mut keys = 0;
    while pair.is_some() {
        keys += 1;
        pair = cursor.next()?;
    }
    Ok(keys)
}

#[test]
fn every_operation_can_fail_once_and_a_second_try_works() {
    let mut failures = Vec::new();
    for nth in 0..100 {
        let engine = Faulty::new(MemoryEngine::new(), nth, ErrorKind::NoSpace);
        let outcome = life(&engine);
        if !engine.has_failed() {
            assert_eq!(outcome.expect("nothing failed"), 2);
            break;
        }
        let error = outcome.expect_err("met the failure");
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        failures.push(error.op);
        assert_eq!(life(&engine).expect("space was freed"), 2);
    }
    assert_eq!(failures, ["write", "write", "sync", "get", "cursor", "read", "read", "read"]);
}

#[test]
fn a_failed_sync_poisons() {
    let engine = Faulty::new(MemoryEngine::new(), 2, ErrorKind::Io);
    assert_eq!(life(&engine).expect_err("the sync").kind(), ErrorKind::Io);
    assert_eq!(life(&engine).expect_err("poisoned").kind(), ErrorKind::Poisoned);
    assert_eq!(life(engine.inner()).expect("the engine itself is well"), 2);
}

/// Versioned reads and sweeps give the failure on: never half an answer.
#[test]
fn a_failed_read_is_never_another_answer() {
    let memory = MemoryEngine::new();
    let mut records = Vec::new();
    for n in 0..6u8 {
        for commit in [4, 8] {
            let (key, start_ts) = (vec![n], Timestamp(commit - 1));
            let short = (n % 2 == 0).then(|| vec![n]);
            if short.is_none() {
                records.push(Record::Value { key: key.clone(), start_ts, value: vec![n; 300] });
            }
            let write = Write::new(WriteKind::Put, start_ts, short);
            records.push(Record::Write { key, commit_ts: Timestamp(commit), write });
        }
    }
    memory.write(records_to_batch(&records)).expect("memory");
    let all = KeyRange::all();
    let ask = |engine: &dyn Engine| -> damask_kv::Result<_> {
        let reader = MvccReader::new(engine.snapshot());
        let mut rows = Rows::default();
        let mut scan = reader.scanner(&all, Timestamp(9))?;
        while scan.next_block(4, &mut rows)? != Read::Ok(0) {}
        Ok((
            reader.get(&[1], Timestamp(9))?,
            reader.scan(&all, Timestamp(9), 100, false)?,
            reader.scan(&all, Timestamp(9), 100, true)?,
            rows,
            sweep(&*engine.snapshot(), &all, Timestamp(9), Budget::default())?.removed,
        ))
    };
    let expected = ask(&memory).expect("nothing fails");
    for nth in 0.. {
        let engine = Faulty::new(memory.clone(), nth, ErrorKind::Corrupt);
        match ask(&engine) {
            Ok(answer) => {
                assert!(!engine.has_failed(), "operation {nth} failed and nobody said so");
                assert_eq!(answer, expected);
                assert!(nth > 50, "only {nth} operations");
                break;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "operation {nth}"),
        }
    }
}

/// A load that fails anywhere leaves nothing, and can be begun again.
#[test]
fn a_failed_load_leaves_nothing() {
    for nth in 0..6 {
        let engine = Faulty::new(MemoryEngine::new(), nth, ErrorKind::NoSpace);
        let load = || -> damask_kv::Result<u64> {
            let mut load = engine.ingest(Cf::Default)?;
            for key in ["a", "b", "c"] {
                load.put(key.as_bytes(), b"1")?;
            }
            load.finish()
        };
        let keys = |engine: &dyn Engine| engine.estimate(Cf::Default, b"", b"").map(|e| e.keys);
        if nth < 5 {
            assert_eq!(load().expect_err("fails").kind(), ErrorKind::NoSpace, "step {nth}");
            assert_eq!(keys(engine.inner()).expect("memory"), 0, "step {nth}");
        }
        assert_eq!(load().expect("space was freed"), 3);
        assert_eq!(keys(engine.inner()).expect("memory"), 3);
    }
}
