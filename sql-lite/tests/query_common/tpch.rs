//! TPC-H's tables in memory, from the crate `tpchgen`.

use crate::query_common::{Engine, column};
use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Field, Schema};
use damask_coprocessor::testing::MemoryEndpoint;
use damask_coprocessor::{ColumnBuilder, arrow_type};
use damask_types::key::row_key;
use damask_types::schema::{IndexState, IntWidth};
use damask_types::{
    ColumnId, ColumnType, Datum, Decimal, IndexId, IndexSchema, TableId, TableSchema,
};
use std::collections::HashMap;
use std::sync::Arc;
use tpchgen::generators::*;

fn int(v: impl Into<i64>) -> Datum {
    Datum::Int(v.into())
}

fn text(v: impl ToString) -> Datum {
    Datum::Text(v.to_string())
}

fn money(v: tpchgen::decimal::TPCHDecimal) -> Datum {
    Datum::Decimal(Decimal { unscaled: v.0.into(), scale: 2 })
}

fn day(v: tpchgen::dates::TPCHDate) -> Datum {
    Datum::Date(v.to_unix_epoch())
}

/// One letter a column: i BIGINT, d DECIMAL(15,2), t DATE, s VARCHAR, c CHAR.
fn types(letters: &str) -> impl Iterator<Item = ColumnType> + '_ {
    letters.chars().map(|letter| match letter {
        'i' => ColumnType::Int { width: IntWidth::Big, unsigned: false },
        'd' => ColumnType::Decimal { precision: 15, scale: 2 },
        't' => ColumnType::Date,
        'c' => ColumnType::Char { len: 25 },
        _ => ColumnType::VarChar { len: 152 },
    })
}

/// The key's columns; one column is the handle, several are a unique index.
fn schema(id: i64, name: &str, letters: &str, columns: &str, key: usize) -> TableSchema {
    let columns: Vec<_> = columns
        .split(' ')
        .zip(types(letters))
        .enumerate()
        .map(|(i, (name, ty))| column(i as i64 + 1, name, ty, false))
        .collect();
    let primary = IndexSchema {
        readable_from: damask_types::Timestamp::ZERO,
        id: IndexId(1),
        name: "PRIMARY".into(),
        columns: (1..=key as i64).map(ColumnId).collect(),
        unique: true,
        primary: true,
        // The doubles keep no index entries.
        state: IndexState::WriteOnly,
    };
    TableSchema {
        id: TableId(100 + id),
        database: "test".into(),
        name: name.into(),
        version: 1,
        max_column_id: ColumnId(columns.len() as i64),
        columns,
        handle_column: (key == 1).then_some(ColumnId(1)),
        indexes: if key == 1 { Vec::new() } else { vec![primary] },
        column_replicas: 1,
        max_index_id: IndexId(1),
        comment: String::new(),
    }
}

struct Loaded {
    table: TableSchema,
    rows: usize,
}

fn load(
    memory: &MemoryEndpoint,
    table: TableSchema,
    rows: impl Iterator<Item = Vec<Datum>>,
) -> Loaded {
    let types: Vec<_> = table.columns.iter().map(|c| arrow_type(&c.ty)).collect();
    let builder = |ty| ColumnBuilder::new(ty, 1024).expect("a known type");
    let mut builders: Vec<_> = types.iter().map(builder).collect();
    let mut handles = Vec::new();
    for (i, row) in rows.enumerate() {
        handles.push(match (&table.handle_column, &row[0]) {
            (Some(_), Datum::Int(key)) => *key,
            _ => i as i64 + 1,
        });
        for (builder, datum) in builders.iter_mut().zip(&row) {
            builder.push_datum(datum).expect("a value of the column's type");
        }
    }
    let fields = table.columns.iter().zip(&types);
    let fields = fields.map(|(c, ty)| Field::new(&c.name, ty.clone(), false)).collect::<Vec<_>>();
    let columns: Vec<ArrayRef> = builders.iter_mut().map(ColumnBuilder::finish).collect();
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("fits");
    let rows = handles.len();
    memory.put(table.id, handles, batch);
    Loaded { table, rows }
}

/// An engine with the eight tables at this scale; `lineitem` and `orders` in several regions.
pub fn engine(scale: f64) -> Engine {
    let memory = MemoryEndpoint::new();
    let m = &memory;
    let mut all = Vec::new();
    let table = schema(1, "region", "ics", "r_regionkey r_name r_comment", 1);
    let rows = RegionGenerator::new(scale, 1, 1);
    all.push(load(
        m,
        table,
        rows.iter().map(|r| vec![int(r.r_regionkey), text(r.r_name), text(r.r_comment)]),
    ));
    let table = schema(2, "nation", "icis", "n_nationkey n_name n_regionkey n_comment", 1);
    let rows = NationGenerator::new(scale, 1, 1);
    all.push(load(
        m,
        table,
        rows.iter().map(|r| {
            vec![int(r.n_nationkey), text(r.n_name), int(r.n_regionkey), text(r.n_comment)]
        }),
    ));
    let names = "s_suppkey s_name s_address s_nationkey s_phone s_acctbal s_comment";
    let table = schema(3, "supplier", "icsicds", names, 1);
    let rows = SupplierGenerator::new(scale, 1, 1);
    all.push(load(
        m,
        table,
        rows.iter().map(|r| {
            vec![
                int(r.s_suppkey),
                text(r.s_name),
                text(r.s_address),
                int(r.s_nationkey),
                text(r.s_phone),
                money(r.s_acctbal),
                text(&r.s_comment),
            ]
        }),
    ));
    let names = "c_custkey c_name c_address c_nationkey c_phone c_acctbal c_mktsegment c_comment";
    let table = schema(4, "customer", "issicdcs", names, 1);
    let rows = CustomerGenerator::new(scale, 1, 1);
    all.push(load(
        m,
        table,
        rows.iter().map(|r| {
            vec![
                int(r.c_custkey),
                text(r.c_name),
                text(r.c_address),
                int(r.c_nationkey),
                text(r.c_phone),
                money(r.c_acctbal),
                text(r.c_mktsegment),
                text(r.c_comment),
            ]
        }),
    ));
    let names = "p_partkey p_name p_mfgr p_brand p_type p_size p_container p_retailprice p_comment";
    let table = schema(5, "part", "isccsicds", names, 1);
    let rows = PartGenerator::new(scale, 1, 1);
    all.push(load(
        m,
        table,
        rows.iter().map(|r| {
            vec![
                int(r.p_partkey),
                text(r.p_name),
                text(r.p_mfgr),
                text(r.p_brand),
                text(r.p_type),
                int(r.p_size),
                text(r.p_container),
                money(r.p_retailprice),
                text(r.p_comment),
            ]
        }),
    ));
    let names = "ps_partkey ps_suppkey ps_availqty ps_supplycost ps_comment";
    let table = schema(6, "partsupp", "iiids", names, 2);
    let rows = PartSuppGenerator::new(scale, 1, 1);
    all.push(load(
        m,
        table,
        rows.iter().map(|r| {
            vec![
                int(r.ps_partkey),
                int(r.ps_suppkey),
                int(r.ps_availqty),
                money(r.ps_supplycost),
                text(r.ps_comment),
            ]
        }),
    ));
    let names = "o_orderkey o_custkey o_orderstatus o_totalprice o_orderdate o_orderpriority \
                 o_clerk o_shippriority o_comment";
    let table = schema(7, "orders", "iicdtccis", names, 1);
    let rows = OrderGenerator::new(scale, 1, 1);
    all.push(load(
        m,
        table,
        rows.iter().map(|r| {
            vec![
                int(r.o_orderkey),
                int(r.o_custkey),
                text(r.o_orderstatus),
                money(r.o_totalprice),
                day(r.o_orderdate),
                text(r.o_orderpriority),
                text(r.o_clerk),
                int(r.o_shippriority),
                text(r.o_comment),
            ]
        }),
    ));
    let names = "l_orderkey l_partkey l_suppkey l_linenumber l_quantity l_extendedprice l_discount \
                 l_tax l_returnflag l_linestatus l_shipdate l_commitdate l_receiptdate \
                 l_shipinstruct l_shipmode l_comment";
    let table = schema(8, "lineitem", "iiiiddddcctttccs", names, 4);
    let rows = LineItemGenerator::new(scale, 1, 1);
    all.push(load(
        m,
        table,
        rows.iter().map(|r| {
            let quantity = Decimal { unscaled: i128::from(r.l_quantity) * 100, scale: 2 };
            vec![
                int(r.l_orderkey),
                int(r.l_partkey),
                int(r.l_suppkey),
                int(r.l_linenumber),
                Datum::Decimal(quantity),
                money(r.l_extendedprice),
                money(r.l_discount),
                money(r.l_tax),
                text(r.l_returnflag),
                text(r.l_linestatus),
                day(r.l_shipdate),
                day(r.l_commitdate),
                day(r.l_receiptdate),
                text(r.l_shipinstruct),
                text(r.l_shipmode),
                text(r.l_comment),
            ]
        }),
    ));
    let sizes: HashMap<_, _> = all.iter().map(|l| (l.table.name.clone(), l.rows as f64)).collect();
    let half = |name: &str| {
        let found = all.iter().find(|l| l.table.name == name).expect("it was just loaded");
        row_key(found.table.id, found.rows as i64 / 2)
    };
    let cuts = [half("orders"), half("lineitem")];
    let tables = all.into_iter().map(|l| l.table).collect();
    Engine::over_memory(memory, tables, &cuts, sizes)
}

/// The 22 queries, in order.
pub fn queries() -> Vec<(String, String)> {
    sections(include_str!("../tpch/queries.sql"))
        .into_iter()
        .map(|(name, body)| (name, body.trim_end_matches(';').to_owned()))
        .collect()
}

/// Parts of a text that begin with `-- Qn`.
pub fn sections(text: &str) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix("-- Q"), all.last_mut()) {
            (Some(name), _) => all.push((format!("Q{name}"), String::new())),
            (None, Some((_, body))) => {
                if !body.is_empty() {
                    body.push('\n');
                }
                body.push_str(line);
            }
            (None, None) => {}
        }
    }
    all
}
