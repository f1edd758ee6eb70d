//! The command line: one seed, or many. It must never end well when a seed has failed.

use crate::plan::{FaultKind, Plan, STORM_MS_MAX};
use crate::run::run;
use crate::sweep::{Sweep, shorten, sweep};
use damask_env::{Clock, RealClock};

const USAGE: &str = "damask sim: the whole cluster from a seed\n\
    \n\
    --seed S      run one seed; the same seed does the same, byte for byte\n\
    --seeds N     run N seeds, from --from (1)\n\
    --from F      the first of them\n\
    --jobs J      threads (2)\n\
    --storm MS    simulated milliseconds with faults (6000)\n\
    --faults A,B  only these faults, or `none`\n\
    --given FILE  run the plan in this file, whatever its seed draws now\n\
    --plan        print the plan that would run, as such a file\n\
    --keep 1,4    with --seed: only these faults of its plan, by number, or `none`\n\
    --keep-going  with --seeds: do not stop at the first that fails\n\
    --mutants     make each deliberate mistake until a seed finds it (needs the feature\n\
    \x20             `mutations`); --only A,B: these\n";

/// Threads at most.
const JOBS_MAX: usize = 1_024;

/// What was asked for.
#[derive(Debug)]
struct Args {
    seed: Option<u64>,
    keep: Option<Vec<usize>>,
    sweep: Sweep,
    keep_going: bool,
    mutants: bool,
    only: Option<String>,
    given: Option<String>,
    prints_plan: bool,
}

fn parse(args: &[String]) -> Result<Args, String> {
    let sweep = Sweep { from: 1, seeds: 20, jobs: 2, storm_ms: 6_000, kinds: None };
    let mut out = Args {
        seed: None,
        keep: None,
        sweep,
        keep_going: false,
        mutants: false,
        only: None,
        given: None,
        prints_plan: false,
    };
    let mut rest = args.iter();
    while let Some(name) = rest.next() {
        let mut number = || {
            let value = rest.next().ok_or_else(|| format!("{name} needs a value"))?;
            value.parse::<u64>().map_err(|_| format!("{name} needs a number, not {value}"))
        };
        match name.as_str() {
            "--seed" => out.seed = Some(number()?),
            "--seeds" => out.sweep.seeds = number()?,
            "--from" => out.sweep.from = number()?,
            "--jobs" => out.sweep.jobs = number()? as usize,
            "--storm" => out.sweep.storm_ms = number()?,
            "--keep-going" => out.keep_going = true,
            "--mutants" => out.mutants = true,
            "--plan" => out.prints_plan = true,
            "--given" => out.given = Some(rest.next().ok_or("--given needs a file")?.clone()),
            "--only" => out.only = Some(rest.next().ok_or("--only needs a name")?.clone()),
            "--keep" => {
                let numbers = rest.next().ok_or("--keep needs numbers")?;
                out.keep = Some(keep(numbers)?);
            }
            "--faults" => {
                let names = rest.next().ok_or("--faults needs names")?;
                out.sweep.kinds = Some(faults(names)?);
            }
            _ => return Err(format!("{name} is not known")),
        }
    }
    check(args, &out)?;
    Ok(out)
}

/// Options that say nothing where they stand are not passed over: they were meant.
fn check(words: &[String], args: &Args) -> Result<(), String> {
    let has = |name: &str| words.iter().any(|word| word == name);
    let Sweep { from, seeds, jobs, storm_ms, .. } = args.sweep;
    if seeds == 0 || from.checked_add(seeds).is_none() {
        return Err(format!("there are no {seeds} seeds from {from} on"));
    }
    if !(1..=JOBS_MAX).contains(&jobs) {
        return Err(format!("--jobs is between 1 and {JOBS_MAX}"));
    }
    if storm_ms > STORM_MS_MAX {
        return Err(format!("--storm is at most {STORM_MS_MAX}"));
    }
    let apart: [(&str, &[&str]); 4] = [
        ("--given", &["--seed", "--seeds", "--from", "--storm", "--faults", "--mutants"]),
        ("--seed", &["--seeds", "--from", "--mutants"]),
        ("--keep", &["--seeds", "--from", "--mutants"]),
        ("--plan", &["--seeds", "--from", "--mutants"]),
    ];
    for (one, others) in apart {
        if let Some(other) = others.iter().find(|other| has(one) && has(other)) {
            return Err(format!("{one} and {other} do not go together"));
        }
    }
    let is_one = has("--seed") || has("--given");
    if let Some(name) = ["--keep", "--plan"].into_iter().find(|name| has(name) && !is_one) {
        return Err(format!("{name} is for one plan: it needs --seed or --given"));
    }
    match has("--only") && !has("--mutants") {
        true => Err("--only is for --mutants".to_owned()),
        false => Ok(()),
    }
}

/// Numbers of faults, with commas between them.
pub fn keep(numbers: &str) -> Result<Vec<usize>, String> {
    if numbers == "none" {
        return Ok(Vec::new());
    }
    let number = |n: &str| n.parse().map_err(|_| format!("--keep needs numbers, not {n}"));
    numbers.split(',').map(number).collect()
}

fn faults(names: &str) -> Result<Vec<FaultKind>, String> {
    if names == "none" {
        return Ok(Vec::new());
    }
    let find = |name: &str| {
        let kinds = FaultKind::ALL.into_iter();
        let mut found = kinds.filter(|kind| format!("{kind:?}").eq_ignore_ascii_case(name));
        found.next().ok_or_else(|| format!("{name} is no fault; there are {:?}", FaultKind::ALL))
    };
    names.split(',').map(find).collect()
}

/// Runs what the arguments say; the process's exit code.
pub fn main(args: &[String]) -> i32 {
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        print!("{USAGE}");
        return 0;
    }
    let args = match parse(args) {
        Ok(args) => args,
        Err(e) => {
            eprintln!("{e}; see `damask sim --help`");
            return 2;
        }
    };
    if args.mutants {
        return mutants(&args);
    }
    match plan_of(&args) {
        Ok(Some(plan)) if args.prints_plan => {
            print!("{}", plan.text());
            0
        }
        Ok(Some(plan)) => one(&plan),
        Ok(None) => many(&args),
        Err(e) => {
            eprintln!("{e}");
            2
        }
    }
}

/// The one plan that was asked for; `None`: many.
fn plan_of(args: &Args) -> Result<Option<Plan>, String> {
    let plan = match (&args.given, args.seed) {
        (Some(file), _) => {
            let text = std::fs::read_to_string(file).map_err(|e| format!("{file}: {e}"))?;
            Plan::of_text(&text).map_err(|e| format!("{file}: {e}"))?
        }
        (None, Some(seed)) => Plan::new(seed, args.sweep.storm_ms, args.sweep.kinds.as_deref()),
        (None, None) => return Ok(None),
    };
    match &args.keep {
        Some(numbers) => plan.keep_known(numbers).map(Some),
        None => Ok(Some(plan)),
    }
}

fn one(plan: &Plan) -> i32 {
    let (clock, seed) = (RealClock::default(), plan.seed);
    if plan.has_moved() {
        println!("seed {seed} draws another plan by now");
    }
    match run(plan) {
        Ok(report) => {
            let (real, time) = (clock.monotonic().as_secs_f64(), report.time as f64 / 1e6);
            println!("seed {seed} held: trace {:016x}, {} events", report.trace, report.events);
            println!("{time:.1} simulated seconds in {real:.2} s\n{:#?}", report.counts);
            0
        }
        Err(failure) => {
            println!("{failure}");
            1
        }
    }
}

#[cfg(not(feature = "mutations"))]
fn mutants(args: &Args) -> i32 {
    let all = args.only.as_deref().unwrap_or("any");
    eprintln!(
        "this build makes no mistake ({all} was asked for): it needs the feature `mutations`"
    );
    2
}

/// Every mistake, or one; all must be found.
#[cfg(feature = "mutations")]
fn mutants(args: &Args) -> i32 {
    use damask_env::mutation::Mistake;
    let wanted = |mistake: &Mistake| match &args.only {
        Some(only) => only.split(',').any(|n| format!("{mistake:?}").eq_ignore_ascii_case(n)),
        None => true,
    };
    let is_known = |name: &&str| {
        let mut all = Mistake::ALL.into_iter();
        all.any(|mistake| format!("{mistake:?}").eq_ignore_ascii_case(name))
    };
    let only = args.only.as_deref().unwrap_or_default().split(',');
    if let Some(name) = only.filter(|_| args.only.is_some()).find(|name| !is_known(name)) {
        eprintln!("{name} is no mistake; there are {:?}", Mistake::ALL);
        return 2;
    }
    let mistakes: Vec<Mistake> = Mistake::ALL.into_iter().filter(wanted).collect();
    println!("mistake                    seeds      took  found");
    let fared = crate::mutants::mutants(&mistakes, &args.sweep);
    let found = fared.iter().filter(|one| one.seeds.is_some()).count();
    let (all, seeds) = (mistakes.len(), args.sweep.seeds);
    println!("{found} of {all} mistakes were found within {seeds} seeds");
    let alone = fared.iter().map(|one| one.alone).sum::<u64>();
    if alone > 0 {
        println!(
            "{alone} seeds failed without a mistake too: that is the product's or the judge's"
        );
    }
    i32::from(found < mistakes.len() || alone > 0)
}

fn many(args: &Args) -> i32 {
    let swept = sweep(&args.sweep, !args.keep_going);
    println!("{}", swept.told());
    swept
        .failures
        .iter()
        .for_each(|failed| println!("seed {}: {}", failed.plan.seed, failed.reason));
    let Some(first) = swept.failures.into_iter().next() else { return 0 };
    println!("\nshortening the faults of seed {}:", first.plan.seed);
    println!("{}", shorten(first));
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn arguments_are_read_and_mistakes_named() {
        let args = parse(&words("--seeds 5 --from 7 --jobs 1 --faults loss,Crash")).expect("valid");
        assert_eq!((args.sweep.seeds, args.sweep.from, args.sweep.jobs), (5, 7, 1));
        assert_eq!(args.sweep.kinds, Some(vec![FaultKind::Loss, FaultKind::Crash]));
        assert!(parse(&words("--seed x")).expect_err("no number").contains("a number"));
        assert!(parse(&words("--faults x")).expect_err("no fault").contains("Loss"));
        assert!(parse(&words("--what")).expect_err("unknown").contains("--what"));
        for (wrong, why) in [
            ("--seeds 0", "no 0 seeds"),
            ("--seeds 3 --from 18446744073709551614", "no 3 seeds"),
            ("--jobs 0", "--jobs"),
            ("--jobs 100000", "--jobs"),
            ("--storm 99999999999999", "--storm"),
            ("--plan", "--seed"),
            ("--keep 1 --seeds 4", "together"),
            ("--seed 1 --seeds 3", "together"),
            ("--given x --storm 5", "together"),
            ("--only LocksIgnored", "--mutants"),
        ] {
            let error = parse(&words(wrong)).expect_err(wrong);
            assert!(error.contains(why), "{wrong}: {error}");
        }
        let args = parse(&words("--seed 1 --keep 999")).expect("a number");
        assert!(plan_of(&args).expect_err("no such fault").contains("no fault 999"));
    }
}
