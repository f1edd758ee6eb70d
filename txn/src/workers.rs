//! A few threads for work that is handed over whole. It must never hold more work than its queue,
//! nor lose a thread to a panic in the work.

use damask_env::channel::{Receiver, Sender, TrySendError, bounded};
use damask_env::{Condvar, Task, spawn};
use parking_lot::Mutex;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Work.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// Threads and their queue. Dropping it runs what is queued, then ends the threads.
pub(crate) struct Workers {
    queue: Option<Sender<Job>>,
    tasks: Vec<Task>,
    open: Arc<Open>,
}

/// Jobs that have not ended.
#[derive(Default)]
struct Open {
    count: Mutex<usize>,
    none: Condvar,
}

impl Workers {
    /// `queued` jobs may wait; 0: a job is taken only by a thread that has nothing to do.
    pub fn new(name: &'static str, threads: usize, queued: usize) -> Workers {
        let (sender, receiver) = bounded(queued);
        let open = Arc::new(Open::default());
        let tasks = (0..threads)
            .map(|_| {
                let (receiver, open) = (receiver.clone(), Arc::clone(&open));
                spawn(name, move || run(&receiver, &open))
            })
            .collect();
        Workers { queue: Some(sender), tasks, open }
    }

    /// Hands work over; gives it back when nobody can take it now.
    pub fn offer(&self, job: Job) -> Result<(), Job> {
        let Some(queue) = &self.queue else { return Err(job) };
        *self.open.count.lock() += 1;
        queue.try_send(job).map_err(|refused| {
            self.open.end();
            match refused {
                TrySendError::Full(job) | TrySendError::Disconnected(job) => job,
            }
        })
    }

    /// Waits until everything that was handed over has ended.
    pub fn wait_idle(&self) {
        let mut count = self.open.count.lock();
        self.open.none.wait_while(&mut count, |count| *count > 0);
    }
}

impl Open {
    fn end(&self) {
        let mut count = self.count.lock();
        *count -= 1;
        if *count == 0 {
            self.none.notify_all();
        }
    }
}

fn run(receiver: &Receiver<Job>, open: &Open) {
    while let Ok(job) = receiver.recv() {
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            tracing::error!("a transaction client's work panicked");
        }
        open.end();
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.queue = None;
        for task in self.tasks.drain(..) {
            if let Err(panic) = task.join() {
                tracing::error!(panic, "a transaction client's thread panicked");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn runs_what_it_took_and_gives_back_the_rest() {
        let done = Arc::new(AtomicU32::new(0));
        let workers = Workers::new("test", 2, 4);
        let mut refused = 0;
        for i in 0..100 {
            let done = Arc::clone(&done);
            let job: Job = Box::new(move || {
                assert_ne!(i, 3, "a panic must not cost a thread");
                done.fetch_add(1, Ordering::SeqCst);
            });
            if let Err(job) = workers.offer(job) {
                refused += 1;
                job();
            }
        }
        workers.wait_idle();
        assert_eq!(done.load(Ordering::SeqCst), 99, "{refused} came back");
        drop(workers);
    }

    #[test]
    fn without_a_queue_only_an_idle_thread_takes_work() {
        let workers = Workers::new("test", 0, 0);
        assert!(workers.offer(Box::new(|| ())).is_err());
        workers.wait_idle();
    }
}
