//! The store: what is in memory, when it becomes fragments, and in which order that is written
//! down. It must never acknowledge a `sync` whose manifest is not durable.

use crate::compact::{needed, pick, without};
use crate::dataset::{
    Marks, StoredFragment, Version, another_type, data_name, lance_schema, read_deletions,
    write_deletions,
};
use crate::file::{DELETED, DataFile, DataWriter, HANDLE, OWN, VERSION, corrupt, io_error};
use crate::rows::{
    Place, Run, Source, carry_ends, gather, gathered, link, memory_column, merged, order,
    own_columns,
};
use crate::snapshot::LanceSnapshot;
use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::{Field, Int64Type, Schema, SchemaRef, UInt64Type};
use damask_deltatree::{
    ChangeBatch, ColumnSnapshot, ColumnStore, Error, HandleRange, Mark, Result, RowsIter,
    TableStats, Written, plain,
};
use damask_env::Disk;
use damask_types::{ErrorKind, TableId, Timestamp};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The list of tables: their numbers, and a checksum.
const TABLES: &str = "tables";
/// The dataset of marks that are synced while no table has changed.
const HOME: &str = "marks.lance";
/// `apply` refuses rows when so many times `memory_rows_max` wait in memory.
const MEMORY_FACTOR: usize = 8;
/// Rows that are gathered at a time when a file is written.
const GATHER_ROWS: usize = 1 << 20;

/// How the store behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LanceConfig {
    /// Rows in memory above which `maintain` and `ingest` write them though nobody synced: memory
    /// stays bounded.
    pub memory_rows_max: usize,
}

impl Default for LanceConfig {
    fn default() -> LanceConfig {
        LanceConfig { memory_rows_max: 1 << 20 }
    }
}

impl LanceConfig {
    /// Small numbers, so that tests see many fragments.
    pub fn small() -> LanceConfig {
        LanceConfig { memory_rows_max: 100 }
    }
}

struct Table {
    version: Version,
    /// The user columns, those of rows in memory included.
    columns: SchemaRef,
    stored: Vec<Arc<Run>>,
    memory: Vec<Arc<Run>>,
    /// So many runs of memory are being written, and stay as they are.
    sealed: usize,
    /// Rows in files were removed since the last commit.
    cleared: bool,
}

impl Table {
    fn of(version: Version) -> Table {
        let (columns, none) = (version.columns.clone(), Vec::new);
        Table { version, columns, stored: none(), memory: none(), sealed: 0, cleared: false }
    }

    fn runs(&self) -> Vec<Arc<Run>> {
        self.stored.iter().chain(&self.memory).cloned().collect()
    }

    fn memory_rows(&self) -> usize {
        self.memory.iter().map(|run| run.len()).sum()
    }

    /// Takes new columns in; refuses those that had another type, or a name of the store's own.
    fn take_columns(&mut self, batch: &Schema) -> Result<()> {
        let mut fields = self.columns.fields().to_vec();
        for field in batch.fields() {
            match self.columns.column_with_name(field.name()) {
                _ if [HANDLE, VERSION, DELETED].contains(&field.name().as_str()) => {
                    let detail = format!("{} is no column's name", field.name());
                    return Err(Error::new("apply", ErrorKind::Invalid, detail));
                }
                Some((_, known)) if known.data_type() != field.data_type() => {
                    return Err(another_type(field.name(), known, field));
                }
                Some(_) => {}
                None => fields.push(Arc::new(Field::clone(field).with_nullable(true))),
            }
        }
        if fields.len() > self.columns.fields().len() {
            self.columns = Arc::new(Schema::new(fields));
        }
        Ok(())
    }

    /// Merges the youngest runs of memory while they are of about one size.
    fn merge_young(&mut self) -> Result<()> {
        while self.memory.len() >= self.sealed + 2 {
            let pair = &self.memory[self.memory.len() - 2..];
            if pair[0].shape() != pair[1].shape() || pair[0].len() > 2 * pair[1].len() {
                break;
            }
            let one = merged(pair)?;
            self.memory.truncate(self.memory.len() - 2);
            self.memory.push(Arc::new(one));
        }
        Ok(())
    }
}

/// What only one change at a time touches.
struct Structure {
    marks: Marks,
    /// Syncs that were tried; numbers are never used twice.
    syncs: u64,
    /// Of files and deletion vectors that were begun.
    files: u64,
    home: Version,
    listed: BTreeSet<u64>,
}

/// The store. Locks in this order: `structure` (what is on the disk), `tables`.
pub struct LanceStore {
    disk: Arc<dyn Disk>,
    config: LanceConfig,
    structure: Mutex<Structure>,
    tables: Mutex<BTreeMap<TableId, Table>>,
    written: Mutex<Written>,
}

/// A file written for runs of memory or of old files, and where its rows were.
struct NewFile {
    file: Arc<DataFile>,
    /// Among the runs of memory, or those compacted.
    sources: Vec<usize>,
    places: Vec<Place>,
}

fn folder(table: TableId) -> String {
    format!("t{}.lance", table.0)
}

fn read_tables(disk: &dyn Disk) -> Result<BTreeSet<u64>> {
    let content = match disk.map(TABLES) {
        Ok(content) => content,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(e) => return Err(io_error("open", TABLES, &e)),
    };
    let wrong = || corrupt(TABLES, "the checksum is wrong");
    let text = std::str::from_utf8(&content).map_err(|_| wrong())?;
    let (list, crc) = text.rsplit_once(' ').ok_or_else(wrong)?;
    if format!("{:08x}", crc32fast::hash(list.as_bytes())) != crc {
        return Err(wrong());
    }
    list.split(' ').skip(1).map(|id| id.parse().map_err(|_| wrong())).collect()
}

fn open_table(disk: &dyn Disk, version: Version) -> Result<Table> {
    let mut table = Table::of(version);
    for stored in &table.version.fragments {
        let file = Arc::new(DataFile::open(disk, stored.data.clone(), stored.fragment)?);
        let [handles, versions, deleted] = [file.column(0)?, file.column(1)?, file.column(2)?];
        if file.rows() != stored.rows || handles.len() != stored.rows {
            return Err(corrupt(&stored.data.name, "rows are missing"));
        }
        let mut run = Run::new(
            handles.as_primitive::<Int64Type>().values().clone(),
            versions.as_primitive::<UInt64Type>().values().clone(),
            deleted.as_boolean().values().clone(),
            Source::File(file),
        );
        if let Some(deletions) = &stored.deletions {
            read_deletions(disk, deletions, &mut run)?;
        }
        table.stored.push(Arc::new(run));
    }
    let places = order(&table.stored, |_, _| true);
    for pair in places.windows(2) {
        let [(run, row), (next, next_row)] =
            [pair[0], pair[1]].map(|p| (p.0 as usize, p.1 as usize));
        if table.stored[run].handles[row] == table.stored[next].handles[next_row] {
            let end = table.stored[next].versions[next_row];
            Arc::make_mut(&mut table.stored[run]).set_end(row, end);
        }
    }
    Ok(table)
}

fn fragment_of(run: &Run) -> u64 {
    match &run.source {
        Source::File(file) => file.fragment,
        Source::Memory(_) => unreachable!("stored runs are in files"),
    }
}

impl LanceStore {
    /// Opens what the disk holds, or begins anew. Reads every file once.
    pub fn open(disk: Arc<dyn Disk>, config: LanceConfig) -> Result<LanceStore> {
        let listed = read_tables(&*disk)?;
        let home = Version::open(&*disk, HOME.to_owned())?;
        let (mut marks, mut tables) = (home.marks.clone(), BTreeMap::new());
        for id in &listed {
            let id = TableId(*id as _);
            let table = open_table(&*disk, Version::open(&*disk, folder(id))?)?;
            if table.version.marks.sync > marks.sync {
                marks = table.version.marks.clone();
            }
            tables.insert(id, table);
        }
        let syncs = marks.sync;
        let structure = Mutex::new(Structure { marks, syncs, files: 0, home, listed });
        let (tables, written) = (Mutex::new(tables), Mutex::default());
        Ok(LanceStore { disk, config, structure, tables, written })
    }

    fn list(&self, structure: &mut Structure, table: TableId) -> Result<()> {
        let id = table.0 as u64;
        if structure.listed.contains(&id) {
            return Ok(());
        }
        let listed: BTreeSet<u64> = structure.listed.iter().copied().chain([id]).collect();
        let list: String = ["tables".to_owned()]
            .into_iter()
            .chain(listed.iter().map(u64::to_string))
            .collect::<Vec<_>>()
            .join(" ");
        let bytes = format!("{list} {:08x}", crc32fast::hash(list.as_bytes()));
        self.disk.replace(TABLES, bytes.as_bytes()).map_err(|e| io_error("sync", TABLES, &e))?;
        structure.listed = listed;
        Ok(())
    }

    /// Writes the rows at `places` of runs of one shape as a new file of the dataset.
    fn write_file(
        &self,
        structure: &mut Structure,
        next: &mut Version,
        runs: &[Arc<Run>],
        places: &[Place],
    ) -> Result<Arc<DataFile>> {
        structure.files += 1;
        let fragment = next.fragment_max.map_or(0, |max| max + 1);
        let name = data_name(&next.folder, fragment, structure.files);
        let shape = runs[0].shape();
        let schema = lance_schema(&next.columns, Some(&shape))?;
        let mut writer = DataWriter::create(&*self.disk, name, &schema)?;
        for part in places.chunks(GATHER_ROWS) {
            for (index, values) in own_columns(runs, part).into_iter().enumerate() {
                writer.column(index, values)?;
            }
        }
        for index in 0..shape.fields().len() {
            let column = |run: &Arc<Run>| match &run.source {
                Source::Memory(_) => Ok(memory_column(run, index)),
                Source::File(file) => file.column(OWN + index),
            };
            let columns = runs.iter().map(column).collect::<Result<Vec<ArrayRef>>>()?;
            for part in places.chunks(GATHER_ROWS) {
                writer.column(OWN + index, gather(&columns, part)?)?;
            }
        }
        let id = writer.finish()?;
        let file = Arc::new(DataFile::open(&*self.disk, id, fragment)?);
        next.fragment_max = Some(fragment);
        next.fragments.push(StoredFragment {
            fragment,
            data: file.id.clone(),
            rows: file.rows(),
            shape,
            deletions: None,
        });
        Ok(file)
    }

    /// The files' names are durable, then the version; counts its bytes.
    fn commit(&self, next: &Version) -> Result<()> {
        let data = format!("{}/data", next.folder);
        self.disk.sync_folder(&data).map_err(|e| io_error("sync", &data, &e))?;
        let bytes = next.commit(&*self.disk)?;
        self.written.lock().manifest += bytes;
        Ok(())
    }

    /// Writes the rows of a table that are in memory, and its removed rows, as its next version.
    fn flush(&self, structure: &mut Structure, table: TableId, marks: Marks) -> Result<()> {
        let flushed = self.try_flush(structure, table, marks);
        if flushed.is_err() {
            self.tables.lock().get_mut(&table).expect("it is flushed").sealed = 0;
        }
        flushed
    }

    fn try_flush(&self, structure: &mut Structure, id: TableId, marks: Marks) -> Result<()> {
        // first: only listed folders are opened, and rid of what a crash leaves in them
        self.list(structure, id)?;
        let (before, columns, stored, memory) = {
            let mut tables = self.tables.lock();
            let table = tables.get_mut(&id).expect("it is flushed");
            table.sealed = table.memory.len();
            let memory = table.memory.clone();
            (table.version.clone(), table.columns.clone(), table.stored.clone(), memory)
        };
        let mut next = Version { number: before.number + 1, columns, marks, ..before.clone() };
        next.fragments.clear();
        for run in stored.iter().filter(|run| run.live_rows() > 0) {
            let fragment = fragment_of(run);
            let found = before.fragments.iter().find(|f| f.fragment == fragment);
            let mut found = found.expect("a stored run has a fragment").clone();
            if let Some(dead) = run.dead.as_ref().filter(|_| run.dead_changed) {
                structure.files += 1;
                let number = structure.files;
                let deletions = write_deletions(&*self.disk, &before, fragment, dead, number)?;
                self.written.lock().manifest += deletions.id.bytes;
                found.deletions = Some(deletions);
            }
            next.fragments.push(found);
        }
        let files = self.write_memory(structure, &mut next, &memory)?;
        self.commit(&next)?;
        let built = files.into_iter().map(|new| {
            let sources: Vec<_> = new.sources.iter().map(|at| memory[*at].clone()).collect();
            (gathered(&sources, &new.places, Source::File(new.file.clone())), new)
        });
        let built: Vec<(Run, NewFile)> = built.collect();
        let mut tables = self.tables.lock();
        let table = tables.get_mut(&id).expect("it is flushed");
        table.stored.retain(|run| run.live_rows() > 0);
        for run in table.stored.iter_mut().filter(|run| run.dead_changed) {
            Arc::make_mut(run).dead_changed = false;
        }
        for (mut run, new) in built {
            // rows may have been replaced while they were written
            let now: Vec<_> = new.sources.iter().map(|at| table.memory[*at].clone()).collect();
            carry_ends(&mut run, &now, &new.places);
            table.stored.push(Arc::new(run));
        }
        table.memory.drain(..table.sealed);
        (table.sealed, table.cleared, table.version) = (0, false, next.clone());
        drop(tables);
        next.sweep(&*self.disk, &before);
        Ok(())
    }

    /// One file for each shape among runs of memory.
    fn write_memory(
        &self,
        structure: &mut Structure,
        next: &mut Version,
        memory: &[Arc<Run>],
    ) -> Result<Vec<NewFile>> {
        let (mut left, mut files): (Vec<usize>, _) = ((0..memory.len()).collect(), Vec::new());
        while let Some(first) = left.first() {
            let shape = memory[*first].shape();
            let (sources, others): (Vec<usize>, Vec<usize>) =
                left.into_iter().partition(|at| memory[*at].shape() == shape);
            left = others;
            let runs: Vec<_> = sources.iter().map(|at| memory[*at].clone()).collect();
            let places = order(&runs, |_, _| true);
            if !places.is_empty() {
                let file = self.write_file(structure, next, &runs, &places)?;
                self.written.lock().flush += file.id.bytes;
                files.push(NewFile { file, sources, places });
            }
        }
        Ok(files)
    }

    /// Writes some stored runs of a table as one, without garbage.
    fn compact(
        &self,
        structure: &mut Structure,
        id: TableId,
        group: &[usize],
        safe_point: u64,
    ) -> Result<()> {
        let (before, runs) = {
            let tables = self.tables.lock();
            let table = &tables[&id];
            (table.version.clone(), table.runs())
        };
        let sources: Vec<_> = group.iter().map(|at| runs[*at].clone()).collect();
        let others = without(&runs, group);
        let keep = |run: usize, row: usize| needed(&sources[run], row, &others, safe_point);
        let places = order(&sources, keep);
        let mut next = Version { number: before.number + 1, ..before.clone() };
        let gone: Vec<u64> = sources.iter().map(|run| fragment_of(run)).collect();
        next.fragments.retain(|stored| !gone.contains(&stored.fragment));
        let mut new = None;
        if !places.is_empty() {
            let file = self.write_file(structure, &mut next, &sources, &places)?;
            self.written.lock().merge += file.id.bytes;
            new = Some(gathered(&sources, &places, Source::File(file)));
        }
        self.commit(&next)?;
        let mut tables = self.tables.lock();
        let table = tables.get_mut(&id).expect("it is compacted");
        if let Some(mut run) = new {
            let now: Vec<_> = group.iter().map(|at| table.stored[*at].clone()).collect();
            carry_ends(&mut run, &now, &places);
            table.stored.push(Arc::new(run));
        }
        let mut number = 0;
        table.stored.retain(|_| {
            number += 1;
            !group.contains(&(number - 1))
        });
        table.version = next.clone();
        drop(tables);
        next.sweep(&*self.disk, &before);
        Ok(())
    }

    /// Writes a table's rows in memory if they are too many.
    fn relieve(&self, structure: &mut Structure, table: TableId) -> Result<()> {
        let marks = {
            let tables = self.tables.lock();
            let full = tables.get(&table);
            full.filter(|table| table.memory_rows() > self.config.memory_rows_max)
                .map(|table| table.version.marks.clone())
        };
        marks.map_or(Ok(()), |marks| self.flush(structure, table, marks))
    }
}

impl ColumnStore for LanceStore {
    fn apply(&self, batch: &ChangeBatch) -> Result<()> {
        let run = Run::sorted(batch)?;
        if run.len() == 0 {
            return Ok(());
        }
        let mut tables = self.tables.lock();
        let new = || Table::of(Version::empty(folder(batch.table)));
        let table = tables.entry(batch.table).or_insert_with(new);
        if table.memory_rows() >= MEMORY_FACTOR * self.config.memory_rows_max {
            return Err(Error::new("apply", ErrorKind::Retry, "maintain first: memory is full"));
        }
        table.take_columns(&batch.columns.schema())?;
        let Table { stored, memory, .. } = &mut *table;
        if let Some(run) = link(stored.iter_mut().chain(memory).collect(), run)? {
            table.memory.push(Arc::new(run));
            table.merge_young()?;
        }
        self.written.lock().applied += batch.bytes();
        Ok(())
    }

    fn clear(&self, table: TableId, range: HandleRange) -> Result<()> {
        let _structure = self.structure.lock();
        let mut tables = self.tables.lock();
        let Some(table) = tables.get_mut(&table) else { return Ok(()) };
        for run in table.memory.iter_mut().filter(|run| !run.rows_in(range).is_empty()) {
            Arc::make_mut(run).remove(range);
        }
        table.memory.retain(|run| run.live_rows() > 0);
        for run in table.stored.iter_mut().filter(|run| !run.rows_in(range).is_empty()) {
            table.cleared |= Arc::make_mut(run).remove(range);
        }
        Ok(())
    }

    fn sync(&self, marks: &[Mark]) -> Result<()> {
        let mut structure = self.structure.lock();
        let structure = &mut *structure;
        let changed = {
            let tables = self.tables.lock();
            let changed = tables.iter().filter(|(_, t)| !t.memory.is_empty() || t.cleared);
            changed.map(|(id, table)| (*id, table.version.marks.clone())).collect::<Vec<_>>()
        };
        structure.syncs += 1;
        let mut new = Marks { sync: structure.syncs, marks: structure.marks.marks.clone() };
        for (key, bytes) in marks {
            match bytes.is_empty() {
                true => new.marks.remove(key),
                false => new.marks.insert(*key, bytes.clone()),
            };
        }
        // the marks go with the last table: all that they speak of is durable then
        let Some((last, others)) = changed.split_last() else {
            if new.marks != structure.marks.marks {
                let home = structure.home.clone();
                let next = Version { number: home.number + 1, marks: new.clone(), ..home.clone() };
                self.written.lock().manifest += next.commit(&*self.disk)?;
                next.sweep(&*self.disk, &home);
                (structure.home, structure.marks) = (next, new);
            }
            return Ok(());
        };
        for (table, marks) in others {
            self.flush(structure, *table, marks.clone())?;
        }
        self.flush(structure, last.0, new.clone())?;
        structure.marks = new;
        Ok(())
    }

    fn marks(&self) -> Result<Vec<Mark>> {
        let structure = self.structure.lock();
        Ok(structure.marks.marks.iter().map(|(key, bytes)| (*key, bytes.clone())).collect())
    }

    fn snapshot(&self, table: TableId) -> Result<Arc<dyn ColumnSnapshot>> {
        let runs = self.tables.lock().get(&table).map(Table::runs).unwrap_or_default();
        Ok(Arc::new(LanceSnapshot { runs }))
    }

    fn maintain(&self, safe_point: Timestamp, budget_bytes: u64) -> Result<bool> {
        let mut structure = self.structure.lock();
        let ids: Vec<TableId> = self.tables.lock().keys().copied().collect();
        let (mut left, mut more) = (budget_bytes, false);
        for id in ids {
            self.relieve(&mut structure, id)?;
            let (runs, stored) = {
                let tables = self.tables.lock();
                (tables[&id].runs(), tables[&id].stored.len())
            };
            let Some(group) = pick(&runs, stored, safe_point.0) else { continue };
            let bytes = group.iter().map(|at| match &runs[*at].source {
                Source::File(file) => file.id.bytes,
                Source::Memory(_) => 0,
            });
            let bytes: u64 = bytes.sum();
            more = true;
            if bytes <= left {
                left -= bytes;
                self.compact(&mut structure, id, &group, safe_point.0)?;
            }
        }
        Ok(more)
    }

    fn stats(&self, table: TableId) -> Result<TableStats> {
        let tables = self.tables.lock();
        let Some(table) = tables.get(&table) else { return Ok(TableStats::default()) };
        Ok(TableStats {
            stable_rows: table.stored.iter().map(|run| run.live_rows() as u64).sum(),
            delta_rows: table.memory.iter().map(|run| run.live_rows() as u64).sum(),
            disk_bytes: table.version.files().map(|id| id.bytes).sum(),
            memory_bytes: table.runs().iter().map(|run| run.index_bytes()).sum(),
        })
    }

    fn ingest(&self, table: TableId, range: HandleRange, rows: RowsIter<'_>) -> Result<()> {
        let mut relieved = rows.map(|batch| {
            self.relieve(&mut self.structure.lock(), table)?;
            batch
        });
        plain::ingest(self, table, range, &mut relieved)
    }

    fn written(&self) -> Written {
        *self.written.lock()
    }
}
