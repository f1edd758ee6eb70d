//! A checker of list-append histories (Kingsbury and Alvaro, "Elle", VLDB 2020): what transactions
//! have read tells in which order they wrote, and a circle tells what went wrong. It must never
//! look at timestamps or stores: it believes only what clients have seen.
//!
//! Every write appends an element that nobody else writes, so a list tells all its writers in order:
//!
//! ```text
//!   ww   a ─► b    b's element follows a's in a list
//!   wr   a ─► b    b has read a list that ends with a's element
//!   rw   a ─► b    a has read a list that b's element would have followed
//!
//!   G0  a circle of ww          G1c  of ww and wr          G-single, SI  (ww | wr) rw? all around
//!   G1a an aborted element was read                        G2            any circle
//!   G1b an element was read that its transaction wrote on
//! ```
//!
//! Under snapshot isolation every circle has two rw in a row (Cerone and Gotsman, PODC 2016): that
//! is write skew, which only [`Level::Serializable`] forbids.

mod graph;
#[cfg(test)]
mod tests;

use graph::Graph;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Put an element, of nobody else and no other list, at the end of a list.
    Append {
        /// The list.
        key: u32,
        /// The element.
        element: u32,
    },
    /// The list that was seen, own appends included.
    Read {
        /// The list.
        key: u32,
        /// What it held.
        list: Vec<u32>,
    },
}

/// How a transaction ended, as its client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is committed.
    Committed,
    /// It is not, and never will be.
    Aborted,
    /// Nobody told.
    Unknown,
}

/// One transaction of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its steps in order.
    pub ops: Vec<Op>,
    /// Its end.
    pub outcome: Outcome,
}

/// What a history has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// No G0, G1a, G1b, G1c.
    ReadCommitted,
    /// Besides, no G-single, and no circle without two rw in a row.
    SnapshotIsolation,
    /// No circle.
    Serializable,
}

/// What is wrong with a history. Numbers are places in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Anomaly {
    /// Two reads of a list do not begin alike, or an element is there twice: writes were lost.
    Torn {
        /// The list.
        key: u32,
        /// Who has read the one.
        one: usize,
        /// Who has read the other.
        other: usize,
    },
    /// A committed element is not in the longest list that was read of its key. The last
    /// transaction of a history has to read all lists.
    Lost {
        /// Who wrote it.
        run: usize,
        /// The element.
        element: u32,
    },
    /// An element that nobody has written.
    Invented {
        /// Who has read it.
        run: usize,
        /// The element.
        element: u32,
    },
    /// A transaction does not see its own writes.
    Internal {
        /// The transaction.
        run: usize,
    },
    /// An element of an aborted transaction was read.
    G1a {
        /// Who has read it.
        run: usize,
        /// The element.
        element: u32,
    },
    /// A list was read that ends between two appends of one transaction.
    G1b {
        /// Who has read it.
        run: usize,
        /// The last element.
        element: u32,
    },
    /// A circle of ww.
    G0(Vec<usize>),
    /// A circle of ww and wr.
    G1c(Vec<usize>),
    /// A circle without two rw in a row: with one, read skew.
    GSingle(Vec<usize>),
    /// A circle with two rw in a row: write skew.
    G2(Vec<usize>),
}

/// Everything found wrong with a history; of circles one of each kind.
pub fn check(runs: &[Run], level: Level) -> Vec<Anomaly> {
    let lists = Lists::new(runs);
    let mut found = lists.broken(runs);
    let graph = lists.graph(runs);
    found.extend(graph.circle(graph::WW).map(Anomaly::G0));
    found.extend(graph.circle(graph::WW | graph::WR).map(Anomaly::G1c));
    if level >= Level::SnapshotIsolation {
        found.extend(graph.circle_of_pairs().map(Anomaly::GSingle));
    }
    if level >= Level::Serializable {
        found.extend(graph.circle(graph::WW | graph::WR | graph::RW).map(Anomaly::G2));
    }
    found
}

/// What is known of the lists.
struct Lists {
    /// Element → who wrote it, to which list.
    writers: HashMap<u32, (usize, u32)>,
    /// The longest list of each key, and who has read it.
    longest: BTreeMap<u32, (usize, Vec<u32>)>,
}

/// A read of a list without what the reader has put there itself.
struct Seen<'a> {
    run: usize,
    key: u32,
    list: &'a [u32],
    /// It holds exactly the reader's own appends at its end.
    consistent: bool,
}

impl Lists {
    fn new(runs: &[Run]) -> Lists {
        let mut writers = HashMap::new();
        let mut longest: BTreeMap<u32, (usize, Vec<u32>)> = BTreeMap::new();
        for (at, run) in runs.iter().enumerate() {
            for op in &run.ops {
                match op {
                    Op::Append { key, element } => drop(writers.insert(*element, (at, *key))),
                    Op::Read { key, list } => {
                        // What an aborted transaction saw of itself is nowhere else.
                        let list = match run.outcome {
                            Outcome::Committed => &list[..],
                            Outcome::Aborted | Outcome::Unknown => without(run, *key, list),
                        };
                        let known = longest.entry(*key).or_insert((at, Vec::new()));
                        if list.len() > known.1.len() {
                            *known = (at, list.to_vec());
                        }
                    }
                }
            }
        }
        Lists { writers, longest }
    }

    /// What no graph is needed for.
    fn broken(&self, runs: &[Run]) -> Vec<Anomaly> {
        let mut found = Vec::new();
        for seen in reads(runs) {
            let Seen { run, key, list, consistent } = seen;
            if !consistent {
                found.push(Anomaly::Internal { run });
            }
            let (other, longest) = &self.longest[&key];
            let unique: BTreeSet<u32> = list.iter().copied().collect();
            if !longest.starts_with(list) || unique.len() < list.len() {
                found.push(Anomaly::Torn { key, one: run, other: *other });
            }
            for element in list {
                match self.writers.get(element) {
                    Some((writer, to)) if *to == key => {
                        if runs[*writer].outcome == Outcome::Aborted {
                            found.push(Anomaly::G1a { run, element: *element });
                        }
                    }
                    _ => found.push(Anomaly::Invented { run, element: *element }),
                }
            }
            if let Some(last) = list.last()
                && let Some((writer, _)) = self.writers.get(last)
                && *writer != run
                && appends(&runs[*writer].ops, key).last() != Some(*last)
            {
                found.push(Anomaly::G1b { run, element: *last });
            }
        }
        let there = self.there();
        let mut lost: Vec<_> = self.writers.iter().filter(|(e, _)| !there.contains(e)).collect();
        lost.sort_unstable();
        for (element, (run, _)) in lost {
            if runs[*run].outcome == Outcome::Committed {
                found.push(Anomaly::Lost { run: *run, element: *element });
            }
        }
        found
    }

    /// Every element that was ever read.
    fn there(&self) -> HashSet<u32> {
        self.longest.values().flat_map(|(_, list)| list.iter().copied()).collect()
    }

    /// Who depends on whom. Of transactions whose end is not known, those count that were seen.
    fn graph(&self, runs: &[Run]) -> Graph {
        let there = self.there();
        let seen = |run: &Run| {
            run.ops
                .iter()
                .any(|op| matches!(op, Op::Append { element, .. } if there.contains(element)))
        };
        let counts: Vec<bool> = runs
            .iter()
            .map(|run| match run.outcome {
                Outcome::Committed => true,
                Outcome::Aborted => false,
                Outcome::Unknown => seen(run),
            })
            .collect();
        let mut graph = Graph::new(runs.len());
        let writer = |element: &u32| self.writers.get(element).map(|(run, _)| *run);
        for (_, list) in self.longest.values() {
            for pair in list.windows(2) {
                if let (Some(before), Some(after)) = (writer(&pair[0]), writer(&pair[1])) {
                    graph.add(before, after, graph::WW);
                }
            }
        }
        for Seen { run, key, list, .. } in reads(runs) {
            if !counts[run] {
                continue;
            }
            if let Some(before) = list.last().and_then(writer) {
                graph.add(before, run, graph::WR);
            }
            if let Some(after) = self.longest[&key].1.get(list.len()).and_then(writer) {
                graph.add(run, after, graph::RW);
            }
        }
        graph
    }
}

fn appends(ops: &[Op], list: u32) -> impl Iterator<Item = u32> {
    ops.iter().filter_map(move |op| match op {
        Op::Append { key, element } if *key == list => Some(*element),
        _ => None,
    })
}

/// A list up to the first element of this transaction.
fn without<'a>(run: &Run, key: u32, list: &'a [u32]) -> &'a [u32] {
    let own: Vec<u32> = appends(&run.ops, key).collect();
    let end = list.iter().position(|e| own.contains(e)).unwrap_or(list.len());
    &list[..end]
}

fn reads(runs: &[Run]) -> impl Iterator<Item = Seen<'_>> {
    runs.iter().enumerate().flat_map(|(at, run)| {
        run.ops.iter().enumerate().filter_map(move |(step, op)| {
            let Op::Read { key, list } = op else { return None };
            let stored = without(run, *key, list);
            let own = appends(&run.ops[..step], *key);
            let consistent = list[stored.len()..].iter().copied().eq(own);
            Some(Seen { run: at, key: *key, list: stored, consistent })
        })
    })
}
