//! Seeds that failed once: `cluster/regressions/` has one file for each, with what it found. They
//! run for ever.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use damask_sim::{Plan, run};
use std::path::Path;

#[test]
fn what_failed_once_never_fails_again() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../regressions");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    for file in files.iter().filter(|file| file.extension().is_some_and(|e| e == "seed")) {
        let text = std::fs::read_to_string(file).unwrap();
        let (name, plan) = (file.display(), Plan::of_text(&text).unwrap());
        let is_given = text.lines().any(|line| line.starts_with("limits "));
        assert!(is_given, "{name} leaves its plan to its seed: see `damask sim --plan`");
        if plan.has_moved() {
            println!("{name}: its seed draws another plan by now; this is the old one");
        }
        if let Err(failure) = run(&plan) {
            panic!("{name}:\n{text}\n{failure}");
        }
    }
}
