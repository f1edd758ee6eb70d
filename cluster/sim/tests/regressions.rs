//! Seeds that failed once: `cluster/regressions/` has one file for each, with what it found. They
//! run for ever.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use damask_sim::{Plan, run};
use std::path::Path;

/// `# why`, then `seed N`, `storm MS`, and perhaps `keep 1,4`.
fn plan_of(text: &str) -> Plan {
    let word = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(name));
        lines.next().map(|rest| rest.trim().to_owned())
    };
    let number = |name: &str| word(name).unwrap().parse::<u64>().unwrap();
    let plan = Plan::new(number("seed "), number("storm "), None);
    match word("keep ") {
        None => plan,
        Some(numbers) => {
            let numbers: Vec<usize> =
                numbers.split(',').filter_map(|number| number.parse().ok()).collect();
            plan.keep(&numbers)
        }
    }
}

#[test]
fn what_failed_once_never_fails_again() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../regressions");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    for file in files.iter().filter(|file| file.extension().is_some_and(|e| e == "seed")) {
        let text = std::fs::read_to_string(file).unwrap();
        if let Err(failure) = run(&plan_of(&text)) {
            panic!("{}:\n{text}\n{failure}", file.display());
        }
    }
}
