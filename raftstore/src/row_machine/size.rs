//! How much a range of rows holds, and where to cut it into parts of about the same size. It must
//! never cut between two versions of a key, nor before the first key.
//!
//! ```text
//! write family     k1 k2 k2 k3 ……………………………… k9     walked once, with the values beside it
//!                     ▲     ▲   marks: what is before a key (every n-th; n doubles when they are many)
//! ```
//! A part is measured by its bytes and its records alike: each counts for half of the whole. So a
//! range that is too large by either gets parts that are smaller by both, unless one key holds most.

use super::bounds;
use crate::error::Result;
use crate::machine::RangeSize;
use damask_kv::{Cf, Engine, Snapshot};
use damask_types::KeyRange;
use damask_types::codec::{decode_key, split_key_ts};

/// Records visited at most when looking for cuts: what comes after them stays in the last part.
const STEPS_MAX: u64 = 1 << 22;
/// Marks kept at a time: parts are even within a 2,000th of the whole.
const MARKS_MAX: usize = 4096;

/// See `StateMachine::size`.
pub(super) fn size(engine: &dyn Engine, range: &KeyRange, parts: usize) -> Result<RangeSize> {
    let (start, end) = bounds(range);
    let writes = engine.estimate(Cf::Write, &start, &end)?;
    let values = engine.estimate(Cf::Default, &start, &end)?;
    let cuts = match parts {
        0 | 1 => Vec::new(),
        _ => cuts(engine.snapshot().as_ref(), &start, &end, parts)?,
    };
    Ok(RangeSize { bytes: writes.bytes + values.bytes, keys: writes.keys, cuts })
}

fn cuts(snapshot: &dyn Snapshot, start: &[u8], end: &[u8], parts: usize) -> Result<Vec<Vec<u8>>> {
    let mut writes = snapshot.cursor(Cf::Write, start, end)?;
    let mut values = snapshot.cursor(Cf::Default, start, end)?;
    let mut marks = Marks { marks: Vec::new(), stride: 1, seen: 0 };
    let (mut last, mut bytes, mut records) = (Vec::new(), 0, 0);
    let mut value_at = values.seek(start)?;
    let mut write_at = writes.seek(start)?;
    while let Some((key, value)) = write_at.filter(|_| records < STEPS_MAX) {
        let prefix = split_key_ts(key)?.0;
        if prefix != last.as_slice() {
            while let Some((key, value)) = value_at.filter(|(key, _)| *key < prefix) {
                bytes += (key.len() + value.len()) as u64;
                value_at = values.next()?;
            }
            if !last.is_empty() {
                marks.put(Mark { bytes, records, prefix: prefix.to_vec() });
            }
            last.clear();
            last.extend_from_slice(prefix);
        }
        bytes += (key.len() + value.len()) as u64;
        records += 1;
        write_at = writes.next()?;
    }
    // The last key's values.
    while let Some((key, value)) = value_at.filter(|(key, _)| key.starts_with(&last)) {
        bytes += (key.len() + value.len()) as u64;
        value_at = values.next()?;
    }
    let chosen = marks.choose(bytes, records, parts);
    chosen.iter().map(|mark| Ok(decode_key(&mark.prefix)?)).collect()
}

/// What is before a key.
#[derive(Clone)]
struct Mark {
    bytes: u64,
    records: u64,
    /// The key, as the engine has it, without a timestamp.
    prefix: Vec<u8>,
}

struct Marks {
    marks: Vec<Mark>,
    /// Every so manieth key is marked.
    stride: usize,
    seen: usize,
}

impl Marks {
    fn put(&mut self, mark: Mark) {
        self.seen += 1;
        if !self.seen.is_multiple_of(self.stride) {
            return;
        }
        self.marks.push(mark);
        if self.marks.len() >= MARKS_MAX {
            let mut number = 0usize;
            self.marks.retain(|_| {
                number += 1;
                number.is_multiple_of(2)
            });
            self.stride *= 2;
        }
    }

    /// Those nearest to where even parts would begin.
    fn choose(&self, bytes: u64, records: u64, parts: usize) -> Vec<Mark> {
        let share = |n: u64, of: u64| n as f64 / of.max(1) as f64;
        let before = |mark: &Mark| (share(mark.bytes, bytes) + share(mark.records, records)) / 2.0;
        let (mut chosen, mut rest) = (Vec::new(), self.marks.as_slice());
        for part in 1..parts {
            let aim = part as f64 / parts as f64;
            let above = rest.partition_point(|mark| before(mark) < aim);
            let at = match (above.checked_sub(1), rest.get(above)) {
                (None, None) => break,
                (Some(below), None) => below,
                (None, Some(_)) => above,
                (Some(below), Some(mark)) => {
                    let is_nearer = aim - before(&rest[below]) <= before(mark) - aim;
                    if is_nearer { below } else { above }
                }
            };
            chosen.push(rest[at].clone());
            rest = &rest[at + 1..];
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    //! Cuts of rows of every shape.

    use super::*;
    use damask_kv::{MemoryEngine, WriteBatch};
    use damask_types::Timestamp;
    use damask_types::codec::encode_key_ts;

    struct Rows(MemoryEngine, WriteBatch);

    impl Rows {
        fn new() -> Rows {
            Rows(MemoryEngine::new(), WriteBatch::default())
        }

        /// Versions of a key, and the bytes of each one's value.
        fn put(&mut self, key: &str, versions: u64, bytes: usize) {
            for ts in 1..=versions {
                let (start, commit) = (Timestamp(10 * ts), Timestamp(10 * ts + 1));
                let key = key.as_bytes();
                self.1.put(Cf::Write, encode_key_ts(key, commit), vec![1; 10]);
                self.1.put(Cf::Default, encode_key_ts(key, start), vec![1; bytes]);
            }
        }

        fn cuts(&self, parts: usize) -> Vec<String> {
            self.0.write(self.1.clone()).unwrap();
            let size = size(&self.0, &KeyRange::new("a", "z"), parts).unwrap();
            assert!(size.cuts.is_sorted_by(|a, b| a < b) && size.cuts.len() < parts.max(1));
            size.cuts.into_iter().map(|key| String::from_utf8(key).unwrap()).collect()
        }
    }

    #[test]
    fn even_rows_are_cut_into_even_parts_however_many_they_are() {
        let mut rows = Rows::new();
        (0..20_000).for_each(|n| rows.put(&format!("k{n:05}"), 1, 20));
        rows.put("A", 5000, 10); // outside
        assert_eq!(rows.cuts(1), Vec::<String>::new());
        let places = |cuts: Vec<String>| -> Vec<u64> {
            cuts.iter().map(|key| key[1..].parse::<u64>().unwrap().div_ceil(100)).collect()
        };
        assert_eq!(places(rows.cuts(2)), [100]);
        assert_eq!(places(rows.cuts(5)), [40, 80, 120, 160]);
    }

    #[test]
    fn a_part_is_measured_by_bytes_and_by_records() {
        let mut rows = Rows::new();
        // Half of the bytes is in the first ten, nearly all records are behind.
        (0..10).for_each(|n| rows.put(&format!("b{n}"), 1, 100_000));
        (0..1000).for_each(|n| rows.put(&format!("k{n:03}"), 1, 1_000));
        let cuts = rows.cuts(2);
        assert!(("k250".."k400").contains(&cuts[0].as_str()), "{cuts:?}");
        // All alike in bytes: the one with many versions weighs by its records.
        let mut rows = Rows::new();
        rows.put("b", 1000, 1);
        (0..100).for_each(|n| rows.put(&format!("k{n:02}"), 1, 2_000));
        let cuts = rows.cuts(2);
        assert!(cuts[0].starts_with('k') && cuts[0].as_str() < "k20", "{cuts:?}");
    }

    #[test]
    fn versions_of_a_key_stay_together_and_the_first_key_is_no_cut() {
        let mut rows = Rows::new();
        assert_eq!(rows.cuts(2), Vec::<String>::new(), "nothing is there");
        rows.put("k", 1000, 10);
        assert_eq!(rows.cuts(4), Vec::<String>::new(), "one key");
        rows.put("l", 1, 10);
        assert_eq!(rows.cuts(4), ["l"]);
        rows.put("b", 2, 10);
        assert_eq!(rows.cuts(2), ["k"], "before or behind the large one, whichever is nearer");
        assert_eq!(rows.cuts(9), ["k", "l"]);
    }

    #[test]
    fn records_and_bytes_are_counted_roughly() {
        let mut rows = Rows::new();
        (0..1000).for_each(|n| rows.put(&format!("k{n:03}"), 2, 50));
        rows.cuts(1);
        let found = size(&rows.0, &KeyRange::new("k250", "k750"), 1).unwrap();
        assert!((500..2000).contains(&found.keys), "{found:?}");
        assert!((50_000..200_000).contains(&found.bytes), "{found:?}");
    }
}
