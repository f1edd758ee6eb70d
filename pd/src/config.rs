//! What the planner aims at, and its limits. Plain data; nothing here decides.

use crate::error::{Error, Result};

/// Parts of one split, at most: its command is one entry of a log.
const PARTS_MAX: usize = 256;

/// Aims, tolerances and limits of the planner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Rough bytes above which a region is split (TiKV: 96 MiB; a snapshot of it is one transfer).
    pub region_bytes_max: u64,
    /// Rough versions of rows above which a region is split (TiKV: 960,000, as many as 96 MiB have
    /// of 100 bytes each: a scan or a collection of a region must end in its time).
    pub region_keys_max: u64,
    /// Parts that one split makes of a region that is several times too large, at most (TiKV: ten
    /// keys in a command).
    pub split_parts_max: usize,
    /// Is a region split at the key that its leader names when it has been too busy for long? How
    /// busy that is, and for how long, the store says (`raftstore::LoadConfig`).
    pub split_by_load: bool,
    /// Replicas that vote, where there are enough row stores. Odd.
    pub voters: usize,
    /// Replicas of one store that may wait for a snapshot at a time (PD: 64, on larger machines).
    pub pending_max: usize,
    /// The label whose value no two voters of a region should share (best effort: a replica is
    /// never given up for it). A store without the label is a place of its own.
    pub isolation_label: String,
    /// Free part of a store's disk, in percent, below which it gets no more replicas (PD: 20).
    pub free_percent_min: u64,
    /// Milliseconds of silence after which a store gets nothing new (PD: 20 s).
    pub quiet_ms: u64,
    /// Milliseconds of silence after which a store's replicas are replaced (PD: 30 min).
    pub down_ms: u64,
    /// Milliseconds after the start after which regions that nobody has reported are not waited
    /// for any more: before, a cluster that is only half known would be balanced.
    pub warm_up_ms: u64,
    /// Leaders by which two stores may differ (PD: 5). At least 2.
    pub leader_tolerance: u64,
    /// Percent of the mean by which two stores' bytes may differ.
    pub region_tolerance_percent: u64,
    /// Request units a second above which a region is hot. Half of what a store names a key to
    /// split at for: either half of such a region may be moved.
    pub hot_flow: u64,
    /// Are regions merged? Else merges are neither planned nor ordered.
    pub merge: bool,
    /// Rough bytes below which a region is merged with a neighbour (PD: 54 MiB of 144). Of more
    /// than a quarter of `region_bytes_max` only that quarter counts: what was merged would be
    /// split.
    pub merge_bytes_max: u64,
    /// Rough versions of rows above which a region is not merged (PD: 200,000); likewise only up to
    /// a quarter of `region_keys_max`.
    pub merge_keys_max: u64,
    /// Milliseconds after a split or merge before the next merge (PD: 1 h).
    pub merge_quiet_ms: u64,
    /// Operators in flight that only transfer leaders (PD: 4).
    pub leader_operators_max: usize,
    /// Operators in flight that change replicas (PD: 64).
    pub replica_operators_max: usize,
    /// Operators in flight for hot regions (PD: 4).
    pub hot_operators_max: usize,
    /// Merges in flight (PD: 8).
    pub merge_operators_max: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            region_bytes_max: 96 << 20,
            region_keys_max: 960_000,
            split_parts_max: 11,
            split_by_load: true,
            voters: 3,
            pending_max: 16,
            isolation_label: "host".to_owned(),
            free_percent_min: 20,
            quiet_ms: 20_000,
            down_ms: 30 * 60_000,
            warm_up_ms: 60_000,
            leader_tolerance: 5,
            region_tolerance_percent: 5,
            hot_flow: 1_500,
            merge: true,
            merge_bytes_max: 20 << 20,
            merge_keys_max: 200_000,
            merge_quiet_ms: 3_600_000,
            leader_operators_max: 4,
            replica_operators_max: 64,
            hot_operators_max: 4,
            merge_operators_max: 8,
        }
    }
}

impl Config {
    /// Explains what is wrong.
    pub fn validate(&self) -> Result<()> {
        let invalid = |text: &str| Err(Error::Invalid(text.to_owned()));
        if self.region_bytes_max < 1024 {
            return invalid("region_bytes_max must be at least 1024");
        }
        if self.region_keys_max < 8 {
            return invalid("region_keys_max must be at least 8");
        }
        if self.split_parts_max < 2 || self.split_parts_max > PARTS_MAX {
            return invalid("split_parts_max must be in 2..=256");
        }
        if self.voters == 0 || self.voters.is_multiple_of(2) {
            return invalid("voters must be odd");
        }
        if self.pending_max == 0 {
            return invalid("pending_max must be at least 1");
        }
        if self.leader_tolerance < 2 {
            return invalid("leader_tolerance must be at least 2: below, leaders go to and fro");
        }
        if self.hot_flow == 0 {
            return invalid("hot_flow must be at least 1");
        }
        if self.free_percent_min > 100 {
            return invalid("free_percent_min is a percentage");
        }
        if self.quiet_ms > self.down_ms {
            return invalid("quiet_ms must not be above down_ms");
        }
        Ok(())
    }

    /// Bytes below which a region is merged.
    pub(crate) fn merge_bytes(&self) -> u64 {
        self.merge_bytes_max.min(self.region_bytes_max / 4)
    }

    /// Versions of rows below which a region is merged.
    pub(crate) fn merge_keys(&self) -> u64 {
        self.merge_keys_max.min(self.region_keys_max / 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused() {
        Config::default().validate().expect("the defaults work");
        let bad: [fn(&mut Config); 7] = [
            |c| c.region_keys_max = 0,
            |c| c.split_parts_max = 1,
            |c| c.voters = 2,
            |c| c.leader_tolerance = 1,
            |c| c.free_percent_min = 101,
            |c| c.quiet_ms = c.down_ms + 1,
            |c| c.pending_max = 0,
        ];
        for (i, spoil) in bad.into_iter().enumerate() {
            let mut config = Config::default();
            spoil(&mut config);
            assert!(config.validate().is_err(), "{i}");
        }
    }
}
