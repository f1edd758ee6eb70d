//! What a program can check of the project's shape: the import table, one version of each
//! dependency, a purpose line in every file, files about one thing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Who may import whom: the table of ARCHITECTURE.md. `*` = every crate.
const IMPORTS: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("env", &[]),
    ("kv", &["types", "env"]),
    ("deltatree", &["types", "env"]),
    ("tso", &["types", "env"]),
    ("pd", &["types"]),
    ("raftstore", &["types", "env", "kv"]),
    ("txn", &["types", "env", "kv", "raftstore", "tso", "pd"]),
    ("learner", &["types", "env", "raftstore", "deltatree"]),
    ("coprocessor", &["types", "env", "kv", "raftstore", "learner", "deltatree", "pd"]),
    ("sql-lite", &["types", "env", "txn", "coprocessor"]),
    ("cluster", &["*"]),
    ("benches", &["*"]),
    ("specs", &[]),
];

/// Lines of a file, without tests, above which it is surely about more than one thing.
const FILE_LINES_MAX: usize = 700;
/// Columns of a line of code.
const LINE_COLUMNS_MAX: usize = 120;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("cluster is in the workspace").into()
}

fn rust_files(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of the checkout can be listed") {
        let path = entry.expect("an entry can be read").path();
        if path.is_dir() {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    for (folder, _) in IMPORTS {
        rust_files(&root().join(folder), &mut files);
    }
    files.sort();
    files.into_iter().map(|f| (f.clone(), fs::read_to_string(&f).expect("UTF-8"))).collect()
}

fn is_test(path: &Path) -> bool {
    let text = path.to_string_lossy();
    text.contains("/tests/") || text.ends_with("tests.rs") || text.contains("/examples/")
}

fn check(problems: Vec<String>) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

/// Dependencies that the crate itself needs, not its tests.
fn manifest(folder: &str) -> toml::Table {
    let path = root().join(folder).join("Cargo.toml");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.parse().unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn imports_follow_the_table() {
    let mut problems = Vec::new();
    for (folder, allowed) in IMPORTS {
        let manifest = manifest(folder);
        let Some(dependencies) = manifest.get("dependencies").and_then(|d| d.as_table()) else {
            continue;
        };
        for name in dependencies.keys() {
            let Some(other) = name.strip_prefix("damask-") else { continue };
            if !allowed.contains(&other) && !allowed.contains(&"*") {
                problems.push(format!("{folder} imports {other}: the table does not allow it"));
            }
        }
    }
    check(problems);
}

#[test]
fn the_table_names_every_member() {
    let text = fs::read_to_string(root().join("Cargo.toml")).expect("the root manifest");
    let manifest: toml::Table = text.parse().expect("TOML");
    let members = manifest["workspace"]["members"].as_array().expect("members");
    let members: Vec<_> = members.iter().filter_map(|m| m.as_str()).collect();
    let table: Vec<_> = IMPORTS.iter().map(|(folder, _)| *folder).collect();
    let mut sorted = (members.clone(), table.clone());
    sorted.0.sort_unstable();
    sorted.1.sort_unstable();
    assert_eq!(sorted.0, sorted.1);
}

#[test]
fn versions_are_written_once() {
    let mut problems = Vec::new();
    for (folder, _) in IMPORTS {
        let manifest = manifest(folder);
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(table) = manifest.get(section).and_then(|d| d.as_table()) else { continue };
            for (name, value) in table {
                let inherits = value.get("workspace").and_then(|w| w.as_bool()) == Some(true);
                if !inherits {
                    problems.push(format!("{folder}: {name} has a version of its own"));
                }
            }
        }
    }
    check(problems);
}

#[test]
fn every_file_says_its_purpose_and_is_about_one_thing() {
    let mut problems = Vec::new();
    for (path, text) in sources() {
        let name = path.strip_prefix(root()).expect("inside").display().to_string();
        // The unit tests of a file are about that file.
        let unit_tests = path.file_name().is_some_and(|name| name == "tests.rs");
        if !unit_tests && !text.lines().take(8).any(|line| line.starts_with("//!")) {
            problems.push(format!("{name}: no `//!` at the top"));
        }
        let lines = text.lines().take_while(|l| !l.starts_with("#[cfg(test)]")).count();
        if lines > FILE_LINES_MAX && !is_test(&path) {
            problems.push(format!("{name}: {lines} lines, more than {FILE_LINES_MAX}"));
        }
        for (number, line) in text.lines().enumerate() {
            if line.chars().count() > LINE_COLUMNS_MAX && !line.contains('"') {
                problems.push(format!("{name}:{}: a line too long", number + 1));
            }
        }
    }
    check(problems);
}

#[test]
fn nothing_is_left_undone() {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let mut problems = Vec::new();
    for (path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark)) {
                let name = path.strip_prefix(root()).expect("inside").display();
                problems.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    check(problems);
}

#[test]
fn unsafe_code_is_in_named_files_with_reasons() {
    let allowed = ["env/src/real_disk.rs", "kv/src/rocks/snapshot.rs"];
    let mut found: BTreeMap<String, bool> = BTreeMap::new();
    for (path, text) in sources() {
        let name = path.strip_prefix(root()).expect("inside").display().to_string();
        if text.contains(concat!("allow(unsafe", "_code)")) {
            found.insert(name, text.contains("SAFETY:"));
        }
    }
    let problems = found.into_iter().filter_map(|(name, reasoned)| {
        let listed = allowed.contains(&name.as_str()) || name.starts_with("deltatree/src/tree/");
        (!listed || !reasoned)
            .then(|| format!("{name}: unsafe code, listed {listed}, reasoned {reasoned}"))
    });
    check(problems.collect());
}
