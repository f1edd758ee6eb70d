//! What SHOW WARNINGS shows of the last statement. It must never grow without bound.

use crate::error::Error;
use parking_lot::Mutex;

/// Warnings kept of one statement; more are counted (`max_error_count`).
pub const KEPT_MAX: usize = 64;

/// How bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Something was adjusted without loss.
    Note,
    /// Something was adjusted.
    Warning,
    /// The statement failed.
    Error,
}

impl Level {
    /// As SHOW WARNINGS prints it.
    pub fn name(self) -> &'static str {
        match self {
            Level::Note => "Note",
            Level::Warning => "Warning",
            Level::Error => "Error",
        }
    }
}

/// One warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// How bad.
    pub level: Level,
    /// MySQL's number.
    pub code: u16,
    /// The text.
    pub message: String,
}

/// The warnings of one statement.
#[derive(Clone, Debug, Default)]
pub struct Warnings {
    kept: Vec<Warning>,
    count: u64,
}

impl Warnings {
    /// Adds one.
    pub fn push(&mut self, level: Level, code: u16, message: impl Into<String>) {
        self.count += 1;
        if self.kept.len() < KEPT_MAX {
            self.kept.push(Warning { level, code, message: message.into() });
        }
    }

    /// Adds an error that was only worth a warning.
    pub fn demote(&mut self, error: Error) {
        self.push(Level::Warning, error.code, error.message);
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The first ones.
    pub fn kept(&self) -> &[Warning] {
        &self.kept
    }

    /// Adds those of another.
    pub fn append(&mut self, more: Warnings) {
        let room = KEPT_MAX.saturating_sub(self.kept.len());
        self.count += more.count;
        self.kept.extend(more.kept.into_iter().take(room));
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.kept.clear();
        self.count = 0;
    }
}

/// Warnings that the parts of a running statement add, each on its own thread.
#[derive(Debug, Default)]
pub struct Notes(Mutex<Warnings>);

impl Notes {
    /// Adds the same one several times.
    pub fn push(&self, level: Level, code: u16, message: &str, times: u64) {
        let mut warnings = self.0.lock();
        let kept = times.min(KEPT_MAX as u64);
        (0..kept).for_each(|_| warnings.push(level, code, message));
        warnings.count += times - kept;
    }

    /// Adds one, unless the statement has said it already: it may be planned more than once.
    pub fn push_once(&self, level: Level, code: u16, message: &str) {
        let mut warnings = self.0.lock();
        let same = |w: &Warning| w.level == level && w.code == code && w.message == message;
        if !warnings.kept.iter().any(same) {
            warnings.push(level, code, message);
        }
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.lock().count
    }

    /// Hands them out, in the order in which they came.
    pub fn take(&self) -> Warnings {
        std::mem::take(&mut *self.0.lock())
    }
}
