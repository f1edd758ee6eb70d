//! Files that are wrong under checksums that are right, as a faulty writer or a forger would leave
//! them: whatever is asked of the store, the answer is rows (a forged file may lie) or `Corrupt`.
//! It must never panic, nor run without end, nor take memory by a number that it has read.
//!
//! The same in each run. A longer walk: `FORGED_ROUNDS=20000 cargo test --release -p
//! damask-deltatree --test forged`.

mod layout;
mod store;

use damask_deltatree::testing::Numbers;
use damask_types::ErrorKind;
use layout::Field;
use std::panic::{AssertUnwindSafe, catch_unwind};
use store::Files;

/// Forgeries of each kind of file.
const ROUNDS: u64 = 20;
/// Memory that all of them together may add to what the process had asked for at its peak.
const MEMORY_MAX: u64 = 1 << 30;

/// A number that is likely to be taken for something that it is not.
fn special(numbers: &mut Numbers, old: u64, file_len: usize) -> u64 {
    let pick = [
        0,
        1,
        2,
        old.wrapping_add(1),
        old.wrapping_sub(1),
        old.wrapping_mul(2),
        old ^ 64,
        !old,
        u64::MAX,
        u64::MAX - 1,
        i64::MAX as u64,
        i64::MIN as u64,
        i32::MAX as u64,
        u64::from(u32::MAX) - 1,
        65_535,
        65_536,
        65_537,
        1 << 40,
        file_len as u64,
        numbers.below(400),
        numbers.below(u64::MAX),
    ];
    pick[numbers.below(pick.len() as u64) as usize]
}

/// Changes some fields: to special numbers, or to what another field of the same kind has.
fn change(numbers: &mut Numbers, bytes: &mut [u8], fields: &[Field]) {
    for _ in 0..1 + numbers.below(3) * numbers.below(2) {
        // kinds of fields first: most bytes are descriptors
        let kind = fields[numbers.below(fields.len() as u64) as usize].what;
        let kind = match numbers.below(2) {
            0 => kind,
            _ => {
                let mut kinds: Vec<&str> = fields.iter().map(|field| field.what).collect();
                kinds.sort_unstable();
                kinds.dedup();
                kinds[numbers.below(kinds.len() as u64) as usize]
            }
        };
        let alike: Vec<&Field> = fields.iter().filter(|field| field.what == kind).collect();
        let one = alike[numbers.below(alike.len() as u64) as usize].at.clone();
        let other = alike[numbers.below(alike.len() as u64) as usize].at.clone();
        if one.len() > 16 || numbers.below(4) == 0 {
            if one.len() == other.len() {
                let (a, b) = (bytes[one.clone()].to_vec(), bytes[other.clone()].to_vec());
                bytes[one].copy_from_slice(&b);
                if numbers.below(2) == 0 {
                    bytes[other].copy_from_slice(&a);
                }
            }
            continue;
        }
        let old = layout::number(&bytes[one.clone()]);
        let new = special(numbers, old, bytes.len());
        layout::put(&mut bytes[one], new);
    }
}

/// Changes a few bytes anywhere in a range.
fn scratch(numbers: &mut Numbers, bytes: &mut [u8], within: std::ops::Range<usize>) {
    for _ in 0..1 + numbers.below(4) {
        let at = within.start + numbers.below(within.len() as u64) as usize;
        bytes[at] = match numbers.below(3) {
            0 => bytes[at] ^ 1 << numbers.below(8),
            1 => 0xFF,
            _ => numbers.below(256) as u8,
        };
    }
}

/// Adds or removes a few bytes in a range that then ends elsewhere.
fn shift(numbers: &mut Numbers, bytes: &mut Vec<u8>, within: std::ops::Range<usize>) {
    let at = within.start + numbers.below(within.len() as u64) as usize;
    match numbers.below(2) {
        0 => bytes.insert(at, numbers.below(256) as u8),
        _ => drop(bytes.drain(at..within.end.min(at + 1 + numbers.below(40) as usize))),
    }
}

fn forge_stable(numbers: &mut Numbers, bytes: &mut Vec<u8>) {
    let footer = layout::footer(bytes);
    match numbers.below(10) {
        0 => scratch(numbers, bytes, footer.clone()),
        1 => shift(numbers, bytes, footer.clone()),
        2 | 3 => {
            // the first bytes of a block are the heads of what is encoded
            let descriptors = layout::stable(bytes).descriptors;
            let (at, _) = descriptors[numbers.below(descriptors.len() as u64) as usize];
            let offset = layout::number(&bytes[at..at + 8]) as usize;
            let len = layout::number(&bytes[at + 8..at + 16]) as usize;
            let len = if numbers.below(2) == 0 { len.min(24) } else { len };
            scratch(numbers, bytes, offset..offset + len);
        }
        _ => {
            let fields = layout::stable(bytes).all;
            change(numbers, bytes, &fields);
        }
    }
    layout::seal_stable(bytes, footer.start);
}

fn forge_log(numbers: &mut Numbers, bytes: &mut [u8]) {
    let records = layout::records(bytes);
    let at = records[numbers.below(records.len() as u64) as usize].clone();
    match numbers.below(6) {
        0 => scratch(numbers, bytes, at),
        _ => {
            let fields = layout::record(bytes, at).all;
            change(numbers, bytes, &fields);
        }
    }
    layout::seal_log(bytes);
}

fn forge_manifest(numbers: &mut Numbers, bytes: &mut Vec<u8>) {
    let body = 8..bytes.len() - 4;
    match numbers.below(6) {
        0 => scratch(numbers, bytes, body),
        1 => shift(numbers, bytes, body),
        _ => {
            let fields = layout::manifest(bytes).all;
            change(numbers, bytes, &fields);
        }
    }
    layout::seal_manifest(bytes);
}

/// Names and types of a stable file's columns: rows that honestly have another type than the one
/// that is asked for are the caller's mistake.
fn schema(bytes: &[u8]) -> Vec<u8> {
    let fields = layout::stable(bytes).all;
    let end = fields.iter().position(|field| field.what == "base packs").unwrap_or(fields.len());
    fields[1..end].iter().flat_map(|field| bytes[field.at.clone()].to_vec()).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Stable,
    Log,
    Manifest,
}

fn forge(kind: Kind, seed: u64, files: &Files) -> (Files, bool) {
    let mut numbers = Numbers(seed);
    let mut forged = files.clone();
    let start = match kind {
        Kind::Stable => "stable/",
        Kind::Log => "log/",
        Kind::Manifest => "manifest",
    };
    let mut of_kind: Vec<_> =
        forged.iter_mut().filter(|(name, _)| name.starts_with(start)).collect();
    let at = numbers.below(of_kind.len() as u64) as usize;
    let bytes = &mut of_kind[at].1;
    let before = (kind == Kind::Stable).then(|| schema(bytes));
    match kind {
        Kind::Stable => forge_stable(&mut numbers, bytes),
        Kind::Log => forge_log(&mut numbers, bytes),
        Kind::Manifest => forge_manifest(&mut numbers, bytes),
    }
    let other_schema = before.is_some_and(|before| before != schema(bytes));
    (forged, other_schema)
}

/// What went wrong with a forgery; how many answers were errors.
fn wrong(files: &Files, other_schema: bool) -> Result<usize, String> {
    let answers = catch_unwind(AssertUnwindSafe(|| store::exercise(store::disk(files))));
    let answers = answers.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or(panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
    })?;
    let errors: Vec<_> = answers.into_iter().filter_map(Result::err).collect();
    let is_fine = |kind| match kind {
        ErrorKind::Corrupt => true,
        ErrorKind::Invalid => other_schema,
        _ => false,
    };
    match errors.iter().find(|error| !is_fine(error.kind())) {
        Some(error) => Err(error.to_string()),
        None => Ok(errors.len()),
    }
}

/// The most address space that the process ever had, in bytes; 0 where that is not told.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// Numbers that once made it panic, or could: in the last field of that kind.
const BY_NAME: [(&str, &str, u64); 11] = [
    ("log/", "first", i64::MAX as u64),
    ("log/", "last", i64::MIN as u64),
    ("log/", "seq", u64::MAX),
    ("manifest", "merged", u64::MAX),
    ("manifest", "first log", u64::MAX),
    ("manifest", "file", 1),
    ("stable/", "rows", 0),
    ("stable/", "rows", u32::MAX as u64),
    ("stable/", "last", i64::MIN as u64),
    ("stable/", "type", 5),
    ("stable/", "history packs", u32::MAX as u64),
];

#[test]
fn each_of_these_is_refused() {
    let files = store::files();
    for (start, what, value) in BY_NAME {
        let mut forged = files.clone();
        let file = forged.iter_mut().rfind(|(name, _)| name.starts_with(start));
        let bytes = &mut file.expect("a file of each kind").1;
        let fields = match start {
            "stable/" => layout::stable(bytes).all,
            "manifest" => layout::manifest(bytes).all,
            _ => {
                let records = layout::records(bytes).into_iter();
                records.flat_map(|at| layout::record(bytes, at).all).collect()
            }
        };
        let field = fields.into_iter().rfind(|field| field.what == what).expect("such a field");
        layout::put(&mut bytes[field.at], value);
        match start {
            "stable/" => {
                let footer = layout::footer(bytes).start;
                layout::seal_stable(bytes, footer);
            }
            "manifest" => layout::seal_manifest(bytes),
            _ => layout::seal_log(bytes),
        }
        let answers = wrong(&forged, false);
        assert_eq!(answers, Ok(1), "{start} {what} = {value}: one error, when it is opened");
    }
}

#[test]
fn forged_files_are_refused_or_read() {
    let rounds = std::env::var("FORGED_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    let files = store::files();
    assert_eq!(wrong(&files, false), Ok(0), "nothing is wrong yet");
    let (mut found, mut refused, before) = (Vec::new(), 0, peak());
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|panic| {
        if std::env::var_os("FORGED_LOUD").is_some() {
            eprintln!("{panic}");
        }
    }));
    for seed in 0..rounds.unwrap_or(ROUNDS) {
        let kinds =
            [Kind::Stable, Kind::Stable, Kind::Stable, Kind::Log, Kind::Log, Kind::Manifest];
        for (turn, kind) in kinds.into_iter().enumerate() {
            let seed = seed * kinds.len() as u64 + turn as u64;
            let (forged, other_schema) = forge(kind, seed, &files);
            match wrong(&forged, other_schema) {
                Ok(errors) => refused += usize::from(errors > 0),
                Err(what) => found.push(format!("{kind:?}, seed {seed}: {what}")),
            }
            let now = peak();
            if now - before > MEMORY_MAX {
                found.push(format!("{kind:?}, seed {seed}: {now} bytes of memory"));
                break;
            }
        }
    }
    std::panic::set_hook(hook);
    assert!(found.is_empty(), "{} forgeries:\n{}", found.len(), found.join("\n"));
    assert!(refused > 0, "some are found");
}
