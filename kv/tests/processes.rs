//! Engines in a process that is killed, or whose files may not grow: what was synced is there
//! afterwards, and a prefix of the rest. It must never end with a child still running.
//!
//! The child is this same program, asked by the environment to run only `child`.
#![cfg(target_os = "linux")]

use damask_kv::{Cf, Engine, EngineConfig, ErrorKind, FjallEngine, WriteBatch};
use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

/// `KIND PATH` of the child's engine.
const CHILD: &str = "DAMASK_KV_CHILD";
/// Batches between two syncs.
const SYNC_EVERY: u64 = 7;
/// Bytes of each value, of which nothing can be compressed.
const VALUE_BYTES: usize = 2048;
/// Times that a child is killed on one folder.
const KILLS: u64 = 4;
/// A child that was not killed ends here.
const BATCHES_MAX: u64 = 100_000;
/// Bytes that a file of the second test may have, once it began.
const FILE_BYTES_MAX: u64 = 2 << 20;

fn open(kind: &str, path: &Path) -> damask_kv::Result<Box<dyn Engine>> {
    let config = EngineConfig {
        write_buffer_bytes: 512 << 10,
        small_write_buffer_bytes: 128 << 10,
        wal: kind == "rocksdb with log",
        ..EngineConfig::default()
    };
    match kind {
        "fjall" => Ok(Box::new(FjallEngine::open(path, &config)?)),
        #[cfg(feature = "rocksdb")]
        _ => Ok(Box::new(damask_kv::RocksEngine::open(path, &config)?)),
        #[cfg(not(feature = "rocksdb"))]
        other => panic!("no {other} in this build"),
    }
}

fn kinds() -> Vec<&'static str> {
    match cfg!(feature = "rocksdb") {
        true => vec!["fjall", "rocksdb", "rocksdb with log"],
        false => vec!["fjall"],
    }
}

fn value(n: u64) -> Vec<u8> {
    let mut state = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..VALUE_BYTES).map(|_| next()).collect()
}

/// The n-th batch: a key of its own in every family, and one that is replaced.
fn batch(n: u64) -> WriteBatch {
    let mut batch = WriteBatch::default();
    for cf in Cf::ALL {
        batch.put(cf, n.to_be_bytes(), value(n + cf as u64));
        batch.put(cf, "last", n.to_be_bytes());
    }
    batch
}

/// How many batches are there: all of a prefix, in every family, and nothing else.
fn batches(engine: &dyn Engine) -> u64 {
    let snapshot = engine.snapshot();
    let count = match snapshot.get(Cf::Meta, b"last").expect("reads") {
        Some(last) => u64::from_be_bytes(last[..].try_into().expect("8 bytes")) + 1,
        None => 0,
    };
    for cf in Cf::ALL {
        let last = snapshot.get(cf, b"last").expect("reads");
        assert_eq!(last.map(|v| v.to_vec()), count.checked_sub(1).map(|n| n.to_be_bytes().into()));
        let mut cursor = snapshot.cursor(cf, b"", b"last").expect("a cursor");
        let mut pair = cursor.seek(b"").expect("seek");
        for n in 0..count {
            let (key, found) = pair.unwrap_or_else(|| panic!("{cf:?} has a hole at {n}"));
            assert_eq!(key, n.to_be_bytes(), "{cf:?}");
            assert_eq!(found, value(n + cf as u64), "{cf:?}, batch {n}");
            pair = cursor.next().expect("next");
        }
        assert_eq!(pair, None, "{cf:?} has more than {count} batches");
    }
    count
}

/// Writes batch after batch, and says on its output how many are synced, or what failed.
#[test]
fn child() {
    let Ok(what) = std::env::var(CHILD) else { return };
    let (kind, path) = what.split_once('|').expect("a kind and a path");
    let engine = open(kind, Path::new(path)).expect("opens");
    let mut out = std::io::stdout();
    let first = batches(&*engine);
    for n in first..BATCHES_MAX {
        let synced = n % SYNC_EVERY == SYNC_EVERY - 1;
        let done = engine.write(batch(n)).and_then(|()| match synced {
            true => engine.sync(),
            false => Ok(()),
        });
        match done {
            Ok(()) if synced => writeln!(out, "\nsynced {}", n + 1).expect("the parent listens"),
            Ok(()) => {}
            Err(e) => {
                writeln!(out, "\nfailed {:?} {e}", e.kind()).expect("the parent listens");
                return;
            }
        }
        out.flush().expect("the parent listens");
    }
}

/// Kills the child if the test ends early.
struct Running(Child);

impl Running {
    fn said(&mut self) -> Said {
        BufReader::new(self.0.stdout.take().expect("piped, and taken once")).lines()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the child. A file that may not grow is an error there, not a signal.
fn start(kind: &str, path: &Path) -> Running {
    let child = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().expect("a path"))
        .args(["child", "--exact", "--nocapture"])
        .env(CHILD, format!("{kind}|{}", path.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    Running(child.expect("starts"))
}

type Said = Lines<BufReader<ChildStdout>>;

/// Reads the child's lines until `enough` syncs; gives back the batches synced, and the failure.
fn listen(said: &mut Said, enough: u64) -> (u64, Option<String>) {
    let (mut synced, mut heard) = (0, 0);
    for line in said {
        let line = line.expect("text");
        if let Some(n) = line.strip_prefix("synced ") {
            synced = n.parse().expect("a number");
            heard += 1;
        }
        if let Some(failure) = line.strip_prefix("failed ") {
            return (synced, Some(failure.to_owned()));
        }
        if heard == enough {
            break;
        }
    }
    (synced, None)
}

#[test]
fn a_killed_process_keeps_what_was_synced_and_a_prefix() {
    for kind in kinds() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("engine");
        let mut synced = 0;
        for kill in 0..KILLS {
            let mut child = start(kind, &path);
            let (now, failure) = listen(&mut child.said(), 3 + 5 * kill);
            assert_eq!(failure, None, "{kind}");
            synced = synced.max(now);
            drop(child);
            let engine = open(kind, &path).expect("opens after a kill");
            let left = batches(&*engine);
            assert!(left >= synced, "{kind}: {left} batches are left of {synced} synced");
        }
        assert!(synced > 0, "{kind}: no child wrote anything");
    }
}

#[test]
fn a_full_disk_is_named_and_loses_nothing_that_was_synced() {
    for kind in kinds() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("engine");
        let mut child = start(kind, &path);
        let mut said = child.said();
        let (first, failure) = listen(&mut said, 2);
        assert_eq!(failure, None, "{kind}");
        let limited = Command::new("prlimit")
            .arg(format!("--pid={}", child.0.id()))
            .arg(format!("--fsize={FILE_BYTES_MAX}:"))
            .status();
        assert!(limited.expect("prlimit runs").success());
        let (synced, failure) = listen(&mut said, u64::MAX);
        drop(child);
        let synced = synced.max(first);
        let failure = failure.expect("a file would have grown");
        let named = format!("{:?}", ErrorKind::NoSpace);
        assert!(failure.starts_with(&named), "{kind}: {failure}");
        // Space is freed: everything goes on.
        let engine = open(kind, &path).expect("opens with space");
        let left = batches(&*engine);
        assert!(left >= synced, "{kind}: {left} batches are left of {synced} synced");
        engine.write(batch(left)).expect("writes with space");
        engine.sync().expect("syncs with space");
        drop(engine);
        assert_eq!(batches(&*open(kind, &path).expect("opens")), left + 1, "{kind}");
        fs::remove_dir_all(&path).expect("removes");
    }
}
