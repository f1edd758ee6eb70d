//! The seam of a simulator: whoever waits, sleeps or starts a thread asks the scheduler of the
//! current thread, if there is one, and the system otherwise. It must never mix the two: what was
//! made inside a simulation waits inside it.
//!
//! ```text
//!   spawn, channel, Condvar, Closing, lock ──► is there a scheduler here? ──no──► the system
//!                                                  └─yes─► it runs one task at a time, in an
//!                                                          order and at times of its own
//! ```
//! All tasks of a simulation run on one thread of the system, so a real lock that is held while its
//! holder waits would block all of them: [`lock`] is for those few.

use parking_lot::{Mutex, MutexGuard};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// How long one waits before it looks at a lock again, in simulated time.
const LOCK_PAUSE: Duration = Duration::from_micros(20);
/// The longest such time, of one that waits for long.
const LOCK_PAUSE_MAX: Duration = Duration::from_millis(1);

/// What a task does, whole.
pub type Body = Box<dyn FnOnce() + Send>;

/// Runs tasks one at a time, and says when each goes on.
pub trait Scheduler {
    /// Time on the clock of the running task, since some fixed start.
    fn now(&self) -> Duration;
    /// Starts a task beside the running one.
    fn spawn(&self, name: &str, body: Body);
    /// A new place to wait at; never 0.
    fn place(&self) -> u64;
    /// The running task waits there until it is woken (true), or for so long (false).
    fn wait(&self, place: u64, at_most: Option<Duration>) -> bool;
    /// Wakes who came first, or all who wait there.
    fn wake(&self, place: u64, all: bool);
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<dyn Scheduler>>> = const { RefCell::new(None) };
}

/// While it lives, everything on this thread belongs to a simulation.
pub struct Entered {
    before: Option<Rc<dyn Scheduler>>,
}

/// Makes this thread the one on which a simulation runs.
pub fn enter(scheduler: Rc<dyn Scheduler>) -> Entered {
    Entered { before: CURRENT.with(|current| current.borrow_mut().replace(scheduler)) }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let before = self.before.take();
        drop(CURRENT.with(|current| std::mem::replace(&mut *current.borrow_mut(), before)));
    }
}

/// The scheduler of this thread.
pub fn current() -> Option<Rc<dyn Scheduler>> {
    CURRENT.with(|current| current.borrow().clone())
}

/// Lets simulated time pass, and others run; does nothing outside of a simulation.
pub fn pause(time: Duration) {
    if let Some(scheduler) = current() {
        scheduler.wait(scheduler.place(), Some(time));
    }
}

/// Takes a lock whose holder may wait while it holds it.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    let mut wait = LOCK_PAUSE;
    // Ends when the holder lets go.
    loop {
        match mutex.try_lock() {
            Some(guard) => return guard,
            None if current().is_some() => pause(wait),
            None => return mutex.lock(),
        }
        wait = (wait * 2).min(LOCK_PAUSE_MAX);
    }
}
