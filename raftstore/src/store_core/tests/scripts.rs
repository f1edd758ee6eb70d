//! Scenarios as text: propose, deliver, stabilise, and what every store says then. The scripts are
//! in `tests/scripts`; `UPDATE_GOLDEN=1` writes the answers anew, to be read in review.
//!
//! ```text
//! # words                        begins a case: three stores, one region, led by store 1
//! write 1 d | read 1 d lease     asked of a store, under the description that it has itself
//! to 1 7 d 2 6                   a write to region 7, as it was in version 2, in term 6 only
//! local 1 d                      read on store 1 by the lease that it has published, if it lasts
//! split 1 h 2 | merge 1 2 1      of the region at store 1 that holds h, or with the id 2 into 1
//! split 1 h,p 2,3                at two keys at once
//! lead 2 3 | transfer 2 3        region 2 is to be led by store 3; nothing is delivered yet
//! cut 3 | heal 3                 nothing goes to or from it
//! hold 3 | let 3                 its apply thread stands still
//! slow 3 | quick 3               its disk does: nothing that it writes becomes durable
//! deaf 2 3 | hear 2 3            messages of region 2 to store 3 are lost; no more
//! keep 3 | pass 3 | replay       messages to it are kept instead of delivered; no more; they come
//! drop 1 3                       region 1 loses its replica on store 3
//! stores 4                       at first: there are four stores, three of them with the region
//! learner 1 4 | voter 1 4        region 1 gets a learner on store 4, or has that one vote
//! joint 1 +4 -3                  in one step, store 4 votes and store 3 does not
//! peers 1                        what the leader says of region 1's replicas
//! parts                          from here on, each part of a snapshot that is delivered is told
//! rate 1000 | sends 1             bytes of snapshots a second; snapshots at a time, of each store
//! lose 3 1 | stop 3 1            part 1 to store 3 is lost once; or cuts the store off
//! crash 3                        power is lost: what was not synced is gone
//! offer 1 50                     what store 1 leads is resolved up to 50, as it thinks
//! safe                           up to where each replica may be read, and by which position
//! gc                             machines sync, logs are compacted
//! settle 20                      everything is delivered; so many ticks
//! ticks 40                       time passes for all, and messages are lost
//! tick 1 5                       time passes on store 1; its messages wait
//! show                           every replica: range, conf_ver/version, who leads (*), applied
//! ```

use super::*;
use crate::resolved::Resolved;
use std::collections::BTreeSet;
use std::fmt::Write;

struct Script {
    world: World,
    cut: BTreeSet<u64>,
    held: BTreeSet<u64>,
    slow: BTreeSet<u64>,
    kept_for: BTreeSet<u64>,
    /// Region and store.
    deaf: BTreeSet<(u64, u64)>,
    kept: Vec<Envelope>,
    said: Arc<Mutex<String>>,
    value: u64,
    tells_parts: bool,
    /// Store, part, and whether the store is cut off with it.
    loses: Option<(u64, u64, bool)>,
}

fn short(e: &Error) -> String {
    match e {
        Error::NotLeader { leader, .. } => {
            let at = leader.map_or("nobody".to_owned(), |p| format!("store {}", p.store));
            format!("led by {at}")
        }
        Error::EpochNotMatch { current } => {
            let now = current.iter().map(|r| format!("r{} v{}", r.id, r.epoch.version));
            format!("epoch: now {}", now.collect::<Vec<_>>().join(", "))
        }
        Error::Stopped => "nothing is here".to_owned(),
        other => other.to_string(),
    }
}

impl Script {
    fn new(stores: u64) -> Script {
        let world = World::new(1, 3, stores);
        let (cut, held, slow, kept_for, deaf) = Default::default();
        let (said, kept, value) = (Arc::default(), Vec::new(), 0);
        let (tells_parts, loses) = (false, None);
        let mut script = Script {
            world,
            cut,
            held,
            slow,
            kept_for,
            deaf,
            kept,
            said,
            value,
            tells_parts,
            loses,
        };
        (1..=stores).for_each(|id| script.world.finish(id));
        script.settle(3);
        script
    }

    fn ids(&self) -> Vec<u64> {
        self.world.nodes.keys().copied().collect()
    }

    /// Says so when the answer comes.
    fn tell<T: 'static>(
        &self,
        what: String,
        show: impl FnOnce(T) -> String + Send + 'static,
    ) -> Answer<T> {
        let said = self.said.clone();
        Answer::new(Box::new(move |result: Result<T>| {
            let text = result.map_or_else(|e| short(&e), show);
            writeln!(said.lock(), "{what}: {text}").unwrap();
        }))
    }

    fn threads(&mut self) {
        for id in self.ids() {
            while !self.slow.contains(&id) && !self.world.nodes[&id].writes.is_empty() {
                self.world.run_writer(id);
            }
            while !self.held.contains(&id) && !self.world.nodes[&id].applies.is_empty() {
                self.world.run_applier(id);
            }
        }
    }

    fn deliver(&mut self) {
        loop {
            self.threads();
            if self.world.net.is_empty() {
                return;
            }
            for envelope in std::mem::take(&mut self.world.net) {
                let (from, to) = (envelope.from.store.0, envelope.to.store.0);
                if self.deaf.contains(&(envelope.region.0, to)) || self.is_lost(&envelope) {
                    continue;
                }
                if self.kept_for.contains(&to) {
                    self.kept.push(envelope);
                } else if !self.cut.contains(&from) && !self.cut.contains(&to) {
                    self.world.step(to, Event::Messages(vec![envelope]));
                }
            }
        }
    }

    /// Tells of a snapshot's part, and loses the one that is to be lost.
    fn is_lost(&mut self, envelope: &Envelope) -> bool {
        let (from, to) = (envelope.from.store.0, envelope.to.store.0);
        let Some(Ok(part)) = wire::decode_chunk(&envelope.message) else { return false };
        if part.at == u64::MAX {
            return false; // a question
        }
        if self.cut.contains(&to) || self.cut.contains(&from) {
            return true;
        }
        let lost = self.loses.filter(|(store, at, _)| (*store, *at) == (to, part.at));
        if self.tells_parts {
            let end = if part.last { ", the last" } else { "" };
            let lost = if lost.is_some() { ", lost" } else { "" };
            let (at, bytes) = (part.at, part.data.len());
            writeln!(self.said.lock(), "part {at} to {to}: {bytes} bytes{end}{lost}").unwrap();
        }
        if let Some((store, _, cuts)) = lost {
            self.loses = None;
            if cuts {
                self.cut.insert(store);
            }
        }
        lost.is_some()
    }

    fn settle(&mut self, ticks: u64) {
        self.deliver();
        for _ in 0..ticks {
            for id in self.ids() {
                self.world.tick(id);
            }
            self.deliver();
        }
    }

    fn write(&mut self, store: u64, key: &str) {
        let what = format!("write {key} on {store}");
        self.value += 1;
        let n = self.value;
        let answer = self.tell(what, move |_: Applied| format!("{n}"));
        let Some(status) = self.world.region_at(store, key) else {
            return answer.send(Err(Error::Stopped));
        };
        let lock = Lock::new(LockKind::Put, b"p".to_vec(), Timestamp(n), 1);
        let records = [Record::Lock { key: key.as_bytes().to_vec(), lock }];
        let (region, epoch) = (status.region.id, status.region.epoch);
        let payload = encode_write(epoch, &records);
        let event = Event::Propose { region, epoch, term: None, payload, span: None, answer };
        self.world.step(store, event);
    }

    fn write_to(&mut self, store: u64, region: u64, key: &str, version: u64, term: Option<u64>) {
        let answer = self.tell(format!("write {key} to r{region} on {store}"), |at: Applied| {
            format!("done, in term {}", at.term)
        });
        self.value += 1;
        let lock = Lock::new(LockKind::Put, b"p".to_vec(), Timestamp(self.value), 1);
        let key = key.as_bytes().to_vec();
        let span = Some((key.clone(), key.clone()));
        let (region, epoch) = (RegionId(region), Epoch { version, ..Epoch::default() });
        let payload = encode_write(epoch, &[Record::Lock { key, lock }]);
        self.world.step(store, Event::Propose { region, epoch, term, payload, span, answer });
    }

    fn read(&mut self, store: u64, key: &str, mode: ReadMode) {
        let (engine, name) = (self.world.nodes[&store].engine.clone(), key.to_owned());
        let show = move |_: crate::handle::ReadPermit| Node::value(&engine, &name).to_string();
        let answer = self.tell(format!("read {key} on {store}"), show);
        let Some(status) = self.world.region_at(store, key) else {
            return answer.send(Err(Error::Stopped));
        };
        let (region, epoch) = (status.region.id, status.region.epoch);
        self.world.step(store, Event::Read { region, epoch, mode, answer });
    }

    /// On the caller's thread, by the store's clock.
    fn local(&mut self, store: u64, key: &str) {
        let Some(ReplicaStatus { region, .. }) = self.world.region_at(store, key) else { return };
        let node = &self.world.nodes[&store];
        let view = node.local.find(region.id, region.epoch);
        let permit = view.and_then(|view| view.permit(node.now));
        let found = permit.map(|_| Node::value(&node.engine, key).to_string());
        let found = found.unwrap_or_else(|| "no lease".to_owned());
        writeln!(self.said.lock(), "local {key} on {store}: {found}").unwrap();
    }

    fn split(&mut self, store: u64, keys: &str, children: &str) {
        let first = keys.split(',').next().expect("a key");
        let status = self.world.region_at(store, first).expect("a region");
        let child = |id: &str| {
            let id: u64 = id.parse().unwrap();
            let peers = status.region.peers.iter().map(|p| PeerId(id * 10 + p.store.0)).collect();
            SplitChild { region: RegionId(id), peers }
        };
        let children = children.split(',').map(child).collect();
        let answer = self.tell(format!("split at {keys}"), |_| "done".to_owned());
        let (region, epoch) = (status.region.id, status.region.epoch);
        let keys = keys.split(',').map(|key| key.as_bytes().to_vec()).collect();
        self.world.step(store, Event::Split { region, epoch, keys, children, answer });
    }

    fn merge(&mut self, store: u64, region: u64, into: u64) {
        let (region, into) = (RegionId(region), RegionId(into));
        let show = |r: Region| format!("begun, v{}", r.epoch.version);
        let answer = self.tell(format!("merge {region} into {into}"), show);
        let status = self.world.nodes[&store].core.status(region);
        let epoch = status.map_or(Epoch::default(), |s| s.region.epoch);
        self.world.step(store, Event::Merge { region, epoch, into, answer });
    }

    fn drop_replica(&mut self, region: u64, store: u64) {
        let region = RegionId(region);
        let (at, description) = self.led(region);
        let peer = *description.peer_on(StoreId(store)).expect("a replica");
        let answer = self.tell(format!("drop r{region} on {store}"), |_| "done".to_owned());
        let (epoch, change) = (description.epoch, PeerChange::Remove(peer));
        self.world.step(at, Event::ChangePeer { region, epoch, change, answer });
    }

    fn led(&self, region: RegionId) -> (u64, Region) {
        let leads = |id: &u64| {
            let status = self.world.nodes[id].core.status(region)?;
            status.is_leader.then_some((*id, status.region))
        };
        self.ids().iter().find_map(leads).expect("a leader")
    }

    fn learner(&mut self, region: u64, store: u64) {
        let (id, store) = (RegionId(region), StoreId(store));
        let (at, Region { epoch, .. }) = self.led(id);
        let peer = Peer { id: PeerId(500 + store.0), store, role: PeerRole::Learner };
        let answer = self.tell(format!("learner of r{region} on {store}"), |_| "done".to_owned());
        let change = PeerChange::AddLearner(peer);
        self.world.step(at, Event::ChangePeer { region: id, epoch, change, answer });
    }

    fn voter(&mut self, region: u64, store: u64) {
        let id = RegionId(region);
        let (at, Region { epoch, peers, .. }) = self.led(id);
        let peer = *peers.iter().find(|p| p.store == StoreId(store)).expect("a learner");
        let answer = self.tell(format!("voter of r{id} on {store}"), |_| "done".to_owned());
        let change = PeerChange::AddVoter(peer);
        self.world.step(at, Event::ChangePeer { region: id, epoch, change, answer });
    }

    fn joint(&mut self, region: u64, words: &[&str]) {
        let id = RegionId(region);
        let (at, Region { epoch, peers, .. }) = self.led(id);
        let change = |word: &&str| {
            let store = StoreId(word[1..].parse().unwrap());
            let new = Peer { id: PeerId(500 + store.0), store, role: PeerRole::Voter };
            let peer = peers.iter().find(|p| p.store == store).copied().unwrap_or(new);
            match &word[..1] {
                "+" => PeerChange::AddVoter(peer),
                "-" => PeerChange::AddLearner(peer),
                _ => PeerChange::Remove(peer),
            }
        };
        let changes = words.iter().map(change).collect();
        let answer = self.tell(format!("joint r{region}"), |_| "begun".to_owned());
        self.world.step(at, Event::ChangePeers { region: id, epoch, changes, answer });
    }

    fn peers(&self, region: u64) {
        let leads = |id: &u64| {
            let status = self.world.nodes[id].core.status(RegionId(region));
            !self.cut.contains(id) && status.is_some_and(|s| s.is_leader)
        };
        let Some(at) = self.ids().into_iter().find(leads) else {
            return writeln!(self.said.lock(), "led by nobody").unwrap();
        };
        let status = self.world.nodes[&at].core.status(RegionId(region));
        let Region { epoch, peers, .. } = status.expect("it leads").region;
        let mut told: Vec<String> =
            peers.iter().map(|p| format!("{} {:?}", p.store, p.role).to_lowercase()).collect();
        told.sort();
        let (told, conf) = (told.join(", "), epoch.conf_ver);
        writeln!(self.said.lock(), "led by {at}, {conf}: {told}").unwrap();
    }

    fn transfer(&mut self, region: u64, store: u64) {
        let region = RegionId(region);
        for id in self.ids() {
            let Some(status) = self.world.nodes[&id].core.status(region) else { continue };
            let Some(to) = status.region.peer_on(StoreId(store)).copied() else { continue };
            if status.is_leader {
                self.world.step(id, Event::TransferLeader { region, to });
            }
        }
    }

    fn collect(&mut self) {
        for id in self.ids() {
            let node = self.world.nodes.get_mut(&id).unwrap();
            let points = node.machine.sync().unwrap();
            self.world.step(id, Event::Synced(points));
        }
        self.threads();
    }

    fn show(&self) {
        let mut said = self.said.lock();
        for (id, node) in &self.world.nodes {
            for region in node.core.ids() {
                let Some(status) = node.core.status(region) else { continue };
                let Region { range, epoch, .. } = &status.region;
                let text = |key: &[u8]| String::from_utf8(key.to_vec()).unwrap();
                let leads = if status.is_leader { " *" } else { "" };
                let merging = if status.merging { " merging" } else { "" };
                let (first, index) = (node.log.group(region).unwrap(), status.applied.index);
                let log = format!("applied {index}, log after {}", first.truncated.index);
                let range = format!("{}..{}", text(&range.start), text(&range.end));
                let (conf, version) = (epoch.conf_ver, epoch.version);
                let line = format!("r{region} {range} {conf}/{version}{leads}{merging} {log}");
                writeln!(said, "  store {id}: {line}").unwrap();
            }
        }
    }

    fn offer(&mut self, store: u64, ts: u64) {
        let core = &self.world.nodes[&store].core;
        let led = core.ids().into_iter().filter_map(|id| core.status(id)).filter(|s| s.is_leader);
        let found = led.map(|ReplicaStatus { region, term, .. }| {
            let (id, epoch, ts) = (region.id, region.epoch, Timestamp(ts));
            Resolved { region: id, epoch, term, ts }
        });
        let found = found.collect();
        self.world.step(store, Event::Resolved(found));
    }

    fn safe(&self) {
        let mut said = self.said.lock();
        for (id, node) in &self.world.nodes {
            let of = |(id, replica): (&RegionId, &Replica)| {
                let safe = replica.safe_published.as_ref();
                let safe = safe.map(|view| view.safe);
                let safe = safe.map(|safe| format!("{}@{}", safe.ts.0, safe.index));
                format!("r{id} {}", safe.unwrap_or("-".to_owned()))
            };
            let all: Vec<String> = node.core.replicas.iter().map(of).collect();
            writeln!(said, "  store {id}: {}", all.join(", ")).unwrap();
        }
    }

    fn tick_one(&mut self, store: u64) {
        self.world.tick(store);
        self.threads();
    }

    fn tick_unheard(&mut self) {
        self.ids().into_iter().for_each(|id| self.world.tick(id));
        self.threads();
        self.world.net.clear();
    }

    fn crash(&mut self, store: u64) {
        let node = self.world.nodes.remove(&store).unwrap();
        let engine = node.engine.crash(0).unwrap();
        let disk = node.disk.crash_image(|_| 0);
        drop(node);
        self.world.nodes.insert(store, Node::start(store, disk, engine, self.value));
        self.world.finish(store);
    }

    fn line(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let n = |at: usize| words[at].parse::<u64>().unwrap_or_else(|_| panic!("{line}"));
        match words[0] {
            "write" => self.write(n(1), words[2]),
            "to" => self.write_to(n(1), n(2), words[3], n(4), words.get(5).map(|_| n(5))),
            "read" => {
                let modes = ["index", "lease", "follower"];
                let at = modes.iter().position(|m| *m == words[3]).expect("a mode");
                let modes = [ReadMode::Index, ReadMode::Lease, ReadMode::Follower];
                self.read(n(1), words[2], modes[at]);
            }
            "local" => self.local(n(1), words[2]),
            "split" => self.split(n(1), words[2], words[3]),
            "merge" => self.merge(n(1), n(2), n(3)),
            "transfer" => self.transfer(n(1), n(2)),
            "lead" => {
                self.transfer(n(1), n(2));
                self.settle(2);
            }
            "cut" => drop(self.cut.insert(n(1))),
            "heal" => drop(self.cut.remove(&n(1))),
            "slow" => drop(self.slow.insert(n(1))),
            "quick" => drop(self.slow.remove(&n(1))),
            "hold" => drop(self.held.insert(n(1))),
            "let" => drop(self.held.remove(&n(1))),
            "deaf" => drop(self.deaf.insert((n(1), n(2)))),
            "hear" => drop(self.deaf.remove(&(n(1), n(2)))),
            "keep" => drop(self.kept_for.insert(n(1))),
            "pass" => drop(self.kept_for.remove(&n(1))),
            "drop" => self.drop_replica(n(1), n(2)),
            "stores" => *self = Script::new(n(1)),
            "learner" => self.learner(n(1), n(2)),
            "voter" => self.voter(n(1), n(2)),
            "joint" => self.joint(n(1), &words[2..]),
            "peers" => self.peers(n(1)),
            "parts" => self.tells_parts = true,
            "rate" => {
                let nodes = self.world.nodes.values_mut();
                nodes.for_each(|node| node.core.config.snapshot_bytes_per_second = n(1));
            }
            "sends" => {
                let nodes = self.world.nodes.values_mut();
                nodes.for_each(|node| node.core.config.snapshot_sends_max = n(1) as usize);
            }
            "lose" => self.loses = Some((n(1), n(2), false)),
            "stop" => self.loses = Some((n(1), n(2), true)),
            "replay" => {
                self.kept_for.clear();
                let kept = std::mem::take(&mut self.kept);
                self.world.net.extend(kept);
                self.deliver();
            }
            "crash" => self.crash(n(1)),
            "offer" => self.offer(n(1), n(2)),
            "safe" => self.safe(),
            "gc" => self.collect(),
            "settle" => self.settle(n(1)),
            "ticks" => (0..n(1)).for_each(|_| self.tick_unheard()),
            "tick" => (0..n(2)).for_each(|_| self.tick_one(n(1))),
            "show" => self.show(),
            _ => panic!("what is {line}?"),
        }
    }
}

/// Runs the cases of a file; the answers of each command follow it.
fn run(text: &str) -> String {
    let mut out = String::new();
    let mut script = None;
    for line in text.lines().filter(|line| !line.starts_with("  ")) {
        if line.starts_with('#') {
            script = Some(Script::new(3));
        }
        writeln!(out, "{line}").unwrap();
        let (Some(script), false) = (&mut script, line.is_empty() || line.starts_with('#')) else {
            continue;
        };
        script.line(line);
        for told in std::mem::take(&mut *script.said.lock()).lines() {
            writeln!(out, "  {}", told.trim_start()).unwrap();
        }
    }
    out
}

#[test]
fn merges_go_as_written() {
    golden("merge");
}

#[test]
fn splits_go_as_written() {
    golden("split");
}

#[test]
fn leases_go_as_written() {
    golden("lease");
}

#[test]
fn changes_of_replicas_go_as_written() {
    golden("membership");
}

#[test]
fn refusals_go_as_written() {
    golden("answers");
}

#[test]
fn losses_of_power_go_as_written() {
    golden("restart");
}

#[test]
fn safe_timestamps_go_as_written() {
    golden("resolved");
}

#[test]
fn snapshots_go_as_written() {
    golden("snapshot");
}

fn golden(folder: &str) {
    let folder = format!("{}/tests/scripts/{folder}", env!("CARGO_MANIFEST_DIR"));
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    names.sort();
    assert!(!names.is_empty());
    for name in names {
        let text = std::fs::read_to_string(&name).unwrap();
        println!("{}", name.display());
        let found = run(&text);
        if std::env::var("UPDATE_GOLDEN").is_ok() {
            std::fs::write(&name, found).unwrap();
        } else {
            assert_eq!(found, text, "{}", name.display());
        }
    }
}
