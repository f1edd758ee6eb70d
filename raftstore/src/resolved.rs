//! Safe timestamps: up to which version a replica may be read without asking anybody, and what
//! stores tell one another of it. It must never call a timestamp safe here before the position that
//! came with it is applied here; decoders must never panic on what a peer sent.
//!
//! ```text
//!   leader     offer (ts, looked at locks) ─► index := commit ─► still the leader? ─► publish
//!   replica    publish (version, ts, index) ─► waits in a queue ─► applied ≥ index ─► safe
//!
//!   check      [`RESOLVED`], 0, nonce, round, count, { region, term }*      led here in this term?
//!   agree      [`RESOLVED`], 1, nonce, round, count, { region }*            yes, these
//!   publish    [`RESOLVED`], 2, count, { region, version, ts, index }*
//! ```
//! What is safe stays so for ever: every commit to the region's keys at or below `ts` is in its log
//! at or below `index`, whoever leads later. So a change of the leader takes nothing back. Only the
//! range can change: a part keeps what the whole had, a whole has the least of its parts.

use damask_env::{Mistake, mistaken};
use damask_types::codec::{put_var_u64, take_u8, take_var_u64};
use damask_types::{Epoch, RegionId, Timestamp};
use std::collections::VecDeque;

/// First byte of these words; no version of a message.
const RESOLVED: u8 = 0xFA;
/// Regions that one word names at most.
pub(crate) const WORD_REGIONS_MAX: usize = 4_096;
/// Timestamps that wait for their positions; a replica that is further behind keeps the oldest and
/// the newest of them.
const PENDING_MAX: usize = 8;

/// What a leader has found: nothing will be committed at or below `ts` that is not in its log now.
/// True only while the term lasts, which the store makes sure of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The region.
    pub region: RegionId,
    /// Its description when it was looked at.
    pub epoch: Epoch,
    /// In which term this store led it, and had applied an entry of it, before it was looked at.
    pub term: u64,
    /// The timestamp.
    pub ts: Timestamp,
}

/// A timestamp, and the position by which it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SafeAt {
    pub ts: Timestamp,
    pub index: u64,
}

/// The safe timestamp of one replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Safe {
    /// Of the region's description: the range that it speaks of.
    version: u64,
    now: SafeAt,
    /// Rising in both, above `now`.
    pending: VecDeque<SafeAt>,
}

impl Safe {
    /// A leader's word about the region in this version, which is the one that is applied here.
    pub fn hear(&mut self, version: u64, word: SafeAt) {
        if self.version != version {
            *self = Safe { version, ..Safe::default() };
        }
        let newest = self.pending.back().unwrap_or(&self.now);
        if word.ts <= newest.ts {
            return;
        }
        // A later timestamp by an earlier position: the other one waits for nothing.
        while self.pending.back().is_some_and(|last| last.index >= word.index) {
            self.pending.pop_back();
        }
        if self.pending.len() >= PENDING_MAX {
            self.pending.pop_back();
        }
        self.pending.push_back(word);
    }

    /// Everything up to this position is applied here.
    pub fn applied(&mut self, index: u64) {
        let early = mistaken(Mistake::SafeBeforeApplied);
        while let Some(word) = self.pending.pop_front_if(|word| word.index <= index || early) {
            self.now = word;
        }
    }

    /// Up to where the region may be read, if it is still the one of this version.
    pub fn at(&self, version: u64) -> Option<SafeAt> {
        (self.version == version && self.now.ts > Timestamp::ZERO).then_some(self.now)
    }

    /// The region is a part of what it was, or the same under another version; `from`: the version
    /// that it had.
    pub fn narrow(&mut self, from: u64, version: u64) {
        if self.version != from {
            self.now = SafeAt::default();
        }
        self.version = version;
        self.pending.clear();
    }

    /// What a part that was split off begins with: it has all that was applied here, at the
    /// beginning of its own log.
    pub fn of_part(&self, start: u64) -> Safe {
        let now = SafeAt { ts: self.now.ts, index: start };
        Safe { version: self.version, now, pending: VecDeque::new() }
    }

    /// The region has taken another one in, which was safe up to `other`.
    pub fn widen(&mut self, from: u64, version: u64, other: Timestamp) {
        self.narrow(from, version);
        self.now.ts = self.now.ts.min(other);
    }

    /// A snapshot was put in place: of the same range, or nothing is known of it.
    pub fn replace(&mut self, version: u64) {
        if self.version != version {
            *self = Safe::default();
        }
    }
}

/// A word between stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SafeWord {
    /// Is nobody of these known to you by a newer term than this?
    Check { round: (u64, u64), regions: Vec<(RegionId, u64)> },
    /// None of these.
    Agree { round: (u64, u64), regions: Vec<RegionId> },
    /// Safe from there on, in this version.
    Publish(Vec<(RegionId, u64, SafeAt)>),
}

impl SafeWord {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![RESOLVED];
        let mut head = |kind: u8, round: Option<(u64, u64)>, count: usize| {
            out.push(kind);
            for number in round.iter().flat_map(|(nonce, round)| [*nonce, *round]) {
                put_var_u64(&mut out, number);
            }
            put_var_u64(&mut out, count as u64);
        };
        match self {
            SafeWord::Check { round, regions } => {
                head(0, Some(*round), regions.len());
                for (region, term) in regions {
                    put_all(&mut out, [region.0, *term]);
                }
            }
            SafeWord::Agree { round, regions } => {
                head(1, Some(*round), regions.len());
                for region in regions {
                    put_all(&mut out, [region.0]);
                }
            }
            SafeWord::Publish(regions) => {
                head(2, None, regions.len());
                for (region, version, SafeAt { ts, index }) in regions {
                    put_all(&mut out, [region.0, *version, ts.0, *index]);
                }
            }
        }
        out
    }

    /// The word, if it is one.
    pub fn decode(bytes: &[u8]) -> Option<SafeWord> {
        let (_, mut rest) = bytes.split_first().filter(|(first, _)| **first == RESOLVED)?;
        let buf = &mut rest;
        let kind = take_u8(buf).ok()?;
        let word = match kind {
            0 => {
                let [nonce, round, count] = take_all(buf)?;
                let one = |[region, term]: [u64; 2]| (RegionId(region), term);
                SafeWord::Check { round: (nonce, round), regions: list(buf, count, one)? }
            }
            1 => {
                let [nonce, round, count] = take_all(buf)?;
                let one = |[region]: [u64; 1]| RegionId(region);
                SafeWord::Agree { round: (nonce, round), regions: list(buf, count, one)? }
            }
            2 => {
                let [count] = take_all(buf)?;
                let one = |[region, version, ts, index]: [u64; 4]| {
                    (RegionId(region), version, SafeAt { ts: Timestamp(ts), index })
                };
                SafeWord::Publish(list(buf, count, one)?)
            }
            _ => return None,
        };
        buf.is_empty().then_some(word)
    }
}

fn put_all<const N: usize>(out: &mut Vec<u8>, numbers: [u64; N]) {
    numbers.into_iter().for_each(|number| put_var_u64(out, number));
}

fn take_all<const N: usize>(buf: &mut &[u8]) -> Option<[u64; N]> {
    let mut numbers = [0; N];
    for number in &mut numbers {
        *number = take_var_u64(buf).ok()?;
    }
    Some(numbers)
}

fn list<T, const N: usize>(
    buf: &mut &[u8],
    count: u64,
    one: impl Fn([u64; N]) -> T,
) -> Option<Vec<T>> {
    if count > WORD_REGIONS_MAX as u64 {
        return None;
    }
    (0..count).map(|_| take_all(buf).map(&one)).collect()
}

#[cfg(test)]
mod tests;
