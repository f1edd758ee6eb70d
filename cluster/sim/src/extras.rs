//! Three small workloads, each with a check of its own that knows nothing of versions: a set that
//! only grows, pairs of keys that two write apart (long fork), and a counter (monotonic). It must
//! never conclude anything from an outcome that is not known.

use crate::clients::Session;
use crate::history::Outcome;
use crate::tables::{COUNTER, FORKS, SET, Value, decode, key};
use damask_txn::Error;
use damask_types::key::{decode_row_key, row_range};
use damask_types::{ErrorKind, TableId, Timestamp};
use std::collections::BTreeMap;

/// So many events of a history share a pair of keys.
const PAIR_EVENTS: u64 = 60;
/// Elements that the last read takes.
const ELEMENTS_MAX: usize = 100_000;

/// What was done and seen.
#[derive(Default)]
pub struct Extras {
    /// Elements that were to be added, and what became of that.
    added: BTreeMap<i64, Outcome>,
    /// What is in the set in the end.
    last: Option<Vec<i64>>,
    /// Reads of a pair: which one, and which of its keys were there.
    pairs: Vec<(u64, bool, bool)>,
    /// Reads of the counter, and values that commits gave it: begun, answered, value.
    counts: Vec<(u64, u64, i64)>,
    /// Values that a commit is known to have given the counter.
    given: Vec<i64>,
}

fn number(table: TableId, bytes: Option<Vec<u8>>) -> Result<i64, Error> {
    let Some(bytes) = bytes else { return Ok(0) };
    match decode(table, &bytes) {
        Ok(Value::Number(number)) => Ok(number),
        other => {
            let detail = format!("a number was {other:?}");
            Err(Error::Storage { kind: ErrorKind::Corrupt, detail })
        }
    }
}

/// Adds an element that nobody else has.
pub fn add(session: &mut Session) {
    let element = session.world.history.lock().place() as i64;
    session.world.extras.lock().added.insert(element, Outcome::Unknown);
    let outcome = session.transact(|txn| txn.put_row(&key(SET, element), &Value::Number(element)));
    if let Some(outcome) = outcome {
        session.world.extras.lock().added.insert(element, outcome);
    }
}

/// Writes one key of a pair, or reads both.
pub fn fork(session: &mut Session) {
    let pair = session.world.history.lock().place() / PAIR_EVENTS;
    let rows = [0, 1].map(|side| key(FORKS, 2 * pair as i64 + side));
    let way = session.chance.below(4) as usize;
    if let Some(row) = rows.get(way) {
        session.transact(|txn| txn.put_row(row, &Value::Number(1)));
        return;
    }
    let mut seen = None;
    let outcome = session.transact(|txn| {
        seen = Some((txn.get(&rows[0])?.is_some(), txn.get(&rows[1])?.is_some()));
        Ok(())
    });
    if let (Some(Outcome::Committed(_)), Some((one, other))) = (outcome, seen) {
        session.world.extras.lock().pairs.push((pair, one, other));
    }
}

/// Adds one to the counter, or reads its newest value.
pub fn count(session: &mut Session) {
    let (row, world) = (key(COUNTER, 0), session.world.clone());
    let begun = world.history.lock().place();
    if session.chance.permille(500) {
        let mut given = 0;
        let outcome = session.transact(|txn| {
            given = number(COUNTER, txn.get(&row)?)? + 1;
            txn.put_row(&row, &Value::Number(given))
        });
        if let Some(Outcome::Committed(_)) = outcome {
            let answered = world.history.lock().place();
            let mut extras = world.extras.lock();
            extras.counts.push((begun, answered, given));
            extras.given.push(given);
        }
    } else if let Ok(Ok(value)) = session.client.get_latest(&row).map(|v| number(COUNTER, v))
        && session.alive.get()
    {
        let answered = world.history.lock().place();
        world.extras.lock().counts.push((begun, answered, value));
    }
}

/// Reads the set, after everything else; false: not yet.
pub fn read_set(session: &Session, ts: Timestamp) -> bool {
    let found = session.client.snapshot(ts).scan(&row_range(SET), ELEMENTS_MAX, false);
    let Ok(pairs) = found else { return false };
    let handles = pairs.iter().map(|(key, _)| decode_row_key(key).map(|(_, handle)| handle));
    session.world.extras.lock().last = handles.collect();
    true
}

impl Extras {
    /// Checks each workload.
    ///
    /// # Errors
    /// What contradicts.
    pub fn check(&self) -> Result<(), String> {
        self.check_set()?;
        self.check_forks()?;
        self.check_counter()
    }

    fn check_set(&self) -> Result<(), String> {
        let Some(last) = &self.last else { return Err("the set was never read".to_owned()) };
        for (element, outcome) in &self.added {
            let there = last.contains(element);
            match outcome {
                Outcome::Committed(_) if !there => {
                    return Err(format!("element {element} was added, and is not in the set"));
                }
                Outcome::Aborted if there => {
                    return Err(format!("element {element} was not added, and is in the set"));
                }
                _ => {}
            }
        }
        match last.iter().find(|element| !self.added.contains_key(element)) {
            Some(element) => Err(format!("nobody has added element {element}")),
            None => Ok(()),
        }
    }

    /// Nobody takes a key away: of two that see one key each, one has seen the past otherwise.
    fn check_forks(&self) -> Result<(), String> {
        let mut sides: BTreeMap<u64, [bool; 2]> = BTreeMap::new();
        for (pair, one, other) in &self.pairs {
            let seen = sides.entry(*pair).or_default();
            seen[0] |= *one && !*other;
            seen[1] |= *other && !*one;
            if *seen == [true, true] {
                return Err(format!(
                    "of pair {pair} one read saw the first key only, and one the \
                                    second only"
                ));
            }
        }
        Ok(())
    }

    /// What was answered before somebody asked is not undone for him; no two commits give one value.
    fn check_counter(&self) -> Result<(), String> {
        let mut given = self.given.clone();
        given.sort_unstable();
        if let Some(twice) = given.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("two commits gave the counter the value {}", twice[0]));
        }
        let mut answers: Vec<(u64, i64)> = self.counts.iter().map(|(_, at, n)| (*at, *n)).collect();
        answers.sort_unstable();
        let mut most = i64::MIN;
        for (_, value) in &mut answers {
            most = most.max(*value);
            *value = most;
        }
        for (begun, _, value) in &self.counts {
            let before = answers.partition_point(|(answered, _)| answered < begun);
            let newest = answers[..before].last().map(|(_, newest)| *newest);
            if newest.is_some_and(|newest| newest > *value) {
                return Err(format!("the counter was {value} after {newest:?} was answered"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    //! Right histories pass, and each kind of wrong one is named.

    use super::*;

    fn set(last: &[i64]) -> Extras {
        let committed = Outcome::Committed(Some(Timestamp(9)));
        let added = [(1, committed), (2, Outcome::Aborted), (3, Outcome::Unknown)];
        Extras { added: added.into(), last: Some(last.to_vec()), ..Extras::default() }
    }

    #[test]
    fn a_set_keeps_what_was_added_and_nothing_else() {
        set(&[1]).check().expect("the unknown one may be missing");
        set(&[1, 3]).check().expect("or there");
        for (last, why) in
            [(&[3][..], "is not in"), (&[1, 2], "was not added"), (&[1, 7], "nobody")]
        {
            let found = set(last).check().expect_err("wrong");
            assert!(found.contains(why), "{found}");
        }
        assert!(Extras::default().check().is_err(), "never read");
    }

    #[test]
    fn two_reads_see_two_writes_in_one_order() {
        let pairs =
            |pairs: &[(u64, bool, bool)]| Extras { pairs: pairs.to_vec(), ..set(&[1]) }.check();
        pairs(&[(4, true, false), (4, true, true), (5, false, true), (4, false, false)])
            .expect("so");
        let found = pairs(&[(4, true, false), (5, false, true), (4, false, true)]);
        assert!(found.expect_err("a fork").contains("pair 4"));
    }

    #[test]
    fn a_counter_never_goes_back() {
        let counts = |counts: &[(u64, u64, i64)], given: &[i64]| {
            let (counts, given) = (counts.to_vec(), given.to_vec());
            Extras { counts, given, ..set(&[1]) }.check()
        };
        counts(&[(1, 2, 5), (3, 6, 5), (4, 5, 6), (7, 8, 6)], &[5, 6]).expect("at one time either");
        let found = counts(&[(1, 2, 6), (3, 4, 5)], &[]).expect_err("back");
        assert!(found.contains("was 5 after Some(6)"), "{found}");
        let found = counts(&[], &[5, 6, 5]).expect_err("a lost update");
        assert!(found.contains("two commits"), "{found}");
    }
}
