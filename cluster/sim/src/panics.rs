//! Panics of simulated threads: the product may catch them, a simulation never overlooks one, but
//! for the one that is an answer. It must never swallow a panic of a thread that runs no simulation.

use std::cell::RefCell;
use std::panic::{PanicHookInfo, set_hook, take_hook};
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

/// raft-rs knows no other answer to a log that a disk with a fault does not let it read. The store
/// stops then, and has to say that it is for the disk: `Life::failed` looks at that.
fn is_unreadable_log(panic: &str) -> bool {
    let fault = panic.contains("injected fault") || panic.contains("a bad entry in this record");
    panic.contains("raft_log.rs") && fault
}
