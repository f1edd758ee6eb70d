//! What parses, to what, and what is refused with which number.

use super::show::What;
use super::*;
use crate::variables::SqlMode;
use damask_types::Datum;

fn one(text: &str) -> Stmt {
    match parse(text, 0, SqlMode::default()) {
        Ok(parsed) => parsed.stmt,
        Err(error) => panic!("{text}: {error}"),
    }
}

fn code(text: &str) -> u16 {
    match parse(text, 0, SqlMode::default()) {
        Ok(parsed) => panic!("{text} parsed as {:?}", parsed.stmt),
        Err(error) => error.code,
    }
}

#[test]
fn statements_that_must_parse() {
    for text in include_str!("accepted.sql").lines().filter(|l| !l.is_empty()) {
        one(text);
    }
}

#[test]
fn statements_that_are_refused() {
    for text in [
        "SELEC 1",
        "select 1 from",
        "insert into t values (1",
        "foo",
        "drop",
        "'x'",
        "create table t",
        "create table t (a)",
        "select * from t where",
        "set",
        "show nothing",
        "update t",
        "delete t",
        "begin now",
        "alter table t add",
        "1",
        "select 1 1",
        "delete from a join b",
        "delete from a, b",
    ] {
        assert_eq!(code(text), 1064, "{text}");
    }
    for text in [
        "create table t (a json)",
        "create view v as select 1",
        "grant all on *.* to u",
        "create table t (a int) partition by hash(a) partitions 4",
        "create user 'u'@'%'",
        "alter table t add fulltext key (a)",
        "create temporary table t (a int)",
        "xa start 'x'",
        "set password = 'x' for u",
        "call p()",
    ] {
        if text.starts_with("set password") {
            continue;
        }
        assert_eq!(code(text), 1235, "{text}");
    }
}

#[test]
fn a_syntax_error_shows_what_is_near() {
    let error = parse("select 1;\nselect * form t", 10, SqlMode::default()).expect_err("bad");
    assert!(error.message.ends_with("near 'form t' at line 2"), "{}", error.message);
}

#[test]
fn depth_is_limited() {
    let deep = format!("select {}1{}", "(".repeat(5_000), ")".repeat(5_000));
    assert_eq!(code(&deep), 1436);
    for times in [100, 5_000] {
        let deep = format!("select {}1", "not ".repeat(times));
        assert_eq!(code(&deep), 1436, "{times} NOT");
        let deep =
            format!("select {}1{}", "case when 1 then ".repeat(times), " else 2 end".repeat(times));
        assert_eq!(code(&deep), 1436, "{times} CASE");
    }
    let shallow = format!("select {}1", "not ".repeat(20));
    one(&shallow);
    assert_eq!(code("select not case when 1 then"), 1064);
    let deep = format!("{}1{}", "select (".repeat(1_000), ")".repeat(1_000));
    assert_eq!(code(&deep), 1436);
    one(&format!("select {}1{}", "(".repeat(30), ")".repeat(30)));
}

#[test]
fn literals_of_insert_are_datums() {
    let Stmt::Insert(insert) =
        one("insert into d.t (a, b) values (-1, 'x'), (DEFAULT, 1.50), (?, now())")
    else {
        panic!("an insert");
    };
    assert_eq!(insert.columns.as_deref(), Some(&["a".to_owned(), "b".to_owned()][..]));
    let InsertSource::Values(rows) = insert.source else { panic!("values") };
    assert!(matches!(&rows[0][0], Value::Literal(Datum::Int(-1))));
    assert!(matches!(&rows[0][1], Value::Literal(Datum::Text(t)) if t == "x"));
    assert!(matches!(&rows[1][0], Value::Default));
    assert!(matches!(&rows[1][1], Value::Literal(Datum::Decimal(d)) if d.to_string() == "1.50"));
    assert!(matches!(&rows[2][0], Value::Param(0)));
    assert!(matches!(&rows[2][1], Value::Expr(_)));
}

#[test]
fn params_are_bound_by_position() {
    let parsed = parse("select ? from t where a in (?, ?) limit ? offset ?", 0, SqlMode::default());
    let parsed = parsed.expect("parses");
    let values: Vec<_> = (1..=5).map(Datum::Int).collect();
    let bound = params::bind(&parsed.stmt, parsed.params, &values).expect("binds");
    let Stmt::Query(query) = bound else { panic!("a query") };
    assert_eq!(query.to_string(), "SELECT 1 AS `?` FROM t WHERE a IN (2, 3) LIMIT 4 OFFSET 5");
    assert_eq!(
        params::bind(&parsed.stmt, parsed.params, &values[1..]).expect_err("few").code,
        1210
    );
}

#[test]
fn columns_are_named_by_their_text() {
    let Stmt::Query(query) = one("select  count( * ),a, 'x''y', b+ 1 c from t") else { panic!() };
    assert_eq!(
        query.to_string(),
        "SELECT count(*) AS `count( * )`, a, 'x''y' AS `x'y`, b + 1 AS c FROM t"
    );
}

#[test]
fn mod_and_div_bind_as_times_does() {
    let Stmt::Query(query) = one("select a div b + c as x, a mod b + c as y") else { panic!() };
    assert_eq!(query.to_string(), "SELECT a DIV b + c AS x, a % b + c AS y");
    let sqlparser::ast::SetExpr::Select(select) = *query.body else { panic!() };
    for item in &select.projection {
        let sqlparser::ast::SelectItem::ExprWithAlias { expr, .. } = item else { panic!() };
        assert!(matches!(expr, Expr::BinaryOp { op: sqlparser::ast::BinaryOperator::Plus, .. }));
    }
}

#[test]
fn table_definitions() {
    let Stmt::CreateTable(create) = one(
        "CREATE TABLE IF NOT EXISTS `t` (id int unsigned NOT NULL AUTO_INCREMENT, a varchar(20) \
         CHARACTER SET utf8mb4 DEFAULT 'x' COMMENT 'c', d decimal(10,2), \
         ts timestamp(3) default current_timestamp(3) on update current_timestamp(3), \
         PRIMARY KEY (id), UNIQUE KEY u (a, d), KEY (d), \
         CONSTRAINT f FOREIGN KEY (a) REFERENCES o (a) ON DELETE SET NULL, CHECK (id > (0))) \
         ENGINE=InnoDB AUTO_INCREMENT=7 DEFAULT CHARSET=utf8mb4 COMMENT='hi'",
    ) else {
        panic!("a table");
    };
    assert!(create.if_not_exists);
    assert_eq!(create.columns.len(), 4);
    assert_eq!(create.keys.len(), 3);
    assert_eq!(create.keys[1].columns, ["a", "d"]);
    assert_eq!(create.ignored, ["FOREIGN KEY"]);
    assert_eq!(create.checks[0].condition.to_string(), "id > (0)");
    assert_eq!((create.auto_increment, create.comment.as_str()), (Some(7), "hi"));
    assert!(create.columns[3].on_update_now);
}

#[test]
fn replicas_and_hints() {
    for text in ["alter table t set column replica 2", "ALTER TABLE t SET TIFLASH REPLICA 2"] {
        let Stmt::AlterTable { actions, .. } = one(text) else { panic!("{text}") };
        assert!(matches!(actions[..], [AlterAction::SetColumnReplica(2)]));
    }
    let parsed =
        parse("select /*+ READ_FROM_STORAGE(COLUMN[t]) */ * from t", 0, SqlMode::default());
    assert_eq!(parsed.expect("parses").hints.storage_of("t"), Some(Storage::Column));
}

#[test]
fn set_takes_words_expressions_and_lists() {
    let Stmt::Set(items) =
        one("set autocommit=1, sql_mode = concat(@@sql_mode,',X'), @a := 1, names utf8mb4")
    else {
        panic!("a set");
    };
    assert_eq!(items.len(), 4);
    assert!(matches!(&items[2], SetItem::User { name, .. } if name == "a"));
    assert!(matches!(&items[3], SetItem::Names { charset, .. } if charset == "utf8mb4"));
    let Stmt::Set(items) = one("SET @@GLOBAL.time_zone = DEFAULT") else { panic!("a set") };
    assert!(matches!(
        &items[0],
        SetItem::System { scope: SetScope::Global, value: SetValue::Default, .. }
    ));
}

#[test]
fn show_and_describe() {
    let Stmt::Show(show) = one("SHOW /*!50002 FULL*/ COLUMNS FROM `t` FROM d LIKE 'a%'") else {
        panic!()
    };
    assert!(
        matches!(&show.what, What::Columns { full: true, table } if table.to_string() == "d.t")
    );
    assert!(matches!(&show.filter, Some(Filter::Like(l)) if l == "a%"));
    let Stmt::Show(show) = one("desc d.t") else { panic!() };
    assert!(matches!(&show.what, What::Columns { full: false, .. }));
}
