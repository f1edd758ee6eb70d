//! Threads with names, joined on request. It must never hide a panic: `join` reports it.

use std::thread::JoinHandle;

/// A running thread. Dropping it detaches.
#[derive(Debug)]
pub struct Task(JoinHandle<()>);

impl Task {
    /// Waits for the end; `Err` holds the panic's message.
    pub fn join(self) -> Result<(), String> {
        self.0.join().map_err(|panic| match panic.downcast::<String>() {
            Ok(text) => *text,
            Err(panic) => match panic.downcast::<&'static str>() {
                Ok(text) => (*text).to_owned(),
                Err(_) => "a thread panicked".to_owned(),
            },
        })
    }

    /// Has it ended?
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

/// Starts a thread. `name` is what a debugger and a panic message show (15 bytes on Linux).
///
/// # Panics
/// If the system has no thread to give: nothing useful can go on then.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Task {
    let builder = std::thread::Builder::new().name(name.to_owned());
    Task(builder.spawn(body).expect("the system gives a thread"))
}

/// Starts a thread whose stack may grow to this many bytes: address space, not memory, until used.
///
/// # Panics
/// As [`spawn`].
pub fn spawn_deep(name: &str, stack_bytes: usize, body: impl FnOnce() + Send + 'static) -> Task {
    let builder = std::thread::Builder::new().name(name.to_owned()).stack_size(stack_bytes);
    Task(builder.spawn(body).expect("the system gives a thread"))
}
