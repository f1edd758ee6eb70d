//! Queries over a real row engine: access paths, own writes, the hidden handle, column metadata.

mod query_common;

use damask_sql_lite::query;
use damask_txn::Transaction;
use damask_types::key::{encode_handle, index_key, row_key};
use damask_types::row::encode_row;
use damask_types::schema::{IndexState, IntWidth};
use damask_types::{ColumnId, ColumnType, Datum, IndexId, IndexSchema, TableId, TableSchema};
use query_common::{Engine, column};

const PEOPLE: TableId = TableId(101);
const NOTES: TableId = TableId(102);
const ROWS: i64 = 1000;

fn big() -> ColumnType {
    ColumnType::Int { width: IntWidth::Big, unsigned: false }
}

fn index(id: i64, name: &str, columns: &[i64], unique: bool) -> IndexSchema {
    IndexSchema {
        readable_from: damask_types::Timestamp::ZERO,
        id: IndexId(id),
        name: name.into(),
        columns: columns.iter().map(|c| ColumnId(*c)).collect(),
        unique,
        primary: false,
        state: IndexState::Public,
    }
}

fn table(id: TableId, name: &str, columns: Vec<damask_types::ColumnSchema>) -> TableSchema {
    TableSchema {
        id,
        database: "test".into(),
        name: name.into(),
        version: 1,
        max_column_id: ColumnId(columns.len() as i64),
        columns,
        handle_column: None,
        indexes: Vec::new(),
        column_replicas: 0,
        max_index_id: IndexId(9),
        comment: String::new(),
    }
}

/// `People (Id PK, name unique, Age index, at TIMESTAMP)` and `notes (body)`, without a key.
fn engine() -> Engine {
    let people = TableSchema {
        handle_column: Some(ColumnId(1)),
        indexes: vec![index(1, "name", &[2], true), index(2, "age", &[3], false)],
        ..table(
            PEOPLE,
            "People",
            vec![
                column(1, "Id", big(), false),
                column(2, "name", ColumnType::VarChar { len: 20 }, false),
                column(3, "Age", big(), true),
                column(4, "at", ColumnType::Timestamp { fsp: 0 }, true),
            ],
        )
    };
    let body = column(1, "body", ColumnType::Text { bytes_max: 65_535 }, true);
    let notes = table(NOTES, "notes", vec![body]);
    let engine = Engine::over_rows(vec![people, notes]);
    let mut txn = engine.services.client.begin().expect("begins");
    for id in 0..ROWS {
        put_person(&mut txn, id, &format!("p{id}"), Some(id % 50));
    }
    for handle in 1..=3 {
        let body = Datum::Text(format!("note {handle}"));
        txn.put(row_key(NOTES, handle), encode_row(&[(ColumnId(1), &body)])).expect("puts");
    }
    txn.commit().expect("commits");
    engine
}

fn put_person(txn: &mut Transaction, id: i64, name: &str, age: Option<i64>) {
    let name = Datum::Text(name.to_owned());
    let age = age.map_or(Datum::Null, Datum::Int);
    let at = Datum::DateTime(id * 1_000_000);
    let row = encode_row(&[(ColumnId(2), &name), (ColumnId(3), &age), (ColumnId(4), &at)]);
    txn.put(row_key(PEOPLE, id), row).expect("puts");
    let entry = index_key(PEOPLE, IndexId(1), &[name], None);
    txn.put(entry, encode_handle(id)).expect("puts");
    txn.put(index_key(PEOPLE, IndexId(2), &[age], Some(id)), vec![b'0']).expect("puts");
}

fn one(engine: &Engine, sql: &str) -> String {
    cell(engine, sql, None)
}

fn cell(engine: &Engine, sql: &str, txn: Option<&Transaction>) -> String {
    let rows = engine.rows_in(sql, txn).expect("runs");
    let lines: Vec<_> = rows.into_iter().map(|row| row.join(" | ")).collect();
    lines.join("; ")
}

#[test]
fn keys_become_ranges() {
    let engine = engine();
    assert_eq!(one(&engine, "select name from people where id = 7"), "p7");
    assert_eq!(one(&engine, "select name from people where id in (5, 3, 3, 2000)"), "p3; p5");
    assert_eq!(one(&engine, "select count(*) from people where id between 10 and 19"), "10");
    assert_eq!(one(&engine, "select count(*) from people where id > 10 and id < 10"), "0");
    assert_eq!(one(&engine, "select count(*) from people where id = '7'"), "1");
    assert_eq!(one(&engine, "select count(*) from people where id = 7.5"), "0");
    assert_eq!(one(&engine, "select count(*) from people where 995 <= id"), "5");
    let plan = engine.explain("select * from people where id = 7");
    assert!(plan.contains("Fragment[row] table=People regions=1"), "{plan}");
}

#[test]
fn indexes_are_used_and_agree_with_scans() {
    let mut engine = engine();
    // Sizes are told: a large table makes indexes worth it.
    let sizes = [("People".to_owned(), 1e6)].into();
    let services = &engine.services;
    engine.services = query::QueryServices::new(
        services.client.clone(),
        services.dispatch.clone(),
        std::sync::Arc::new(query_common::Facts(sizes)),
        engine.runtime.handle().clone(),
        2,
    );
    let plan = engine.explain("select * from people where name = 'p77'");
    assert!(plan.contains("Fragment[index] table=People"), "{plan}");
    assert_eq!(one(&engine, "select id from people where name = 'p77'"), "77");
    assert_eq!(one(&engine, "select count(*), max(id) from people where age = 7"), "20 | 957");
    let sql = "select sum(id) from people where age in (1, 2) and name like 'p1%'";
    let want = (0..ROWS).filter(|i| matches!(i % 50, 1 | 2) && i.to_string().starts_with('1'));
    assert_eq!(one(&engine, sql), want.sum::<i64>().to_string());
    // Covered: no row is read.
    let plan = engine.explain("select age, id from people where age = 3");
    assert!(plan.contains("Fragment[index]"), "{plan}");
    assert_eq!(one(&engine, "select count(*) from people where age >= 48"), "40");
    assert_eq!(one(&engine, "select count(*) from people where age < 2"), "40");
    assert_eq!(one(&engine, "select min(name) from people where name > 'p99'"), "p990");
}

#[test]
fn own_writes_are_seen_and_others_are_not() {
    let engine = engine();
    let mut txn = engine.services.client.begin().expect("begins");
    put_person(&mut txn, 5000, "new", Some(7));
    put_person(&mut txn, 7, "changed", Some(99));
    txn.delete(row_key(PEOPLE, 8)).expect("deletes");
    let count = "select count(*) from people";
    assert_eq!(cell(&engine, count, Some(&txn)), "1000");
    assert_eq!(one(&engine, count), "1000");
    let some = "select id, name from people where id in (7, 8, 9, 5000) order by id";
    assert_eq!(cell(&engine, some, Some(&txn)), "7 | changed; 9 | p9; 5000 | new");
    assert_eq!(one(&engine, some), "7 | p7; 8 | p8; 9 | p9");
    let aged = "select count(*) from people where age = 7";
    assert_eq!(cell(&engine, aged, Some(&txn)), "20");
    let joined = "select a.name from people a join people b on a.id = b.id where b.age = 99";
    assert_eq!(cell(&engine, joined, Some(&txn)), "changed");
    txn.put(row_key(NOTES, 9), encode_row(&[(ColumnId(1), &Datum::Null)])).expect("puts");
    txn.delete(row_key(NOTES, 1)).expect("deletes");
    let notes = "select body from notes order by body";
    assert_eq!(cell(&engine, notes, Some(&txn)), "NULL; note 2; note 3");
    assert_eq!(cell(&engine, "select * from notes where body = 'note 2'", Some(&txn)), "note 2");
}

#[test]
fn the_hidden_handle_has_a_name_and_nothing_else() {
    let engine = engine();
    let sql = "select _damask_handle, body from notes where _damask_handle > 1 order by 1";
    assert_eq!(one(&engine, sql), "2 | note 2; 3 | note 3");
    assert_eq!(one(&engine, "select * from notes limit 1").matches('|').count(), 0);
    assert_eq!(one(&engine, "select n._damask_handle from notes n where n.body = 'note 3'"), "3");
}

#[test]
fn regions_that_split_meanwhile_are_read_once() {
    let engine = engine();
    engine.cluster.split(&row_key(PEOPLE, 500));
    engine.cluster.split(&row_key(PEOPLE, 100));
    assert_eq!(one(&engine, "select count(*), sum(id) from people"), "1000 | 499500");
    let sql = "select count(*) from people where id between 90 and 510";
    assert_eq!(one(&engine, sql), "421");
}

#[test]
fn another_zone_shows_timestamps_in_it() {
    let mut engine = engine();
    let sql = "select at from people where id = 60";
    assert_eq!(one(&engine, sql), "1970-01-01 00:01:00");
    let zone = Datum::Text("+02:00".into());
    engine.variables.set("time_zone", Some(zone), false).expect("sets");
    assert_eq!(one(&engine, sql), "1970-01-01 02:01:00");
    assert_eq!(one(&engine, "select id from people where at = '1970-01-01 02:01:00'"), "60");
    assert_eq!(one(&engine, "select hour(at) from people where id = 3600"), "");
    assert_eq!(one(&engine, "select hour(at) from people where id = 999"), "2");
}

#[test]
fn columns_say_where_they_come_from() {
    let engine = engine();
    let sql = "select *, p.AGE + 1, count(*) over () as C, id Ident from people p where id = 1";
    let columns = engine.with(sql, None, query::columns).expect("plans");
    let shown = columns
        .iter()
        .map(|c| format!("{}/{}.{}.{}/{:?}", c.name, c.database, c.table, c.org_table, c.org_name));
    let shown: Vec<_> = shown.collect();
    assert_eq!(shown[0], "Id/test.p.People/\"Id\"");
    assert_eq!(shown[2], "Age/test.p.People/\"Age\"");
    assert_eq!(shown[6], "Ident/test.p.People/\"Id\"");
    assert_eq!(columns[5].name, "C");
    assert_eq!(columns[0].ty, Some(big()));
    assert!(columns[0].primary_key && columns[1].unique_key && !columns[2].unique_key);
    assert_eq!(columns[1].ty, Some(ColumnType::VarChar { len: 20 }));
    assert_eq!(columns[3].ty, Some(ColumnType::Timestamp { fsp: 0 }));
    assert_eq!(columns[5].ty, Some(big()));
    let sql = "select sum(age), count(*), avg(age), max(at), now(3), max(name) from people";
    let columns = engine.with(sql, None, query::columns).expect("plans");
    let types: Vec<_> = columns.into_iter().map(|c| c.ty.expect("a type")).collect();
    assert!(matches!(types[0], ColumnType::Decimal { scale: 0, .. }));
    assert_eq!(types[1], big());
    assert!(matches!(types[2], ColumnType::Decimal { scale: 4, .. }));
    assert_eq!(types[3], ColumnType::Timestamp { fsp: 0 });
    assert_eq!(types[4], ColumnType::DateTime { fsp: 3 });
    assert_eq!(types[5], ColumnType::VarChar { len: 20 });
}

#[test]
fn values_of_expressions() {
    let engine = engine();
    let values = engine.with("select 1+1, 'a', null, 1.5, now()", None, |context, query| {
        let sqlparser::ast::SetExpr::Select(select) = &*query.body else { panic!("a select") };
        let exprs = select.projection.iter().map(|item| match item {
            sqlparser::ast::SelectItem::UnnamedExpr(e) => e.clone(),
            sqlparser::ast::SelectItem::ExprWithAlias { expr, .. } => expr.clone(),
            _ => panic!("an expression"),
        });
        query::eval(context, &exprs.collect::<Vec<_>>())
    });
    let values = values.expect("evaluates");
    assert_eq!(values[0], Datum::Int(2));
    assert_eq!(values[1], Datum::Text("a".into()));
    assert_eq!(values[2], Datum::Null);
    assert_eq!(values[4], Datum::DateTime(query_common::NOW_US / 1_000_000 * 1_000_000));
}

#[test]
fn groups_that_a_key_determines_need_not_be_named() {
    let engine = engine();
    let sql = "select p.id, p.name, count(*) from people p where p.id < 3 group by p.id order by 1";
    assert_eq!(one(&engine, sql), "0 | p0 | 1; 1 | p1 | 1; 2 | p2 | 1");
    let wrong = engine.rows("select name, count(*) from people group by age");
    assert_eq!(wrong.expect_err("refused").code, 1055);
}

#[test]
fn columns_without_a_replica_are_refused_by_setting_and_passed_over_by_hint() {
    let mut engine = engine();
    let hinted = "select /*+ READ_FROM_STORAGE(COLUMN[people]) */ count(*) from people";
    assert_eq!(one(&engine, hinted), "1000");
    assert!(engine.explain(hinted).contains("hint ignored"));
    let value = Datum::Text("column".into());
    engine.variables.set("damask_isolation_read_engines", Some(value), false).expect("sets");
    assert_eq!(engine.rows(hinted).expect_err("refused").code, 1815);
}
