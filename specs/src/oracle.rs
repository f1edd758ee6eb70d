//! The timestamp oracle's bound: what is served is below what is
//! saved, so a restart from the saved bound never repeats a timestamp. Implementation: `tso`.

use crate::explore::Model;

/// Mutations that must be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// As specified.
    None,
    /// Serves up to the new bound before it is saved (mutation 17 of the design's list).
    ServeBeforeSave,
    /// After a restart continues from the clock alone, which may have gone back.
    TrustClock,
}

/// The model: timestamps and clock up to `limit`.
#[derive(Clone, Copy, Debug)]
pub struct Oracle {
    /// The mutation.
    pub bug: Bug,
    /// Largest timestamp explored.
    pub limit: u8,
}

/// One oracle, its disk, and the last timestamp that any client has seen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    clock: u8,
    /// On disk: every served timestamp is below it.
    saved: u8,
    /// In memory: served up to here without saving.
    bound: u8,
    next: u8,
    last_served: Option<u8>,
    repeated: bool,
}

/// A step.
#[derive(Clone, Debug)]
pub enum Action {
    /// Decide on a larger bound (in memory).
    Extend,
    /// Save it.
    Save,
    /// Answer a client.
    Serve,
    /// The process ends and starts again, with the wall clock at this.
    Restart(u8),
}

impl Model for Oracle {
    type State = State;
    type Action = Action;

    fn init(&self) -> Vec<State> {
        let state =
            State { clock: 1, saved: 1, bound: 1, next: 1, last_served: None, repeated: false };
        vec![state]
    }

    fn actions(&self, state: &State) -> Vec<Action> {
        let mut actions = Vec::new();
        if state.bound < self.limit {
            actions.push(Action::Extend);
        }
        if state.bound > state.saved {
            actions.push(Action::Save);
        }
        let served_below = match self.bug {
            Bug::ServeBeforeSave => state.bound,
            _ => state.saved.min(state.bound),
        };
        if state.next < served_below {
            actions.push(Action::Serve);
        }
        actions.extend((0..self.limit).map(Action::Restart));
        actions
    }

    fn next(&self, state: &State, action: &Action) -> State {
        let mut next = state.clone();
        match action {
            Action::Extend => next.bound += 1,
            Action::Save => next.saved = next.bound,
            Action::Serve => {
                next.repeated |= state.last_served.is_some_and(|last| state.next <= last);
                next.last_served = Some(state.next);
                next.next += 1;
            }
            Action::Restart(clock) => {
                next.clock = *clock;
                next.next = match self.bug {
                    Bug::TrustClock => *clock,
                    _ => state.saved.max(*clock).min(self.limit),
                };
                next.bound = state.saved;
            }
        }
        next
    }

    fn invariants(&self) -> Vec<(&'static str, fn(&State) -> bool)> {
        vec![
            ("ts_monotone", |s| !s.repeated),
            ("served_below_saved", |s| s.last_served.is_none_or(|last| last < s.saved)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explore;

    fn run(bug: Bug) -> Result<usize, crate::Violation> {
        explore(&Oracle { bug, limit: 6 }, 1_000_000)
    }

    #[test]
    fn the_bound_keeps_timestamps_unique_over_restarts() {
        let states = run(Bug::None).unwrap_or_else(|violation| panic!("{violation}"));
        assert!(states > 500, "only {states} states: the model does not move");
    }

    #[test]
    fn each_bug_is_found() {
        let serve = run(Bug::ServeBeforeSave).expect_err("served before it was saved");
        assert_eq!(serve.invariant, "served_below_saved");
        let clock = run(Bug::TrustClock).expect_err("the clock went back");
        assert_eq!(clock.invariant, "ts_monotone");
    }
}
