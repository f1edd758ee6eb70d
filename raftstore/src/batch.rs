//! Writes of one turn become few entries: one term, one checksum and one place in every log for all
//! that share it. It must never change their order, nor join what was made under different
//! descriptions: the writes of an entry are applied together, or refused together.

use crate::command::write_parts;
use damask_types::codec::put_var_u64;

/// An entry's bytes, and who waits for it.
pub(crate) type Shared<W> = (Vec<u8>, Vec<W>);

/// Joins neighbours, as long as they are not above `bytes_max` together.
pub(crate) fn gather<W>(
    writes: impl IntoIterator<Item = (Vec<u8>, W)>,
    bytes_max: usize,
) -> Vec<Shared<W>> {
    let mut entries = Vec::new();
    let (mut group, mut waiting, mut bytes) = (Vec::<Vec<u8>>::new(), Vec::new(), 0);
    for (write, who) in writes {
        let fits = bytes + write.len() <= bytes_max && joinable(group.last(), &write);
        if !group.is_empty() && !fits {
            entries.push((join(std::mem::take(&mut group)), std::mem::take(&mut waiting)));
            bytes = 0;
        }
        bytes += write.len();
        group.push(write);
        waiting.push(who);
    }
    if !group.is_empty() {
        entries.push((join(group), waiting));
    }
    entries
}

/// Were both made under one description?
fn joinable(before: Option<&Vec<u8>>, write: &[u8]) -> bool {
    let head = |write| write_parts(write).ok().map(|(head, _, _)| head);
    before.is_some_and(|before| head(before).is_some() && head(before) == head(write))
}

fn join(mut writes: Vec<Vec<u8>>) -> Vec<u8> {
    if writes.len() == 1 {
        return writes.swap_remove(0);
    }
    let parts = || writes.iter().map(|write| write_parts(write).expect("checked by `joinable`"));
    let mut out = Vec::with_capacity(writes.iter().map(Vec::len).sum());
    parts().take(1).for_each(|(head, _, _)| out.extend_from_slice(head));
    put_var_u64(&mut out, parts().map(|(_, count, _)| count).sum());
    parts().for_each(|(_, _, records)| out.extend_from_slice(records));
    out
}

#[cfg(test)]
mod tests {
    //! What shares an entry says the same as it would alone.

    use super::*;
    use crate::command::{Body, Command, encode_leave, encode_write};
    use damask_types::{Epoch, Lock, LockKind, Record, Timestamp};

    fn epoch(version: u64) -> Epoch {
        Epoch { conf_ver: 300, version }
    }

    fn records(n: u64, count: u64) -> Vec<Record> {
        let lock = |at| Lock::new(LockKind::Put, b"p".to_vec(), Timestamp(n * 10 + at), 1);
        let record = |at| Record::Lock { key: format!("k{n}").into_bytes(), lock: lock(at) };
        (0..count).map(record).collect()
    }

    fn write(version: u64, n: u64, count: u64) -> (Vec<u8>, u64) {
        (encode_write(epoch(version), &records(n, count)), n)
    }

    #[test]
    fn neighbours_of_one_description_share_an_entry_in_their_order() {
        let writes = vec![write(7, 1, 2), write(7, 2, 0), write(7, 3, 200), write(8, 4, 1)];
        let entries = gather(writes, 1 << 20);
        let who: Vec<_> = entries.iter().map(|(_, who)| who.clone()).collect();
        assert_eq!(who, [vec![1, 2, 3], vec![4]]);
        let all: Vec<Record> = [records(1, 2), records(3, 200)].concat();
        let joined = Command::decode(&entries[0].0).expect("whole");
        assert_eq!(joined, Command { epoch: epoch(7), body: Body::Write(all) });
        assert_eq!(entries[1].0, write(8, 4, 1).0, "alone: as it was");
    }

    #[test]
    fn an_entry_has_a_limit_and_a_large_write_its_own() {
        let size = write(7, 1, 1).0.len();
        let sizes = |max: usize| -> Vec<usize> {
            let writes = [write(7, 1, 1), write(7, 2, 1), write(7, 3, 50), write(7, 4, 1)];
            gather(writes, max).into_iter().map(|(_, who)| who.len()).collect()
        };
        assert_eq!(sizes(0), [1, 1, 1, 1]);
        assert_eq!(sizes(2 * size), [2, 1, 1]);
        assert_eq!(sizes(1 << 20), [4]);
        assert!(gather(Vec::<(Vec<u8>, ())>::new(), 9).is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_joined_with_nothing() {
        let bad = vec![1, 255, 255];
        let writes = [bad.clone(), write(7, 1, 1).0, bad.clone(), bad];
        let entries = gather(writes.map(|write| (write, ())), 1 << 20);
        assert_eq!(entries.len(), 4);
        // Another command has another head.
        let leave = encode_leave(epoch(7));
        assert_eq!(gather([write(7, 1, 1), (leave, 2)], 1 << 20).len(), 2);
    }
}
