//! The outside world behind small seams, so that a test can hold it still: clock, disk, threads,
//! pauses.
//! Nothing above may call `std::time`, `std::thread` or (for data of its own) `std::fs` itself.

pub mod clock;
mod closing;
pub mod disk;
mod memory_disk;
mod real_disk;
mod space;
mod tasks;

pub use clock::{Clock, ManualClock, RealClock};
pub use closing::Closing;
pub use disk::{Content, Disk, File};
pub use memory_disk::{Fault, MemoryDisk};
pub use real_disk::RealDisk;
pub use space::{Space, space};
pub use tasks::{Task, spawn, spawn_deep};
