//! ALTER TABLE, CREATE INDEX, DROP INDEX. Actions that only change the schema are made together in
//! one catalog transaction; then indexes are filled. It must never change what stored rows mean:
//! a change of type is allowed only where every old value has the same stored form.

use super::{Ddl, backfill, build, checks, table_of};
use crate::catalog::Change;
use crate::catalog::checks::Check;
use crate::catalog::ids::Counter;
use crate::dml::Checks;
use crate::error::{Error, Result};
use crate::failure;
use crate::session::Level;
use crate::statement::check::{CheckDef, condition};
use crate::statement::ddl::FOREIGN_KEY;
use crate::statement::{AlterAction, ColumnDef, KeyDef, KeyKind, Position, TableName};
use crate::value::Rules;
use damask_types::schema::{DefaultValue, IndexState};
use damask_types::{ColumnId, ColumnType, IndexId, TableId, TableSchema};
use std::sync::Arc;

/// What is left to do after the schema has changed.
#[derive(Default)]
struct Work {
    table: TableId,
    added: Vec<IndexId>,
    dropped: Vec<IndexId>,
    counter: Option<u64>,
    notes: Vec<(Level, u16, String)>,
}

/// Runs the actions.
pub fn run(ddl: &mut Ddl<'_>, name: &TableName, actions: &[AlterAction]) -> Result<()> {
    let (database, name) = ddl.full_name(name)?;
    let (now_us, offset_us) = (ddl.now_us, ddl.offset_us);
    let client = ddl.client;
    let replicas = Replicas::place(ddl, &database, &name, actions)?;
    let work = ddl.catalog.change(|change| {
        let before = table_of(change, &database, &name)?;
        let mut work = Work { table: before.id, ..Work::default() };
        let (checks, not_null) = (change.view.checks(before.id).to_vec(), Vec::new());
        let work_left = &mut work;
        let mut edit =
            Edit { change, before, work: work_left, client, now_us, offset_us, not_null, checks };
        edit.all(actions)?;
        Ok(work)
    });
    let work = work.inspect_err(|_| replicas.back(ddl))?;
    for (level, code, message) in &work.notes {
        ddl.warnings.push(*level, *code, message.clone());
    }
    if let Some(next) = work.counter {
        // Never back: values up to `next` may be in rows, and MySQL raises it to their maximum.
        ddl.catalog.ids().advance(work.table, Counter::AutoIncrement, next.max(1) - 1)?;
    }
    work.dropped.iter().for_each(|index| ddl.collector.index(work.table, *index));
    fill(ddl, &work)
}

/// Placement is asked before the catalog changes: what it refuses changes nothing. What a crash
/// leaves between the two is put right at the next start ([`super::place_replicas`]).
struct Replicas {
    table: TableId,
    /// What was before; `None`: the statement is not about replicas.
    before: Option<u32>,
}

impl Replicas {
    fn place(ddl: &Ddl<'_>, db: &str, name: &str, actions: &[AlterAction]) -> Result<Replicas> {
        let wanted = actions.iter().rev().find_map(|action| match action {
            AlterAction::SetColumnReplica(replicas) => Some(*replicas),
            _ => None,
        });
        match (wanted, ddl.catalog.view().table(db, name)) {
            (Some(wanted), Some(table)) => {
                super::set_replicas(ddl.replicas.as_ref(), table.id, wanted)?;
                Ok(Replicas { table: table.id, before: Some(table.column_replicas) })
            }
            // The change itself says that there is no such table.
            _ => Ok(Replicas { table: TableId(0), before: None }),
        }
    }

    /// The catalog was not changed.
    fn back(&self, ddl: &Ddl<'_>) {
        let Some(before) = self.before else { return };
        if let Err(error) = super::set_replicas(ddl.replicas.as_ref(), self.table, before) {
            tracing::warn!(%error, "column replicas of an unchanged table");
        }
    }
}

/// Fills new indexes; on failure all of them are removed again.
fn fill(ddl: &Ddl<'_>, work: &Work) -> Result<()> {
    for index in &work.added {
        let filled = backfill::run(ddl.catalog, ddl.client, &ddl.interrupt, work.table, *index);
        if let Err(error) = filled {
            let removed = ddl.catalog.change(|change| {
                let Some(table) = change.view.table_by_id(work.table) else { return Ok(()) };
                let mut table = TableSchema::clone(&table);
                table.indexes.retain(|i| !work.added.contains(&i.id));
                table.version += 1;
                change.put(table);
                work.added.iter().for_each(|id| change.drop_index(work.table, *id));
                Ok(())
            });
            work.added.iter().for_each(|id| ddl.collector.index(work.table, *id));
            return removed.and(Err(error));
        }
    }
    if work.added.is_empty() {
        return Ok(());
    }
    // Every entry was committed below this.
    let readable_from = failure::catalog(ddl.client.timestamp())?;
    ddl.catalog.change(|change| {
        let gone = || Error::schema_changed("the index was dropped while it was being filled");
        let mut table = TableSchema::clone(&*change.view.table_by_id(work.table).ok_or_else(gone)?);
        for id in &work.added {
            let index = table.indexes.iter_mut().find(|i| i.id == *id).ok_or_else(gone)?;
            index.state = IndexState::Public;
            index.readable_from = readable_from;
        }
        table.version += 1;
        change.put(table);
        Ok(())
    })
}

/// One table being changed.
struct Edit<'a, 'b> {
    change: &'a mut Change,
    before: Arc<TableSchema>,
    work: &'b mut Work,
    client: &'b damask_txn::Client,
    now_us: i64,
    offset_us: i64,
    /// Columns that become NOT NULL: no row may have a NULL in them.
    not_null: Vec<ColumnId>,
    /// CHECK constraints as they become.
    checks: Vec<Check>,
}

impl Edit<'_, '_> {
    fn all(&mut self, actions: &[AlterAction]) -> Result<()> {
        let mut table = TableSchema::clone(&self.before);
        for action in actions {
            self.one(&mut table, action)?;
        }
        // Keys last: they may be about columns added by the same statement.
        for action in actions {
            if let AlterAction::AddKey { key, if_not_exists } = action {
                self.add_key(&mut table, key, *if_not_exists)?;
            }
        }
        if !self.not_null.is_empty() {
            backfill::check_not_null(self.client, &self.before, &self.not_null)?;
        }
        self.keep_checks(&table, actions)?;
        table.version += 1;
        self.work.dropped.iter().for_each(|id| self.change.drop_index(table.id, *id));
        self.change.put(table);
        Ok(())
    }

    /// Adds CHECK constraints; stored rows must satisfy those that are newly enforced.
    fn keep_checks(&mut self, table: &TableSchema, actions: &[AlterAction]) -> Result<()> {
        let there = |name: &str| self.before.column(name).is_some();
        let defs = actions.iter().flat_map(|action| match action {
            AlterAction::AddCheck(def) => std::slice::from_ref(def),
            AlterAction::AddColumn { column, if_not_exists, .. }
                if !(*if_not_exists && there(&column.name)) =>
            {
                &column.checks
            }
            AlterAction::ChangeColumn { column, .. } => &column.checks,
            _ => &[],
        });
        let defs: Vec<CheckDef> = defs.cloned().collect();
        let view = self.change.view.clone();
        for message in checks::add(&view, table, &mut self.checks, &defs)? {
            self.work.notes.push((Level::Warning, 1235, message));
        }
        let before = view.checks(self.before.id);
        let rules = Rules { strict: true, offset_us: self.offset_us, now_us: self.now_us };
        Checks::new(&self.checks, table, rules)?;
        let new = self.checks.iter().filter(|c| c.enforced && !before.contains(c));
        let new: Vec<Check> = new.cloned().collect();
        if !new.is_empty() {
            checks::check_rows(self.client, table, &Checks::new(&new, table, rules)?)?;
        }
        if self.checks != before {
            self.change.put_checks(table.id, std::mem::take(&mut self.checks));
        }
        Ok(())
    }

    /// A CHECK constraint goes; `any`: or a key of that name, or a foreign key.
    fn drop_check(&mut self, table: &mut TableSchema, name: &str, any: bool) -> Result<()> {
        let is_key = |i: &damask_types::IndexSchema| i.unique && i.name.eq_ignore_ascii_case(name);
        match checks::position(&self.checks, name) {
            Some(at) => drop(self.checks.remove(at)),
            None if any && table.indexes.iter().any(is_key) => {
                return self.drop_key(table, name, false);
            }
            None if any => self.ignore(FOREIGN_KEY),
            None => return Err(checks::not_found(name)),
        }
        Ok(())
    }

    fn enforce_check(&mut self, table: &TableSchema, name: &str, enforced: bool) -> Result<()> {
        let at = checks::position(&self.checks, name).ok_or_else(|| checks::not_found(name))?;
        let simple = crate::dml::is_simple(&condition(&self.checks[at].clause)?, table);
        if enforced && !simple {
            let message = format!("Check constraint '{name}' cannot be enforced");
            return Err(Error::not_supported(message));
        }
        self.checks[at].enforced = enforced;
        Ok(())
    }

    fn ignore(&mut self, what: &str) {
        let message = format!("{what} constraints are parsed and not enforced");
        self.work.notes.push((Level::Warning, 1235, message));
    }

    fn one(&mut self, table: &mut TableSchema, action: &AlterAction) -> Result<()> {
        match action {
            AlterAction::AddColumn { column, position, if_not_exists } => {
                self.add_column(table, column, position, *if_not_exists)
            }
            AlterAction::DropColumn { name, if_exists } => {
                self.drop_column(table, name, *if_exists)
            }
            AlterAction::ChangeColumn { old, column, position } => {
                self.change_column(table, old, column, position.as_ref())
            }
            AlterAction::SetDefault { name, default } => {
                let at = at(table, name)?;
                let column = &table.columns[at];
                let default =
                    build::default(column, default.as_ref(), self.now_us, self.offset_us)?;
                table.columns[at].default = default;
                Ok(())
            }
            AlterAction::RenameColumn { old, new } => {
                let at = at(table, old)?;
                check_rename(table, old, new)?;
                checks::column_goes(&mut self.checks, old, false)?;
                table.columns[at].name.clone_from(new);
                Ok(())
            }
            AlterAction::AddKey { .. } | AlterAction::AddCheck(_) | AlterAction::NoEffect => Ok(()),
            AlterAction::DropCheck { name, any } => self.drop_check(table, name, *any),
            AlterAction::EnforceCheck { name, enforced } => {
                self.enforce_check(table, name, *enforced)
            }
            AlterAction::DropKey { name, if_exists } => self.drop_key(table, name, *if_exists),
            AlterAction::RenameKey { old, new } => rename_key(table, old, new),
            AlterAction::RenameTo(name) => {
                let database = name.database.clone().unwrap_or_else(|| table.database.clone());
                super::check_free(self.change, &database, &name.table, false)?;
                (table.database, table.name) = (database, name.table.clone());
                Ok(())
            }
            AlterAction::SetColumnReplica(replicas) => {
                table.column_replicas = *replicas;
                Ok(())
            }
            AlterAction::Comment(comment) => {
                table.comment.clone_from(comment);
                Ok(())
            }
            AlterAction::AutoIncrement(next) => {
                self.work.counter = Some(*next);
                Ok(())
            }
            AlterAction::Ignored(what) => {
                self.ignore(what);
                Ok(())
            }
        }
    }

    fn add_column(
        &mut self,
        table: &mut TableSchema,
        def: &ColumnDef,
        position: &Position,
        if_not_exists: bool,
    ) -> Result<()> {
        if if_not_exists && table.column(&def.name).is_some() {
            let message = format!("Duplicate column name '{}'", def.name);
            self.work.notes.push((Level::Note, 1060, message));
            return Ok(());
        }
        if def.auto_increment || def.key == Some(KeyKind::Primary) {
            return Err(Error::not_supported(
                "ADD COLUMN with AUTO_INCREMENT or PRIMARY KEY is not supported",
            ));
        }
        let mut column = build::column(table, def, self.now_us, self.offset_us)?;
        column.origin_default = build::origin_default(&column, self.now_us, self.offset_us);
        let place = place(table, position)?;
        table.columns.insert(place, column);
        if def.key == Some(KeyKind::Unique) {
            let columns = vec![def.name.clone()];
            let key = KeyDef { name: None, columns, kind: KeyKind::Unique };
            self.add_key(table, &key, false)?;
        }
        Ok(())
    }

    fn drop_column(&mut self, table: &mut TableSchema, name: &str, if_exists: bool) -> Result<()> {
        let Some(column) = table.column(name) else {
            let message = format!("Can't DROP '{name}'; check that column/key exists");
            if if_exists {
                self.work.notes.push((Level::Note, 1091, message));
                return Ok(());
            }
            return Err(Error::cannot_drop(message));
        };
        let id = column.id;
        if table.columns.len() == 1 {
            let message = "You can't delete all columns with ALTER TABLE; use DROP TABLE instead";
            return Err(Error { code: 1090, state: "42000", message: message.to_owned() });
        }
        let uses = |i: &&damask_types::IndexSchema| i.columns.contains(&id);
        let kept_back = table.handle_column == Some(id)
            || table.indexes.iter().filter(uses).any(|i| i.primary || i.columns.len() > 1);
        if kept_back {
            return Err(Error::not_supported(format!(
                "can't drop column {name}: it is part of the primary key or of an index over \
                 several columns"
            )));
        }
        checks::column_goes(&mut self.checks, name, true)?;
        let dropped = table.indexes.iter().filter(uses).map(|i| i.id);
        self.work.dropped.extend(dropped);
        table.indexes.retain(|i| !i.columns.contains(&id));
        table.columns.retain(|c| c.id != id);
        Ok(())
    }

    fn change_column(
        &mut self,
        table: &mut TableSchema,
        old: &str,
        def: &ColumnDef,
        position: Option<&Position>,
    ) -> Result<()> {
        let from = at(table, old)?;
        check_rename(table, old, &def.name)?;
        if !old.eq_ignore_ascii_case(&def.name) {
            checks::column_goes(&mut self.checks, old, false)?;
        }
        let mut column = table.columns[from].clone();
        if !keeps_values(&column.ty, &def.ty) {
            return Err(Error::not_supported(format!(
                "Unsupported modify column: the stored values of '{old}' would have to change"
            )));
        }
        if def.auto_increment && !column.auto_increment {
            return Err(Error::not_supported("Unsupported modify column: add AUTO_INCREMENT"));
        }
        let in_primary = table.handle_column == Some(column.id)
            || table.indexes.iter().any(|i| i.primary && i.columns.contains(&column.id));
        let nullable = def.nullable.unwrap_or(true) && !in_primary && !def.auto_increment;
        if column.nullable && !nullable {
            self.not_null.push(column.id);
        }
        column.name.clone_from(&def.name);
        column.ty = def.ty.clone();
        column.nullable = nullable;
        column.auto_increment = def.auto_increment;
        column.on_update_now = def.on_update_now;
        column.comment.clone_from(&def.comment);
        column.default =
            build::default(&column, def.default.as_ref(), self.now_us, self.offset_us)?;
        table.columns.remove(from);
        let to = match position {
            None => from,
            Some(position) => place(table, position)?,
        };
        let name = column.name.clone();
        table.columns.insert(to, column);
        if def.key == Some(KeyKind::Unique) {
            let key = KeyDef { name: None, columns: vec![name], kind: KeyKind::Unique };
            self.add_key(table, &key, false)?;
        }
        Ok(())
    }

    fn add_key(
        &mut self,
        table: &mut TableSchema,
        key: &KeyDef,
        if_not_exists: bool,
    ) -> Result<()> {
        if key.kind == KeyKind::Primary {
            if table.handle_column.is_some() || table.indexes.iter().any(|i| i.primary) {
                return Err(Error::multiple_primary_key("Multiple primary key defined"));
            }
            for name in &key.columns {
                let at = at(table, name)?;
                if table.columns[at].nullable {
                    self.not_null.push(table.columns[at].id);
                    table.columns[at].nullable = false;
                    if table.columns[at].default == Some(DefaultValue::Constant(None)) {
                        table.columns[at].default = None;
                    }
                }
            }
        }
        let taken = |name: &String| table.indexes.iter().any(|i| i.name.eq_ignore_ascii_case(name));
        if if_not_exists && key.name.as_ref().is_some_and(taken) {
            let message = format!("Duplicate key name '{}'", key.name.as_deref().unwrap_or(""));
            self.work.notes.push((Level::Note, 1061, message));
            return Ok(());
        }
        let id = build::add_index(table, key, IndexState::WriteOnly)?;
        self.work.added.push(id);
        Ok(())
    }

    fn drop_key(&mut self, table: &mut TableSchema, name: &str, if_exists: bool) -> Result<()> {
        if name.eq_ignore_ascii_case("primary") && table.handle_column.is_some() {
            return Err(Error::not_supported("Unsupported drop of a clustered primary key"));
        }
        let found = table.indexes.iter().position(|i| i.name.eq_ignore_ascii_case(name));
        let Some(found) = found else {
            let message = format!("Can't DROP '{name}'; check that column/key exists");
            if if_exists {
                self.work.notes.push((Level::Note, 1091, message));
                return Ok(());
            }
            return Err(Error::cannot_drop(message));
        };
        let index = table.indexes.remove(found);
        let first = index.columns[0];
        let counter = table.columns.iter().any(|c| c.id == first && c.auto_increment);
        let others = table.indexes.iter().any(|i| i.columns[0] == first);
        if counter && !others && table.handle_column != Some(first) {
            let message = "Incorrect table definition; there can be only one auto column and it \
                           must be defined as a key";
            return Err(Error { code: 1075, state: "42000", message: message.to_owned() });
        }
        self.work.dropped.push(index.id);
        Ok(())
    }
}

fn at(table: &TableSchema, name: &str) -> Result<usize> {
    let found = table.columns.iter().position(|c| c.name.eq_ignore_ascii_case(name));
    found.ok_or_else(|| {
        Error::unknown_column(format!("Unknown column '{name}' in '{}'", table.name))
    })
}

fn check_rename(table: &TableSchema, old: &str, new: &str) -> Result<()> {
    build::check_name(new)?;
    if !old.eq_ignore_ascii_case(new) && table.column(new).is_some() {
        return Err(Error::duplicate_column(format!("Duplicate column name '{new}'")));
    }
    Ok(())
}

fn place(table: &TableSchema, position: &Position) -> Result<usize> {
    match position {
        Position::Last => Ok(table.columns.len()),
        Position::First => Ok(0),
        Position::After(name) => Ok(at(table, name)? + 1),
    }
}

fn rename_key(table: &mut TableSchema, old: &str, new: &str) -> Result<()> {
    build::check_name(new)?;
    let missing = || Error {
        code: 1176,
        state: "42000",
        message: format!("Key '{old}' doesn't exist in table '{}'", table.name),
    };
    let found = table.indexes.iter().position(|i| i.name.eq_ignore_ascii_case(old));
    let found = found.filter(|at| !table.indexes[*at].primary).ok_or_else(missing)?;
    let taken = |i: &damask_types::IndexSchema| i.name.eq_ignore_ascii_case(new);
    if !old.eq_ignore_ascii_case(new) && table.indexes.iter().any(taken) {
        return Err(Error::duplicate_key_name(format!("Duplicate key name '{new}'")));
    }
    table.indexes[found].name = new.to_owned();
    Ok(())
}

/// Has every value of the old type the same stored form and meaning in the new one?
fn keeps_values(old: &ColumnType, new: &ColumnType) -> bool {
    use ColumnType::{Blob, VarBinary};
    use ColumnType::{
        Bool, Char, DateTime, Decimal, Double, Float, Int, Text, Time, Timestamp, VarChar,
    };
    match (old, new) {
        (a, b) if a == b => true,
        (Bool, Int { unsigned: false, .. }) => true,
        (Int { width: a, unsigned: x }, Int { width: b, unsigned: y }) => x == y && a <= b,
        (Float, Double) => true,
        (Decimal { precision: a, scale: x }, Decimal { precision: b, scale: y }) => {
            x == y && a <= b
        }
        (Char { len: a } | VarChar { len: a }, Char { len: b } | VarChar { len: b }) => {
            a <= b && !(matches!(old, VarChar { .. }) && matches!(new, Char { .. }))
        }
        (Char { len } | VarChar { len }, Text { bytes_max }) => {
            u64::from(*len) * 4 <= u64::from(*bytes_max)
        }
        (Text { bytes_max: a }, Text { bytes_max: b })
        | (Blob { bytes_max: a }, Blob { bytes_max: b }) => a <= b,
        (VarBinary { len: a }, VarBinary { len: b }) => a <= b,
        (VarBinary { len }, Blob { bytes_max }) => len <= bytes_max,
        (DateTime { fsp: a }, DateTime { fsp: b })
        | (Timestamp { fsp: a }, Timestamp { fsp: b })
        | (Time { fsp: a }, Time { fsp: b }) => a <= b,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use damask_types::schema::IntWidth;

    /// A column store meets rows of the old type and of the new one in one column.
    #[test]
    fn a_kept_value_is_stored_alike_in_columns() {
        let decimal = |precision| ColumnType::Decimal { precision, scale: 2 };
        let int = |width| ColumnType::Int { width, unsigned: true };
        let types = [
            (ColumnType::Bool, ColumnType::Int { width: IntWidth::Big, unsigned: false }),
            (int(IntWidth::Tiny), int(IntWidth::Big)),
            (ColumnType::Float, ColumnType::Double),
            (decimal(12), decimal(38)),
            (ColumnType::Char { len: 3 }, ColumnType::Text { bytes_max: u32::MAX }),
            (ColumnType::VarBinary { len: 3 }, ColumnType::Blob { bytes_max: u32::MAX }),
            (ColumnType::DateTime { fsp: 0 }, ColumnType::DateTime { fsp: 6 }),
            (ColumnType::Time { fsp: 0 }, ColumnType::Time { fsp: 6 }),
        ];
        for (old, new) in &types {
            assert!(keeps_values(old, new), "{old:?} to {new:?}");
            let stored = damask_coprocessor::storage_type;
            assert_eq!(stored(old), stored(new), "{old:?} to {new:?}");
        }
    }

    #[test]
    fn only_widening_keeps_values() {
        let int = |width, unsigned| ColumnType::Int { width, unsigned };
        assert!(keeps_values(&int(IntWidth::Normal, false), &int(IntWidth::Big, false)));
        assert!(!keeps_values(&int(IntWidth::Big, false), &int(IntWidth::Normal, false)));
        assert!(!keeps_values(&int(IntWidth::Normal, false), &int(IntWidth::Big, true)));
        let varchar = |len| ColumnType::VarChar { len };
        assert!(keeps_values(&varchar(10), &varchar(255)));
        assert!(!keeps_values(&varchar(10), &varchar(9)));
        assert!(!keeps_values(&varchar(10), &ColumnType::Char { len: 20 }));
        assert!(!keeps_values(&ColumnType::Double, &ColumnType::Float));
        assert!(!keeps_values(&ColumnType::Date, &ColumnType::DateTime { fsp: 0 }));
    }
}
