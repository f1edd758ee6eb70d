//! The wrapper that fails on purpose fails once, cleanly, wherever the operation is.

use damask_kv::testing::Faulty;
use damask_kv::{Cf, Engine, MemoryEngine, WriteBatch};
use damask_types::ErrorKind;

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
