//! Sizes of ranges from what fjall knows of its tables: how many records each has, and its first and
//! last key. It must never read a table.

use crate::engine::Estimate;
use fjall::{AbstractTree, Keyspace};

/// The size of `[start, end)`, if its pairs are like those that were `seen` of it; an empty `end` has
/// no upper bound. `None` if most of the family is not in tables yet.
pub(super) fn of_range(
    family: &Keyspace,
    start: &[u8],
    end: &[u8],
    seen: &Estimate,
) -> Option<Estimate> {
    let version = family.tree.current_version();
    let (mut inside, mut all) = (0.0, 0);
    for table in version.iter_tables() {
        let about = &table.metadata;
        let range = &about.key_range;
        // Each removed key is a record too, and so is what it removes.
        let live = about.item_count.saturating_sub(2 * about.tombstone_count);
        inside += live as f64 * share(range.min(), range.max(), start, end);
        all += about.item_count;
    }
    let in_memory = (family.approximate_len() as u64).saturating_sub(all);
    if all < in_memory {
        return None;
    }
    // What is in memory is taken to be spread as the tables are.
    let keys = (inside * (1.0 + in_memory as f64 / all.max(1) as f64)) as u64;
    let keys = keys.max(seen.keys);
    let each = (seen.bytes / seen.keys.max(1)).max(1);
    Some(Estimate { keys, bytes: (keys * each).max(seen.bytes) })
}

/// How much of a table's keys, from `first` to `last`, is in `[start, end)`, if they are spread evenly.
fn share(first: &[u8], last: &[u8], start: &[u8], end: &[u8]) -> f64 {
    let same = first.iter().zip(last).take_while(|(a, b)| a == b).count();
    let number = |key: &[u8]| {
        let mut bytes = [0; 8];
        let rest = key.get(same..).unwrap_or_default();
        let len = rest.len().min(8);
        bytes[..len].copy_from_slice(&rest[..len]);
        u64::from_be_bytes(bytes) as f64
    };
    let (low, high) = (number(first), number(last));
    let place = |key: &[u8]| match key {
        key if key <= first => 0.0,
        key if key > last => 1.0,
        key => ((number(key) - low) / (high - low).max(1.0)).clamp(0.0, 1.0),
    };
    let end = if end.is_empty() { 1.0 } else { place(end) };
    (end - place(start)).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn a_share_is_by_the_place_between_first_and_last() {
        let (first, last) = (&b"table\x10"[..], &b"table\x50"[..]);
        for (start, end, expected) in [
            (&b""[..], &b""[..], 1.0),
            (b"a", b"b", 0.0),
            (b"u", b"", 0.0),
            (b"a", b"z", 1.0),
            (b"table\x20", b"table\x30", 0.25),
            (b"table\x30", b"", 0.5),
            (b"", b"table\x20", 0.25),
            (b"table\x30", b"table\x20", 0.0),
        ] {
            let found = share(first, last, start, end);
            assert!((found - expected).abs() < 0.01, "{start:?} {end:?}: {found}");
        }
        assert_eq!(share(b"k", b"k", b"a", b"z"), 1.0);
        assert_eq!(share(b"k", b"k", b"l", b"z"), 0.0);
    }
}
