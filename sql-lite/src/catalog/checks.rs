//! CHECK constraints as the catalog keeps them, beside their table. They must never name a column
//! that the table does not have.

use serde::{Deserialize, Serialize};

/// A CHECK constraint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Unique in its database, without regard to case.
    pub name: String,
    /// The condition, names in backticks: what no row may make FALSE.
    pub clause: String,
    /// Without NOT ENFORCED.
    pub enforced: bool,
}
