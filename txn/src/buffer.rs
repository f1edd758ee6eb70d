//! A transaction's own writes, in key order, with marks to go back to. It must never reach for a
//! store: what only a store can tell is left to the commit.
//!
//! What a key's writes come to, in the order in which they are made:
//!
//! ```text
//!            then put   insert          delete   lock
//!  (none)         Put   Insert          Delete   Lock
//!  Put            Put   AlreadyExists   Delete   Put
//!  Insert      Insert   AlreadyExists   Absent   Insert
//!  Delete         Put   Put             Delete   Delete
//!  Lock           Put   Insert          Delete   Lock
//!  Absent      Insert   Insert          Absent   Absent
//! ```
//!
//! `Absent`: inserted and deleted again. Nothing changes, but the key must not have had a value.

use crate::error::{Error, Result};
use damask_types::KeyRange;
use std::collections::BTreeMap;
use std::ops::Bound;

/// One key's net write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Put(Vec<u8>),
    Insert(Vec<u8>),
    Delete,
    Lock,
    Absent,
}

impl Entry {
    /// What a read of the key sees; `None`: whatever is stored.
    pub fn seen(&self) -> Option<Option<&[u8]>> {
        match self {
            Entry::Put(value) | Entry::Insert(value) => Some(Some(value)),
            Entry::Delete | Entry::Absent => Some(None),
            Entry::Lock => None,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Entry::Put(value) | Entry::Insert(value) => value.len(),
            Entry::Delete | Entry::Lock | Entry::Absent => 0,
        }
    }
}

/// A point to go back to. Ends when a mark made before it does.
#[derive(Debug)]
#[must_use]
pub struct Mark(usize);

/// The writes.
#[derive(Default)]
pub(crate) struct Buffer {
    entries: BTreeMap<Vec<u8>, Entry>,
    bytes: usize,
    /// Since the oldest mark: keys and what they were before.
    undo: Vec<(Vec<u8>, Option<Entry>)>,
    /// Bytes of these keys and values.
    undo_bytes: usize,
    /// Lengths of `undo` when each mark was made.
    marks: Vec<usize>,
}

impl Buffer {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of keys and values that are kept for marks.
    pub fn undo_bytes(&self) -> usize {
        self.undo_bytes
    }

    pub fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.entries.get(key)
    }

    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        let entry = match self.entries.get(&key) {
            Some(Entry::Insert(_) | Entry::Absent) => Entry::Insert(value),
            _ => Entry::Put(value),
        };
        self.set(key, entry);
    }

    pub fn insert(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<()> {
        let entry = match self.entries.get(&key) {
            Some(Entry::Put(_) | Entry::Insert(_)) => return Err(Error::AlreadyExists { key }),
            Some(Entry::Delete) => Entry::Put(value),
            Some(Entry::Lock | Entry::Absent) | None => Entry::Insert(value),
        };
        self.set(key, entry);
        Ok(())
    }

    pub fn delete(&mut self, key: Vec<u8>) {
        let entry = match self.entries.get(&key) {
            Some(Entry::Insert(_) | Entry::Absent) => Entry::Absent,
            _ => Entry::Delete,
        };
        self.set(key, entry);
    }

    pub fn lock(&mut self, key: Vec<u8>) {
        if !self.entries.contains_key(&key) {
            self.set(key, Entry::Lock);
        }
    }

    fn set(&mut self, key: Vec<u8>, entry: Entry) {
        let key_len = key.len();
        let copy = (!self.marks.is_empty()).then(|| key.clone());
        self.bytes += key_len + entry.bytes();
        let before = self.entries.insert(key, entry);
        if let Some(before) = &before {
            self.bytes -= key_len + before.bytes();
        }
        if let Some(copy) = copy {
            self.undo_bytes += undo_size(&copy, before.as_ref());
            self.undo.push((copy, before));
        }
    }

    /// From here on, writes can be taken back.
    pub fn mark(&mut self) -> Mark {
        self.marks.push(self.undo.len());
        Mark(self.marks.len() - 1)
    }

    /// The keys written or locked since the mark, in key order, and what they have come to.
    pub fn since(&self, mark: &Mark) -> BTreeMap<&[u8], &Entry> {
        let from = self.marks.get(mark.0).expect("a mark ends once, with those made after it");
        let keys = self.undo[*from..].iter().map(|(key, _)| key.as_slice());
        keys.filter_map(|key| self.entries.get_key_value(key))
            .map(|(key, entry)| (key.as_slice(), entry))
            .collect()
    }

    /// Takes back every write since the mark, and ends it.
    pub fn rollback_to(&mut self, mark: Mark) {
        let len = *self.marks.get(mark.0).expect("a mark ends once, with those made after it");
        while self.undo.len() > len {
            let (key, before) = self.undo.pop().expect("longer than the mark");
            self.undo_bytes -= undo_size(&key, before.as_ref());
            let key_len = key.len();
            let now = match before {
                Some(before) => {
                    self.bytes += key_len + before.bytes();
                    self.entries.insert(key, before)
                }
                None => self.entries.remove(&key),
            };
            self.bytes -= key_len + now.as_ref().map_or(0, Entry::bytes);
        }
        self.marks.truncate(mark.0);
    }

    /// Keeps every write since the mark, and ends it.
    pub fn release(&mut self, mark: Mark) {
        self.marks.truncate(mark.0);
        if self.marks.is_empty() {
            self.undo = Vec::new();
            self.undo_bytes = 0;
        }
    }

    /// The entries of a range, in key order.
    pub fn range(&self, range: &KeyRange) -> impl DoubleEndedIterator<Item = (&[u8], &Entry)> {
        let start = range.start.as_slice();
        let end = match (range.is_empty(), range.end.is_empty()) {
            (true, _) => Bound::Excluded(start),
            (_, true) => Bound::Unbounded,
            _ => Bound::Excluded(range.end.as_slice()),
        };
        let bounds = (Bound::Included(start), end);
        self.entries.range::<[u8], _>(bounds).map(|(key, entry)| (key.as_slice(), entry))
    }

    /// All entries, in key order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&[u8], &Entry)> {
        self.entries.iter().map(|(key, entry)| (key.as_slice(), entry))
    }

    /// Keys that were inserted and deleted again.
    pub fn absent(&self) -> Vec<Vec<u8>> {
        let absent = self.entries.iter().filter(|(_, entry)| **entry == Entry::Absent);
        absent.map(|(key, _)| key.clone()).collect()
    }

    /// Everything, in key order.
    pub fn into_entries(self) -> BTreeMap<Vec<u8>, Entry> {
        self.entries
    }
}

fn undo_size(key: &[u8], before: Option<&Entry>) -> usize {
    key.len() + before.map_or(0, Entry::bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Vec<u8> {
        text.as_bytes().to_vec()
    }

    fn dump(buffer: &Buffer) -> Vec<(Vec<u8>, Entry)> {
        buffer.range(&KeyRange::all()).map(|(k, e)| (k.to_vec(), e.clone())).collect()
    }

    fn counted(buffer: &Buffer) -> usize {
        buffer.range(&KeyRange::all()).map(|(k, e)| k.len() + e.bytes()).sum()
    }

    #[test]
    fn writes_of_one_key_come_to_one() {
        type Step = fn(&mut Buffer) -> Result<()>;
        let put: Step = |b| {
            b.put(bytes("k"), bytes("p"));
            Ok(())
        };
        let insert: Step = |b| b.insert(bytes("k"), bytes("i"));
        let delete: Step = |b| {
            b.delete(bytes("k"));
            Ok(())
        };
        let lock: Step = |b| {
            b.lock(bytes("k"));
            Ok(())
        };
        let p = || Some(Entry::Put(bytes("p")));
        let i = || Some(Entry::Insert(bytes("i")));
        let table: Vec<(Vec<Step>, Option<Entry>)> = vec![
            (vec![put, put], p()),
            (vec![put, insert], None),
            (vec![put, delete], Some(Entry::Delete)),
            (vec![put, lock], p()),
            (vec![insert, put], Some(Entry::Insert(bytes("p")))),
            (vec![insert, insert], None),
            (vec![insert, delete], Some(Entry::Absent)),
            (vec![insert, delete, insert], i()),
            (vec![insert, delete, put], Some(Entry::Insert(bytes("p")))),
            (vec![insert, delete, lock], Some(Entry::Absent)),
            (vec![delete, insert], Some(Entry::Put(bytes("i")))),
            (vec![delete, delete], Some(Entry::Delete)),
            (vec![delete, lock], Some(Entry::Delete)),
            (vec![lock, insert], i()),
            (vec![lock, put], p()),
            (vec![lock, delete], Some(Entry::Delete)),
        ];
        for (at, (steps, expected)) in table.into_iter().enumerate() {
            let mut buffer = Buffer::default();
            let ended = steps.iter().try_for_each(|step| step(&mut buffer));
            match expected {
                Some(entry) => assert_eq!(buffer.get(b"k"), Some(&entry), "line {at}"),
                None => assert!(matches!(ended, Err(Error::AlreadyExists { .. })), "line {at}"),
            }
            assert_eq!(buffer.bytes(), counted(&buffer), "line {at}");
        }
    }

    #[test]
    fn marks_nest_and_take_back_exactly_what_follows_them() {
        let mut buffer = Buffer::default();
        buffer.put(bytes("a"), bytes("1"));
        let before = dump(&buffer);
        let outer = buffer.mark();
        buffer.put(bytes("a"), bytes("22"));
        buffer.delete(bytes("b"));
        let middle = dump(&buffer);
        let inner = buffer.mark();
        buffer.insert(bytes("c"), bytes("333")).expect("new");
        buffer.delete(bytes("a"));
        buffer.rollback_to(inner);
        assert_eq!(dump(&buffer), middle);
        assert_eq!(buffer.bytes(), counted(&buffer));
        buffer.rollback_to(outer);
        assert_eq!(dump(&buffer), before);
        assert_eq!(buffer.bytes(), counted(&buffer));
        assert_eq!(buffer.undo_bytes(), 0, "nothing is kept for marks that ended");
        let kept = buffer.mark();
        buffer.put(bytes("d"), bytes("4"));
        buffer.release(kept);
        assert_eq!(buffer.len(), 2);
        assert!(buffer.undo.is_empty());
        assert_eq!(buffer.undo_bytes(), 0);
    }

    #[test]
    fn what_is_kept_for_marks_is_counted() {
        let mut buffer = Buffer::default();
        buffer.put(bytes("k"), vec![0; 10]);
        assert_eq!(buffer.undo_bytes(), 0);
        let mark = buffer.mark();
        (0..3).for_each(|_| buffer.put(bytes("k"), vec![0; 10]));
        assert_eq!((buffer.bytes(), buffer.undo_bytes()), (11, 33));
        let inner = buffer.mark();
        buffer.delete(bytes("new"));
        assert_eq!(buffer.undo_bytes(), 33 + 3);
        buffer.rollback_to(inner);
        assert_eq!(buffer.undo_bytes(), 33);
        buffer.rollback_to(mark);
        assert_eq!(buffer.undo_bytes(), 0);
    }

    #[test]
    fn ranges_may_be_empty_or_open() {
        let mut buffer = Buffer::default();
        ["a", "b", "c"].into_iter().for_each(|key| buffer.delete(bytes(key)));
        let count = |start: &str, end: &str| buffer.range(&KeyRange::new(start, end)).count();
        assert_eq!((count("", ""), count("b", ""), count("a", "c")), (3, 2, 2));
        assert_eq!((count("c", "a"), count("b", "b"), count("x", "")), (0, 0, 0));
    }
}
