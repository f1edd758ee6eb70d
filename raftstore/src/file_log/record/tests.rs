//! Records and what is left of them: all ways to lose sectors, all bits that flip.

use super::*;

/// Bytes without a pattern.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..len).map(next).collect()
}

fn payloads() -> Vec<Vec<u8>> {
    let mixed = [noise(700), vec![0; 1600], noise(300), vec![0; 600]].concat();
    vec![noise(40), noise(2500), vec![0; 2500], mixed, [vec![0; 1200], noise(1)].concat()]
}

/// Places in a file: at the beginning of a sector, around its middle, and where it ends in a
/// header, a trailer or a list.
const PLACES: [usize; 9] = [512, 528, 700, 1000, 1006, 1007, 1010, 1022, 1023];

/// What is before it, a record, room. Where the record ends, too.
fn segment(place: usize, payload: &[u8], pack_min: usize) -> (Vec<u8>, usize) {
    let mut bytes = vec![0; RECORD_HEADER];
    bytes.extend_from_slice(payload);
    seal(&mut bytes, 0, place as u64, 7, pack_min).expect("it is small");
    let mut all = vec![0xAA; place];
    all.extend_from_slice(&bytes);
    let end = all.len();
    all.resize(end + 600, 0);
    (all, end)
}

#[test]
fn what_was_sealed_is_found() {
    for place in PLACES {
        for payload in payloads() {
            for pack_min in [0, usize::MAX] {
                let (all, end) = segment(place, &payload, pack_min);
                let bytes = end - place;
                let found = Found::Record { sequence: 7, payload: (&payload).into(), bytes };
                assert_eq!(find(&all, place, Some(7)), found, "at {place}");
                assert_eq!(find(&all, end, Some(8)), Found::End);
                assert_eq!(find(&all, all.len(), Some(8)), Found::End);
            }
        }
    }
    let (all, end) = segment(512, &vec![3; 9000], 8192);
    assert!(end < 700, "compressed to {} bytes", end - 512);
    assert!(Header::parse(&all[512..]).expect("a header").is_packed());
}

/// Every choice of sectors that did not reach the disk.
#[test]
fn a_record_that_lacks_sectors_is_torn() {
    for place in PLACES {
        for payload in payloads() {
            let (all, end) = segment(place, &payload, usize::MAX);
            let sectors: Vec<usize> = (place / SECTOR..end.div_ceil(SECTOR)).collect();
            for lost in 1u32..1 << sectors.len() {
                let mut image = all.clone();
                for (bit, sector) in sectors.iter().enumerate() {
                    if lost & 1 << bit != 0 {
                        let from = (sector * SECTOR).max(place);
                        image[from..((sector + 1) * SECTOR).min(end)].fill(0);
                    }
                }
                let found = find(&image, place, Some(7));
                let context = format!("at {place}, {} bytes, lost {lost:b}", payload.len());
                match image == all {
                    true => assert!(matches!(found, Found::Record { .. }), "{context}"),
                    false if is_zero(&image[place..]) => assert_eq!(found, Found::End, "{context}"),
                    false => assert_eq!(found, Found::Torn, "{context}"),
                }
            }
            // A file that was not made larger in time.
            for len in (place + 1..end).step_by(11) {
                let expected = match is_zero(&all[place..len]) {
                    true => Found::End,
                    false => Found::Torn,
                };
                assert_eq!(find(&all[..len], place, Some(7)), expected, "at {place}: {len}");
            }
        }
    }
}

#[test]
fn a_flipped_bit_is_damage_wherever_it_is() {
    for place in PLACES {
        for payload in payloads() {
            for pack_min in [0, usize::MAX] {
                let (mut all, end) = segment(place, &payload, pack_min);
                for at in place..end {
                    let bit = 1 << (at % 8);
                    all[at] ^= bit;
                    let found = find(&all, place, Some(7));
                    assert_eq!(found, Found::Damaged, "record at {place}, bit {bit:x} of {at}");
                    all[at] ^= bit;
                }
            }
        }
    }
}

/// A sector that is gone from the middle of a log was there once.
#[test]
fn a_lost_sector_before_another_record_is_damage() {
    for payload in payloads() {
        let (mut all, end) = segment(512, &payload, usize::MAX);
        all.truncate(end);
        let mut next = [vec![0; RECORD_HEADER], noise(900)].concat();
        seal(&mut next, 0, end as u64, 8, usize::MAX).expect("it is small");
        all.extend_from_slice(&next);
        for sector in 1..end.div_ceil(SECTOR) {
            let mut image = all.clone();
            let to = ((sector + 1) * SECTOR).min(end);
            image[sector * SECTOR..to].fill(0);
            if image != all {
                let known = [Some(7), None].map(|sequence| find(&image, 512, sequence));
                assert_eq!(known, [Found::Damaged, Found::Damaged], "sector {sector}");
            }
        }
    }
}
