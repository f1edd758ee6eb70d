//! Channels between threads: crossbeam's, or a simulation's in one that was made inside of it. The
//! two must never differ in what they promise: order, capacity, and what the end of a side means.

use crate::condition::Condvar;
use crate::simulation;
use crossbeam_channel as system;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

pub use crossbeam_channel::{RecvError, RecvTimeoutError, SendError, TryRecvError, TrySendError};

/// Both ends of a simulated channel.
#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    /// `None`: it holds any number.
    capacity: Option<usize>,
    filled: Condvar,
    emptied: Condvar,
}

#[derive(Debug)]
struct State<T> {
    items: VecDeque<T>,
    senders: usize,
    receivers: usize,
    /// Receivers that wait.
    waiting: usize,
}

impl<T> Shared<T> {
    /// Is there room? A channel without capacity takes what a receiver waits for.
    fn has_room(&self, state: &State<T>) -> bool {
        match self.capacity {
            None => true,
            Some(0) => state.waiting > state.items.len(),
            Some(capacity) => state.items.len() < capacity,
        }
    }

    fn send(&self, item: T) -> Result<(), SendError<T>> {
        let mut state = self.state.lock();
        self.emptied.wait_while(&mut state, |state| state.receivers > 0 && !self.has_room(state));
        if state.receivers == 0 {
            return Err(SendError(item));
        }
        state.items.push_back(item);
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    fn try_send(&self, item: T) -> Result<(), TrySendError<T>> {
        let mut state = self.state.lock();
        if state.receivers == 0 {
            return Err(TrySendError::Disconnected(item));
        }
        if !self.has_room(&state) {
            return Err(TrySendError::Full(item));
        }
        state.items.push_back(item);
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// `at_most`: `None` waits for ever.
    fn recv(&self, at_most: Option<Duration>) -> Result<T, RecvTimeoutError> {
        let mut state = self.state.lock();
        let empty = |state: &mut State<T>| state.items.is_empty() && state.senders > 0;
        if empty(&mut state) {
            state.waiting += 1;
            self.emptied.notify_one();
            match at_most {
                Some(time) => drop(self.filled.wait_while_for(&mut state, empty, time)),
                None => self.filled.wait_while(&mut state, empty),
            }
            state.waiting -= 1;
        }
        let Some(item) = state.items.pop_front() else {
            return Err(match state.senders {
                0 => RecvTimeoutError::Disconnected,
                _ => RecvTimeoutError::Timeout,
            });
        };
        drop(state);
        self.emptied.notify_one();
        Ok(item)
    }

    fn try_recv(&self) -> Result<T, TryRecvError> {
        let mut state = self.state.lock();
        let Some(item) = state.items.pop_front() else {
            return Err(match state.senders {
                0 => TryRecvError::Disconnected,
                _ => TryRecvError::Empty,
            });
        };
        drop(state);
        self.emptied.notify_one();
        Ok(item)
    }
}

/// The end that sends; clones share the channel.
#[derive(Debug)]
pub struct Sender<T>(Side<system::Sender<T>, T>);

/// The end that receives; clones share the channel, and each item goes to one of them.
#[derive(Debug)]
pub struct Receiver<T>(Side<system::Receiver<T>, T>);

#[derive(Debug)]
enum Side<S, T> {
    System(S),
    Simulated(Arc<Shared<T>>),
}

/// A channel that holds any number of items.
pub fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
    make(None, system::unbounded)
}

/// A channel that holds so many items; 0: only what a receiver waits for.
pub fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    make(Some(capacity), || system::bounded(capacity))
}

fn make<T>(
    capacity: Option<usize>,
    of_system: impl FnOnce() -> (system::Sender<T>, system::Receiver<T>),
) -> (Sender<T>, Receiver<T>) {
    if simulation::current().is_none() {
        let (sender, receiver) = of_system();
        return (Sender(Side::System(sender)), Receiver(Side::System(receiver)));
    }
    let state = State { items: VecDeque::new(), senders: 1, receivers: 1, waiting: 0 };
    let (filled, emptied) = (Condvar::new(), Condvar::new());
    let shared = Arc::new(Shared { state: Mutex::new(state), capacity, filled, emptied });
    (Sender(Side::Simulated(shared.clone())), Receiver(Side::Simulated(shared)))
}

impl<T> Sender<T> {
    /// Sends, waiting for room.
    pub fn send(&self, item: T) -> Result<(), SendError<T>> {
        match &self.0 {
            Side::System(sender) => sender.send(item),
            Side::Simulated(shared) => shared.send(item),
        }
    }

    /// Sends if there is room now.
    pub fn try_send(&self, item: T) -> Result<(), TrySendError<T>> {
        match &self.0 {
            Side::System(sender) => sender.try_send(item),
            Side::Simulated(shared) => shared.try_send(item),
        }
    }
}

impl<T> Receiver<T> {
    /// Waits for an item.
    pub fn recv(&self) -> Result<T, RecvError> {
        match &self.0 {
            Side::System(receiver) => receiver.recv(),
            Side::Simulated(shared) => shared.recv(None).map_err(|_| RecvError),
        }
    }

    /// Waits at most so long.
    pub fn recv_timeout(&self, at_most: Duration) -> Result<T, RecvTimeoutError> {
        match &self.0 {
            Side::System(receiver) => receiver.recv_timeout(at_most),
            Side::Simulated(shared) => shared.recv(Some(at_most)),
        }
    }

    /// An item that is there now.
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        match &self.0 {
            Side::System(receiver) => receiver.try_recv(),
            Side::Simulated(shared) => shared.try_recv(),
        }
    }

    /// The items that are there now.
    pub fn try_iter(&self) -> impl Iterator<Item = T> + '_ {
        std::iter::from_fn(|| self.try_recv().ok())
    }

    /// Items until every sender is gone.
    pub fn iter(&self) -> impl Iterator<Item = T> + '_ {
        std::iter::from_fn(|| self.recv().ok())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        Sender(match &self.0 {
            Side::System(sender) => Side::System(sender.clone()),
            Side::Simulated(shared) => {
                shared.state.lock().senders += 1;
                Side::Simulated(shared.clone())
            }
        })
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Receiver<T> {
        Receiver(match &self.0 {
            Side::System(receiver) => Side::System(receiver.clone()),
            Side::Simulated(shared) => {
                shared.state.lock().receivers += 1;
                Side::Simulated(shared.clone())
            }
        })
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if let Side::Simulated(shared) = &self.0 {
            let mut state = shared.state.lock();
            state.senders -= 1;
            let last = state.senders == 0;
            drop(state);
            if last {
                shared.filled.notify_all();
            }
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        if let Side::Simulated(shared) = &self.0 {
            let mut state = shared.state.lock();
            state.receivers -= 1;
            if state.receivers == 0 {
                // Nobody will take them; what they do when dropped may need the channel.
                let items = std::mem::take(&mut state.items);
                drop(state);
                drop(items);
                shared.emptied.notify_all();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_of_a_simulation_it_is_the_systems() {
        let (sender, receiver) = bounded(1);
        assert!(matches!(sender.0, Side::System(_)));
        sender.try_send(1).expect("room");
        assert_eq!(sender.try_send(2), Err(TrySendError::Full(2)));
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [1]);
        drop(sender);
        assert_eq!(receiver.recv(), Err(RecvError));
    }
}
