//! A Lance dataset: one folder a table, whose newest manifest says what is in it. It must never
//! name a file that is not durable, nor believe a manifest whose checksum is wrong.
//!
//! ```text
//!  t107.lance/
//!    _versions/18446744073709551612.manifest   2^64-1 less the version: the newest sorts first
//!    data/000000000007-3.lance                 fragment 7, third file of this opening
//!    _deletions/7-3-9.bin                      fragment 7 without some rows: a roaring bitmap
//! ```
//!
//! Lance has no checksums and does not sync. So the table metadata of a manifest holds a CRC-32
//! for every file it names, and one for itself (over its bytes with that value as zeros); files
//! are synced before the manifest is written whole, in one durable step: that is the commit. The
//! metadata also holds the marks, so they change with the rows in one step.

use crate::file::{FileId, LanceSchema, OWN, corrupt, io_error, lance_error, own_fields};
use crate::rows::Run;
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{Field, Schema, SchemaRef};
use damask_deltatree::{Error, Result};
use damask_env::Disk;
use damask_types::ErrorKind;
use futures::executor::block_on;
use lance_file::version::ConcreteFileVersion;
use lance_file::versions::v2_1;
use lance_io::object_writer::WriteResult;
use lance_io::traits::{WriteExt, Writer};
use lance_table::feature_flags::apply_feature_flags;
use lance_table::format::{
    DataStorageFormat, DeletionFile, DeletionFileType, Fragment, MAGIC, MAJOR_VERSION,
    MINOR_VERSION, Manifest, pb,
};
use lance_table::io::deletion::relative_deletion_file_path;
use lance_table::io::manifest::write_manifest;
use prost::Message;
use roaring::RoaringBitmap;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZero;
use std::sync::Arc;

/// Folder of manifests.
const VERSIONS: &str = "_versions";
/// Key of a manifest's own checksum, in the table metadata.
const OWN_CRC: &str = "damask.manifest-crc32";
const NO_CRC: &str = "00000000";
/// Key of the marks, and of the number of the sync that wrote them.
const MARKS: &str = "damask.marks";
const SYNC: &str = "damask.sync";
/// Before the name of a file whose checksum and length follow.
const CRC: &str = "damask.crc32.";

/// A deletion vector on the disk.
#[derive(Clone, Debug)]
pub(crate) struct Deletions {
    pub file: DeletionFile,
    pub id: FileId,
}

/// A fragment with its one data file.
#[derive(Clone, Debug)]
pub(crate) struct StoredFragment {
    pub fragment: u64,
    pub data: FileId,
    pub rows: usize,
    /// The user columns that it has.
    pub shape: SchemaRef,
    pub deletions: Option<Deletions>,
}

/// Marks, and the number of the sync that wrote them; of several datasets the highest counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    pub sync: u64,
    pub marks: BTreeMap<u64, Vec<u8>>,
}

/// One version of a dataset.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub folder: String,
    pub number: u64,
    /// The user columns; they only grow.
    pub columns: SchemaRef,
    pub fragments: Vec<StoredFragment>,
    pub fragment_max: Option<u64>,
    pub marks: Marks,
}

/// Bytes in memory as Lance's writer.
struct Bytes(Vec<u8>);

impl tokio::io::AsyncWrite for Bytes {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        self.0.extend_from_slice(bytes);
        std::task::Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

#[async_trait::async_trait]
impl Writer for Bytes {
    async fn tell(&mut self) -> lance_core::Result<usize> {
        Ok(self.0.len())
    }

    async fn shutdown(&mut self) -> lance_core::Result<WriteResult> {
        Ok(WriteResult { size: self.0.len(), e_tag: None })
    }
}

/// The schema of a dataset or of a file with some of its columns: field ids are positions in the
/// dataset, so columns keep theirs when others are added.
pub(crate) fn lance_schema(columns: &Schema, some: Option<&Schema>) -> Result<LanceSchema> {
    let mut fields = own_fields();
    fields.extend(columns.fields().iter().map(|f| Field::clone(f)));
    let whole =
        LanceSchema::try_from(&Schema::new(fields)).map_err(|e| lance_error("schema", e))?;
    let Some(some) = some else { return Ok(whole) };
    let own = whole.fields[..OWN].iter().cloned();
    let named = |f: &Arc<Field>| whole.fields.iter().find(|field| field.name == *f.name()).cloned();
    let user = some.fields().iter().map(|f| named(f).expect("the dataset has its files' columns"));
    Ok(LanceSchema { fields: own.chain(user).collect(), metadata: HashMap::new() })
}

/// The name of a new data file.
pub(crate) fn data_name(folder: &str, fragment: u64, number: u64) -> String {
    format!("{folder}/data/{fragment:012}-{number}.lance")
}

fn manifest_name(folder: &str, version: u64) -> String {
    format!("{folder}/{VERSIONS}/{:020}.manifest", u64::MAX - version)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = (0..text.len()).step_by(2).map(|at| text.get(at..at + 2));
    digits.map(|two| u8::from_str_radix(two?, 16).ok()).collect()
}

fn encode_marks(marks: &BTreeMap<u64, Vec<u8>>) -> String {
    let one = |(key, bytes): (&u64, &Vec<u8>)| format!("{key}:{}", hex(bytes));
    marks.iter().map(one).collect::<Vec<_>>().join(",")
}

fn decode_marks(text: &str) -> Option<BTreeMap<u64, Vec<u8>>> {
    let one = |mark: &str| {
        let (key, bytes) = mark.split_once(':')?;
        Some((key.parse().ok()?, unhex(bytes)?))
    };
    text.split(',').filter(|mark| !mark.is_empty()).map(one).collect()
}

/// Where in a manifest's bytes its own checksum is.
fn own_crc_at(bytes: &[u8]) -> Option<std::ops::Range<usize>> {
    // a map entry: key (field 1, its length), then value (field 2, 8 bytes)
    let mut before = vec![0x0a, OWN_CRC.len() as u8];
    before.extend(OWN_CRC.bytes());
    before.extend([0x12, NO_CRC.len() as u8]);
    let at = bytes.windows(before.len()).position(|window| window == before)? + before.len();
    (at + NO_CRC.len() <= bytes.len()).then_some(at..at + NO_CRC.len())
}

impl Version {
    /// An empty dataset, not on the disk: its first commit is version 1.
    pub fn empty(folder: String) -> Version {
        Version {
            folder,
            number: 0,
            columns: Arc::new(Schema::empty()),
            fragments: Vec::new(),
            fragment_max: None,
            marks: Marks::default(),
        }
    }

    /// Every file it is made of.
    pub fn files(&self) -> impl Iterator<Item = &FileId> {
        self.fragments.iter().flat_map(|fragment| {
            [Some(&fragment.data), fragment.deletions.as_ref().map(|d| &d.id)].into_iter().flatten()
        })
    }

    fn metadata(&self) -> HashMap<String, String> {
        let files = self.files().map(|id| {
            let name = id.name.strip_prefix(&self.folder).expect("a file of the dataset");
            (format!("{CRC}{name}"), format!("{:08x}:{}", id.crc, id.bytes))
        });
        let own = [
            (OWN_CRC.to_owned(), NO_CRC.to_owned()),
            (SYNC.to_owned(), self.marks.sync.to_string()),
            (MARKS.to_owned(), encode_marks(&self.marks.marks)),
        ];
        files.chain(own).collect()
    }

    fn manifest(&self) -> Result<Manifest> {
        let fragment = |stored: &StoredFragment| {
            let path = stored.data.name.rsplit('/').next().expect("a name");
            let shape = lance_schema(&self.columns, Some(&stored.shape))?;
            let (fields, indices) = v2_1::data_file_columns(&shape);
            let bytes = NonZero::new(stored.data.bytes);
            let mut fragment = Fragment::new(stored.fragment).with_physical_rows(stored.rows);
            fragment.add_file(path, fields, indices, ConcreteFileVersion::V2_1, bytes);
            fragment.deletion_file = stored.deletions.as_ref().map(|d| d.file.clone());
            Ok(fragment)
        };
        let fragments = self.fragments.iter().map(fragment).collect::<Result<Vec<_>>>()?;
        let format = DataStorageFormat::new(ConcreteFileVersion::V2_1);
        let schema = lance_schema(&self.columns, None)?;
        let mut manifest = Manifest::new(schema, Arc::new(fragments), format, HashMap::new());
        manifest.version = self.number;
        manifest.max_fragment_id = self.fragment_max.map(|id| id as u32);
        *manifest.table_metadata_mut() = self.metadata();
        apply_feature_flags(&mut manifest, false, true).map_err(|e| lance_error("commit", e))?;
        Ok(manifest)
    }

    fn encode(&self) -> Result<Vec<u8>> {
        let mut manifest = self.manifest()?;
        let mut bytes = Bytes(Vec::new());
        block_on(async {
            let at = write_manifest(&mut bytes, &mut manifest, None, None).await?;
            bytes.write_magics(at, MAJOR_VERSION, MINOR_VERSION, MAGIC).await
        })
        .map_err(|e| lance_error("commit", e))?;
        let at = own_crc_at(&bytes.0).expect("the metadata holds it");
        let crc = crc32fast::hash(&bytes.0);
        bytes.0[at].copy_from_slice(format!("{crc:08x}").as_bytes());
        Ok(bytes.0)
    }

    /// Makes this the newest version, durably; the bytes written. Its files must be durable.
    pub fn commit(&self, disk: &dyn Disk) -> Result<u64> {
        let (name, bytes) = (manifest_name(&self.folder, self.number), self.encode()?);
        disk.replace(&name, &bytes).map_err(|e| io_error("commit", &name, &e))?;
        Ok(bytes.len() as u64)
    }

    /// The newest version in a folder; removes what no version names.
    pub fn open(disk: &dyn Disk, folder: String) -> Result<Version> {
        let listed = |sub: &str| {
            let path = format!("{folder}/{sub}");
            disk.list(&path).map_err(|e| io_error("open", &path, &e))
        };
        let mut names = listed(VERSIONS)?;
        names.retain(|name| name.ends_with(".manifest"));
        let newest = names.first().map(|newest| format!("{folder}/{VERSIONS}/{newest}"));
        let version = match &newest {
            None => Version::empty(folder.clone()),
            Some(name) => {
                let content = disk.map(name).map_err(|e| io_error("open", name, &e))?;
                decode(&folder, name, &content)?
            }
        };
        let files = version.files().map(|id| id.name.as_str());
        let known: HashSet<&str> = files.chain(newest.as_deref()).collect();
        for sub in [VERSIONS, "data", "_deletions"] {
            for file in listed(sub)? {
                let file = format!("{folder}/{sub}/{file}");
                if !known.contains(file.as_str()) {
                    disk.remove(&file).map_err(|e| io_error("open", &file, &e))?;
                }
            }
        }
        Ok(version)
    }

    /// Removes the manifest before this one and files that this one does not need. What cannot be
    /// removed now is removed when the dataset is opened.
    pub fn sweep(&self, disk: &dyn Disk, before: &Version) {
        let kept: HashSet<&str> = self.files().map(|id| id.name.as_str()).collect();
        let old = before.files().map(|id| id.name.clone()).filter(|n| !kept.contains(n.as_str()));
        let manifest = (before.number > 0).then(|| manifest_name(&self.folder, before.number));
        for name in manifest.into_iter().chain(old) {
            let _ = disk.remove(&name);
        }
    }
}

fn decode(folder: &str, name: &str, bytes: &[u8]) -> Result<Version> {
    let wrong = |what: &str| corrupt(name, what);
    let at = own_crc_at(bytes).ok_or_else(|| wrong("no checksum"))?;
    let stored = std::str::from_utf8(&bytes[at.clone()]).ok();
    let stored = stored.and_then(|text| u32::from_str_radix(text, 16).ok());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[..at.start]);
    crc.update(NO_CRC.as_bytes());
    crc.update(&bytes[at.end..]);
    if stored != Some(crc.finalize()) {
        return Err(wrong("the checksum is wrong"));
    }
    // the position of the message (with its length in front), versions, magic
    let footer = bytes.len().checked_sub(16).ok_or_else(|| wrong("it is too short"))?;
    let position = bytes[footer..footer + 8].try_into().expect("8 bytes");
    let message = (u64::from_le_bytes(position) as usize).checked_add(4);
    let message = message.and_then(|start| bytes.get(start..footer));
    let message = message.ok_or_else(|| wrong("its message is out of bounds"))?;
    let proto = pb::Manifest::decode(message).map_err(|e| corrupt(name, e))?;
    let manifest = Manifest::try_from(proto).map_err(|e| corrupt(name, e))?;
    from_manifest(folder, &manifest).ok_or_else(|| wrong("it is not of this store"))
}

fn from_manifest(folder: &str, manifest: &Manifest) -> Option<Version> {
    let metadata = &manifest.table_metadata;
    let file = |relative: String| {
        let (crc, bytes) = metadata.get(&format!("{CRC}/{relative}"))?.split_once(':')?;
        let (crc, bytes) = (u32::from_str_radix(crc, 16).ok()?, bytes.parse().ok()?);
        Some(FileId { name: format!("{folder}/{relative}"), bytes, crc })
    };
    let whole = Schema::from(&manifest.schema);
    let user = whole.fields().get(OWN..)?.iter();
    let user: Vec<Field> =
        user.map(|f| Field::new(f.name(), f.data_type().clone(), true)).collect();
    let columns = Arc::new(Schema::new(user));
    let fragments = manifest.fragments.iter().map(|fragment| {
        let [data] = &fragment.files[..] else { return None };
        let deletions = match &fragment.deletion_file {
            None => None,
            Some(deletion) => {
                let id = file(relative_deletion_file_path(fragment.id, deletion))?;
                Some(Deletions { file: deletion.clone(), id })
            }
        };
        let named = data.fields.iter().skip(OWN);
        let shape = named.map(|id| columns.fields().get((*id as usize).checked_sub(OWN)?).cloned());
        Some(StoredFragment {
            fragment: fragment.id,
            data: file(format!("data/{}", data.path))?,
            rows: fragment.physical_rows?,
            shape: Arc::new(Schema::new(shape.collect::<Option<Vec<_>>>()?)),
            deletions,
        })
    });
    let sync = metadata.get(SYNC)?.parse().ok()?;
    let marks = Marks { sync, marks: decode_marks(metadata.get(MARKS)?)? };
    Some(Version {
        folder: folder.to_owned(),
        number: manifest.version,
        fragments: fragments.collect::<Option<Vec<_>>>()?,
        fragment_max: manifest.max_fragment_id.map(u64::from),
        columns,
        marks,
    })
}

/// Writes the deletion vector of a run, durable but for its name.
pub(crate) fn write_deletions(
    disk: &dyn Disk,
    version: &Version,
    fragment: u64,
    dead: &BooleanBuffer,
    number: u64,
) -> Result<Deletions> {
    let bitmap: RoaringBitmap = dead.set_indices().map(|row| row as u32).collect();
    let file = DeletionFile {
        read_version: version.number,
        id: number,
        file_type: DeletionFileType::Bitmap,
        num_deleted_rows: Some(bitmap.len() as usize),
        base_id: None,
    };
    let name = format!("{}/{}", version.folder, relative_deletion_file_path(fragment, &file));
    let mut bytes = Vec::with_capacity(bitmap.serialized_size());
    bitmap.serialize_into(&mut bytes).map_err(|e| io_error("sync", &name, &e))?;
    disk.replace(&name, &bytes).map_err(|e| io_error("sync", &name, &e))?;
    let id = FileId { name, bytes: bytes.len() as u64, crc: crc32fast::hash(&bytes) };
    Ok(Deletions { file, id })
}

/// Reads it back as a mask over the rows of a run.
pub(crate) fn read_deletions(disk: &dyn Disk, deletions: &Deletions, run: &mut Run) -> Result<()> {
    let bytes = crate::file::read_checked(disk, &deletions.id)?;
    let bitmap = RoaringBitmap::deserialize_from(&bytes[..]);
    let bitmap = bitmap.map_err(|e| corrupt(&deletions.id.name, e))?;
    run.dead = Some(BooleanBuffer::collect_bool(run.len(), |row| bitmap.contains(row as u32)));
    Ok(())
}

/// The error for a column whose type is not the one it has had.
pub(crate) fn another_type(name: &str, have: &Field, want: &Field) -> Error {
    let detail = format!("column {name} is {}, not {}", have.data_type(), want.data_type());
    Error::new("apply", ErrorKind::Invalid, detail)
}
