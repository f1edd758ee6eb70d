//! Expressions against MySQL's answers: `scripts/expressions.test`. A case is a query after `> `
//! and its rows, cells separated by ` | `; `!` and a number stand for an error.

mod query_common;

use query_common::Engine;

#[test]
fn expressions_give_mysqls_answers() {
    let engine = Engine::over_rows(Vec::new());
    let script = include_str!("scripts/expressions.test");
    let mut failed = Vec::new();
    let mut cases = 0;
    let mut lines = script.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(sql) = line.strip_prefix("> ") else { continue };
        let mut want = Vec::new();
        while let Some(row) = lines.next_if(|l| !l.starts_with("> ") && !l.starts_with('#')) {
            if !row.is_empty() {
                want.push(row.to_owned());
            }
        }
        let got = match engine.rows(sql) {
            Ok(rows) => rows.into_iter().map(|row| row.join(" | ")).collect(),
            Err(e) => vec![format!("!{} {}", e.code, e.message)],
        };
        let is_error = want.len() == 1 && want[0].starts_with('!');
        let same = match is_error {
            true => got.len() == 1 && got[0].split(' ').next() == Some(&want[0]),
            false => got == want,
        };
        cases += 1;
        if !same {
            failed.push(format!("> {sql}\n  want {want:?}\n  got  {got:?}"));
        }
    }
    assert!(cases > 100, "the script was read");
    assert!(failed.is_empty(), "{} of {cases} fail:\n{}", failed.len(), failed.join("\n"));
}
