//! Hybrid timestamps: milliseconds since 1970 in the high 46 bits, a counter in the low 18
//! (paper §5.1; PD's `maxLogical`). It must never read a clock: the oracle does.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Bits of the logical counter.
pub const LOGICAL_BITS: u32 = 18;
/// Timestamps that fit into one millisecond.
pub const LOGICAL_MAX: u64 = 1 << LOGICAL_BITS;

/// A point in the cluster's time, unique and totally ordered.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// "None": earlier than every timestamp that an oracle gives out.
    pub const ZERO: Timestamp = Timestamp(0);
    /// "The latest committed": point reads only; never a start or commit timestamp.
    pub const MAX: Timestamp = Timestamp(u64::MAX);

    /// Composes a timestamp. `logical` must be below [`LOGICAL_MAX`].
    pub fn compose(physical_ms: u64, logical: u64) -> Timestamp {
        debug_assert!(logical < LOGICAL_MAX);
        Timestamp((physical_ms << LOGICAL_BITS) | logical)
    }

    /// Milliseconds since 1970-01-01 UTC.
    pub fn physical_ms(self) -> u64 {
        self.0 >> LOGICAL_BITS
    }

    /// Position within the millisecond.
    pub fn logical(self) -> u64 {
        self.0 & (LOGICAL_MAX - 1)
    }

    /// The smallest timestamp above this one; [`Timestamp::MAX`] stays.
    pub fn next(self) -> Timestamp {
        Timestamp(self.0.saturating_add(1))
    }

    /// The largest timestamp below this one; [`Timestamp::ZERO`] stays.
    pub fn prev(self) -> Timestamp {
        Timestamp(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
