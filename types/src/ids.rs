//! Identifiers as newtypes, so that a store is never mistaken for a region.
//! They are values only: allocation belongs to the placement driver.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A region: one Raft group. 0 is never a region.
    RegionId, u64);
id!(
    /// A replica of a region on one store; also its id inside Raft. Never reused.
    PeerId, u64);
id!(
    /// A process (or thread group) that holds replicas.
    StoreId, u64);
id!(
    /// A table. Positive; ids below 100 are reserved for the system.
    TableId, i64);
id!(
    /// A column of a table; never reused within the table.
    ColumnId, i64);
id!(
    /// An index of a table; never reused within the table.
    IndexId, i64);
