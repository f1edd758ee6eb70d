//! The tables of `README.md` against the files that they name: invariants, deliberate mistakes and
//! checkers must exist under those names. It must never run a model.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Specification, mistake, invariant.
type Broken = (String, String, String);

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What stands in backticks.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The cells of all rows of tables, without heads.
fn rows() -> Vec<Vec<String>> {
    let text = read(folder().join("README.md"));
    let cells = |line: &str| -> Vec<String> {
        let inner = line.trim_start_matches("| ").trim_end_matches('|');
        inner.split(" | ").map(|cell| cell.trim().to_owned()).collect()
    };
    let is_row = |line: &&str| line.starts_with("| ");
    text.lines().filter(is_row).map(cells).filter(|row| row.join("").contains('`')).collect()
}

/// The module of a configuration: `Module.cfg` or `Module-part.cfg`.
fn module_of(config: &str) -> &str {
    config.split('-').next().expect("never empty")
}

/// The names of the configurations of TLA+ modules.
fn configs() -> Vec<String> {
    let files = fs::read_dir(folder().join("tla")).expect("the folder is there");
    let names = files.map(|file| file.expect("readable").path());
    let names = names.filter(|path| path.extension().is_some_and(|e| e == "cfg"));
    let stem = |path: PathBuf| path.file_stem().expect("a name").to_string_lossy().into_owned();
    let mut names: Vec<_> = names.map(stem).collect();
    names.sort();
    names
}

fn mistakes(config_name: &str) -> Vec<Broken> {
    let config = read(folder().join(format!("tla/{config_name}.cfg")));
    let module = module_of(config_name);
    let lines = config.lines().filter_map(|line| line.strip_prefix("\\* broken "));
    let parse = |line: &str| {
        let (mistake, invariant) = line.split_once(" violates ").expect("`NAME violates NAME`");
        (module.to_owned(), mistake.to_owned(), invariant.to_owned())
    };
    lines.map(parse).collect()
}

fn invariants(config: &str) -> Vec<String> {
    let config = read(folder().join(format!("tla/{config}.cfg")));
    let (_, list) = config.split_once("INVARIANTS").expect("a configuration names invariants");
    let words = list.split_whitespace().take_while(|word| *word != "SYMMETRY");
    words.map(str::to_owned).collect()
}

#[test]
fn every_module_is_in_the_table_with_its_mistakes() {
    let rows = rows();
    let modules: BTreeSet<_> = configs().iter().map(|c| module_of(c).to_owned()).collect();
    assert_eq!(modules.len(), 6, "{modules:?}");
    for module in &modules {
        let own = configs().into_iter().filter(|config| module_of(config) == module);
        let count = own.map(|config| mistakes(&config).len()).sum::<usize>();
        assert!(count >= 2, "{module}: at least two mistakes");
    }
    for config in configs() {
        let module = module_of(&config);
        let spec = format!("tla/{module}");
        let text = read(folder().join(format!("{spec}.tla")));
        for invariant in invariants(&config) {
            assert!(text.contains(&format!("\n{invariant} ==")), "{module} defines {invariant}");
            let named = |row: &&Vec<String>| {
                quoted(&row[0]).first() == Some(&invariant) && quoted(&row[1]).contains(&spec)
            };
            assert_eq!(rows.iter().filter(named).count(), 1, "{invariant} of {module}: one row");
        }
        let broken = mistakes(&config);
        assert!(!broken.is_empty(), "{config}: no mistake");
        for (_, mistake, invariant) in broken {
            assert!(text.contains(&format!("\"{mistake}\"")), "{module} makes {mistake}");
            let row = rows.iter().find(|row| quoted(&row[0]).first() == Some(&invariant));
            let row = row.unwrap_or_else(|| panic!("{invariant}: no row"));
            assert!(quoted(&row[3]).contains(&mistake), "{mistake} in the row of {invariant}");
        }
    }
}

#[test]
fn every_mistake_in_the_table_is_made_somewhere() {
    let mut known: BTreeSet<String> = BTreeSet::new();
    for config in configs() {
        known.extend(mistakes(&config).into_iter().map(|(_, mistake, _)| mistake));
    }
    let models = ["oracle", "percolator"].map(|name| read(folder().join(format!("src/{name}.rs"))));
    for row in rows().iter().filter(|row| row.len() > 3) {
        for spec in quoted(&row[1]).iter().filter(|spec| spec.starts_with("src/")) {
            let model = read(folder().join(format!("{spec}.rs")));
            let invariant = &quoted(&row[0])[0];
            assert!(model.contains(&format!("\"{invariant}\"")), "{spec} has {invariant}");
        }
        for mistake in quoted(&row[3]) {
            let in_rust = models.iter().any(|model| model.contains(&format!("Bug::{mistake}")));
            assert!(known.contains(&mistake) || in_rust, "nobody makes {mistake}");
        }
    }
}

#[test]
fn every_mistake_of_the_product_is_in_the_table_with_what_it_breaks() {
    let source = read(folder().join("../env/src/mutation.rs"));
    let (_, list) = source.split_once("ALL: [Mistake;").expect("the list of all");
    let (list, _) = list.split_once("];").expect("its end");
    let made: BTreeSet<&str> =
        list.split("Mistake::").skip(1).map(|rest| rest.trim_end().trim_end_matches(',')).collect();
    assert!(made.len() > 40, "{made:?}");
    let rows = rows();
    let invariants: BTreeSet<String> = rows
        .iter()
        .filter(|row| row.len() != 3)
        .filter_map(|row| quoted(&row[0]).into_iter().next())
        .collect();
    let told: Vec<&Vec<String>> = rows.iter().filter(|row| row.len() == 3).collect();
    let first = |row: &&Vec<String>| quoted(&row[0]).into_iter().next();
    let names: BTreeSet<String> = told.iter().filter_map(first).collect();
    assert_eq!(names.iter().map(String::as_str).collect::<BTreeSet<_>>(), made);
    for row in told {
        let broken = quoted(&row[1]);
        assert!(broken.iter().all(|name| invariants.contains(name)), "{row:?}");
        assert_eq!(broken.len(), 1, "{row:?}");
    }
}

#[test]
fn every_checker_exists() {
    let root = folder().join("..");
    let mut checked = 0;
    for row in rows() {
        let cell = if row.len() > 2 { &row[2] } else { &row[1] };
        for checker in quoted(cell) {
            let (krate, name) = checker.split_once('#').expect("`crate#name`");
            assert!(has(&root.join(krate), name), "{checker} does not exist");
            checked += 1;
        }
    }
    assert!(checked > 20, "only {checked} checkers");
    assert!(!has(&root.join("specs"), &["no", "such", "checker"].join("_")));
}

/// Is a file of this name below the folder, or a function, a variant or a message with it?
fn has(folder: &Path, name: &str) -> bool {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths = entries.map(|entry| entry.expect("readable").path());
    paths.any(|path| {
        if path.is_dir() {
            return !path.ends_with("target") && has(&path, name);
        }
        if path.file_name().is_some_and(|file| file == name) {
            return true;
        }
        path.extension().is_some_and(|e| e == "rs") && {
            let text = read(&path);
            let ways = [format!("fn {name}("), format!("    {name},"), format!("\"{name} ")];
            let generic = format!("fn {name}<");
            text.contains(&generic) || ways.iter().any(|way| text.contains(way))
        }
    })
}
