//! What a disk has: of each file the bytes of its last sync, of each folder the names of its last
//! sync; and what it may have beside that when the power goes. It must never give a disk more than
//! it was asked for and got.

use super::calls::next_data;
use crate::testing::Random;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsString, c_int};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirEntryExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Pages of the cache, which a failed sync loses whole. Bytes.
const PAGE: usize = 4096;
/// What a disk writes whole or not at all. Bytes.
const SECTOR: usize = 512;

/// A file's bytes: pages that are not all zeros, by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    len: u64,
    pages: BTreeMap<u64, Arc<[u8]>>,
}

/// The number of a file or folder on its file system.
type Inode = u64;

#[derive(Clone, Debug)]
enum Node {
    File(Arc<Content>),
    Folder(Names),
}

/// A folder with everything below.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    root: Inode,
    nodes: BTreeMap<Inode, Node>,
}

/// How much of what was not synced is there after all. Of the names of a folder, what was done to
/// them up to some moment, another one for each folder: file systems keep that order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tear {
    /// Nothing.
    Lost,
    /// Everything: the process was killed.
    Kept,
    /// Of each file the changed sectors up to some place.
    Prefix,
    /// Of each file some of the changed sectors.
    Scattered,
}

/// What there was of each folder's names since its last sync, in order.
pub(super) type Names = BTreeMap<OsString, Inode>;
pub(super) type History = HashMap<Inode, Vec<Names>>;

impl Content {
    /// Reads a file; pages that are as `before` are shared with it.
    fn read(file: &File, before: &Content) -> io::Result<Content> {
        let len = file.metadata()?.len();
        let (mut pages, mut page) = (BTreeMap::new(), [0; PAGE]);
        let mut at = 0;
        while let Some(data) = next_data(file, at).filter(|data| *data < len) {
            let number = data / PAGE as u64;
            let read = read_page(file, number, &mut page)?;
            if page[..read].iter().any(|byte| *byte != 0) {
                let same = before.pages.get(&number).filter(|old| old[..] == page[..]);
                let shared = same.map_or_else(|| Arc::from(&page[..]), Arc::clone);
                pages.insert(number, shared);
            }
            at = (number + 1) * PAGE as u64;
        }
        Ok(Content { len, pages })
    }

    fn page(&self, number: u64) -> &[u8] {
        self.pages.get(&number).map_or(&[0; PAGE], |page| &page[..])
    }

    /// After a sync that failed every page is taken for written, though none was: what a later
    /// one writes is the pages that changed since.
    fn without_dropped(&self, dropped: &Content, durable: &Content) -> Content {
        let numbers: BTreeSet<u64> =
            self.pages.keys().chain(durable.pages.keys()).copied().collect();
        let mut pages = BTreeMap::new();
        for number in numbers {
            let lost = self.page(number) == dropped.page(number);
            let from = if lost { durable } else { self };
            if let Some(page) = from.pages.get(&number) {
                pages.insert(number, page.clone());
            }
        }
        Content { len: self.len, pages }
    }

    fn tear(&self, new: &Content, how: Tear, random: &mut Random) -> Content {
        // A file that became shorter is as long as before, or as now.
        let whole = how == Tear::Kept || (new.len < self.len && random.below(2) == 0);
        if whole || self == new {
            return new.clone();
        }
        if how == Tear::Lost || new.len < self.len {
            return self.clone();
        }
        let numbers: BTreeSet<u64> = self.pages.keys().chain(new.pages.keys()).copied().collect();
        let sectors = |number: u64| (0..PAGE / SECTOR).map(move |sector| (number, sector));
        let differs = |(number, sector): &(u64, usize)| {
            let bytes = sector * SECTOR..(sector + 1) * SECTOR;
            self.page(*number)[bytes.clone()] != new.page(*number)[bytes]
        };
        let changed: Vec<_> = numbers.into_iter().flat_map(sectors).filter(differs).collect();
        let most = random.below(changed.len() as u64 + 1) as usize;
        let mut torn = self.clone();
        for (i, (number, sector)) in changed.iter().enumerate() {
            let there = match how {
                Tear::Scattered => random.below(2) == 0,
                _ => i < most,
            };
            if there {
                let bytes = sector * SECTOR..(sector + 1) * SECTOR;
                let mut page = torn.page(*number).to_vec();
                page[bytes.clone()].copy_from_slice(&new.page(*number)[bytes]);
                torn.pages.insert(*number, page.into());
                let end = number * PAGE as u64 + ((sector + 1) * SECTOR) as u64;
                torn.len = torn.len.max(end.min(new.len));
            }
        }
        torn
    }

    fn write_to(&self, path: &Path) -> io::Result<()> {
        let file = File::create(path)?;
        file.set_len(self.len)?;
        for (number, page) in &self.pages {
            let at = number * PAGE as u64;
            let inside = self.len.saturating_sub(at).min(PAGE as u64) as usize;
            file.write_all_at(&page[..inside], at)?;
        }
        Ok(())
    }
}

/// Reads a page; what the file does not have of it is zero. Says how much it has.
fn read_page(file: &File, number: u64, page: &mut [u8; PAGE]) -> io::Result<usize> {
    let mut read = 0;
    while read < PAGE {
        match file.read_at(&mut page[read..], number * PAGE as u64 + read as u64)? {
            0 => break,
            more => read += more,
        }
    }
    page[read..].fill(0);
    Ok(read)
}

impl Disk {
    fn names(&self, folder: Inode) -> Names {
        match self.nodes.get(&folder) {
            Some(Node::Folder(names)) => names.clone(),
            _ => Names::new(),
        }
    }

    fn content(&self, file: Inode) -> Option<&Arc<Content>> {
        match self.nodes.get(&file) {
            Some(Node::File(content)) => Some(content),
            _ => None,
        }
    }

    /// What is left of what was to be there, `current`, if this is there for sure.
    pub fn torn(&self, current: &Disk, history: &History, how: Tear, seed: u64) -> Disk {
        let torn = Disk { root: self.root, nodes: BTreeMap::new() };
        let random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let mut tearing = Tearing { durable: self, current, history, how, random, torn };
        tearing.folder(self.root);
        tearing.torn
    }

    /// Makes a folder of it.
    pub fn write_to(&self, path: &Path) -> io::Result<()> {
        self.write_folder(self.root, path)
    }

    fn write_folder(&self, folder: Inode, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)?;
        for (name, inode) in self.names(folder) {
            let path = path.join(name);
            match self.content(inode) {
                Some(content) => content.write_to(&path)?,
                None => self.write_folder(inode, &path)?,
            }
        }
        Ok(())
    }
}

/// A disk between two.
struct Tearing<'a> {
    durable: &'a Disk,
    current: &'a Disk,
    history: &'a History,
    how: Tear,
    random: Random,
    torn: Disk,
}

impl Tearing<'_> {
    fn names(&mut self, folder: Inode) -> Names {
        let between = self.history.get(&folder).map_or(&[][..], |all| all);
        let moment = match self.how {
            Tear::Lost => 0,
            Tear::Kept => between.len() + 1,
            _ => self.random.below(between.len() as u64 + 2) as usize,
        };
        let mut names = match moment {
            0 => self.durable.names(folder),
            moment => match between.get(moment - 1) {
                Some(names) => names.clone(),
                None => self.current.names(folder),
            },
        };
        // What came and went since is known by its name only.
        let known = |disk: &Disk, inode: &Inode| disk.nodes.contains_key(inode);
        names.retain(|_, inode| known(self.durable, inode) || known(self.current, inode));
        names
    }

    fn folder(&mut self, folder: Inode) {
        let names = self.names(folder);
        let inodes: Vec<Inode> = names.values().copied().collect();
        self.torn.nodes.insert(folder, Node::Folder(names));
        for inode in inodes {
            let nothing = Arc::default();
            let old = self.durable.content(inode);
            match self.current.content(inode).or(old).cloned() {
                Some(new) => {
                    let content = old.unwrap_or(&nothing).tear(&new, self.how, &mut self.random);
                    self.torn.nodes.insert(inode, Node::File(Arc::new(content)));
                }
                None => self.folder(inode),
            }
        }
    }
}

/// A folder that is watched.
pub(super) struct Model {
    root: PathBuf,
    durable: Disk,
    /// As they were read last.
    seen: HashMap<Inode, Arc<Content>>,
    history: History,
    /// As they were when a sync of them failed.
    dropped: HashMap<Inode, Arc<Content>>,
    /// Held open, so that no other file gets the number.
    open: HashMap<Inode, File>,
}

impl Model {
    /// Everything in the folder is on the disk for sure.
    pub fn new(root: &Path) -> io::Result<Model> {
        let durable = Disk { root: fs::metadata(root)?.ino(), nodes: BTreeMap::new() };
        let mut model = Model {
            root: root.to_owned(),
            durable,
            seen: HashMap::new(),
            history: History::new(),
            dropped: HashMap::new(),
            open: HashMap::new(),
        };
        model.durable = model.scan()?;
        Ok(model)
    }

    pub fn durable(&self) -> Disk {
        self.durable.clone()
    }

    pub fn history(&self) -> History {
        self.history.clone()
    }

    /// Something is about to be done to the names of this folder.
    pub fn about_to_change(&mut self, folder: &Path) -> io::Result<()> {
        let inode = match fs::metadata(folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            about => about?.ino(),
        };
        let names = self.list(folder)?;
        let known = self.history.get(&inode).and_then(|all| all.last().cloned());
        if known.unwrap_or_else(|| self.durable.names(inode)) != names {
            self.history.entry(inode).or_default().push(names);
        }
        Ok(())
    }

    /// What a process sees.
    pub fn scan(&mut self) -> io::Result<Disk> {
        let mut disk = Disk { root: self.durable.root, nodes: BTreeMap::new() };
        let root = self.root.clone();
        self.scan_folder(disk.root, &root, &mut disk)?;
        Ok(disk)
    }

    fn scan_folder(&mut self, inode: Inode, path: &Path, disk: &mut Disk) -> io::Result<()> {
        let names = self.list(path)?;
        disk.nodes.insert(inode, Node::Folder(names.clone()));
        for (name, inode) in names {
            if self.is_folder(inode)? {
                self.scan_folder(inode, &path.join(name), disk)?;
            } else {
                let content = self.read(inode)?;
                disk.nodes.insert(inode, Node::File(content));
            }
        }
        Ok(())
    }

    /// The names of a folder, all of them held open. A folder that is gone has none.
    fn list(&mut self, path: &Path) -> io::Result<Names> {
        let gone = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
        let entries = match fs::read_dir(path) {
            Err(e) if gone(&e) => return Ok(Names::new()),
            entries => entries?,
        };
        let mut names = Names::new();
        for entry in entries {
            let entry = entry?;
            let inode = entry.ino();
            if let Entry::Vacant(vacant) = self.open.entry(inode) {
                match File::open(entry.path()) {
                    // Between the two something else may have got the name.
                    Ok(file) if file.metadata()?.ino() == inode => vacant.insert(file),
                    Ok(_) => continue,
                    Err(e) if gone(&e) => continue,
                    Err(e) => return Err(e),
                };
            }
            names.insert(entry.file_name(), inode);
        }
        Ok(names)
    }

    fn is_folder(&self, inode: Inode) -> io::Result<bool> {
        Ok(self.open[&inode].metadata()?.is_dir())
    }

    fn read(&mut self, inode: Inode) -> io::Result<Arc<Content>> {
        let before = self.seen.entry(inode).or_default();
        let now = Content::read(&self.open[&inode], before)?;
        if now != **before {
            *before = Arc::new(now);
        }
        Ok(before.clone())
    }

    /// The open file or folder, by its number, and where it is.
    fn resolve(&mut self, fd: c_int) -> io::Result<(Inode, PathBuf)> {
        let link = PathBuf::from(format!("/proc/self/fd/{fd}"));
        let file = File::open(&link)?;
        let inode = file.metadata()?.ino();
        self.open.entry(inode).or_insert(file);
        Ok((inode, fs::read_link(link)?))
    }

    /// A sync of this file is about to return well.
    pub fn synced(&mut self, fd: c_int) -> io::Result<()> {
        let (inode, path) = self.resolve(fd)?;
        if !self.is_folder(inode)? {
            let mut content = self.read(inode)?;
            if let Some(dropped) = self.dropped.get(&inode) {
                let nothing = Arc::default();
                let durable = self.durable.content(inode).unwrap_or(&nothing);
                content = Arc::new(content.without_dropped(dropped, durable));
            }
            self.durable.nodes.insert(inode, Node::File(content));
            return Ok(());
        }
        let names = self.list(&path)?;
        for inode in names.values() {
            let empty = match self.is_folder(*inode)? {
                true => Node::Folder(Names::new()),
                false => Node::File(Arc::default()),
            };
            self.durable.nodes.entry(*inode).or_insert(empty);
        }
        self.durable.nodes.insert(inode, Node::Folder(names));
        self.history.remove(&inode);
        Ok(())
    }

    /// A sync of this file is about to fail.
    pub fn sync_failed(&mut self, fd: c_int) -> io::Result<()> {
        let (inode, _) = self.resolve(fd)?;
        if !self.is_folder(inode)? {
            let content = self.read(inode)?;
            self.dropped.insert(inode, content);
        }
        Ok(())
    }
}
