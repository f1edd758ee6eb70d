//! What a query may ask of the session it runs in: plain values, copied when a statement starts,
//! and the sign that tells it to end. It must never reach back into the session.

use crate::interrupt::Interrupt;
use crate::session::{NamedLocks, Notes};
use damask_types::Datum;
use std::collections::HashMap;
use std::sync::Arc;

/// Facts of one session at the start of a statement.
#[derive(Clone, Debug, Default)]
pub struct SessionFacts {
    /// The user name, without the host.
    pub user: String,
    /// Where the client connects from.
    pub host: String,
    /// CONNECTION_ID().
    pub connection_id: u32,
    /// LAST_INSERT_ID().
    pub last_insert_id: u64,
    /// ROW_COUNT() of the statement before; -1 after one that returned rows.
    pub row_count: i64,
    /// FOUND_ROWS() of the statement before.
    pub found_rows: u64,
    /// NOW(): UTC microseconds since 1970, one value for the whole statement.
    pub now_us: i64,
    /// `@x` by lower-case name, without the `@`.
    pub user_variables: HashMap<String, Datum>,
    /// Division by zero is an error, not NULL: the statement changes rows under such a mode.
    pub strict_division: bool,
    /// Tells the statement to end.
    pub interrupt: Arc<Interrupt>,
    /// Warnings of what runs for the statement.
    pub notes: Arc<Notes>,
    /// GET_LOCK's.
    pub named_locks: Arc<NamedLocks>,
}

impl SessionFacts {
    /// USER() and CURRENT_USER(): `user@host`.
    pub fn user_at_host(&self) -> String {
        format!("{}@{}", self.user, self.host)
    }
}
