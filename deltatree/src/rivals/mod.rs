//! What DeltaTree is measured against, behind the same seam, and tools that wrap any store. It
//! must never be needed by a cluster.
//!
//! ```text
//!  lsm      columnar LSM with universal compaction, in RocksDB or in memory: strong and naive
//!  append   columns without versions: how fast a scan can be
//!  shadow   two stores fed alike, every answer compared
//!  race     the benchmark: one workload, many engines, a report
//! ```

pub mod append;
pub mod lsm;
pub mod race;
pub mod shadow;

pub use append::AppendColumns;
pub use lsm::{LsmColumns, LsmConfig};
pub use shadow::{Differences, ShadowColumns};
