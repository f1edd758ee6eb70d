//! What stores tell one another of groups that sleep, as bytes. Decoders must never panic on what
//! a peer sent.
//!
//! ```text
//! word   HIBERNATE u8, kind u8, a varint, b varint, in place of a message's bytes
//!        ask, agree, sleep: a term and the last index; wake: nothing; vouch: a digest
//! ```

use damask_types::RegionId;
use damask_types::codec::{put_var_u64, take_u8, take_var_u64};

/// First byte of a word; no version of a message.
const HIBERNATE: u8 = 0xF0;

/// Where a group stands still: two replicas with the same have the same log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    pub term: u64,
    /// The last entry; committed and applied.
    pub index: u64,
}

/// Which groups sleep, in a few bytes: equal for equal sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Digest {
    pub count: u64,
    sum: u64,
}

impl Digest {
    /// Adds a group that is led in this term.
    pub fn add(&mut self, region: RegionId, term: u64) {
        self.count += 1;
        let one = mix(region.0.wrapping_add(mix(term)));
        self.sum = self.sum.wrapping_add(one);
    }
}

/// SplitMix64's output function.
fn mix(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A word between two replicas, or (the last) between two stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// The leader: nothing happened here for long; is this all there is at your place as well?
    Ask(Position),
    /// A follower: it is.
    Agree(Position),
    /// The leader: all have agreed, and I sleep.
    Sleep(Position),
    /// A follower: I am awake, be so too.
    Wake,
    /// Between stores: the groups led here that sleep and have a replica at your place.
    Vouch(Digest),
}

impl Word {
    pub fn encode(self) -> Vec<u8> {
        let (kind, a, b) = match self {
            Word::Ask(Position { term, index }) => (0, term, index),
            Word::Agree(Position { term, index }) => (1, term, index),
            Word::Sleep(Position { term, index }) => (2, term, index),
            Word::Wake => (3, 0, 0),
            Word::Vouch(Digest { count, sum }) => (4, count, sum),
        };
        let mut out = vec![HIBERNATE, kind];
        put_var_u64(&mut out, a);
        put_var_u64(&mut out, b);
        out
    }

    /// The word, if it is one.
    pub fn decode(bytes: &[u8]) -> Option<Word> {
        let (_, mut rest) = bytes.split_first().filter(|(first, _)| **first == HIBERNATE)?;
        let buf = &mut rest;
        let kind = take_u8(buf).ok()?;
        let (a, b) = (take_var_u64(buf).ok()?, take_var_u64(buf).ok()?);
        if !buf.is_empty() {
            return None;
        }
        let position = Position { term: a, index: b };
        match kind {
            0 => Some(Word::Ask(position)),
            1 => Some(Word::Agree(position)),
            2 => Some(Word::Sleep(position)),
            3 => Some(Word::Wake),
            4 => Some(Word::Vouch(Digest { count: a, sum: b })),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    //! Words come back, and nothing else is taken for one.

    use super::*;
    use crate::wire::{decode_message, encode_merged};

    #[test]
    fn a_word_comes_back_and_cut_bytes_do_not() {
        let position = Position { term: 7, index: 300 };
        let mut digest = Digest::default();
        digest.add(RegionId(1), 6);
        digest.add(RegionId(900), 7);
        let words = [
            Word::Ask(position),
            Word::Agree(position),
            Word::Sleep(position),
            Word::Wake,
            Word::Vouch(digest),
        ];
        for word in words {
            let bytes = word.encode();
            assert_eq!(Word::decode(&bytes), Some(word));
            assert!((0..bytes.len()).all(|len| Word::decode(&bytes[..len]).is_none()));
            assert!(decode_message(&bytes).is_err());
        }
        assert_eq!(Word::decode(&encode_merged(RegionId(1))), None);
    }

    #[test]
    fn a_digest_tells_sets_apart_and_not_their_order() {
        let of = |groups: &[(u64, u64)]| {
            let mut digest = Digest::default();
            groups.iter().for_each(|(id, term)| digest.add(RegionId(*id), *term));
            digest
        };
        assert_eq!(of(&[(1, 6), (2, 6)]), of(&[(2, 6), (1, 6)]));
        assert_ne!(of(&[(1, 6), (2, 6)]), of(&[(1, 6), (3, 6)]));
        assert_ne!(of(&[(1, 6), (2, 7)]), of(&[(1, 7), (2, 6)]));
        assert_ne!(of(&[(1, 6)]), of(&[]));
    }
}
