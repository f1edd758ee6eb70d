//! Changes that an engine counts, so that who reads can tell that there was none meanwhile. It must
//! never wait.
//!
//! ```text
//!   who writes    started + 1 ─► the change ─► finished + 1
//!   who reads     started, then finished: equal ─► quiet     view ─► still quiet? ─► the same view
//! ```
//! What is counted as finished is seen by whoever looks at the engine after the count; what is seen
//! is counted as started. `tests` runs every interleaving under loom, and weaker forms that must
//! fail.

use damask_env::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many changes have started and finished.
pub(crate) struct Writes<C = AtomicU64> {
    started: C,
    finished: C,
}

impl<C: Cell> Default for Writes<C> {
    fn default() -> Writes<C> {
        Writes { started: C::new(0), finished: C::new(0) }
    }
}

impl<C: Cell> Writes<C> {
    /// Everything that changes what a reader sees goes through here.
    pub fn run<T>(&self, change: impl FnOnce() -> T) -> T {
        self.started.fetch_add(1, Ordering::SeqCst);
        let done = change();
        self.finished.fetch_add(1, Ordering::SeqCst);
        done
    }

    /// So many are seen by whoever looks from now on.
    pub fn finished(&self) -> u64 {
        self.finished.load(Ordering::SeqCst)
    }

    /// How many have started, if none is in progress.
    pub fn quiet(&self) -> Option<u64> {
        let started = self.started.load(Ordering::SeqCst);
        (self.finished() == started).then_some(started)
    }

    /// Has none started since [`Writes::quiet`] answered this?
    pub fn is_still(&self, quiet: u64) -> bool {
        self.started.load(Ordering::SeqCst) == quiet
    }
}

#[cfg(test)]
mod tests {
    //! Under loom. Each property has weakened forms that must fail by it.

    use super::*;
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicU64 as LoomU64;
    use loom::thread;

    damask_env::cell_over! { Strong(LoomU64) load: |order| order, change: |order| order }
    damask_env::cell_over! {
        /// Its changes release nothing.
        Unreleased(LoomU64) load: |order| order, change: |_| Ordering::Relaxed
    }
    damask_env::cell_over! {
        /// Its loads acquire nothing.
        Unacquired(LoomU64) load: |_| Ordering::Relaxed, change: |order| order
    }

    const OTHER_VIEW: &str = "two views are called the same";
    const UNSEEN: &str = "a finished change is not seen";

    /// An engine that is a number.
    struct Engine<C> {
        writes: Writes<C>,
        value: LoomU64,
    }

    /// Two changes beside `look`.
    fn beside<C: Cell + 'static>(
        write: fn(&Engine<C>, u64),
        look: fn(&Engine<C>),
    ) -> impl Fn() + Sync + Send + 'static {
        move || {
            let engine = Arc::new(Engine { writes: Writes::default(), value: LoomU64::new(0) });
            let there = engine.clone();
            let writer = thread::spawn(move || (1..=2).for_each(|n| write(&there, n)));
            look(&engine);
            writer.join().expect("no panic");
        }
    }

    fn right<C: Cell>(engine: &Engine<C>, n: u64) {
        engine.writes.run(|| engine.value.store(n, Ordering::Release));
    }

    /// Counts only once the change is done.
    fn late<C: Cell>(engine: &Engine<C>, n: u64) {
        engine.value.store(n, Ordering::Release);
        engine.writes.run(|| ());
    }

    /// A view, and another one later that is taken for it.
    fn views<C: Cell>(engine: &Engine<C>) {
        let quiet = engine.writes.quiet();
        let view = engine.value.load(Ordering::Acquire);
        let Some(quiet) = quiet.filter(|quiet| engine.writes.is_still(*quiet)) else { return };
        let later = engine.value.load(Ordering::Acquire);
        if engine.writes.is_still(quiet) {
            assert_eq!(view, later, "{OTHER_VIEW}");
        }
    }

    fn finished<C: Cell>(engine: &Engine<C>) {
        let count = engine.writes.finished();
        assert!(engine.value.load(Ordering::Acquire) >= count, "{UNSEEN}");
    }

    fn breaks(property: &str, model: impl Fn() + Sync + Send + 'static) -> bool {
        let explored = std::panic::AssertUnwindSafe(|| loom::model(model));
        let Err(panic) = std::panic::catch_unwind(explored) else { return false };
        let text = panic.downcast_ref::<String>().map(String::as_str).unwrap_or_default();
        assert!(text.contains(property), "failed by another cause: {text}");
        true
    }

    #[test]
    fn a_view_is_another_ones_only_if_nothing_changed_between() {
        loom::model(beside::<Strong>(right, views));
        assert!(breaks(OTHER_VIEW, beside::<Strong>(late, views)), "counted late");
        assert!(breaks(OTHER_VIEW, beside::<Unreleased>(right, views)), "unreleased");
        assert!(breaks(OTHER_VIEW, beside::<Unacquired>(right, views)), "unacquired");
    }

    #[test]
    fn what_is_finished_is_seen() {
        loom::model(beside::<Strong>(right, finished));
        assert!(breaks(UNSEEN, beside::<Unreleased>(right, finished)), "unreleased");
        assert!(breaks(UNSEEN, beside::<Unacquired>(right, finished)), "unacquired");
    }
}
