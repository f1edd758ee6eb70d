//! Between user keys and handles. Pure; knows only how row keys look.

use damask_deltatree::HandleRange;
use damask_types::key::{ROW_KEY_LEN, decode_row_key, decode_table, row_range};
use damask_types::{KeyRange, TableId};

/// Handles of the table whose row keys lie in a range of user keys; `None`: none do.
pub fn handles_in(table: TableId, range: &KeyRange) -> Option<HandleRange> {
    let rows = row_range(table);
    let range = range.intersect(&rows)?;
    let first = first_handle_from(&range.start)?;
    let last = match range.end == rows.end {
        true => i64::MAX,
        false => match first_handle_from(&range.end) {
            Some(after) => after.checked_sub(1)?,
            None => i64::MAX,
        },
    };
    (first <= last).then_some(HandleRange { first, last })
}

/// The first handle whose row key is at or after `key`, which has a table's row prefix.
fn first_handle_from(key: &[u8]) -> Option<i64> {
    if key.len() > ROW_KEY_LEN {
        // Longer than a row key: behind the row that it starts with.
        return decode_row_key(&key[..ROW_KEY_LEN])?.1.checked_add(1);
    }
    let mut full = key.to_vec();
    full.resize(ROW_KEY_LEN, 0);
    Some(decode_row_key(&full)?.1)
}

/// The table that a range of user keys lies in, by where it starts.
pub fn table_of(range: &KeyRange) -> Option<TableId> {
    decode_table(&range.start)
}

/// What is left of `range` without `others`.
pub(crate) fn subtract(range: &KeyRange, others: &[KeyRange]) -> Vec<KeyRange> {
    let mut left = vec![range.clone()];
    for other in others.iter().filter(|other| !other.is_empty()) {
        let before = |r: &KeyRange| KeyRange::new(r.start.clone(), other.start.clone());
        let after = |r: &KeyRange| KeyRange::new(other.end.clone(), r.end.clone());
        left = left
            .into_iter()
            .flat_map(|r| match r.intersect(other) {
                None => vec![r],
                Some(_) => {
                    let mut parts = Vec::with_capacity(2);
                    if r.start < other.start {
                        parts.push(before(&r));
                    }
                    let behind = !other.end.is_empty() && (r.end.is_empty() || other.end < r.end);
                    if behind {
                        parts.push(after(&r));
                    }
                    parts
                }
            })
            .collect();
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use damask_types::key::{handle_range, row_key, table_prefix};

    #[test]
    fn handles_of_every_edge() {
        let t = TableId(7);
        let h = |start: Vec<u8>, end: Vec<u8>| {
            handles_in(t, &KeyRange::new(start, end)).map(|r| (r.first, r.last))
        };
        assert_eq!(h(vec![], vec![]), Some((i64::MIN, i64::MAX)));
        assert_eq!(h(row_key(t, 3), row_key(t, 9)), Some((3, 8)));
        assert_eq!(h(row_key(t, 3), row_key(t, 3)), None);
        assert_eq!(h(row_key(t, i64::MIN), row_key(t, i64::MIN)), None);
        assert_eq!(h(row_key(t, i64::MAX), vec![]), Some((i64::MAX, i64::MAX)));
        assert_eq!(h(table_prefix(TableId(8)), vec![]), None);
        assert_eq!(h(table_prefix(t), table_prefix(TableId(8))), Some((i64::MIN, i64::MAX)));
        let point = KeyRange::point(&row_key(t, 5));
        assert_eq!(h(point.start, point.end), Some((5, 5)));
        let behind = [row_key(t, 5), vec![0]].concat();
        assert_eq!(h(behind.clone(), row_key(t, 9)), Some((6, 8)));
        assert_eq!(h([row_key(t, i64::MAX), vec![0]].concat(), vec![]), None);
        assert_eq!(h(row_key(t, 1), [row_key(t, i64::MAX), vec![0]].concat()), Some((1, i64::MAX)));
        let all = handle_range(t, -4, i64::MAX);
        assert_eq!(h(all.start, all.end), Some((-4, i64::MAX)));
    }

    #[test]
    fn subtracting_leaves_the_rest() {
        let r = |a: &str, b: &str| KeyRange::new(a.as_bytes(), b.as_bytes());
        assert_eq!(subtract(&r("b", "f"), &[]), [r("b", "f")]);
        assert_eq!(subtract(&r("b", "f"), &[r("c", "d")]), [r("b", "c"), r("d", "f")]);
        assert_eq!(subtract(&r("b", "f"), &[r("a", "c"), r("e", "")]), [r("c", "e")]);
        assert!(subtract(&r("b", "f"), &[r("", "")]).is_empty());
        assert_eq!(subtract(&r("", ""), &[r("c", "d")]), [r("", "c"), r("d", "")]);
        assert_eq!(subtract(&r("b", "d"), &[r("d", "e"), r("a", "b")]), [r("b", "d")]);
    }
}
