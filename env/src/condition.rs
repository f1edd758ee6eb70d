//! Waiting until another thread has changed something. It must never lose a wake-up that came
//! after the lock was let go.

use crate::simulation::{self, Scheduler};
use parking_lot::MutexGuard;
use std::rc::Rc;
use std::time::Duration;

/// A condition variable to go with `parking_lot::Mutex`: the system's, or a simulation's.
#[derive(Debug)]
pub struct Condvar {
    system: parking_lot::Condvar,
    /// Where to wait in the simulation that it was made in.
    place: Option<u64>,
}

impl Default for Condvar {
    fn default() -> Condvar {
        let place = simulation::current().map(|scheduler| scheduler.place());
        Condvar { system: parking_lot::Condvar::new(), place }
    }
}

impl Condvar {
    /// Nobody waits.
    pub fn new() -> Condvar {
        Condvar::default()
    }

    fn simulated(&self) -> Option<(Rc<dyn Scheduler>, u64)> {
        simulation::current().zip(self.place)
    }

    /// Lets go of the lock, waits, takes it again. It may return for no reason.
    pub fn wait<T: ?Sized>(&self, guard: &mut MutexGuard<'_, T>) {
        match self.simulated() {
            Some((scheduler, place)) => {
                MutexGuard::unlocked(guard, || scheduler.wait(place, None));
            }
            None => self.system.wait(guard),
        }
    }

    /// As `wait`, at most so long: true, if the time is over.
    pub fn wait_for<T: ?Sized>(&self, guard: &mut MutexGuard<'_, T>, at_most: Duration) -> bool {
        match self.simulated() {
            Some((scheduler, place)) => {
                MutexGuard::unlocked(guard, || !scheduler.wait(place, Some(at_most)))
            }
            None => self.system.wait_for(guard, at_most).timed_out(),
        }
    }

    /// Waits as long as the condition holds.
    pub fn wait_while<T: ?Sized>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        mut condition: impl FnMut(&mut T) -> bool,
    ) {
        while condition(&mut **guard) {
            self.wait(guard);
        }
    }

    /// Waits as long as the condition holds, at most so long: true, if the time is over.
    pub fn wait_while_for<T: ?Sized>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        mut condition: impl FnMut(&mut T) -> bool,
        at_most: Duration,
    ) -> bool {
        let Some((scheduler, _)) = self.simulated() else {
            return self.system.wait_while_for(guard, condition, at_most).timed_out();
        };
        let end = scheduler.now().saturating_add(at_most);
        while condition(&mut **guard) {
            let left = end.saturating_sub(scheduler.now());
            if left.is_zero() || self.wait_for(guard, left) {
                return condition(&mut **guard);
            }
        }
        false
    }

    /// Wakes one who waits.
    pub fn notify_one(&self) {
        match self.simulated() {
            Some((scheduler, place)) => scheduler.wake(place, false),
            None => drop(self.system.notify_one()),
        }
    }

    /// Wakes all who wait.
    pub fn notify_all(&self) {
        match self.simulated() {
            Some((scheduler, place)) => scheduler.wake(place, true),
            None => drop(self.system.notify_all()),
        }
    }
}
