//! The n-th write, sync or read of a file fails, for rising n until a run is clean: every engine
//! says so, keeps what was synced, and never gives another answer. It must never fail a call that
//! is not of the engine under test.
//!
//! The calls are this program's own: defined here, they stand before those of the C library for
//! everything that is linked in, RocksDB's C++ as well as Rust's standard library.
#![cfg(all(target_os = "linux", target_env = "gnu"))]
#![allow(unsafe_code)]

use damask_kv::{Cf, Engine, EngineConfig, ErrorKind, FjallEngine, Result, WriteBatch};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, Ordering};

/// Set in the environment: not a sample of the calls, but each of them fails once.
const EVERY_CALL: &str = "DAMASK_KV_EVERY_CALL";
/// What a call does to a file.
const READ: u8 = 1;
const WRITE: u8 = 2;
const EIO: c_int = 5;
const ENOSPC: c_int = 28;
/// Batches of a life, each synced.
const BATCHES: u64 = 2;
/// More calls than any of the runs below makes.
const CALLS_MAX: i64 = 600;

/// Which calls are counted; 0 = none.
static ARMED: AtomicU8 = AtomicU8::new(0);
/// Calls until the failure.
static LEFT: AtomicI64 = AtomicI64::new(0);
static ERROR: AtomicI64 = AtomicI64::new(0);
static FAILED: AtomicBool = AtomicBool::new(false);
/// One test at a time: the counters are of the whole process.
static TURN: Mutex<()> = Mutex::new(());

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    fn __errno_location() -> *mut c_int;
}

/// The C library's own function.
///
/// # Safety
/// `F` must be a function pointer of the type that the function has.
unsafe fn real<F: Copy>(name: &CStr) -> F {
    // `RTLD_NEXT`: the definition after this program's.
    let next = -1isize as *mut c_void;
    // SAFETY: the name ends with a zero byte; the answer is checked before it is used.
    let found = unsafe { dlsym(next, name.as_ptr()) };
    assert!(!found.is_null(), "the C library has {name:?}");
    assert_eq!(size_of::<F>(), size_of::<*mut c_void>());
    // SAFETY: both are pointers; the caller answers for the type.
    unsafe { std::mem::transmute_copy(&found) }
}

/// Is this the call that fails? Then `errno` is set.
fn fails(fd: c_int, what: u8) -> bool {
    // The first three are not files of an engine.
    if fd <= 2 || ARMED.load(Ordering::SeqCst) & what == 0 {
        return false;
    }
    if LEFT.fetch_sub(1, Ordering::SeqCst) != 0 {
        return false;
    }
    FAILED.store(true, Ordering::SeqCst);
    // SAFETY: the C library gives this thread's own variable.
    unsafe { *__errno_location() = ERROR.load(Ordering::SeqCst) as c_int };
    true
}

/// Defines functions that fail when it is their turn, and else call the C library's.
macro_rules! before_the_c_library {
    ($($what:ident $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => { $(
        #[unsafe(no_mangle)]
        extern "C" fn $name(fd: c_int, $($argument: $type),*) -> $result {
            if fails(fd, $what) {
                return -1;
            }
            let name = concat!(stringify!($name), "\0");
            let name = CStr::from_bytes_with_nul(name.as_bytes()).expect("it ends with a zero");
            // SAFETY: the type is the function's in the manual; the arguments are the caller's.
            unsafe {
                let call: extern "C" fn(c_int, $($type),*) -> $result = real(name);
                call(fd, $($argument),*)
            }
        }
    )* };
}

before_the_c_library! {
    WRITE write(bytes: *const c_void, len: usize) -> isize;
    WRITE pwrite(bytes: *const c_void, len: usize, at: i64) -> isize;
    WRITE pwrite64(bytes: *const c_void, len: usize, at: i64) -> isize;
    WRITE writev(parts: *const c_void, count: c_int) -> isize;
    WRITE fsync() -> c_int;
    WRITE fdatasync() -> c_int;
    READ read(bytes: *mut c_void, len: usize) -> isize;
    READ pread(bytes: *mut c_void, len: usize, at: i64) -> isize;
    READ pread64(bytes: *mut c_void, len: usize, at: i64) -> isize;
    READ readv(parts: *const c_void, count: c_int) -> isize;
}

/// Runs `work` while the n-th call fails; says whether there were so many.
fn failing<T>(what: u8, nth: i64, error: c_int, work: impl FnOnce() -> T) -> (T, bool) {
    FAILED.store(false, Ordering::SeqCst);
    ERROR.store(error.into(), Ordering::SeqCst);
    LEFT.store(nth, Ordering::SeqCst);
    ARMED.store(what, Ordering::SeqCst);
    let done = work();
    ARMED.store(0, Ordering::SeqCst);
    (done, FAILED.load(Ordering::SeqCst))
}

fn batch(n: u64) -> WriteBatch {
    let mut batch = WriteBatch::default();
    for cf in Cf::ALL {
        batch.put(cf, n.to_be_bytes(), vec![n as u8; 100]);
        batch.put(cf, "last", n.to_be_bytes());
    }
    batch
}

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

fn read_all(engine: &dyn Engine) -> Result<Pairs> {
    let snapshot = engine.snapshot();
    let mut pairs = Pairs::new();
    for cf in Cf::ALL {
        let mut cursor = snapshot.cursor(cf, b"", b"")?;
        let mut pair = cursor.seek(b"")?;
        while let Some((key, value)) = pair {
            pairs.push((key.to_vec(), value.to_vec()));
            pair = cursor.next()?;
        }
    }
    Ok(pairs)
}

/// What there is after the first `n` batches.
fn state(n: u64) -> Pairs {
    let mut pairs = Pairs::new();
    for _ in Cf::ALL {
        pairs.extend((0..n).map(|n| (n.to_be_bytes().to_vec(), vec![n as u8; 100])));
        pairs.extend(n.checked_sub(1).map(|n| (b"last".to_vec(), n.to_be_bytes().to_vec())));
    }
    pairs
}

/// Writes and syncs; the batches whose sync came back well are counted.
fn life(engine: &dyn Engine, synced: &mut u64) -> Result<()> {
    for n in 0..BATCHES {
        engine.write(batch(n))?;
        engine.sync()?;
        *synced = n + 1;
    }
    Ok(())
}

/// In memory if there is such a place: the calls are counted, whatever is below them.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::tempdir_in(place).expect("a folder")
}

fn check_writes<E: Engine>(
    open: &impl Fn(&Path) -> Result<E>,
    error: c_int,
    kinds: &[ErrorKind],
    step: usize,
) {
    for nth in (0..CALLS_MAX).step_by(step) {
        let folder = folder();
        let path = folder.path().join("engine");
        let engine = open(&path).expect("opens");
        let mut synced = 0;
        let (outcome, failed) = failing(WRITE, nth, error, || life(&engine, &mut synced));
        drop(engine);
        let after = open(&path).unwrap_or_else(|e| panic!("call {nth}: {e}"));
        let found = read_all(&after).expect("reads");
        let left = (synced..=BATCHES).find(|n| state(*n) == found);
        let left = left.unwrap_or_else(|| panic!("call {nth}: less than {synced} synced, or torn"));
        if !failed {
            outcome.expect("nothing failed");
            assert!(
                nth >= 2 * BATCHES as i64,
                "only {nth} calls were seen: the engine writes past them"
            );
            return;
        }
        let error = outcome.expect_err("a failed write or sync is never passed over");
        assert!(kinds.contains(&error.kind()), "call {nth}: {error}");
        after.write(batch(left)).expect("writes");
        after.sync().expect("syncs");
    }
    panic!("more than {CALLS_MAX} calls");
}

fn check_reads<E: Engine>(open: &impl Fn(&Path) -> Result<E>) {
    let folder = folder();
    let path = folder.path().join("engine");
    let mut synced = 0;
    life(&open(&path).expect("opens"), &mut synced).expect("nothing fails");
    for nth in 0..CALLS_MAX {
        let ask = || open(&path).and_then(|engine| read_all(&engine));
        let (answer, failed) = failing(READ, nth, EIO, ask);
        match answer {
            Ok(found) => assert_eq!(found, state(BATCHES), "call {nth}: another answer"),
            Err(e) => {
                assert!(failed, "call {nth}: {e}");
                let kinds = [ErrorKind::Io, ErrorKind::Corrupt];
                assert!(kinds.contains(&e.kind()), "call {nth}: {e}");
            }
        }
        if !failed {
            assert!(nth > 3, "only {nth} calls were seen: the engine reads past them");
            return;
        }
    }
    panic!("more than {CALLS_MAX} calls");
}

fn small() -> EngineConfig {
    EngineConfig { block_cache_bytes: 1 << 20, ..EngineConfig::default() }
}

fn check<E: Engine>(open: impl Fn(&Path) -> Result<E>) {
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    // RocksDB takes a second to close after each failure, so a test run samples the calls.
    let [io, no_space] = match std::env::var_os(EVERY_CALL) {
        Some(_) => [1, 1],
        None => [3, 5],
    };
    check_writes(&open, EIO, &[ErrorKind::Io, ErrorKind::Poisoned], io);
    check_writes(&open, ENOSPC, &[ErrorKind::NoSpace, ErrorKind::Poisoned], no_space);
    check_reads(&open);
}

#[test]
fn fjall() {
    check(|path| FjallEngine::open(path, &small()));
}

#[cfg(feature = "rocksdb")]
#[test]
fn rocks() {
    check(|path| damask_kv::RocksEngine::open(path, &small()));
}

#[cfg(feature = "rocksdb")]
#[test]
fn rocks_with_its_own_log() {
    check(|path| damask_kv::RocksEngine::open(path, &EngineConfig { wal: true, ..small() }));
}
