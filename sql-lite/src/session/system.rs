//! `information_schema` and its like, as the query engine asks for them.

use crate::outcome::ColumnMeta;
use crate::query::SystemTables;
use crate::{information_schema, show};
use damask_types::Datum;

/// System tables as one session sees them.
pub struct System<'a>(pub &'a show::Context<'a>);

impl SystemTables for System<'_> {
    fn table(&self, database: &str, name: &str) -> Option<(Vec<ColumnMeta>, Vec<Vec<Datum>>)> {
        information_schema::system_table(self.0, database, name)
    }
}
