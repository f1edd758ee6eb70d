//! Engines in a process that is killed, or that gets no more disk or files: what was synced is
//! there afterwards, and a prefix of the rest. It must never end with a child still running.
//!
//! The child is the same program, asked by the environment to run only the test that called.

use crate::engine::{Cf, Engine, WriteBatch};
use crate::error::Result;
use crate::testing::{Random, Scratch};
use damask_types::ErrorKind;
use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

/// Folder of the child's engine.
const CHILD: &str = "DAMASK_KV_CHILD";
/// Batches between two syncs.
const SYNC_EVERY: u64 = 7;
/// Bytes of each value, of which nothing can be compressed.
const VALUE_BYTES: usize = 2048;
/// Times that a child is killed on one folder.
const KILLS: u64 = 4;
/// A child that was not killed ends here.
const BATCHES_MAX: u64 = 100_000;
/// Bytes that a file may have, once the disk is said to be full.
const FILE_BYTES_MAX: u64 = 2 << 20;
/// Files that a child may open beside those it has, once it may not open as many as it likes.
const MORE_FILES: [u64; 3] = [0, 1, 3];

/// Kills processes that write to this engine, and takes disk and files away from others. Linux only:
/// it needs `prlimit`. `test` is the full name of the test that calls this and does nothing else.
/// The engine's buffers must be so small that a few megabytes reach its files.
pub fn process_suite<E: Engine>(test: &str, open: impl Fn(&Path) -> Result<E>) {
    match std::env::var_os(CHILD) {
        Some(path) => child(&open(path.as_ref()).expect("opens")),
        None => {
            killed(test, &open);
            full_disk(test, &open);
            no_more_files(test, &open);
        }
    }
}

fn value(n: u64) -> Vec<u8> {
    let mut random = Random(n.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    (0..VALUE_BYTES).map(|_| random.next() as u8).collect()
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
fn child(engine: &dyn Engine) {
    let mut out = std::io::stdout();
    let first = batches(engine);
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
    /// Starts the child. A file that may not grow is an error there, not a signal.
    fn start(test: &str, path: &Path) -> Running {
        let child = Command::new("sh")
            .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
            .arg(std::env::current_exe().expect("a path"))
            .args([test, "--exact", "--nocapture"])
            .env(CHILD, path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        Running(child.expect("starts"))
    }

    fn said(&mut self) -> Said {
        BufReader::new(self.0.stdout.take().expect("piped, and taken once")).lines()
    }

    /// Takes from now on what `prlimit` calls `what`.
    fn limit(&self, what: &str, most: u64) {
        let limited = Command::new("prlimit")
            .arg(format!("--pid={}", self.0.id()))
            .arg(format!("--{what}={most}:"))
            .status();
        assert!(limited.expect("prlimit runs").success());
    }

    fn open_files(&self) -> u64 {
        let files = fs::read_dir(format!("/proc/{}/fd", self.0.id()));
        files.expect("it runs").count() as u64
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
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

fn killed<E: Engine>(test: &str, open: &impl Fn(&Path) -> Result<E>) {
    eprintln!("case a killed process keeps what was synced, and a prefix");
    let scratch = Scratch::new();
    let path = scratch.path("engine");
    let mut synced = 0;
    for kill in 0..KILLS {
        let mut child = Running::start(test, &path);
        let (now, failure) = listen(&mut child.said(), 3 + 5 * kill);
        assert_eq!(failure, None);
        synced = synced.max(now);
        drop(child);
        let left = batches(&open(&path).expect("opens after a kill"));
        assert!(left >= synced, "{left} batches are left of {synced} synced");
    }
    assert!(synced > 0, "no child wrote anything");
}

fn full_disk<E: Engine>(test: &str, open: &impl Fn(&Path) -> Result<E>) {
    eprintln!("case a full disk is named, and loses nothing that was synced");
    let failure = starve(test, open, |child| child.limit("fsize", FILE_BYTES_MAX));
    let named = format!("{:?}", ErrorKind::NoSpace);
    assert!(failure.starts_with(&named), "{failure}");
}

fn no_more_files<E: Engine>(test: &str, open: &impl Fn(&Path) -> Result<E>) {
    for more in MORE_FILES {
        eprintln!("case after {more} more files none can be opened: an error, and nothing is lost");
        let failure = starve(test, open, |child| child.limit("nofile", child.open_files() + more));
        for kind in [ErrorKind::Corrupt, ErrorKind::Invalid] {
            assert!(!failure.starts_with(&format!("{kind:?}")), "{failure}");
        }
    }
}

/// What a child says when something is taken away from it; then everything goes on without it.
fn starve<E: Engine>(
    test: &str,
    open: &impl Fn(&Path) -> Result<E>,
    take_away: impl Fn(&Running),
) -> String {
    let scratch = Scratch::new();
    let path = scratch.path("engine");
    let mut child = Running::start(test, &path);
    let mut said = child.said();
    let (first, failure) = listen(&mut said, 2);
    assert_eq!(failure, None);
    take_away(&child);
    let (synced, failure) = listen(&mut said, u64::MAX);
    drop(child);
    let synced = synced.max(first);
    let engine = open(&path).expect("opens when everything is there again");
    let left = batches(&engine);
    assert!(left >= synced, "{left} batches are left of {synced} synced");
    engine.write(batch(left)).expect("writes");
    engine.sync().expect("syncs");
    drop(engine);
    assert_eq!(batches(&open(&path).expect("opens")), left + 1);
    failure.expect("the engine says that something is missing")
}
