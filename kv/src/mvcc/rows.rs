//! A block of pairs in two flat buffers, so that a scan allocates per block and not per row.
//! It must never outgrow what `u32` offsets can address; scans stop long before.

/// Keys and values in the order they were pushed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    pub(super) keys: Vec<u8>,
    pub(super) values: Vec<u8>,
    ends: Vec<(u32, u32)>,
}

impl Rows {
    /// How many pairs.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// No pairs.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> usize {
        self.keys.len() + self.values.len()
    }

    /// Forgets the pairs and keeps the memory.
    pub fn clear(&mut self) {
        self.keys.clear();
        self.values.clear();
        self.ends.clear();
    }

    /// The pair at `i`, which must be below `len()`.
    pub fn get(&self, i: usize) -> (&[u8], &[u8]) {
        let (key, value) = if i == 0 { (0, 0) } else { self.ends[i - 1] };
        let (key_end, value_end) = self.ends[i];
        (
            &self.keys[key as usize..key_end as usize],
            &self.values[value as usize..value_end as usize],
        )
    }

    /// All pairs: (user key, value).
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> + '_ {
        (0..self.len()).map(|i| self.get(i))
    }

    /// Adds a pair.
    pub fn push(&mut self, key: &[u8], value: &[u8]) {
        self.keys.extend_from_slice(key);
        self.values.extend_from_slice(value);
        self.seal();
    }

    /// Makes a pair of what was appended to the buffers since the last one.
    pub(super) fn seal(&mut self) {
        self.ends.push((self.keys.len() as u32, self.values.len() as u32));
    }

    /// Drops what was appended since the last pair.
    pub(super) fn unseal(&mut self) {
        let (keys, values) = self.ends.last().copied().unwrap_or((0, 0));
        self.keys.truncate(keys as usize);
        self.values.truncate(values as usize);
    }
}
