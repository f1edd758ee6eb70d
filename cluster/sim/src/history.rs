//! What clients did and saw, and the check of all of it against the versions that the stores hold
//! in the end: snapshot isolation, exactly. It must never count an unknown outcome as either.
//!
//! ```text
//!   truth      key ─► (commit_ts, start_ts, value), every version there is: nothing is collected
//!   committed  all its writes are there, at the version that was answered
//!   aborted    none is          unknown  all are, at one version, or none is
//!   read @ts   the newest version at or below ts, now and for ever
//!   two        of two transactions that wrote one key, the later one began after the other's commit
//!   order      who begins after an answer reads at or above it
//! ```

use crate::tables::without_dropped;
use damask_types::Timestamp;
use damask_types::key::Hex;
use std::collections::BTreeMap;

/// How a transaction ended, as its client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Committed at this version; `None`: it wrote nothing.
    Committed(Option<Timestamp>),
    /// It did not happen and will not.
    Aborted,
    /// Nobody told.
    Unknown,
}

/// A key that was read.
#[derive(Clone, Debug)]
pub struct Read {
    /// The key.
    pub key: Vec<u8>,
    /// At which version.
    pub ts: Timestamp,
    /// What was there.
    pub value: Option<Vec<u8>>,
}

/// One transaction.
#[derive(Clone, Debug)]
pub struct Run {
    /// Who ran it.
    pub client: u64,
    /// Its start.
    pub start_ts: Timestamp,
    /// Its writes are checked when it commits, not when they are made.
    pub optimistic: bool,
    /// Place of its begin and of its answer in the order of all such events.
    pub begun: u64,
    /// See `begun`.
    pub answered: u64,
    /// What it read, but for its own writes.
    pub reads: Vec<Read>,
    /// What it wrote; `None`: deleted.
    pub writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// How it ended.
    pub outcome: Outcome,
}

/// Rows of one table that a column store returned, or a scan of rows: everything in a range.
#[derive(Clone, Debug)]
pub struct Scan {
    /// First key.
    pub start: Vec<u8>,
    /// End, not included.
    pub end: Vec<u8>,
    /// At which version.
    pub ts: Timestamp,
    /// Pairs in key order.
    pub pairs: Vec<(Vec<u8>, Vec<u8>)>,
    /// From columns.
    pub columns: bool,
    /// Columns up to this one that were added are dropped: they were not asked for.
    pub dropped: u64,
}

/// A read of the newest version of one key.
#[derive(Clone, Debug)]
pub struct Latest {
    /// The key.
    pub key: Vec<u8>,
    /// What was there.
    pub value: Option<Vec<u8>>,
    /// As in [`Run`].
    pub begun: u64,
    /// As in [`Run`].
    pub answered: u64,
}

/// Everything that clients did.
#[derive(Default)]
pub struct History {
    /// Transactions in the order of their answers.
    pub runs: Vec<Run>,
    /// Scans.
    pub scans: Vec<Scan>,
    /// Reads of the newest version.
    pub latest: Vec<Latest>,
    /// As [`damask_txn::history`] wants them.
    pub lists: Vec<damask_txn::history::Run>,
    order: u64,
}

impl History {
    /// The next place in the order of begins and answers.
    pub fn place(&mut self) -> u64 {
        self.order += 1;
        self.order
    }
}

/// One version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// When it was committed.
    pub commit_ts: Timestamp,
    /// By whom.
    pub start_ts: Timestamp,
    /// `None`: deleted.
    pub value: Option<Vec<u8>>,
}

/// Every version of every key, oldest first.
#[derive(Default, PartialEq, Eq)]
pub struct Truth(pub BTreeMap<Vec<u8>, Vec<Version>>);

impl Truth {
    fn versions(&self, key: &[u8]) -> &[Version] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// What reads at or above a version can see.
    pub fn seen_from(&self, ts: Timestamp) -> Truth {
        let seen = |versions: &Vec<Version>| {
            let newer = versions.partition_point(|version| version.commit_ts <= ts);
            let first = match newer.checked_sub(1) {
                Some(at) if versions[at].value.is_some() => at,
                _ => newer,
            };
            versions[first..].to_vec()
        };
        let all = self.0.iter().map(|(key, versions)| (key.clone(), seen(versions)));
        Truth(all.filter(|(_, versions)| !versions.is_empty()).collect())
    }

    /// What a read at this version finds.
    pub fn at(&self, key: &[u8], ts: Timestamp) -> Option<&[u8]> {
        let versions = self.versions(key);
        let newer = versions.partition_point(|version| version.commit_ts <= ts);
        versions[..newer].last().and_then(|version| version.value.as_deref())
    }

    fn of(&self, key: &[u8], start_ts: Timestamp) -> Option<&Version> {
        self.versions(key).iter().find(|version| version.start_ts == start_ts)
    }

    /// Checks everything that clients saw.
    ///
    /// # Errors
    /// What contradicts.
    pub fn check(&self, history: &History) -> Result<(), String> {
        let told = |run: &Run| {
            let (client, start_ts) = (run.client, run.start_ts);
            format!("transaction {start_ts} of client {client} ({:?})", run.outcome)
        };
        for run in &history.runs {
            self.check_outcome(run).map_err(|e| format!("{}: {e}", told(run)))?;
            for Read { key, ts, value } in &run.reads {
                self.check_read(key, *ts, value.as_deref())
                    .map_err(|e| format!("{}: {e}", told(run)))?;
            }
            self.check_overlap(run).map_err(|e| format!("{}: {e}", told(run)))?;
        }
        history.scans.iter().try_for_each(|scan| self.check_scan(scan))?;
        self.check_order(history)?;
        self.check_latest(history)
    }

    fn check_outcome(&self, run: &Run) -> Result<(), String> {
        let found: Vec<Option<&Version>> =
            run.writes.keys().map(|key| self.of(key, run.start_ts)).collect();
        let there = found.iter().flatten().count();
        let wanted = match run.outcome {
            Outcome::Aborted if there > 0 => {
                return Err(format!("{there} of its writes are there"));
            }
            Outcome::Aborted => return Ok(()),
            Outcome::Unknown if there == 0 => return Ok(()),
            Outcome::Unknown => None,
            Outcome::Committed(ts) => ts,
        };
        let mut commit_ts = wanted;
        for ((key, value), version) in run.writes.iter().zip(found) {
            let Some(version) = version else {
                return Err(format!("its write of key {} is lost", Hex(key)));
            };
            if version.value != *value {
                return Err(format!("its write of key {} is another value", Hex(key)));
            }
            if *commit_ts.get_or_insert(version.commit_ts) != version.commit_ts {
                let there = version.commit_ts;
                return Err(format!("key {} is there at {there}, not {commit_ts:?}", Hex(key)));
            }
        }
        Ok(())
    }

    fn check_read(&self, key: &[u8], ts: Timestamp, value: Option<&[u8]>) -> Result<(), String> {
        let there = self.at(key, ts);
        if there == value {
            return Ok(());
        }
        let around: Vec<String> = self
            .versions(key)
            .iter()
            .rev()
            .take(12)
            .map(|v| format!("{} (began {})", v.commit_ts, v.start_ts))
            .collect();
        Err(format!(
            "key {} read at {ts} was {value:?}, and is {there:?}; its newest versions: {}",
            Hex(key),
            around.join(", ")
        ))
    }

    /// Nobody else has committed between the start and the commit of an optimistic transaction, or
    /// since a pessimistic one last read what it wrote: in the same statement, in all workloads.
    fn check_overlap(&self, run: &Run) -> Result<(), String> {
        for key in run.writes.keys() {
            let Some(own) = self.of(key, run.start_ts) else { continue };
            let read = run.reads.iter().filter(|read| read.key == *key).map(|read| read.ts).max();
            let from = if run.optimistic { Some(run.start_ts) } else { read };
            let Some(from) = from else { continue };
            let between = |v: &&Version| v.commit_ts > from && v.commit_ts < own.commit_ts;
            if let Some(other) = self.versions(key).iter().find(between) {
                let (commit_ts, other) = (own.commit_ts, other.start_ts);
                let key = Hex(key);
                return Err(format!("key {key}, committed at {commit_ts}, lost that of {other}"));
            }
        }
        Ok(())
    }

    fn check_scan(&self, scan: &Scan) -> Result<(), String> {
        let Scan { start, end, ts, pairs, columns, dropped } = scan;
        let range = self.0.range::<Vec<u8>, _>(start..end);
        let without = |key: &[u8], value| without_dropped(key, value, *dropped);
        let there = range.filter_map(|(key, _)| Some((key.as_slice(), self.at(key, *ts)?)));
        let there: Vec<(&[u8], Vec<u8>)> =
            there.map(|(key, value)| (key, without(key, value))).collect();
        let wanted: Vec<(&[u8], &[u8])> =
            there.iter().map(|(key, value)| (*key, value.as_slice())).collect();
        let seen: Vec<(&[u8], &[u8])> =
            pairs.iter().map(|(key, value)| (key.as_slice(), value.as_slice())).collect();
        if wanted == seen {
            return Ok(());
        }
        let what = if *columns { "columns" } else { "rows" };
        let differs = wanted.iter().zip(&seen).position(|(a, b)| a != b);
        let at = differs.unwrap_or(wanted.len().min(seen.len()));
        let told = |all: &[(&[u8], &[u8])]| match all.get(at) {
            Some((key, value)) => format!("key {} = {value:?}", Hex(key)),
            None => "the end".to_owned(),
        };
        let versions = wanted.get(at).or(seen.get(at)).map(|(key, _)| self.versions(key));
        Err(format!(
            "a scan of {what} at {ts} has {} pairs of {}; at place {at} it has {}, and there is {} \
             ({versions:?})",
            seen.len(),
            wanted.len(),
            told(&seen),
            told(&wanted)
        ))
    }

    /// Who begins after a commit was answered has a later start; starts are given out once.
    fn check_order(&self, history: &History) -> Result<(), String> {
        let mut starts: Vec<Timestamp> = history.runs.iter().map(|run| run.start_ts).collect();
        starts.sort_unstable();
        if let Some(pair) = starts.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("timestamp {} was given out twice", pair[0]));
        }
        let mut answers: Vec<(u64, Timestamp)> = Vec::new();
        for run in &history.runs {
            if let Outcome::Committed(Some(ts)) = run.outcome {
                answers.push((run.answered, ts));
            }
        }
        answers.sort_unstable();
        let mut newest = Timestamp::ZERO;
        for answer in &mut answers {
            newest = newest.max(answer.1);
            answer.1 = newest;
        }
        for run in &history.runs {
            let before = answers.partition_point(|(answered, _)| *answered < run.begun);
            let Some((_, newest)) = answers[..before].last() else { continue };
            if run.start_ts < *newest {
                let start_ts = run.start_ts;
                return Err(format!("{start_ts} began after {newest} was answered"));
            }
        }
        Ok(())
    }

    /// A read of the newest version sees what was answered before it began, and nothing that was
    /// never written. Values of such keys are unique.
    fn check_latest(&self, history: &History) -> Result<(), String> {
        let mut answered: BTreeMap<&[u8], Vec<(u64, Timestamp)>> = BTreeMap::new();
        for run in &history.runs {
            if let Outcome::Committed(Some(ts)) = run.outcome {
                for key in run.writes.keys() {
                    answered.entry(key).or_default().push((run.answered, ts));
                }
            }
        }
        let mut seen_by: BTreeMap<&[u8], Vec<(u64, Timestamp)>> = BTreeMap::new();
        let mut reads = Vec::new();
        for Latest { key, value, begun, answered: at } in &history.latest {
            let seen = match value {
                None => Timestamp::ZERO,
                Some(value) => {
                    let by_value = |v: &&Version| v.value.as_ref() == Some(value);
                    let found = self.versions(key).iter().find(by_value);
                    let nowhere = || format!("key {} held {value:?}, which is nowhere", Hex(key));
                    found.ok_or_else(nowhere)?.commit_ts
                }
            };
            let before = answered.get(key.as_slice()).into_iter().flatten();
            let newest = before.filter(|(at, _)| at < begun).map(|(_, ts)| *ts).max();
            if newest.is_some_and(|newest| newest > seen) {
                return Err(format!(
                    "the newest value of key {} was that of {seen}, after {newest:?} was answered",
                    Hex(key)
                ));
            }
            seen_by.entry(key).or_default().push((*at, seen));
            reads.push((key, *begun, seen));
        }
        // Nor does one see less than another one that was answered before, committed or not.
        for (key, begun, seen) in reads {
            let before = seen_by[key.as_slice()].iter().filter(|(at, _)| *at < begun);
            let newest = before.map(|(_, ts)| *ts).max();
            if newest.is_some_and(|newest| newest > seen) {
                return Err(format!(
                    "the newest value of key {} was that of {seen}, after that of {newest:?} was \
                     seen",
                    Hex(key)
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truth(versions: &[(&str, u64, u64, Option<&str>)]) -> Truth {
        let mut truth = Truth::default();
        for (key, commit, start, value) in versions {
            let value = value.map(|v| v.as_bytes().to_vec());
            let (commit_ts, start_ts) = (Timestamp(*commit), Timestamp(*start));
            let version = Version { commit_ts, start_ts, value };
            truth.0.entry(key.as_bytes().to_vec()).or_default().push(version);
        }
        truth
    }

    fn run(start: u64, outcome: Outcome, key: &str, value: &str) -> Run {
        Run {
            client: 1,
            start_ts: Timestamp(start),
            optimistic: true,
            begun: start,
            answered: start + 1,
            reads: Vec::new(),
            writes: BTreeMap::from([(key.into(), Some(value.into()))]),
            outcome,
        }
    }

    fn check(truth: &Truth, runs: Vec<Run>) -> Result<(), String> {
        truth.check(&History { runs, ..History::default() })
    }

    #[test]
    fn outcomes_and_overlaps_are_seen() {
        let truth = truth(&[("k", 12, 10, Some("a")), ("k", 25, 20, Some("b"))]);
        let committed = |ts| Outcome::Committed(Some(Timestamp(ts)));
        check(&truth, vec![run(10, committed(12), "k", "a")]).expect("it is there");
        check(&truth, vec![run(10, Outcome::Unknown, "k", "a")]).expect("it may be there");
        check(&truth, vec![run(11, Outcome::Unknown, "k", "c")]).expect("or not");
        check(&truth, vec![run(11, Outcome::Aborted, "k", "c")]).expect("or never");
        for (bad, why) in [
            (run(10, Outcome::Aborted, "k", "a"), "are there"),
            (run(11, committed(12), "k", "a"), "is lost"),
            (run(10, committed(13), "k", "a"), "is there at 12"),
            (run(10, committed(12), "k", "z"), "another value"),
        ] {
            let found = check(&truth, vec![bad]).expect_err("wrong");
            assert!(found.contains(why), "{found}");
        }
        let mut locked = run(20, committed(25), "k", "b");
        locked.optimistic = false;
        let read = |ts| Read { key: b"k".to_vec(), ts: Timestamp(ts), value: Some(b"a".to_vec()) };
        locked.reads = vec![read(12)];
        check(&truth, vec![locked.clone()]).expect("nobody has written since it has read");
        let lost = Truth(
            [("k", 12, 10, Some("a")), ("k", 25, 11, Some("b"))]
                .iter()
                .fold(Truth::default(), |mut all, (key, commit, start, value)| {
                    let version = Version {
                        commit_ts: Timestamp(*commit),
                        start_ts: Timestamp(*start),
                        value: value.map(|v| v.as_bytes().to_vec()),
                    };
                    all.0.entry(key.as_bytes().to_vec()).or_default().push(version);
                    all
                })
                .0,
        );
        let found = check(&lost, vec![run(11, committed(25), "k", "b")]).expect_err("lost update");
        assert!(found.contains("lost that of 10"), "{found}");
        // A pessimistic one that has read it at 11 keeps nothing of what came before from it.
        let mut locked = run(11, committed(25), "k", "b");
        (locked.optimistic, locked.reads) = (false, vec![read(12)]);
        check(&lost, vec![locked.clone()]).expect("it has read what was committed at 12");
        locked.reads = vec![Read { value: None, ..read(11) }];
        let found = check(&lost, vec![locked]).expect_err("lost update");
        assert!(found.contains("lost that of 10"), "{found}");
    }

    #[test]
    fn reads_and_scans_are_compared_with_what_was_there() {
        let truth = truth(&[("k", 12, 10, Some("a")), ("k", 25, 20, None)]);
        assert_eq!(truth.at(b"k", Timestamp(11)), None);
        assert_eq!(truth.at(b"k", Timestamp(12)), Some(&b"a"[..]));
        assert_eq!(truth.at(b"k", Timestamp(25)), None);
        let scan = |ts, pairs: &[(&str, &str)]| Scan {
            start: b"a".to_vec(),
            end: b"z".to_vec(),
            ts: Timestamp(ts),
            pairs: pairs.iter().map(|(k, v)| (k.as_bytes().into(), v.as_bytes().into())).collect(),
            columns: true,
            dropped: 0,
        };
        truth.check_scan(&scan(24, &[("k", "a")])).expect("it is there");
        truth.check_scan(&scan(25, &[])).expect("it is gone");
        truth.check_scan(&scan(25, &[("k", "a")])).expect_err("it is gone");
        truth.check_scan(&scan(24, &[])).expect_err("it is there");
    }

    #[test]
    fn answers_order_what_comes_after_them() {
        let truth = truth(&[("k", 12, 10, Some("a"))]);
        let mut late = run(11, Outcome::Aborted, "k", "c");
        late.begun = 50;
        let early = run(10, Outcome::Committed(Some(Timestamp(12))), "k", "a");
        let found = check(&truth, vec![early.clone(), late]).expect_err("11 is below 12");
        assert!(found.contains("began after"), "{found}");
        let stale = Latest { key: b"k".to_vec(), value: None, begun: 50, answered: 51 };
        let mut history = History { runs: vec![early], ..History::default() };
        history.latest.push(stale);
        assert!(truth.check(&history).expect_err("stale").contains("newest value"));
    }

    /// Its writer heard nothing: what was read may still not be unseen.
    #[test]
    fn what_somebody_has_read_is_not_unread() {
        let truth = truth(&[("k", 12, 10, Some("a"))]);
        let read = |value: Option<&str>, begun| {
            let value = value.map(|v| v.as_bytes().to_vec());
            Latest { key: b"k".to_vec(), value, begun, answered: begun + 1 }
        };
        let check = |latest| {
            let runs = vec![run(10, Outcome::Unknown, "k", "a")];
            truth.check(&History { runs, latest, ..History::default() })
        };
        check(vec![read(None, 20), read(Some("a"), 30)]).expect("it was written between");
        check(vec![read(Some("a"), 30), read(None, 30)]).expect("both at once");
        let found = check(vec![read(Some("a"), 30), read(None, 40)]).expect_err("unread");
        assert!(found.contains("was seen"), "{found}");
    }
}
