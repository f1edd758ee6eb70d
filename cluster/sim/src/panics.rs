//! Panics of simulated threads: the product may catch them, a simulation never overlooks one, but
//! for the one that is an answer. It must never swallow a panic of a thread that runs no simulation.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static SEEN: RefCell<Option<String>> = const { RefCell::new(None) };
    static WATCHED: RefCell<bool> = const { RefCell::new(false) };
}

static HOOK: Once = Once::new();

/// Keeps the first panic of this thread from now on, instead of printing it.
pub fn watch() {
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
            if WATCHED.with(|watched| *watched.borrow()) {
                SEEN.with(|seen| {
                    seen.borrow_mut().get_or_insert_with(|| info.to_string());
                });
            } else {
                before(info);
            }
        }));
    });
    WATCHED.with(|watched| *watched.borrow_mut() = true);
    SEEN.with(|seen| *seen.borrow_mut() = None);
}

/// Panics are printed again.
pub fn unwatch() {
    WATCHED.with(|watched| *watched.borrow_mut() = false);
}

/// The first panic since the last call.
pub fn take() -> Option<String> {
    SEEN.with(|seen| seen.borrow_mut().take()).filter(|panic| !is_unreadable_log(panic))
}

/// What a body says; the error is its panic, which was no task's but the simulation's own.
pub fn caught<T>(body: impl FnOnce() -> T) -> Result<T, String> {
    let unsaid = || "a panic that nobody has seen".to_owned();
    catch_unwind(AssertUnwindSafe(body))
        .map_err(|_| take().map_or_else(unsaid, |panic| format!("a panic: {panic}")))
}

/// raft-rs knows no other answer to a log that a disk with a fault does not let it read. The store
/// stops then, and has to say that it is for the disk: `Life::failed` looks at that.
fn is_unreadable_log(panic: &str) -> bool {
    let fault = panic.contains("injected fault") || panic.contains("a bad entry in this record");
    panic.contains("raft_log.rs") && fault
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Kernel;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn a_panic_of_any_task_is_kept_and_others_go_on() {
        watch();
        let (kernel, running) = Kernel::start(1);
        let group = kernel.group(0, 1_000_000);
        let goes_on = Arc::new(AtomicBool::new(false));
        let told = goes_on.clone();
        kernel.spawn_in(group, "one", || panic!("of a task"));
        kernel.spawn_in(group, "two", move || told.store(true, Ordering::Relaxed));
        assert!(kernel.run_until(1_000_000, || kernel.tasks() == 0));
        assert!(take().is_some_and(|panic| panic.contains("of a task")));
        assert!(goes_on.load(Ordering::Relaxed));
        kernel.end();
        drop(running);
        let own = caught(|| panic!("of its own")).expect_err("it panics");
        unwatch();
        assert!(own.contains("of its own"), "{own}");
    }
}
