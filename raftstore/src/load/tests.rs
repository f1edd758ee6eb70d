//! Busy regions are cut where it helps, and no others: counters, reservoirs and the detector, by
//! time that is given.

use super::*;

const REGION: RegionId = RegionId(7);
const SECOND: Duration = Duration::from_secs(1);

fn key(n: u64) -> Vec<u8> {
    format!("k{n:06}").into_bytes()
}

fn number(key: &[u8]) -> u64 {
    std::str::from_utf8(&key[1..]).unwrap().parse().unwrap()
}

/// Numbers without a pattern.
fn any(second: u64, n: u64, below: u64) -> u64 {
    mix(second << 32 | n) % below
}

fn point(k: u64) -> (u64, u64) {
    (k, k)
}

/// A store's loads, second by second.
struct Seconds {
    loads: Loads,
    range: KeyRange,
    now: Duration,
}

impl Seconds {
    fn new(config: LoadConfig) -> Seconds {
        let (loads, range) = (Loads::new(config), KeyRange::all());
        let mut seconds = Seconds { loads, range, now: Duration::ZERO };
        seconds.pass();
        seconds.pass();
        seconds
    }

    fn pass(&mut self) -> RegionLoad {
        self.now += SECOND;
        let all = self.loads.close(self.now, &[(REGION, self.range.clone())]);
        all.get(&REGION).cloned().unwrap_or_default()
    }

    /// So many requests a second, for so many seconds; the load after the last one.
    fn read(&mut self, seconds: u64, each: u64, at: impl Fn(u64, u64) -> (u64, u64)) -> RegionLoad {
        let mut load = RegionLoad::default();
        for second in 0..seconds {
            for n in 0..each {
                let (low, end) = at(second, n);
                self.loads.note(REGION, Access::Read, &key(low), &key(end), 100);
            }
            load = self.pass();
        }
        load
    }
}

fn default_for(seconds: u64, at: impl Fn(u64, u64) -> (u64, u64)) -> Option<u64> {
    let load = Seconds::new(LoadConfig::default()).read(seconds, 4_000, at);
    load.split_key.map(|key| number(&key))
}

#[test]
fn a_hot_range_is_cut_near_its_middle_after_ten_seconds_and_not_before() {
    let mut seconds = Seconds::new(LoadConfig::default());
    let hot = |second, n| point(5_000 + any(second, n, 1_000));
    let load = seconds.read(9, 4_000, hot);
    assert_eq!((load.reads, load.read_bytes, load.split_key), (4_000, 400_000, None));
    let found = seconds.read(1, 4_000, hot).split_key.expect("ten windows");
    assert!((5_350..5_650).contains(&number(&found)), "{found:?}");
    // It stays, for a report that nobody listened to.
    assert_eq!(seconds.read(3, 4_000, hot).split_key, Some(found));
    // Once it is cut the region has another range.
    seconds.range = KeyRange::new(key(5_500), Vec::new());
    assert_eq!(seconds.read(10, 4_000, hot).split_key, None, "one of the windows was mixed");
    let found = seconds.read(1, 4_000, |s, n| point(5_500 + any(s, n, 500))).split_key;
    assert!(found.is_some_and(|key| number(&key) > 5_500), "never at its start");
}

#[test]
fn what_is_not_busy_all_the_time_is_not_cut() {
    let mut seconds = Seconds::new(LoadConfig::default());
    let even = |second, n| point(any(second, n, 1_000));
    assert_eq!(seconds.read(30, 2_999, even).split_key, None);
    for _ in 0..3 {
        assert_eq!(seconds.read(9, 4_000, even).split_key, None);
        assert_eq!(seconds.read(1, 10, even).split_key, None);
    }
    assert!(seconds.read(10, 4_000, even).split_key.is_some());
    assert_eq!(seconds.read(1, 10, even).split_key, None, "it is busy no more");
    // Few requests, but large ones.
    let large = LoadConfig { bytes_min: 50_000, ..LoadConfig::default() };
    assert!(Seconds::new(large).read(10, 500, even).split_key.is_some());
    let never = LoadConfig { requests_min: 0, ..LoadConfig::default() };
    assert_eq!(Seconds::new(never).read(20, 5_000, even).split_key, None);
}

#[test]
fn one_hot_key_is_not_cut_and_two_are_parted() {
    assert_eq!(default_for(30, |_, _| point(5)), None);
    let mostly = |second, n| point(if any(second, n, 10) < 8 { 5 } else { any(n, second, 1_000) });
    assert_eq!(default_for(30, mostly), None);
    let two = |second, n| point(if any(second, n, 2) == 0 { 5 } else { 900 });
    assert_eq!(default_for(10, two), Some(900));
}

#[test]
fn scans_are_not_cut_in_two() {
    assert_eq!(default_for(30, |second, n| (any(second, n, 20), 1_000)), None);
    // Short ones: the cut is where some begin and others end.
    let short = |second, n| {
        let low = any(second, n, 100) * 10;
        (low, low + 10)
    };
    let found = default_for(10, short).expect("parted");
    assert!(found % 10 == 0 && (300..700).contains(&found), "{found}");
    // Two large ones, side by side.
    let two = |second, n| if any(second, n, 2) == 0 { (0, 500) } else { (500, 900) };
    assert_eq!(default_for(10, two), Some(500));
}

/// Who appends is always at the right end: a cut would help for a moment.
#[test]
fn a_load_that_moves_through_the_keys_is_not_cut() {
    assert_eq!(default_for(40, |second, n| point(second * 4_000 + n)), None);
}

#[test]
fn writes_count_with_reads_and_span_their_keys() {
    let mut seconds = Seconds::new(LoadConfig::default());
    let mut load = RegionLoad::default();
    for second in 0..10 {
        for n in 0..2_000 {
            let k = any(second, n, 1_000);
            let (low, high) = (key(k), key(k + 3));
            seconds.loads.note_keys(REGION, Access::Write, &low, &high, 10);
            seconds.loads.note(REGION, Access::Read, &key(k), &key(k), 1);
        }
        load = seconds.pass();
    }
    let rates = (load.reads, load.writes, load.read_bytes, load.write_bytes);
    assert_eq!(rates, (2_000, 2_000, 2_000, 20_000));
    assert!((300..700).contains(&number(&load.split_key.expect("4,000 a second"))));
}

#[test]
fn a_reservoir_gives_every_request_the_same_chance() {
    let config = LoadConfig { samples: 10, samples_min: 10, ..LoadConfig::default() };
    let mut thirds = [0; 3];
    for seed in 0..300 {
        let loads = Loads::new(LoadConfig { seed, ..config.clone() });
        (0..300).for_each(|n| loads.note(REGION, Access::Read, &key(n), &key(n), 0));
        let counter = loads.counters.read()[&REGION].clone();
        let spans = counter.spans.lock();
        assert_eq!(spans.len(), 10);
        spans.iter().for_each(|span| thirds[number(&span.low) as usize / 100] += 1);
    }
    assert!(thirds.iter().all(|n| (870..1_130).contains(n)), "{thirds:?}");
}

#[test]
fn a_window_is_not_cut_short_and_strangers_are_forgotten() {
    let loads = Loads::new(LoadConfig::default());
    let led = [(REGION, KeyRange::all())];
    assert!(loads.close(SECOND, &led).is_empty());
    loads.note(REGION, Access::Read, b"a", b"a", 5);
    loads.note(RegionId(8), Access::Read, b"a", b"a", 5);
    assert!(loads.close(SECOND + SECOND / 2, &led).is_empty());
    let load = loads.close(SECOND * 3, &led)[&REGION].clone();
    assert_eq!((load.reads, load.read_bytes), (0, 2), "one in two seconds, rounded down");
    assert_eq!(loads.close(SECOND * 3 + SECOND / 2, &led)[&REGION], load, "the same again");
    assert!(loads.counters.read().is_empty());
}

#[test]
fn what_cannot_work_is_refused() {
    assert_eq!(LoadConfig::default().wrong(), None);
    let bad: [fn(&mut LoadConfig); 5] = [
        |c| c.window = Duration::ZERO,
        |c| c.windows = 1,
        |c| c.samples = 0,
        |c| c.samples_min = 201,
        |c| c.balance_max = 1.5,
    ];
    for spoil in bad {
        let mut config = LoadConfig::default();
        spoil(&mut config);
        assert!(config.wrong().is_some());
    }
}
