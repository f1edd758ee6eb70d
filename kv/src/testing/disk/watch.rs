//! What happens at each call for a file of the engine under test: it fails if it is its turn, syncs
//! reach the model, and at some the power is cut. Each engine of a process is known by its folder. It
//! must never take a lock of an engine's, nor count its own calls.

use super::model::{Disk, History, Model, Tear};
use std::cell::Cell;
use std::ffi::c_int;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a call does.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Reads bytes.
    Read = 1,
    /// Writes bytes.
    Write = 2,
    /// Waits for the disk.
    Sync = 4,
    /// Changes names or lengths.
    Shape = 8,
}

/// What a call is about.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub enum On<'a> {
    /// An open file.
    File(c_int),
    /// A path.
    Path(&'a Path),
}

/// Which calls fail.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// The sum of [`Kind`]s that count.
    pub kinds: u8,
    /// The first that fails, from 0.
    pub nth: u64,
    /// What `errno` says.
    pub error: i32,
    /// All after it fail, too.
    pub lasting: bool,
}

/// Batches of a life, told by whoever writes them.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Whose write was begun.
    pub begun: AtomicU64,
    /// Which an acknowledged sync covers.
    pub synced: AtomicU64,
}

/// What was done just before the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nothing: a call is about to be made.
    Before,
    /// A sync of a file.
    Synced,
    /// A sync of the engine's.
    Acknowledged,
}

/// The power goes here.
pub(super) struct Cut {
    /// For people.
    pub at: String,
    /// For the choice of what to lose.
    pub place: Place,
    /// Batches that must be there, and that may be.
    pub synced: u64,
    pub begun: u64,
    /// What the disk has for sure, and what was to be there.
    pub durable: Disk,
    pub current: Disk,
    pub history: History,
}

struct Watch {
    id: u64,
    root: PathBuf,
    model: Model,
    progress: Arc<Progress>,
    plan: Option<Plan>,
    /// Calls of the plan's kinds so far, and those that failed.
    calls: u64,
    failed: u64,
    /// Every so many writes the power is cut; 0: never, and at no sync.
    cut_writes: u64,
    /// What folders held between their syncs is kept.
    keeps_names: bool,
    writes: u64,
    syncs: u64,
    cuts: Vec<Cut>,
    /// The model itself failed: nothing that it says is worth anything.
    broken: Option<io::Error>,
}

/// How many there are: asked at every call of the process.
static ACTIVE: AtomicU64 = AtomicU64::new(0);
static WATCHES: Mutex<Vec<Watch>> = Mutex::new(Vec::new());

thread_local! {
    /// This thread is in here: its calls are not the engine's.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

fn locked() -> MutexGuard<'static, Vec<Watch>> {
    WATCHES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `work`, whose calls are not counted.
fn inside<T>(work: impl FnOnce() -> T) -> T {
    let before = INSIDE.replace(true);
    let done = work();
    INSIDE.set(before);
    done
}

/// Called before each call; with an error number it must fail.
#[doc(hidden)]
pub fn before(kind: Kind, name: &'static str, on: On<'_>) -> Option<i32> {
    // A thread that ends has no such variable any more.
    if ACTIVE.load(Ordering::SeqCst) == 0 || INSIDE.try_with(Cell::get).unwrap_or(true) {
        return None;
    }
    inside(|| {
        let path = match on {
            On::Path(path) => path.to_owned(),
            // The first three are never an engine's.
            On::File(fd) if fd <= 2 => return None,
            On::File(fd) => fs::read_link(format!("/proc/self/fd/{fd}")).ok()?,
        };
        let mut watches = locked();
        let watch = watches.iter_mut().find(|watch| path.starts_with(&watch.root))?;
        watch.before(kind, name, on, &path)
    })
}

impl Watch {
    fn before(&mut self, kind: Kind, name: &str, on: On<'_>, path: &Path) -> Option<i32> {
        let inner = path.strip_prefix(&self.root).unwrap_or(path);
        let error = self.turn(kind);
        let done = match (kind, on) {
            (Kind::Sync, On::File(fd)) if error.is_some() => self.model.sync_failed(fd),
            (Kind::Sync, On::File(fd)) => self.sync(fd, name, inner),
            (Kind::Write, _) => self.write(name, inner),
            (Kind::Shape, On::Path(_)) if self.keeps_names => {
                path.parent().map_or(Ok(()), |folder| self.model.about_to_change(folder))
            }
            _ => Ok(()),
        };
        if let Err(e) = done {
            self.broken.get_or_insert(e);
        }
        error
    }

    fn turn(&mut self, kind: Kind) -> Option<i32> {
        let plan = self.plan.filter(|plan| plan.kinds & kind as u8 != 0)?;
        let n = self.calls;
        self.calls += 1;
        let fails = n == plan.nth || (plan.lasting && n > plan.nth);
        self.failed += u64::from(fails);
        fails.then_some(plan.error)
    }

    fn sync(&mut self, fd: c_int, name: &str, path: &Path) -> io::Result<()> {
        self.syncs += 1;
        let at = format!("sync {}, {name} of {}", self.syncs, path.display());
        let cuts = self.cut_writes > 0;
        if cuts {
            self.cut(format!("before {at}"), Place::Before)?;
        }
        self.model.synced(fd)?;
        if cuts {
            self.cut(format!("after {at}"), Place::Synced)?;
        }
        Ok(())
    }

    fn write(&mut self, name: &str, path: &Path) -> io::Result<()> {
        self.writes += 1;
        if self.cut_writes > 0 && self.writes.is_multiple_of(self.cut_writes) {
            let at = format!("before write {}, {name} of {}", self.writes, path.display());
            self.cut(at, Place::Before)?;
        }
        Ok(())
    }

    fn cut(&mut self, at: String, place: Place) -> io::Result<()> {
        // Before the disk is looked at, and after it: what must, and what may be there.
        let synced = self.progress.synced.load(Ordering::SeqCst);
        let (durable, current) = (self.model.durable(), self.model.scan()?);
        let history = self.model.history();
        let begun = self.progress.begun.load(Ordering::SeqCst);
        self.cuts.push(Cut { at, place, synced, begun, durable, current, history });
        Ok(())
    }
}

/// A folder is watched until this is dropped.
pub(super) struct Watching {
    id: u64,
}

impl Watching {
    /// Whatever is below `root` now is on the disk for sure.
    pub fn start(root: &Path, progress: Arc<Progress>) -> Watching {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = root.canonicalize().expect("a folder");
        let model = Model::new(&root).expect("it can be read");
        let watch = Watch {
            id,
            root,
            model,
            progress,
            plan: None,
            calls: 0,
            failed: 0,
            cut_writes: 0,
            keeps_names: false,
            writes: 0,
            syncs: 0,
            cuts: Vec::new(),
            broken: None,
        };
        inside(|| locked().push(watch));
        ACTIVE.fetch_add(1, Ordering::SeqCst);
        Watching { id }
    }

    fn with<T>(&self, ask: impl FnOnce(&mut Watch) -> T) -> T {
        inside(|| {
            let mut watches = locked();
            let watch = watches.iter_mut().find(|watch| watch.id == self.id);
            let watch = watch.expect("it is dropped with this");
            if let Some(e) = &watch.broken {
                panic!("the model of the disk failed: {e}");
            }
            ask(watch)
        })
    }

    /// From now on calls fail as planned.
    pub fn fail(&self, plan: Plan) {
        self.with(|watch| (watch.plan, watch.calls, watch.failed) = (Some(plan), 0, 0));
    }

    /// From now on all is well. Says how many calls there were, and how many failed.
    pub fn heal(&self) -> (u64, u64) {
        self.with(|watch| {
            watch.plan = None;
            (watch.calls, watch.failed)
        })
    }

    /// From now on the power is cut before and after every sync, and before every so many writes.
    pub fn cut_at_syncs(&self, writes: u64) {
        self.with(|watch| (watch.cut_writes, watch.keeps_names) = (writes, true));
    }

    /// From now on a folder may be left, by `image`, as it was at any moment since its last sync.
    pub fn keep_names(&self) {
        self.with(|watch| watch.keeps_names = true);
    }

    /// Calls of the plan's kinds since it was made.
    pub fn calls(&self) -> u64 {
        self.with(|watch| watch.calls)
    }

    /// What a power cut now would leave.
    pub fn image(&self, how: Tear, seed: u64) -> Disk {
        let image = self.with(|watch| {
            let current = watch.model.scan()?;
            let (durable, history) = (watch.model.durable(), watch.model.history());
            Ok::<_, io::Error>(durable.torn(&current, &history, how, seed))
        });
        image.expect("the model works")
    }

    /// The power is cut when the engine has acknowledged so many steps.
    pub fn acknowledged(&self, steps: u64) {
        let at = format!("when {steps} steps were acknowledged");
        self.with(|watch| watch.cut(at, Place::Acknowledged)).expect("the model works");
    }

    /// All cuts so far.
    pub fn take_cuts(&self) -> Vec<Cut> {
        self.with(|watch| std::mem::take(&mut watch.cuts))
    }

    /// What the disk has for sure.
    pub fn durable(&self) -> Disk {
        self.with(|watch| watch.model.durable())
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        ACTIVE.fetch_sub(1, Ordering::SeqCst);
        inside(|| locked().retain(|watch| watch.id != self.id));
    }
}
