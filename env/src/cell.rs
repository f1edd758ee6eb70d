//! Atomic numbers as lock-free code sees them, so that the same code runs on the machine's and under
//! a model checker's (loom), which has its own. It must never be used where a lock would do.

use std::sync::atomic::{AtomicU64, Ordering};

/// An atomic number. Tests implement it over loom's with [`crate::cell_over!`].
pub trait Cell: Send + Sync {
    /// Holds `value`.
    fn new(value: u64) -> Self;
    /// The number.
    fn load(&self, order: Ordering) -> u64;
    /// Another number.
    fn store(&self, value: u64, order: Ordering);
    /// Another number, for this one.
    fn swap(&self, value: u64, order: Ordering) -> u64;
    /// More, from this one.
    fn fetch_add(&self, n: u64, order: Ordering) -> u64;
    /// Less, from this one.
    fn fetch_sub(&self, n: u64, order: Ordering) -> u64;
    /// At least `value`, from this one.
    fn fetch_max(&self, value: u64, order: Ordering) -> u64;
}

impl Cell for AtomicU64 {
    fn new(value: u64) -> AtomicU64 {
        AtomicU64::new(value)
    }

    fn load(&self, order: Ordering) -> u64 {
        AtomicU64::load(self, order)
    }

    fn store(&self, value: u64, order: Ordering) {
        AtomicU64::store(self, value, order);
    }

    fn swap(&self, value: u64, order: Ordering) -> u64 {
        AtomicU64::swap(self, value, order)
    }

    fn fetch_add(&self, n: u64, order: Ordering) -> u64 {
        AtomicU64::fetch_add(self, n, order)
    }

    fn fetch_sub(&self, n: u64, order: Ordering) -> u64 {
        AtomicU64::fetch_sub(self, n, order)
    }

    fn fetch_max(&self, value: u64, order: Ordering) -> u64 {
        AtomicU64::fetch_max(self, value, order)
    }
}

/// Defines a cell over another crate's atomic number, whose loads and changes have orders of their
/// own: functions of the order that was asked for.
///
/// ```text
/// cell_over! { Strong(loom::sync::atomic::AtomicU64) load: |order| order, change: |order| order }
/// cell_over! { Unreleased(LoomU64) load: |order| order, change: |_| Ordering::Relaxed }
/// ```
#[macro_export]
macro_rules! cell_over {
    ($(#[$about:meta])* $name:ident($atomic:ty) load: $load:expr, change: $change:expr) => {
        $(#[$about])*
        pub(super) struct $name($atomic);

        impl $name {
            fn ordered(
                order: std::sync::atomic::Ordering,
                map: fn(std::sync::atomic::Ordering) -> std::sync::atomic::Ordering,
            ) -> std::sync::atomic::Ordering {
                map(order)
            }
        }

        impl $crate::Cell for $name {
            fn new(value: u64) -> $name {
                $name(<$atomic>::new(value))
            }

            fn load(&self, order: std::sync::atomic::Ordering) -> u64 {
                self.0.load($name::ordered(order, $load))
            }

            fn store(&self, value: u64, order: std::sync::atomic::Ordering) {
                self.0.store(value, $name::ordered(order, $change));
            }

            fn swap(&self, value: u64, order: std::sync::atomic::Ordering) -> u64 {
                self.0.swap(value, $name::ordered(order, $change))
            }

            fn fetch_add(&self, n: u64, order: std::sync::atomic::Ordering) -> u64 {
                self.0.fetch_add(n, $name::ordered(order, $change))
            }

            fn fetch_sub(&self, n: u64, order: std::sync::atomic::Ordering) -> u64 {
                self.0.fetch_sub(n, $name::ordered(order, $change))
            }

            fn fetch_max(&self, value: u64, order: std::sync::atomic::Ordering) -> u64 {
                self.0.fetch_max(value, $name::ordered(order, $change))
            }
        }
    };
}
