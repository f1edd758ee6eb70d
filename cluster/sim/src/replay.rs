//! A plan as text, so that a seed which failed once meets the same limits and faults when plans are
//! drawn differently. It must never fill in a fault that the text does not name.
//!
//! ```text
//!   # why it is kept
//!   seed 42
//!   storm 6000                                  milliseconds
//!   kinds Loss,Crash                            only if it was drawn from these
//!   limits stores=4 columns=1 .. mix=Bank,Lists what is not named is as drawn today
//!   fault 7 412000 Crash 90000 123              number, at, kind, for (microseconds), pick
//! ```
//! Without `limits` and `fault` all is as drawn today: `keep 1,4` takes these faults alone.
//!
//! What is drawn while it runs (delays, choices of clients) is not in here.

use crate::args::keep;
use crate::plan::{Fault, FaultKind, Limits, Plan, STORM_MS_MAX, Workload};

const WORKLOADS: [Workload; 7] = [
    Workload::Bank,
    Workload::Lists,
    Workload::Register,
    Workload::Index,
    Workload::Set,
    Workload::LongFork,
    Workload::Monotonic,
];

/// One limit's value.
enum Value<'a> {
    Number(&'a mut u64),
    Switch(&'a mut bool),
    Mix(&'a mut Vec<Workload>),
}

impl Value<'_> {
    fn told(&self) -> String {
        match self {
            Value::Number(n) => n.to_string(),
            Value::Switch(on) => on.to_string(),
            Value::Mix(all) => listed(all),
        }
    }

    fn set(self, text: &str) -> Result<(), String> {
        match self {
            Value::Number(n) => *n = number(text)?,
            Value::Switch(on) => {
                *on = text.parse().map_err(|_| format!("{text}: true or false"))?
            }
            Value::Mix(all) => *all = named(text, &WORKLOADS)?,
        }
        Ok(())
    }
}

fn listed<T: std::fmt::Debug>(all: &[T]) -> String {
    all.iter().map(|one| format!("{one:?}")).collect::<Vec<_>>().join(",")
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text} is no number"))
}

/// Those of `all` with these names.
fn named<T: std::fmt::Debug + Copy>(names: &str, all: &[T]) -> Result<Vec<T>, String> {
    let find = |name: &str| {
        let found = all.iter().find(|one| format!("{one:?}") == name);
        found.copied().ok_or_else(|| format!("{name} is not known"))
    };
    names.split(',').filter(|name| !name.is_empty()).map(find).collect()
}

/// Every limit by its name.
fn values(limits: &mut Limits) -> Vec<(&'static str, Value<'_>)> {
    macro_rules! all {
        ($($kind:ident: $($name:ident)*;)*) => {{
            // Without `..`: a new limit has to be named here.
            let Limits { $($($name,)*)* } = limits;
            vec![$($((stringify!($name), Value::$kind($name)),)*)*]
        }};
    }
    all! {
        Number: stores columns pds clients tick_ms election_ticks hibernate_ticks log_keep log_max
            compact_ticks late_permille late_most hesitate_permille pessimistic_percent ttl_ms
            think_ms patience_ms life_ms hold_permille resolved_ms region_keys merge_quiet_ms
            permit_ticks;
        Switch: one_phase async_commit;
        Mix: mix;
    }
}

fn set_limits(limits: &mut Limits, text: &str) -> Result<(), String> {
    for word in text.split_whitespace() {
        let (name, value) = word.split_once('=').ok_or_else(|| format!("{word}: no value"))?;
        let mut all = values(limits).into_iter();
        let (_, there) = all.find(|(n, _)| *n == name).ok_or_else(|| format!("no limit {name}"))?;
        there.set(value)?;
    }
    Ok(())
}

impl Limits {
    /// Can a cluster be made by them?
    fn check(&self) -> Result<(), String> {
        let least = [
            ("stores", self.stores, 3),
            ("pds", self.pds, 1),
            ("clients", self.clients, 1),
            ("tick_ms", self.tick_ms, 1),
            ("election_ticks", self.election_ticks, 2),
            ("compact_ticks", self.compact_ticks, 1),
            ("ttl_ms", self.ttl_ms, 1),
            ("patience_ms", self.patience_ms, 1),
        ];
        match least.into_iter().find(|(_, value, least)| value < least) {
            Some((name, value, least)) => Err(format!("{name}={value}: at least {least}")),
            None if self.mix.is_empty() => Err("mix names no workload".to_owned()),
            None => Ok(()),
        }
    }
}

fn fault(text: &str) -> Result<Fault, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [place, at, kind, time, pick] = words[..] else {
        return Err(format!("a fault has five words, not: {text}"));
    };
    let kind = *named(kind, &FaultKind::ALL)?.first().ok_or("a fault without its kind")?;
    let (at, time, pick) = (number(at)?, number(time)?, number(pick)?);
    Ok(Fault { number: number(place)? as usize, at, kind, time, pick })
}

impl Plan {
    /// It with everything that was drawn for it.
    pub fn text(&self) -> String {
        let mut told = format!("seed {}\nstorm {}\n", self.seed, self.storm / 1000);
        if let Some(kinds) = &self.kinds {
            told += &format!("kinds {}\n", listed(kinds));
        }
        let mut limits = self.limits.clone();
        let named = values(&mut limits).into_iter().map(|(n, v)| format!(" {n}={}", v.told()));
        told += &format!("limits{}\n", named.collect::<String>());
        for Fault { number, at, kind, time, pick } in &self.faults {
            told += &format!("fault {number} {at} {kind:?} {time} {pick}\n");
        }
        told
    }

    /// The plan of a text.
    ///
    /// # Errors
    /// The line that says nothing that is known.
    pub fn of_text(text: &str) -> Result<Plan, String> {
        let lines = || text.lines().filter(|line| !line.starts_with('#')).map(str::trim);
        let word = |name: &str| lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        for line in lines().filter(|line| !line.is_empty()) {
            let known = ["seed ", "storm ", "kinds ", "keep ", "limits ", "fault "];
            if !known.iter().any(|name| line.starts_with(name)) && line != "kinds" {
                return Err(format!("not known: {line}"));
            }
        }
        let seed = number(word("seed ").ok_or("no seed")?)?;
        let storm_ms = number(word("storm ").ok_or("no storm")?)?;
        if storm_ms > STORM_MS_MAX {
            return Err(format!("a storm lasts {STORM_MS_MAX} milliseconds at most"));
        }
        let kinds = word("kinds").map(|names| named(names, &FaultKind::ALL)).transpose()?;
        let mut plan = Plan::new(seed, storm_ms, kinds.as_deref());
        if let Some(limits) = word("limits ") {
            set_limits(&mut plan.limits, limits)?;
            plan.limits.check()?;
            let faults = lines().filter_map(|line| line.strip_prefix("fault "));
            plan.faults = faults.map(fault).collect::<Result<_, String>>()?;
        } else if word("fault ").is_some() {
            return Err("faults without limits".to_owned());
        }
        match word("keep ") {
            Some(numbers) => plan.keep_known(&keep(numbers)?),
            None => Ok(plan),
        }
    }

    /// Is its seed another plan by now?
    pub fn has_moved(&self) -> bool {
        let drawn = Plan::new(self.seed, self.storm / 1000, self.kinds.as_deref());
        let numbers: Vec<usize> = self.faults.iter().map(|fault| fault.number).collect();
        drawn.keep(&numbers).text() != self.text()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_the_same_after_it_was_text() {
        for seed in 1..40 {
            let kinds = [FaultKind::Loss, FaultKind::Crash];
            for kinds in [None, Some(&kinds[..]), Some(&[])] {
                let plan = Plan::new(seed, 6_000, kinds);
                let again = Plan::of_text(&plan.text()).expect("its own text");
                assert_eq!(format!("{again:?}"), format!("{plan:?}"));
                assert!(!again.has_moved());
            }
        }
    }

    #[test]
    fn a_part_of_a_plan_has_not_moved_and_another_one_has() {
        let plan = Plan::new(7, 6_000, None).keep(&[1, 3]);
        let text = format!("# why\n{}", plan.text());
        let mut again = Plan::of_text(&text).expect("a comment is no matter");
        assert_eq!((again.faults.len(), again.has_moved()), (2, false));
        again.faults[1].at += 1;
        assert!(again.has_moved());
        let mut again = Plan::of_text(&text).expect("as before");
        again.limits.tick_ms += 1;
        assert!(again.has_moved());
        let none = Plan::of_text(&plan.keep(&[]).text()).expect("no faults");
        assert_eq!((none.faults.len(), none.has_moved()), (0, false));
    }

    #[test]
    fn without_a_plan_the_seed_draws_one_and_unknown_words_are_refused() {
        let drawn = Plan::of_text("# why\nseed 9\nstorm 6000\nkeep 0,2\n").expect("short");
        assert_eq!(drawn.text(), Plan::new(9, 6_000, None).keep(&[0, 2]).text());
        for wrong in ["fault 1 2 Loss 3", "fault 1 2 What 3 4", "what 3", "limits stores"] {
            let text = format!("seed 9\nstorm 6000\nlimits stores=3\n{wrong}\n");
            // Of several lines the first one counts.
            let text = text.replace("limits stores=3\nlimits", "limits");
            assert!(Plan::of_text(&text).is_err(), "{wrong}");
        }
    }
}
