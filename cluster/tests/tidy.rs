//! What a program can check of the project's shape: the import table, one version of each
//! dependency, a purpose line in every file, files about one thing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a file, without unit tests inside it, above which it is surely about more than one
/// thing.
const FILE_LINES_MAX: usize = 600;
/// Lines of a function that is not a test.
const FUNCTION_LINES_MAX: usize = 100;
/// Columns of a line of code.
const LINE_COLUMNS_MAX: usize = 120;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("cluster is in the workspace").into()
}

/// Who may import whom, from the code map of ARCHITECTURE.md: the crate is the first cell of a row,
/// what it may import the last. `None`: everything.
fn import_table() -> Vec<(String, Option<Vec<String>>)> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("the code map");
    let rows = text.lines().skip_while(|line| !line.contains("| may import |")).skip(2);
    let table: Vec<_> = rows.map_while(import_row).collect();
    assert!(!table.is_empty(), "ARCHITECTURE.md has a table with a column `may import`");
    table
}

fn import_row(line: &str) -> Option<(String, Option<Vec<String>>)> {
    let cells: Vec<_> = line.strip_prefix('|')?.strip_suffix('|')?.split(" | ").collect();
    let folder = cells.first()?.trim().trim_matches('`').to_owned();
    let allowed = match cells.last()?.trim() {
        "all" => None,
        "–" => Some(Vec::new()),
        list => Some(list.split(", ").map(str::to_owned).collect()),
    };
    Some((folder, allowed))
}

fn folders() -> Vec<String> {
    import_table().into_iter().map(|(folder, _)| folder).collect()
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
    for folder in folders() {
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
    for (folder, allowed) in import_table() {
        let Some(allowed) = allowed else { continue };
        let manifest = manifest(&folder);
        let Some(dependencies) = manifest.get("dependencies").and_then(|d| d.as_table()) else {
            continue;
        };
        for name in dependencies.keys() {
            let Some(other) = name.strip_prefix("damask-") else { continue };
            if !allowed.iter().any(|name| name == other) {
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
    let mut members: Vec<_> =
        members.iter().filter_map(|m| m.as_str()).map(str::to_owned).collect();
    let mut table = folders();
    members.sort_unstable();
    table.sort_unstable();
    assert_eq!(members, table);
    for (folder, allowed) in import_table() {
        for name in allowed.unwrap_or_default() {
            // By the last part of its folder, which is also the last part of its name.
            let is_it = |other: &String| other.rsplit('/').next() == Some(name.as_str());
            assert!(table.iter().any(is_it), "{folder} may import {name}, which is no crate");
        }
    }
}

#[test]
fn versions_are_written_once() {
    let mut problems = Vec::new();
    for folder in folders() {
        let manifest = manifest(&folder);
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

/// Lines before a module of unit tests that is written out in the file.
fn lines_without_tests(text: &str) -> usize {
    let lines: Vec<_> = text.lines().collect();
    let inside = lines.windows(2).position(|pair| {
        pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{')
    });
    inside.unwrap_or(lines.len())
}

/// First line and length of functions, which end at a brace as far in as they begin.
fn functions(text: &str) -> Vec<(usize, usize)> {
    let lines: Vec<_> = text.lines().collect();
    let mut found = Vec::new();
    for (first, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let is_public = code.strip_prefix("pub").map(|rest| rest.trim_start_matches("(crate)"));
        let code = is_public.map_or(code, |rest| rest.trim_start_matches("(super)").trim_start());
        let code = code.strip_prefix("const ").unwrap_or(code);
        let code = code.strip_prefix("async ").unwrap_or(code);
        let end = format!("{}}}", &line[..line.len() - line.trim_start().len()]);
        if code.starts_with("fn ")
            && let Some(length) = lines[first..].iter().position(|line| *line == end)
        {
            found.push((first + 1, length + 1));
        }
    }
    found
}

#[test]
fn lengths_are_counted() {
    let text = "use x;\n#[cfg(test)]\nmod tests;\npub(crate) async fn a() {\n    b();\n}\n\
                #[cfg(test)]\nmod inside {\n    fn c() {\n    }\n}\n";
    assert_eq!(lines_without_tests(text), 6);
    assert_eq!(functions(text), [(4, 3), (9, 2)]);
}

#[test]
fn every_file_says_its_purpose_and_is_about_one_thing() {
    let mut problems = Vec::new();
    for (path, text) in sources() {
        let name = path.strip_prefix(root()).expect("inside").display().to_string();
        if !text.lines().take(8).any(|line| line.starts_with("//!")) {
            problems.push(format!("{name}: no `//!` at the top"));
        }
        let lines = lines_without_tests(&text);
        if lines > FILE_LINES_MAX && !is_test(&path) {
            problems.push(format!("{name}: {lines} lines, more than {FILE_LINES_MAX}"));
        }
        let long = |(first, lines): &(usize, usize)| {
            *lines > FUNCTION_LINES_MAX && *first < lines_without_tests(&text) && !is_test(&path)
        };
        for (first, lines) in functions(&text).into_iter().filter(long) {
            problems.push(format!("{name}:{first}: a function of {lines} lines"));
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
    let allowed = [
        "deltatree/src/fold/wide.rs",
        "env/src/real_disk.rs",
        "kv/src/rocks/snapshot.rs",
        "kv/src/testing/disk/calls.rs",
    ];
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
