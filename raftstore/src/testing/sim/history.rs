//! Is a history of one register linearizable? Every write has a value of its own, so that each read
//! names the write that it saw; then the question is answered exactly, in n log n steps, by zones
//! (Gibbons and Korach, *Testing shared memories*, SIAM J. Comput. 26(4), 1997).
//!
//! ```text
//!  value v:  f = earliest return of its write and reads, s = their latest invocation
//!    f < s   forward zone [f, s]: v is current all the time from f to s
//!    s < f   backward zone [s, f]: v is current at some time between them
//!  linearizable: no read returns before its write is invoked, no two forward zones overlap,
//!                no backward zone lies inside a forward zone
//! ```
//! A write whose outcome is not known may take effect at any time after it was invoked, or never.

use std::collections::BTreeMap;

/// One operation on the register. Times are positions in one total order, from 1 on, all different.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Else a read.
    pub write: bool,
    /// Written or seen; 0 is what the register holds at the start.
    pub value: u64,
    /// When it was asked for.
    pub invoked: u64,
    /// When it was answered; `None`: a write with an unknown outcome.
    pub returned: Option<u64>,
}

/// What clients did with one key.
#[derive(Clone, Debug, Default)]
pub struct KeyHistory {
    /// Of the register.
    pub key: String,
    /// Writes, and reads of leaders: linearizable together.
    pub operations: Vec<Operation>,
    /// Reads of other replicas. Nothing is missing in one, but it may show a write that the leader
    /// has yet to apply: each is linearizable with the writes alone.
    pub aside: Vec<Operation>,
}

impl KeyHistory {
    /// Checks it.
    ///
    /// # Errors
    /// What contradicts what.
    pub fn check(&self) -> Result<(), String> {
        check_register(&self.operations)?;
        let mut alone: Vec<Operation> =
            self.operations.iter().copied().filter(|op| op.write).collect();
        self.aside.iter().try_for_each(|read| {
            alone.push(*read);
            let checked = check_register(&alone);
            alone.pop();
            checked
        })
    }
}

#[derive(Clone, Copy)]
struct Cluster {
    written: u64,
    first_return: u64,
    last_invoked: u64,
    seen: bool,
    known: bool,
}

/// Checks a history. Reads that were not answered, and writes that are known to have failed, must
/// be left out; a read that saw such a write is an error then.
///
/// # Errors
/// What contradicts what.
pub fn check_register(history: &[Operation]) -> Result<(), String> {
    let mut clusters = BTreeMap::new();
    let start = Cluster { written: 0, first_return: 0, last_invoked: 0, seen: false, known: true };
    clusters.insert(0, start);
    for op in history.iter().filter(|op| op.write) {
        let first_return = op.returned.unwrap_or(u64::MAX);
        let (written, known) = (op.invoked, op.returned.is_some());
        let cluster = Cluster { written, first_return, last_invoked: written, seen: false, known };
        if clusters.insert(op.value, cluster).is_some() {
            return Err(format!("value {} was written twice", op.value));
        }
    }
    for op in history.iter().filter(|op| !op.write) {
        let Some(returned) = op.returned else { continue };
        let Some(cluster) = clusters.get_mut(&op.value) else {
            return Err(format!("{op:?} saw a value that was never written"));
        };
        if returned < cluster.written {
            return Err(format!("{op:?} saw a value before it was written"));
        }
        cluster.seen = true;
        cluster.first_return = cluster.first_return.min(returned);
        cluster.last_invoked = cluster.last_invoked.max(op.invoked);
    }
    let mut forward = Vec::new();
    let mut backward = Vec::new();
    for (value, c) in clusters {
        if !c.known && !c.seen {
            continue; // it may never have happened
        }
        let zone = (c.first_return, c.last_invoked, value);
        if zone.0 < zone.1 { forward.push(zone) } else { backward.push(zone) }
    }
    forward.sort_unstable();
    for pair in forward.windows(2) {
        let ((from, to, a), (next, until, b)) = (pair[0], pair[1]);
        if next < to {
            return Err(format!(
                "value {a} is current from {from} to {to}, and value {b} from {next} to {until}"
            ));
        }
    }
    for (first_return, last_invoked, value) in backward {
        // The last forward zone that begins before; they do not overlap.
        let at = forward.partition_point(|zone| zone.0 < last_invoked);
        if let Some((from, to, other)) = at.checked_sub(1).map(|at| forward[at])
            && first_return < to
        {
            return Err(format!(
                "value {value} is current somewhere from {last_invoked} to {first_return}, but \
                 value {other} is from {from} to {to}"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    //! The checker beside a search through all orders, on small histories.

    use super::super::chance::Chance;
    use super::*;

    /// Is there an order of the operations that is legal and keeps real time?
    fn search(history: &[Operation], done: u32, value: u64) -> bool {
        let open = |at: usize| done & (1 << at) == 0;
        let left: Vec<usize> = (0..history.len()).filter(|at| open(*at)).collect();
        if left.iter().all(|at| history[*at].returned.is_none()) {
            return true;
        }
        left.iter().any(|at| {
            let op = history[*at];
            // Nothing that is left may have returned before this was invoked.
            let first = left.iter().all(|o| history[*o].returned.is_none_or(|r| r > op.invoked));
            let legal = op.write || op.value == value;
            let next = if op.write { op.value } else { value };
            first && legal && search(history, done | 1 << at, next)
        })
    }

    #[test]
    fn it_says_what_a_search_says() {
        let (mut right, mut wrong) = (0, 0);
        for seed in 0..20_000 {
            let mut chance = Chance::new(seed);
            let count = chance.between(1, 7) as usize;
            let mut times: Vec<u64> = (1..=2 * count as u64).collect();
            for at in (1..times.len()).rev() {
                times.swap(at, chance.below(at as u64 + 1) as usize);
            }
            let mut written = 0;
            let mut history = Vec::new();
            for pair in times.chunks(2) {
                let (invoked, returned) = (pair[0].min(pair[1]), pair[0].max(pair[1]));
                let write = chance.permille(450);
                let returned = (!write || chance.permille(800)).then_some(returned);
                let value = if write {
                    written += 1;
                    written
                } else {
                    u64::MAX
                };
                history.push(Operation { write, value, invoked, returned });
            }
            for op in &mut history {
                if !op.write {
                    op.value = chance.below(written + 1);
                }
            }
            let expected = search(&history, 0, 0);
            assert_eq!(check_register(&history).is_ok(), expected, "{seed}: {history:?}");
            if expected { right += 1 } else { wrong += 1 }
        }
        assert!(right > 2000 && wrong > 2000, "{right} and {wrong}: both must be common");
    }

    #[test]
    fn a_value_from_nowhere_is_refused() {
        let read = Operation { write: false, value: 5, invoked: 1, returned: Some(2) };
        assert!(check_register(&[read]).is_err());
        assert!(check_register(&[Operation { value: 0, ..read }]).is_ok());
    }
}
