//! What a bench is asked to do: names on the command line, numbers in the environment. It must
//! never guess: a number that cannot be read is an error.

use crate::Error;
use std::path::PathBuf;

/// The scale factor of TPC-H that the targets speak of.
pub const TARGET_SCALE: f64 = 0.1;
/// The scale factor under `cargo test`: 8,695 rows.
const SMALL_SCALE: f64 = 0.001;

/// How one bench binary is run.
#[derive(Clone, Debug, PartialEq)]
pub struct Arguments {
    /// Names must contain one of these; none: every name.
    pub names: Vec<String>,
    /// Run only to see that it runs: under `cargo test`, which does not pass `--bench`.
    pub small: bool,
    /// TPC-H scale factor: `DAMASK_BENCH_SCALE`.
    pub scale: f64,
    /// Where data is kept while a bench runs: `DAMASK_BENCH_DIR`, else the system's folder.
    pub folder: PathBuf,
}

impl Arguments {
    /// From this process's command line and environment.
    pub fn read() -> Result<Arguments, Error> {
        let scale = std::env::var("DAMASK_BENCH_SCALE").ok();
        let mut arguments = Arguments::parse(std::env::args().skip(1), scale.as_deref())?;
        if let Some(folder) = std::env::var_os("DAMASK_BENCH_DIR") {
            arguments.folder = folder.into();
        }
        Ok(arguments)
    }

    /// Options other than `--bench` and `--test` belong to other harnesses and mean nothing here.
    fn parse(
        arguments: impl Iterator<Item = String>,
        scale: Option<&str>,
    ) -> Result<Arguments, Error> {
        let (options, names): (Vec<String>, Vec<String>) =
            arguments.filter(|a| !a.is_empty()).partition(|a| a.starts_with('-'));
        let has = |name: &str| options.iter().any(|option| option == name);
        let small = has("--test") || !has("--bench");
        let scale = match scale {
            Some(text) => text.parse().map_err(|e| format!("DAMASK_BENCH_SCALE: {text}: {e}"))?,
            None if small => SMALL_SCALE,
            None => TARGET_SCALE,
        };
        if !(scale > 0.0 && scale <= 100.0) {
            return Err(format!("DAMASK_BENCH_SCALE: {scale}: above 0, at most 100").into());
        }
        Ok(Arguments { names, small, scale, folder: std::env::temp_dir() })
    }

    /// Is a bench of this name to be run?
    pub fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|part| name.contains(part.as_str()))
    }

    /// Do the targets speak of this run?
    pub fn at_target_scale(&self) -> bool {
        !self.small && self.scale == TARGET_SCALE
    }

    /// One number for a full run, another for a small one.
    pub fn pick<T>(&self, full: T, small: T) -> T {
        if self.small { small } else { full }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str], scale: Option<&str>) -> Result<Arguments, Error> {
        Arguments::parse(words.iter().map(|w| (*w).to_owned()), scale)
    }

    #[test]
    fn only_bench_without_test_is_a_full_run() {
        for (words, small) in [
            (&["--bench"] as &[&str], false),
            (&["q1", "--bench"], false),
            (&["--bench", "--test"], true),
            (&["--quiet"], true),
            (&[], true),
        ] {
            assert_eq!(parse(words, None).expect("readable").small, small, "{words:?}");
        }
    }

    #[test]
    fn names_filter_and_an_empty_one_does_not() {
        let arguments = parse(&["", "--bench"], None).expect("readable");
        assert!(arguments.wants("load"));
        let arguments = parse(&["q", "--bench"], None).expect("readable");
        assert!(arguments.wants("q6") && !arguments.wants("load"));
    }

    #[test]
    fn a_scale_that_makes_no_sense_is_refused() {
        for text in ["much", "0", "-1", "NaN", "101"] {
            let error = parse(&["--bench"], Some(text)).expect_err(text);
            assert!(error.to_string().contains("DAMASK_BENCH_SCALE"), "{error}");
        }
        let arguments = parse(&["--bench"], Some("0.1")).expect("readable");
        assert!(arguments.at_target_scale());
        assert!(!parse(&[], Some("0.1")).expect("readable").at_target_scale());
    }
}
