//! The network between nodes: messages take their time, and may be lost, doubled, delayed, and come
//! again. It must never deliver across a cut, nor anything that was not sent.

use crate::chance::Chance;
use crate::kernel::{Micros, kernel};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A node: stores by their id, then the placement driver or its members, then clients.
pub type NodeId = u64;

/// The placement driver and the oracle.
pub const PLACEMENT: NodeId = 900;
/// The first member of its group, if it is one.
pub const FIRST_MEMBER: NodeId = 901;
/// The first client.
pub const FIRST_CLIENT: NodeId = 1000;
/// Old messages kept to be replayed.
const OLD_MAX: usize = 128;

/// What arrives.
pub type Delivery = Arc<dyn Fn() + Send + Sync>;

/// Sends.
#[derive(Default)]
pub struct Net {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    loses: bool,
    delays: bool,
    doubles: bool,
    keeps_old: bool,
    /// Whom a node does not hear, and for how many reasons.
    cut: BTreeMap<(NodeId, NodeId), u32>,
    /// What takes longer than usual, and by how much.
    late: BTreeMap<(NodeId, NodeId), Micros>,
    old: Vec<(NodeId, NodeId, Delivery)>,
}

impl Net {
    /// What goes wrong from now on, all the time.
    pub fn set(&self, loses: bool, delays: bool, doubles: bool, keeps_old: bool) {
        let mut state = self.state.lock();
        (state.loses, state.delays, state.doubles) = (loses, delays, doubles);
        state.keeps_old = keeps_old;
    }

    /// `to` does not hear `from`, until this is mended as often as it was cut.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        *self.state.lock().cut.entry((from, to)).or_default() += 1;
    }

    /// It does again, if nothing else forbids it.
    pub fn mend(&self, from: NodeId, to: NodeId) {
        let mut state = self.state.lock();
        if let Some(reasons) = state.cut.get_mut(&(from, to)) {
            *reasons -= 1;
            if *reasons == 0 {
                state.cut.remove(&(from, to));
            }
        }
    }

    /// What `from` sends to `to` from now on takes so much longer.
    pub fn delay(&self, from: NodeId, to: NodeId, time: Micros) {
        let late = &mut self.state.lock().late;
        match time {
            0 => late.remove(&(from, to)),
            _ => late.insert((from, to), time),
        };
    }

    /// Everything works.
    pub fn heal(&self) {
        let before = std::mem::take(&mut *self.state.lock());
        drop(before);
    }

    /// Does `to` hear `from`?
    pub fn is_open(&self, from: NodeId, to: NodeId) -> bool {
        !self.state.lock().cut.contains_key(&(from, to))
    }

    /// A message on its way.
    pub fn send(self: &Arc<Net>, from: NodeId, to: NodeId, delivery: Delivery) {
        let times = self.times(from, to, &delivery);
        for time in times {
            self.deliver_after(time, from, to, delivery.clone());
        }
    }

    fn deliver_after(self: &Arc<Net>, time: Micros, from: NodeId, to: NodeId, delivery: Delivery) {
        let net = self.clone();
        kernel().after(time, move || {
            if net.is_open(from, to) {
                delivery();
            }
        });
    }

    /// How long each copy takes.
    fn times(&self, from: NodeId, to: NodeId, delivery: &Delivery) -> Vec<Micros> {
        let mut chance = Chance::new(kernel().draw(Chance::any), 5);
        // What is forgotten here may wake somebody when it is dropped: not under the lock.
        let mut forgotten = None;
        let mut state = self.state.lock();
        if state.keeps_old && chance.permille(40) {
            let kept = (from, to, delivery.clone());
            if state.old.len() < OLD_MAX {
                state.old.push(kept);
            } else {
                let at = chance.below(OLD_MAX as u64) as usize;
                forgotten = Some(std::mem::replace(&mut state.old[at], kept));
            }
        }
        let copies = if state.doubles && chance.permille(60) { 2 } else { 1 };
        let late = state.late.get(&(from, to)).copied().unwrap_or_default();
        let mut times = Vec::with_capacity(copies);
        for _ in 0..copies {
            if state.loses && chance.permille(40) {
                continue;
            }
            let slow = state.delays && chance.permille(100);
            let far = slow && chance.permille(150);
            let most = match (slow, far) {
                (_, true) => 1_200_000,
                (true, _) => 100_000,
                _ => 900,
            };
            times.push(late + chance.between(60, most));
        }
        drop(state);
        drop(forgotten);
        times
    }

    /// Some of what was sent before arrives again within this time.
    pub fn replay(self: &Arc<Net>, within: Micros, pick: u64) {
        let mut chance = Chance::new(pick, 4);
        let old = self.state.lock().old.clone();
        for _ in 0..chance.between(1, 8) {
            let Some((from, to, delivery)) = chance.pick(&old).cloned() else { return };
            self.deliver_after(chance.below(within), from, to, delivery);
        }
    }

    /// The way there for a task that goes along with its request: false, it is lost.
    pub fn travel(&self, from: NodeId, to: NodeId) -> bool {
        let delivery: Delivery = Arc::new(|| ());
        let keeps = std::mem::take(&mut self.state.lock().keeps_old);
        let times = self.times(from, to, &delivery);
        self.state.lock().keeps_old = keeps;
        let Some(time) = times.first() else { return false };
        damask_env::simulation::pause(Duration::from_micros(*time));
        self.is_open(from, to)
    }
}
