//! The tracker as a function of what it hears, as text; and words as bytes.
//!
//! ```text
//! hear 3 50@9      a leader's word: in version 3, up to 50, by position 9
//! applied 9        that position is applied
//! split 3 4        the region is narrower; so is a part that is split off
//! same 3 4         a merge began, or was taken back
//! merge 3 4 40     it has taken in another one, which was safe up to 40
//! snapshot 5       content of that version was put in place
//! ```
//! Each answers with what is safe in the version that the region has now.

use super::*;

/// What is safe after each line, and what waits.
fn run(script: &str) -> Vec<String> {
    let (mut safe, mut version) = (Safe::default(), 3);
    let mut said = Vec::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split([' ', '@']).collect();
        let n = |at: usize| words[at].parse::<u64>().expect("a number");
        match words[0] {
            "hear" => safe.hear(n(1), SafeAt { ts: Timestamp(n(2)), index: n(3) }),
            "applied" => safe.applied(n(1)),
            "split" => {
                safe.narrow(n(1), n(2));
                let part = safe.of_part(5);
                assert_eq!(part.at(n(2)).map(|s| s.ts), safe.at(n(2)).map(|s| s.ts));
                assert!(part.at(n(2)).is_none_or(|s| s.index == 5));
                version = n(2);
            }
            "same" => {
                safe.narrow(n(1), n(2));
                version = n(2);
            }
            "merge" => {
                safe.widen(n(1), n(2), Timestamp(n(3)));
                version = n(2);
            }
            "snapshot" => {
                safe.replace(n(1));
                version = n(1);
            }
            other => panic!("{other}?"),
        }
        let now = safe.at(version).map_or("-".to_owned(), |s| format!("{}@{}", s.ts.0, s.index));
        let waits: Vec<_> =
            safe.pending.iter().map(|s| format!("{}@{}", s.ts.0, s.index)).collect();
        said.push(format!("{now} [{}]", waits.join(" ")));
    }
    said
}

#[test]
fn a_timestamp_is_safe_once_its_position_is_applied() {
    let said = run("hear 3 50@9
        applied 8
        hear 3 60@12
        applied 9
        hear 3 55@9
        applied 20
        hear 3 70@20
        applied 20");
    let expected = [
        "- [50@9]",
        "- [50@9]",
        "- [50@9 60@12]",
        "50@9 [60@12]",
        "50@9 [60@12]",
        "60@12 []",
        "60@12 [70@20]",
        "70@20 []",
    ];
    assert_eq!(said, expected);
}

#[test]
fn words_come_twice_late_and_in_any_order() {
    let said = run("hear 3 60@12
        hear 3 50@9
        hear 3 70@11
        applied 11
        hear 3 70@11
        applied 12
        hear 2 90@1");
    let expected = [
        "- [60@12]",
        "- [60@12]",
        // The later timestamp needs less of the log: the earlier one needs no more either.
        "- [70@11]",
        "70@11 []",
        "70@11 []",
        "70@11 []",
        // A word of another version would begin anew: the store does not let it in.
        "- [90@1]",
    ];
    assert_eq!(said, expected);
}

#[test]
fn a_part_keeps_it_a_whole_has_the_least_and_a_snapshot_of_another_range_has_none() {
    let said = run("hear 3 50@9
        applied 9
        hear 3 60@12
        split 3 4
        applied 12
        same 4 5
        merge 5 7 40
        merge 7 8 90
        snapshot 8
        same 2 9
        applied 99");
    let expected = [
        "- [50@9]",
        "50@9 []",
        "50@9 [60@12]",
        "50@9 []",
        "50@9 []",
        "50@9 []",
        "40@9 []",
        "40@9 []",
        "40@9 []",
        // It was not of this version before: nothing is known of it.
        "- []",
        "- []",
    ];
    assert_eq!(said, expected);
    assert_eq!(run("hear 3 50@9\napplied 9\nsnapshot 4"), ["- [50@9]", "50@9 []", "- []"]);
    assert_eq!(run("hear 3 50@9\napplied 9\nmerge 3 4 0").last().unwrap(), "- []");
}

#[test]
fn who_is_far_behind_keeps_the_oldest_and_the_newest() {
    let mut safe = Safe::default();
    for n in 1..=100 {
        safe.hear(3, SafeAt { ts: Timestamp(n * 10), index: n });
    }
    assert_eq!(safe.pending.len(), PENDING_MAX);
    safe.applied(1);
    assert_eq!(safe.at(3).unwrap().ts, Timestamp(10));
    safe.applied(99);
    assert_eq!(safe.at(3).unwrap().ts, Timestamp(70));
    safe.applied(100);
    assert_eq!(safe.at(3).unwrap().ts, Timestamp(1000));
}

#[test]
fn words_come_back_and_cut_bytes_do_not() {
    let at = SafeAt { ts: Timestamp(1 << 60), index: 300 };
    let words = [
        SafeWord::Check { round: (u64::MAX, 7), regions: vec![(RegionId(1), 6), (RegionId(9), 8)] },
        SafeWord::Agree { round: (3, 7), regions: vec![RegionId(1), RegionId(900)] },
        SafeWord::Publish(vec![(RegionId(1), 4, at), (RegionId(2), 5, SafeAt::default())]),
        SafeWord::Publish(Vec::new()),
    ];
    for word in words {
        let bytes = word.encode();
        assert_eq!(SafeWord::decode(&bytes), Some(word));
        assert!((0..bytes.len()).all(|end| SafeWord::decode(&bytes[..end]).is_none()));
        assert_eq!(SafeWord::decode(&[&bytes[..], &[0]].concat()), None);
    }
    // No room is made for what a peer only says that there is.
    let mut many = vec![RESOLVED, 2];
    put_var_u64(&mut many, u64::MAX);
    assert_eq!(SafeWord::decode(&many), None);
    assert_eq!(SafeWord::decode(&[RESOLVED, 9, 0]), None);
    assert_eq!(SafeWord::decode(&[0xF0, 0, 0, 0]), None);
}
