//! Threads with names, joined on request. It must never hide a panic: `join` reports it.

use crate::condition::Condvar;
use crate::simulation;
use parking_lot::Mutex;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

/// A running thread. Dropping it detaches.
#[derive(Debug)]
pub struct Task(Kind);

#[derive(Debug)]
enum Kind {
    System(JoinHandle<()>),
    Simulated(Arc<Ended>),
}

/// How a simulated thread has ended, if it has.
#[derive(Debug, Default)]
struct Ended {
    result: Mutex<Option<Result<(), String>>>,
    changed: Condvar,
}

impl Task {
    /// Waits for the end; `Err` holds the panic's message.
    pub fn join(self) -> Result<(), String> {
        match self.0 {
            Kind::System(thread) => thread.join().map_err(message),
            Kind::Simulated(ended) => {
                let mut result = ended.result.lock();
                ended.changed.wait_while(&mut result, |result| result.is_none());
                result.take().unwrap_or(Ok(()))
            }
        }
    }

    /// Has it ended?
    pub fn is_finished(&self) -> bool {
        match &self.0 {
            Kind::System(thread) => thread.is_finished(),
            Kind::Simulated(ended) => ended.result.lock().is_some(),
        }
    }
}

fn message(panic: Box<dyn Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => match panic.downcast::<&'static str>() {
            Ok(text) => (*text).to_owned(),
            Err(_) => "a thread panicked".to_owned(),
        },
    }
}

/// As a task of the simulation on this thread, if there is one.
fn simulated<F: FnOnce() + Send + 'static>(name: &str, body: F) -> Result<Task, F> {
    let Some(scheduler) = simulation::current() else { return Err(body) };
    let ended = Arc::<Ended>::default();
    let task = Task(Kind::Simulated(ended.clone()));
    let body = move || {
        let result = catch_unwind(AssertUnwindSafe(body)).map_err(message);
        *ended.result.lock() = Some(result);
        ended.changed.notify_all();
    };
    scheduler.spawn(name, Box::new(body));
    Ok(task)
}

/// Starts a thread. `name` is what a debugger and a panic message show (15 bytes on Linux).
///
/// # Panics
/// If the system has no thread to give: nothing useful can go on then.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Task {
    let body = match simulated(name, body) {
        Ok(task) => return task,
        Err(body) => body,
    };
    let builder = std::thread::Builder::new().name(name.to_owned());
    Task(Kind::System(builder.spawn(body).expect("the system gives a thread")))
}

/// Starts a thread whose stack may grow to this many bytes: address space, not memory, until used.
///
/// # Panics
/// As [`spawn`].
pub fn spawn_deep(name: &str, stack_bytes: usize, body: impl FnOnce() + Send + 'static) -> Task {
    let builder = std::thread::Builder::new().name(name.to_owned()).stack_size(stack_bytes);
    Task(Kind::System(builder.spawn(body).expect("the system gives a thread")))
}
