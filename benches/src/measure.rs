//! Time spent, and what many measurements say together: their median and how far they spread. It
//! must never drop a measurement.

use damask_env::{Clock, RealClock};
use std::time::Duration;

/// Shorter work is not measured by the time on a processor.
const PROCESSOR_SECONDS_MIN: f64 = 0.02;

/// One clock for a whole run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stopwatch(RealClock);

impl Stopwatch {
    /// Since this stopwatch was made.
    pub fn elapsed(&self) -> Duration {
        self.0.monotonic()
    }

    /// What `work` gives, and the seconds it took.
    pub fn time<T>(&self, work: impl FnOnce() -> T) -> (T, f64) {
        let start = self.0.monotonic();
        let value = work();
        (value, (self.0.monotonic() - start).as_secs_f64())
    }
}

impl Stopwatch {
    /// What `work` gives, and the seconds that this thread was on a processor for it: what others
    /// take of a busy machine does not count. Elsewhere than on Linux, the seconds it took.
    pub fn processor<T>(&self, work: impl FnOnce() -> T) -> (T, f64) {
        let start = processor_seconds();
        let (value, seconds) = self.time(work);
        match (start, processor_seconds()) {
            // The kernel counts in ticks of some milliseconds: less than a few say nothing.
            (Some(start), Some(end)) if end - start >= PROCESSOR_SECONDS_MIN => {
                (value, end - start)
            }
            _ => (value, seconds),
        }
    }
}

fn processor_seconds() -> Option<f64> {
    let schedule = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(schedule.split_whitespace().next()?.parse::<f64>().ok()? / 1e9)
}

/// Many measurements of one thing, in any unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle one; of an even number the lower of the two.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// How many.
    pub count: usize,
}

impl Spread {
    /// # Panics
    /// If there is none, or one is not a number.
    pub fn of(values: &[f64]) -> Spread {
        let mut sorted = values.to_vec();
        sorted.sort_by(|a, b| a.partial_cmp(b).expect("a measurement is a number"));
        let (min, max) = (sorted[0], sorted[sorted.len() - 1]);
        Spread { median: sorted[(sorted.len() - 1) / 2], min, max, count: sorted.len() }
    }

    /// Every value times `factor`, which is above 0: another unit.
    pub fn scaled(self, factor: f64) -> Spread {
        let Spread { median, min, max, count } = self;
        Spread { median: median * factor, min: min * factor, max: max * factor, count }
    }
}

/// The median of the seconds that each of `count` calls takes.
pub fn median_of_calls<E>(
    stopwatch: &Stopwatch,
    count: usize,
    mut call: impl FnMut() -> Result<(), E>,
) -> Result<f64, E> {
    let mut seconds = Vec::with_capacity(count);
    for _ in 0..count {
        let (result, spent) = stopwatch.time(&mut call);
        result?;
        seconds.push(spent);
    }
    Ok(Spread::of(&seconds).median)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_a_measured_value() {
        let odd = Spread::of(&[3.0, 1.0, 2.0]);
        assert_eq!(odd, Spread { median: 2.0, min: 1.0, max: 3.0, count: 3 });
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 3.0]).median, 2.0);
        assert_eq!(odd.scaled(10.0), Spread { median: 20.0, min: 10.0, max: 30.0, count: 3 });
    }

    #[test]
    fn the_first_failure_ends_the_calls() {
        let mut calls = 0;
        let result = median_of_calls(&Stopwatch::default(), 5, || {
            calls += 1;
            if calls == 3 { Err("third") } else { Ok(()) }
        });
        assert_eq!((result, calls), (Err("third"), 3));
    }
}
