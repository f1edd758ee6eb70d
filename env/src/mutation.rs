//! Deliberate mistakes, by which the simulator's checks are checked. Without the feature
//! `mutations`, which only the simulator's own build turns on, none can be made: [`mistaken`] is
//! `false` when it is compiled, and what it guards is gone.

/// A mistake that a run may be told to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// A follower acknowledges entries that are not synced.
    AckBeforeSync,
    /// The applied index is written before the data, in a write of its own.
    AppliedFirst,
    /// A command's epoch is not looked at when it is applied.
    EpochNotChecked,
    /// A leader believes in its lease for longer than its followers keep it.
    LeaseTooLong,
    /// The oracle serves timestamps above its saved bound.
    BoundNotSaved,
    /// A prewrite does not look for newer versions.
    ConflictIgnored,
    /// A short commit's keys leave the table before its records are applied.
    GuardDroppedEarly,
    /// Reads do not raise `max_ts`.
    MaxTsNotRaised,
    /// A new leader does not ask for a timestamp before it serves short commits.
    MaxTsNotSynced,
    /// Commands that share a key do not take turns.
    LatchesNotTaken,
    /// A learner drops a lock before its row is stored.
    LockBeforeRow,
    /// A learner reads without asking the leader.
    ReadIndexSkipped,
    /// A learner takes its snapshot whatever locks there are.
    LocksIgnored,
    /// A learner does not look at the region again after its snapshot.
    RegionNotCheckedAgain,
    /// A learner forgets its locks at a restart.
    LocksForgotten,
    /// A lease counts from its acknowledgement, not from when the message left.
    LeaseFromAck,
    /// A replica that has just started votes at once, whatever it promised before.
    VoteBanSkipped,
    /// Who proposed is answered before the entry is applied.
    AckBeforeApply,
    /// The log is cut off above what the machine has made durable.
    PurgeUnsynced,
    /// The parts of a split become known in writes of their own.
    ChildSeparately,
    /// A merge takes in a region that has not applied all that it should have.
    MergeNotCaughtUp,
    /// That a region is being merged is forgotten at a restart.
    MergingForgotten,
    /// A replica that holds nothing yet does not save its vote.
    VoteNotSaved,
    /// A lease grows on while a split is under way.
    SplitExtendsLease,
    /// A later rollback removes a protected one.
    ProtectedCollapsed,
    /// A prewrite that comes late does not see its own rollback.
    RollbackOverlooked,
    /// A prewrite whose lock is gone does not look for newer versions.
    LostLockUnchecked,
    /// Garbage collection removes a delete before what it hides.
    DeleteFirst,
    /// A leader names a learner's index before the read is announced.
    ReadIndexEarly,
    /// An update leaves the older row in the columns visible.
    MaskNotCleared,
    /// A merge of columns loses what was applied meanwhile.
    MergeLosesLate,
    /// Columns that are to be removed stay.
    ClearIgnored,
    /// A row that is applied again is there twice.
    ReplayDoubles,
    /// A row that the known schema does not fit is stored as nulls.
    SchemaFilled,
    /// Merged columns are used without their manifest being stored.
    ManifestForgotten,
    /// Columns remove versions that somebody may still read.
    SafePointIgnored,
    /// A leader of the placement driver's group goes on before what it saves is committed.
    BoundNotCommitted,
    /// A leader of that group answers without asking whether it still leads.
    DeposedServes,
    /// A region is called resolved above the start of a transaction whose lock stands in it.
    ResolvedPastLock,
    /// A region is called resolved above a short commit that is not applied yet.
    ResolvedPastUnfinished,
    /// The timestamp up to which a region is resolved is taken after the look at its locks.
    ResolvedTsLate,
    /// A replica calls a timestamp safe before it has applied what belongs to it.
    SafeBeforeApplied,
    /// A leader has timestamps called safe without asking whether it still leads.
    SafeUnvouched,
    /// A pessimistic lock that was taken again later passes for the one that was lost.
    HeldVersionIgnored,
    /// A lease is compared with a clock that was read before anybody asked.
    ClockReadEarly,
    /// A removal is lost where entries of several regions are written at once.
    ApplySkipsDelete,
}

impl Mistake {
    /// All of them.
    pub const ALL: [Mistake; 46] = [
        Mistake::AckBeforeSync,
        Mistake::AppliedFirst,
        Mistake::EpochNotChecked,
        Mistake::LeaseTooLong,
        Mistake::BoundNotSaved,
        Mistake::ConflictIgnored,
        Mistake::GuardDroppedEarly,
        Mistake::MaxTsNotRaised,
        Mistake::MaxTsNotSynced,
        Mistake::LatchesNotTaken,
        Mistake::LockBeforeRow,
        Mistake::ReadIndexSkipped,
        Mistake::LocksIgnored,
        Mistake::RegionNotCheckedAgain,
        Mistake::LocksForgotten,
        Mistake::LeaseFromAck,
        Mistake::VoteBanSkipped,
        Mistake::AckBeforeApply,
        Mistake::PurgeUnsynced,
        Mistake::ChildSeparately,
        Mistake::MergeNotCaughtUp,
        Mistake::MergingForgotten,
        Mistake::VoteNotSaved,
        Mistake::SplitExtendsLease,
        Mistake::ProtectedCollapsed,
        Mistake::RollbackOverlooked,
        Mistake::LostLockUnchecked,
        Mistake::DeleteFirst,
        Mistake::ReadIndexEarly,
        Mistake::MaskNotCleared,
        Mistake::MergeLosesLate,
        Mistake::ClearIgnored,
        Mistake::ReplayDoubles,
        Mistake::SchemaFilled,
        Mistake::ManifestForgotten,
        Mistake::SafePointIgnored,
        Mistake::BoundNotCommitted,
        Mistake::DeposedServes,
        Mistake::ResolvedPastLock,
        Mistake::ResolvedPastUnfinished,
        Mistake::ResolvedTsLate,
        Mistake::SafeBeforeApplied,
        Mistake::SafeUnvouched,
        Mistake::HeldVersionIgnored,
        Mistake::ClockReadEarly,
        Mistake::ApplySkipsDelete,
    ];
}

/// Is this mistake to be made, on this thread?
#[cfg(not(feature = "mutations"))]
#[inline(always)]
pub const fn mistaken(_: Mistake) -> bool {
    false
}

#[cfg(feature = "mutations")]
thread_local! {
    static CHOSEN: std::cell::Cell<Option<Mistake>> = const { std::cell::Cell::new(None) };
}

/// Is this mistake to be made, on this thread?
#[cfg(feature = "mutations")]
pub fn mistaken(mutation: Mistake) -> bool {
    CHOSEN.get() == Some(mutation)
}

/// A simulated thread is overtaken only where it waits, a real one anywhere: where a mistake is to
/// be made, others get their time.
#[cfg(feature = "mutations")]
pub fn be_overtaken() {
    crate::simulation::pause(std::time::Duration::from_millis(2));
}

/// Others get their time where a mistake is to be made, of which there is none.
#[cfg(not(feature = "mutations"))]
#[inline(always)]
pub const fn be_overtaken() {}

/// Has this thread make a mistake from now on, or none.
#[cfg(feature = "mutations")]
pub fn mutate(mutation: Option<Mistake>) {
    CHOSEN.set(mutation);
}
