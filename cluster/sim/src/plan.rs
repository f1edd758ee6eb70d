//! What a seed has in store for a cluster: its limits, and the faults with their times, all drawn
//! before it begins. It must never depend on what happens, so that a fault can be left out and
//! everything else of the plan stays.

use crate::chance::Chance;
use crate::kernel::Micros;

/// So many seeds in a thousand have only two kinds of faults that strike at some time, one of which
/// is a chain of events that others would break.
const FEW_PERMILLE: u64 = 400;
/// So many seeds in a thousand do the small workloads too.
const EXTRAS_PERMILLE: u64 = 250;
/// So many runs of a thousand have a planner that splits and merges regions for their sizes.
const SIZES_PERMILLE: u64 = 600;
/// So many runs of a thousand let groups sleep in which nothing happens.
const HIBERNATE_PERMILLE: u64 = 600;
/// See [`FEW_PERMILLE`].
const AIMED: [FaultKind; 8] = [
    FaultKind::LateAnswers,
    FaultKind::Forgetful,
    FaultKind::SlowSplit,
    FaultKind::EarlyVote,
    FaultKind::LateMerge,
    FaultKind::ColumnRush,
    FaultKind::ColumnLag,
    FaultKind::LateLock,
];

/// Longest storm, milliseconds: a day, of which the faults alone are a hundred thousand.
pub const STORM_MS_MAX: u64 = 86_400_000;

/// A kind of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// Messages are lost.
    Loss,
    /// Messages take long, and overtake one another.
    Delay,
    /// Messages arrive twice.
    Duplicate,
    /// Messages come again seconds later.
    Replay,
    /// A node hears nobody and is heard by nobody.
    Isolation,
    /// One node does not hear another.
    OneWayCut,
    /// Power is lost; the node comes back later.
    Crash,
    /// Power is lost in all stores at once.
    Blackout,
    /// A process stands still.
    Pause,
    /// The Raft thread, the log's, or the one that applies stands still; others go on.
    Stall,
    /// A disk is slow.
    SlowDisk,
    /// Clocks run fast and slow.
    Drift,
    /// A wall clock jumps.
    Jump,
    /// The oracle's process ends, and comes back later.
    OracleCrash,
    /// A client's process ends in the middle of what it does.
    ClientCrash,
    /// A region is split.
    Split,
    /// A leader is told to hand over.
    Transfer,
    /// A region is merged into its neighbour.
    Merge,
    /// A leader's thread stands still, or it is cut off from other stores, while somebody reads
    /// from it and somebody else writes to its successor.
    OldLeader,
    /// The placement driver's process and the oracle's end, and come back later.
    PlacementCrash,
    /// A replica of columns falls so far behind that it needs a snapshot.
    ColumnLag,
    /// A disk is full, or fails one of its next operations: the store stops.
    BadDisk,
    /// The tables with columns get one more.
    AddColumn,
    /// Answers to a leader take long, and then nobody hears it; it is read from.
    LateAnswers,
    /// Who has promised a leader not to vote restarts while another one stands for election.
    Forgetful,
    /// A leader is the last to apply a split of its region.
    SlowSplit,
    /// A store is asked for its vote in a region that it does not have yet, and restarts.
    EarlyVote,
    /// A replica misses the last writes of a region that is merged.
    LateMerge,
    /// Columns are stored slowly while many read them.
    ColumnRush,
    /// Columns that were added are dropped, and one of the same name is added.
    DropColumn,
    /// The leader of the placement driver's group stands still, or is cut off from the others,
    /// while it is asked; or its disk is slow, or fails.
    OldPlacement,
    /// Bits of one store's disk change by themselves.
    BitRot,
    /// A lock runs out, and a late copy of its request takes it again above another's commit.
    LateLock,
}

/// Each kind once: one that is left out does not compile.
macro_rules! kinds {
    ($($kind:ident)*) => {
        impl FaultKind {
            /// All of them.
            pub const ALL: [FaultKind; [$(stringify!($kind)),*].len()] = [$(FaultKind::$kind),*];

            /// For a person.
            pub fn name(self) -> &'static str {
                match self {
                    $(FaultKind::$kind => stringify!($kind),)*
                }
            }
        }
    };
}

kinds! {
    Loss Delay Duplicate Replay Isolation OneWayCut Crash Blackout Pause Stall SlowDisk
    Drift Jump OracleCrash ClientCrash Split Transfer Merge OldLeader PlacementCrash
    ColumnLag BadDisk AddColumn LateAnswers Forgetful SlowSplit EarlyVote LateMerge
    ColumnRush DropColumn OldPlacement BitRot LateLock
}

impl FaultKind {
    /// In force from the beginning to the end of the storm.
    fn is_constant(self) -> bool {
        use FaultKind::{Delay, Drift, Duplicate, Loss};
        matches!(self, Loss | Delay | Duplicate | Drift)
    }
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its place in the seed's whole plan.
    pub number: usize,
    /// When.
    pub at: Micros,
    /// What.
    pub kind: FaultKind,
    /// For how long.
    pub time: Micros,
    /// Whom it meets, and how: a number from which the choice is made.
    pub pick: u64,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Fault { number, at, kind, time, pick } = self;
        let (at, time) = (*at as f64 / 1000.0, *time as f64 / 1000.0);
        write!(f, "{number:>4} {at:>10.3} ms  {kind:?} for {time:.1} ms (pick {pick})")
    }
}

/// What transactions do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Workload {
    /// Transfers between accounts.
    Bank,
    /// Lists that grow.
    Lists,
    /// Single keys written and read.
    Register,
    /// Rows with an index entry each.
    Index,
    /// Elements of a set: see `extras`.
    Set,
    /// Pairs of keys that are written apart.
    LongFork,
    /// A counter.
    Monotonic,
}

/// The limits of a run.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Row stores, of which the first three begin with the first region.
    pub stores: u64,
    /// Column stores.
    pub columns: u64,
    /// Placement drivers: one alone, or the members of a group.
    pub pds: u64,
    /// Clients.
    pub clients: u64,
    /// Raft tick.
    pub tick_ms: u64,
    /// Ticks without a leader before an election.
    pub election_ticks: u64,
    /// Ticks after which a group in which nothing happens sleeps; 0: it never does.
    pub hibernate_ticks: u64,
    /// Entries kept behind the compaction point.
    pub log_keep: u64,
    /// Entries after which a late follower takes a snapshot.
    pub log_max: u64,
    /// Ticks between two compactions.
    pub compact_ticks: u64,
    /// So many times in a thousand a thread that was woken runs late.
    pub late_permille: u64,
    /// And then by so many microseconds at most.
    pub late_most: Micros,
    /// So many times in a thousand a thread is overtaken where it matters.
    pub hesitate_permille: u64,
    /// Of a hundred transactions, how many are pessimistic.
    pub pessimistic_percent: u64,
    /// Transactions may commit in one request.
    pub one_phase: bool,
    /// Transactions may commit with their last prewrite.
    pub async_commit: bool,
    /// Milliseconds that a lock lives.
    pub ttl_ms: u64,
    /// Longest pause between two transactions of a client, milliseconds.
    pub think_ms: u64,
    /// Milliseconds that a client waits for an answer, locks of others not counted.
    pub patience_ms: u64,
    /// Milliseconds behind now up to which versions are kept; 0: nothing is collected.
    pub life_ms: u64,
    /// So many times in a thousand a reader of columns is held back until rows are replaced.
    pub hold_permille: u64,
    /// What clients do, by weight.
    pub mix: Vec<Workload>,
    /// Milliseconds between two rounds in which a store moves its safe timestamps; 0: they stay.
    pub resolved_ms: u64,
    /// Versions of rows above which the planner splits a region, below a quarter of which it
    /// merges one; 0: it does neither for their sizes.
    pub region_keys: u64,
    /// Milliseconds after a split or a merge before the next merge.
    pub merge_quiet_ms: u64,
    /// Ticks for which a read permit keeps content that is removed or replaced.
    pub permit_ticks: u64,
}

/// All that a seed decides beforehand.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// How long there are faults.
    pub storm: Micros,
    /// Limits.
    pub limits: Limits,
    /// Only these kinds of faults were drawn; `None`: a half of all.
    pub kinds: Option<Vec<FaultKind>>,
    /// Faults, by time.
    pub faults: Vec<Fault>,
}

impl Plan {
    /// The plan of a seed. `kinds`: only these faults, instead of a half of all.
    pub fn new(seed: u64, storm_ms: u64, kinds: Option<&[FaultKind]>) -> Plan {
        let mut limits = limits(&mut Chance::new(seed, 2));
        let mut chance = Chance::new(seed, 10);
        if chance.permille(SIZES_PERMILLE) {
            limits.region_keys = chance.between(40, 300);
            limits.merge_quiet_ms = chance.between(500, 5_000);
        }
        let mut chance = Chance::new(seed, 9);
        if chance.permille(HIBERNATE_PERMILLE) {
            limits.hibernate_ticks = chance.between(1, 8);
        }
        if Chance::new(seed, 4).permille(EXTRAS_PERMILLE) {
            limits.mix.extend([Workload::Set, Workload::LongFork, Workload::Monotonic]);
        }
        let mut chance = Chance::new(seed, 3);
        let half = |kind: &FaultKind, chance: &mut Chance| match kinds {
            Some(kinds) => kinds.contains(kind),
            None => chance.permille(500),
        };
        let on: Vec<FaultKind> =
            FaultKind::ALL.into_iter().filter(|kind| half(kind, &mut chance)).collect();
        let storm = storm_ms * 1000;
        let (constant, mut timed): (Vec<_>, Vec<_>) = on.into_iter().partition(|k| k.is_constant());
        // Now and then two strike again and again.
        if kinds.is_none() && chance.permille(FEW_PERMILLE) {
            let aims = AIMED[chance.below(AIMED.len() as u64) as usize];
            timed = chance.pick(&timed).copied().into_iter().chain([aims]).collect();
        }
        let whole = |kind| Fault { number: 0, at: 0, kind, time: storm, pick: 0 };
        let mut faults: Vec<Fault> = constant.into_iter().map(whole).collect();
        let pause = chance.between(50, 400) * 1000;
        let mut at = chance.between(300_000, 800_000);
        while at < storm && !timed.is_empty() {
            let kind = *chance.pick(&timed).expect("there are some");
            // Mostly short, up to 2.5 seconds.
            let root = chance.between(1, 50);
            let (time, pick) = (root * root * 1000, chance.any() >> 16);
            faults.push(Fault { number: 0, at, kind, time, pick });
            at += chance.between(10_000, 2 * pause);
        }
        faults.iter_mut().filter(|f| f.pick == 0).for_each(|f| f.pick = chance.any() >> 16);
        faults.iter_mut().enumerate().for_each(|(at, fault)| fault.number = at);
        let kinds = kinds.map(<[FaultKind]>::to_vec);
        Plan { seed, storm, limits, kinds, faults }
    }

    /// Only these faults, by their numbers; those that it does not have are left out.
    pub fn keep(mut self, numbers: &[usize]) -> Plan {
        self.faults.retain(|fault| numbers.contains(&fault.number));
        self
    }

    /// The same, of faults that it must have.
    ///
    /// # Errors
    /// A number that is none of its faults: it is another plan than the one that was meant.
    pub fn keep_known(self, numbers: &[usize]) -> Result<Plan, String> {
        let has = |number: &usize| self.faults.iter().any(|fault| fault.number == *number);
        match numbers.iter().find(|number| !has(number)) {
            Some(number) => Err(format!(
                "seed {} has {} faults, and no fault {number}: its plan is another one now",
                self.seed,
                self.faults.len()
            )),
            None => Ok(self.keep(numbers)),
        }
    }

    /// How to run it again.
    pub fn command(&self) -> String {
        let numbers: Vec<String> = self.faults.iter().map(|f| f.number.to_string()).collect();
        let keep = if numbers.is_empty() { "none".to_owned() } else { numbers.join(",") };
        let names = |kinds: &[FaultKind]| match kinds {
            [] => "none".to_owned(),
            kinds => kinds.iter().map(|kind| format!("{kind:?}")).collect::<Vec<_>>().join(","),
        };
        let only = self.kinds.as_deref().map(|kinds| format!(" --faults {}", names(kinds)));
        let (storm, only) = (self.storm / 1000, only.unwrap_or_default());
        format!("--seed {} --storm {storm}{only} --keep {keep}", self.seed)
    }

    /// Limits and faults, for a person.
    pub fn told(&self) -> Vec<String> {
        let limits = format!("{:?}", self.limits);
        std::iter::once(limits).chain(self.faults.iter().map(|fault| fault.to_string())).collect()
    }
}

fn limits(chance: &mut Chance) -> Limits {
    let all = [Workload::Bank, Workload::Lists, Workload::Register, Workload::Index];
    let mut mix: Vec<Workload> = all.into_iter().filter(|_| chance.permille(600)).collect();
    if mix.is_empty() {
        mix.push(Workload::Bank);
    }
    Limits {
        stores: chance.between(3, 4),
        columns: u64::from(chance.permille(700)),
        pds: if chance.permille(500) { 3 } else { 1 },
        clients: chance.between(3, 5),
        tick_ms: chance.between(20, 60),
        election_ticks: chance.between(5, 10),
        hibernate_ticks: 0,
        region_keys: 0,
        merge_quiet_ms: 0,
        log_keep: if chance.permille(300) { 0 } else { chance.below(12) },
        log_max: if chance.permille(400) { 20 } else { chance.between(20, 400) },
        compact_ticks: chance.between(3, 30),
        late_permille: [15, 15, 150][chance.below(3) as usize],
        late_most: [1_500, 5_000][chance.below(2) as usize],
        hesitate_permille: [0, 20, 100][chance.below(3) as usize],
        pessimistic_percent: [0, 30, 100][chance.below(3) as usize],
        one_phase: chance.permille(500),
        async_commit: chance.permille(600),
        ttl_ms: chance.between(300, 2_000),
        think_ms: [5, 30, 150][chance.below(3) as usize],
        patience_ms: [200, 700, 1_800][chance.below(3) as usize],
        life_ms: match chance.below(4) {
            0 => chance.between(300, 2_500),
            1 => chance.between(500, 900),
            _ => 0,
        },
        hold_permille: [0, 40, 200][chance.below(3) as usize],
        mix,
        resolved_ms: [0, 60, 250][chance.below(3) as usize],
        permit_ticks: [600, 12][chance.below(2) as usize],
    }
}
