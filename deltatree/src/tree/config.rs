//! DeltaTree's numbers, as plain data. It must never read anything from outside.

use crate::error::{Error, Result};
use damask_types::ErrorKind;

/// How a DeltaTree behaves. Every field has a unit and a reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Rows in a stable pack: the unit of pruning, checksums and masks. 8192 rows of an 8-byte
    /// column are 64 KiB, which stays in the L2 cache while it is worked on.
    pub pack_rows: usize,
    /// Bytes after which a pack is closed early: wide rows must not make a pack that does not
    /// fit 32-bit string offsets, nor a merge that needs unbounded memory.
    pub pack_bytes_max: usize,
    /// Rows of a segment after which a merge starts the next one: a merge rewrites one segment,
    /// so this bounds its cost, while large segments keep the number of files low.
    pub segment_rows_max: u64,
    /// Rows of a delta chunk up to which small batches are joined: a read looks once into each
    /// chunk, and pays for that in a short range above all. A row is copied once more for each
    /// factor of 8.
    pub chunk_rows: usize,
    /// Delta rows of a segment below which it is not merged: a small delta costs reads less
    /// than the rewrite costs the disk.
    pub merge_rows_min: u64,
    /// Delta rows per 100 stable rows from which a segment is merged. Write amplification is
    /// about `1 + (100 + n) / n`; 25 gives 6.
    pub merge_percent: u64,
    /// Bytes of the delta of the whole store at which `apply` asks the caller to come back
    /// after `maintain`: bounded memory.
    pub delta_bytes_max: u64,
    /// Bytes of one delta log file: the unit in which the log is removed.
    pub log_file_bytes: u64,
    /// Bytes of all delta logs from which segments are merged merely to let the oldest log go:
    /// bounds disk use and the time of recovery.
    pub log_bytes_max: u64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            pack_rows: 8192,
            pack_bytes_max: 64 << 20,
            segment_rows_max: 2 << 20,
            chunk_rows: 65_536,
            merge_rows_min: 65_536,
            merge_percent: 25,
            delta_bytes_max: 4 << 30,
            log_file_bytes: 64 << 20,
            log_bytes_max: 1 << 30,
        }
    }
}

impl Config {
    /// Small numbers, so that tests see many packs, segments, merges and log files.
    pub fn small() -> Config {
        Config {
            pack_rows: 16,
            pack_bytes_max: 1 << 16,
            segment_rows_max: 100,
            chunk_rows: 12,
            merge_rows_min: 20,
            merge_percent: 25,
            delta_bytes_max: 64 << 20,
            log_file_bytes: 16 << 10,
            log_bytes_max: 64 << 10,
        }
    }

    /// Explains what is wrong with the numbers.
    pub fn validate(&self) -> Result<()> {
        let wrong = |text: &str| Err(Error::new("config", ErrorKind::Invalid, text));
        if self.pack_rows == 0 || self.pack_rows > 65_536 {
            return wrong("pack_rows must be 1..=65536: positions in a pack are 16 bits");
        }
        if self.pack_bytes_max < 4096 || self.pack_bytes_max > 1 << 30 {
            return wrong("pack_bytes_max must be 4 KiB..=1 GiB: string offsets are 31 bits");
        }
        if self.segment_rows_max < self.pack_rows as u64 || self.segment_rows_max > 1 << 31 {
            return wrong("segment_rows_max must be pack_rows..=2^31: row ids are 32 bits");
        }
        if self.chunk_rows == 0 || self.merge_percent == 0 {
            return wrong("chunk_rows and merge_percent must not be 0");
        }
        if self.log_file_bytes == 0 || self.log_bytes_max < self.log_file_bytes {
            return wrong("log_bytes_max must be at least log_file_bytes, which must not be 0");
        }
        Ok(())
    }
}
