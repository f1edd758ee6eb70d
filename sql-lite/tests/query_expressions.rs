//! Expressions against MySQL's answers: `scripts/expressions.test`. It must never hold an answer
//! that MySQL does not give.

mod query_common;

use query_common::{Engine, script};

#[test]
fn expressions_give_mysqls_answers() {
    let engine = Engine::over_rows(Vec::new());
    let (cases, failed) = script(&engine, include_str!("scripts/expressions.test"));
    assert!(cases > 100, "the script was read");
    assert!(failed.is_empty(), "{} of {cases} fail:\n{}", failed.len(), failed.join("\n"));
}
