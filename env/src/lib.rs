//! The outside world behind small seams, so that a test can hold it still: clock, disk, threads,
//! channels, waits. A simulator takes the place of the system by `simulation::enter`.
//! Nothing above may call `std::time`, `std::thread` or (for data of its own) `std::fs` itself.

mod cell;
pub mod channel;
pub mod clock;
mod closing;
mod condition;
pub mod disk;
mod memory_disk;
pub mod mutation;
mod real_disk;
pub mod simulation;
mod space;
mod tasks;

pub use cell::Cell;
pub use clock::{Clock, ManualClock, RealClock};
pub use closing::Closing;
pub use condition::Condvar;
pub use disk::{Content, Disk, File};
pub use memory_disk::{Fault, MemoryDisk};
pub use mutation::{Mistake, mistaken};
pub use real_disk::{RealDisk, make_folder};
pub use simulation::lock;
pub use space::{Space, space};
pub use tasks::{Task, spawn, spawn_deep};
