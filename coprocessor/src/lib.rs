//! The read path, both ends: scans beside the data, by region, on rows and on columns, and the
//! client that spreads them. It must never know SQL text, and never decide a transaction's fate.
//!
//! ```text
//!   plan:   … ◄─ Final aggregate ◄─ exchange ◄─ Fragment[ Partial aggregate ◄─ RegionScan ]
//!                                                   │      or, on columns: [ Fold ]
//!                                                   │ units: (region, ranges), a shared queue
//!   Dispatch ── locate ──► unit ── wire ──► Endpoint ── read index, snapshot, lock check ──► parts
//!       ▲                                   RowEndpoint    (leader, engine snapshot)
//!       └─ region error: reroute            ColumnEndpoint (learner, column snapshot)
//!          locks: ResolveLocks, again
//! ```
//!
//! Invariants:
//! * an endpoint checks locks before it returns a part, so a part that was opened never meets one;
//! * every row of a range is returned by exactly one part, whatever splits meanwhile: a unit that
//!   fails is located again and returns nothing before it succeeds as a whole;
//! * a fragment holds only operators that need no row of another partition;
//! * what a store filters or folds itself (`push`, `fold`) gives what the operators would give;
//!   what it declines is scanned.
//!
//! Reading order: `spec`, `decode`, `rows`, `columns`, `dispatch`, `push`, `scan`, `lookup`,
//! `fold`, `fragment`.

pub mod columns;
pub mod decode;
pub mod dispatch;
pub mod fold;
pub mod fragment;
pub mod lookup;
mod push;
mod queue;
pub mod rows;
pub mod scan;
pub mod spec;
pub mod testing;
#[cfg(test)]
mod tests;

pub use columns::ColumnEndpoint;
pub use damask_deltatree::types::{arrow_type, storage_type};
pub use decode::{ColumnBuilder, RowBatchBuilder};
pub use dispatch::{Dispatch, DispatchError, Endpoints, Folded, Opened, ResolveLocks, Unit};
pub use fold::FoldExec;
pub use fragment::{CutFragments, FragmentExec};
pub use lookup::IndexLookupExec;
pub use rows::{Admission, RowEndpoint};
pub use scan::{RegionScanExec, ScanPlan};
pub use spec::{
    Endpoint, EndpointError, FoldWork, MaskedPart, Part, PruneBound, RegionContext, ScanColumn,
    ScanSpec, Source,
};
