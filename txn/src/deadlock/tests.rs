//! The graph against a plain model: a victim exactly where a circle is. Nothing here may wait.

use super::*;

const NOW: Duration = Duration::from_secs(100);

fn wait(detector: &mut Detector, waiter: u64, key: &str, holder: u64) -> Option<Vec<(u64, u64)>> {
    let circle = detector.wait(NOW, Timestamp(waiter), key.as_bytes(), Timestamp(holder));
    circle.map(|circle| circle.into_iter().map(|(a, b)| (a.0, b.0)).collect())
}

#[test]
fn the_wait_that_closes_a_circle_is_its_only_victim() {
    let mut detector = Detector::default();
    for i in 1..50u64 {
        assert_eq!(wait(&mut detector, i, &format!("key {i}"), i + 1), None);
    }
    let circle = wait(&mut detector, 50, "key 50", 1).expect("closed");
    let mut wanted: Vec<_> = (1..50).map(|i| (i, i + 1)).collect();
    wanted.push((50, 1));
    assert_eq!(circle, wanted);
    // The victim's wait is not noted: the others wait on, and it may wait elsewhere.
    assert_eq!(detector.len(), 49);
    assert_eq!(wait(&mut detector, 50, "other", 99), None);
    assert_eq!(wait(&mut detector, 51, "key 1", 2), None);
}

#[test]
fn a_transaction_waits_for_itself_only_by_mistake() {
    let mut detector = Detector::default();
    assert_eq!(wait(&mut detector, 1, "a", 1), Some(vec![(1, 1)]));
    assert!(detector.is_empty());
}

#[test]
fn who_has_left_or_was_let_go_closes_nothing() {
    let mut detector = Detector::default();
    assert_eq!(wait(&mut detector, 1, "a", 2), None);
    detector.leave(Timestamp(1), b"a");
    assert_eq!(wait(&mut detector, 2, "b", 1), None);
    assert_eq!(wait(&mut detector, 3, "c", 2), None);
    // `c` changes hands while it is waited for.
    assert_eq!(detector.hand_over(NOW, b"c", Timestamp::ZERO), None);
    assert_eq!(wait(&mut detector, 2, "b", 3), None);
    let circle = detector.hand_over(NOW, b"c", Timestamp(2)).expect("3 waits for 2, 2 for 3");
    assert_eq!(
        circle,
        (Timestamp(3), vec![(Timestamp(2), Timestamp(3)), (Timestamp(3), Timestamp(2))])
    );
    assert_eq!(detector.len(), 1);
    detector.leave(Timestamp(2), b"b");
    assert!(detector.is_empty() && detector.keys.is_empty() && detector.waits.is_empty());
}

#[test]
fn waits_that_nobody_repeats_are_forgotten() {
    let mut detector = Detector::default();
    assert_eq!(wait(&mut detector, 1, "a", 2), None);
    let later = NOW + EDGE_LIFE;
    assert_eq!(detector.wait(later, Timestamp(2), b"b", Timestamp(1)), None);
    assert_eq!(detector.wait(later, Timestamp(1), b"a", Timestamp(2)).expect("closed").len(), 2);
    detector.expire(later + EDGE_LIFE);
    assert!(detector.is_empty());
}

#[test]
fn several_waits_at_once_are_all_followed() {
    let mut detector = Detector::default();
    assert_eq!(wait(&mut detector, 1, "a", 2), None);
    assert_eq!(wait(&mut detector, 1, "b", 3), None);
    assert_eq!(wait(&mut detector, 3, "c", 4), None);
    assert_eq!(wait(&mut detector, 4, "d", 1), Some(vec![(1, 3), (3, 4), (4, 1)]));
    assert_eq!(wait(&mut detector, 2, "d", 1), Some(vec![(1, 2), (2, 1)]));
}

/// Every wait of random histories is refused exactly when a plain search finds a way back.
#[test]
fn random_waits_agree_with_a_plain_search() {
    for seed in 0..200u64 {
        let mut state = seed;
        let mut chance = |n: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        };
        let mut detector = Detector::default();
        // (waiter, key), and who holds each key.
        let mut waits: Vec<(u64, u64)> = Vec::new();
        let mut holders = HashMap::new();
        for _ in 0..200 {
            let (waiter, key) = (1 + chance(8), chance(6));
            let holder = *holders.entry(key).or_insert_with(|| 1 + chance(8));
            if chance(3) == 0 {
                detector.leave(Timestamp(waiter), &[key as u8]);
                waits.retain(|wait| *wait != (waiter, key));
                continue;
            }
            let mut seen = vec![holder];
            let mut at = 0;
            while at < seen.len() {
                let from = seen[at];
                let next = waits.iter().filter(|(w, _)| *w == from).map(|(_, k)| holders[k]);
                let fresh: Vec<_> = next.filter(|h| !seen.contains(h)).collect();
                seen.extend(fresh);
                at += 1;
            }
            let wanted = seen.contains(&waiter);
            let found = detector.wait(NOW, Timestamp(waiter), &[key as u8], Timestamp(holder));
            assert_eq!(found.is_some(), wanted, "seed {seed}: {waiter} for {key} of {holder}");
            waits.retain(|wait| *wait != (waiter, key));
            if let Some(circle) = found {
                let around = circle.windows(2).all(|pair| pair[0].1 == pair[1].0);
                assert!(around && circle[0].0 == circle.last().expect("a wait").1, "{circle:?}");
            } else {
                waits.push((waiter, key));
            }
        }
    }
}
