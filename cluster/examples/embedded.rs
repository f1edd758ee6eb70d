//! A whole cluster inside one program: a table is written through transactions, then the same query
//! is answered from its rows and from its columns.
//!
//! `cargo run --release --bin damask` is the same cluster behind the MySQL protocol.

use damask_cluster::{Cluster, Config};
use damask_sql_lite::convert;
use damask_sql_lite::outcome::{ConnectionInfo, Outcome, RowBatch};
use damask_sql_lite::session::Connection;
use damask_types::{ColumnType, Datum};
use std::error::Error;

/// Looks at the replica's progress before giving up, 10 ms apart.
const LOOKS_MAX: usize = 1000;

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let cluster = Cluster::start(Config::memory())?;
    let info = ConnectionInfo { id: 1, user: "root".to_owned(), ..ConnectionInfo::default() };
    let mut session = cluster.database().connect(info)?;
    for sql in [
        "CREATE DATABASE shop",
        "USE shop",
        "CREATE TABLE sales (id INT PRIMARY KEY, region VARCHAR(10), amount DECIMAL(10, 2))",
        "INSERT INTO sales VALUES (1, 'north', 10.50), (2, 'south', 20), (3, 'north', 5.25)",
        "ALTER TABLE sales SET COLUMN REPLICA 1",
    ] {
        println!("{sql}");
        rows(&mut session, sql)?;
    }
    let ready = "SELECT available FROM information_schema.tiflash_replica";
    let mut looks = 0;
    while rows(&mut session, ready)? != [["1"]] {
        looks += 1;
        if looks == LOOKS_MAX {
            return Err("the column replica is not there yet".into());
        }
        std::thread::park_timeout(std::time::Duration::from_millis(10));
    }
    for engine in ["row", "column"] {
        rows(&mut session, &format!("SET damask_isolation_read_engines = '{engine}'"))?;
        let sql = "SELECT region, sum(amount) FROM sales GROUP BY region ORDER BY region";
        println!("{sql}   -- from {engine}s");
        for row in rows(&mut session, sql)? {
            println!("  {}", row.join("  "));
        }
    }
    Ok(())
}

fn shown(value: &Datum, ty: Option<&ColumnType>) -> String {
    convert::text(value, ty).unwrap_or_else(|| "NULL".to_owned())
}

/// Runs a statement and reads its rows as text.
fn rows(session: &mut Connection, sql: &str) -> damask_sql_lite::Result<Vec<Vec<String>>> {
    let Outcome::Rows(mut rows) = session.run(sql)? else { return Ok(Vec::new()) };
    let types: Vec<_> = rows.columns.iter().map(|column| column.ty.clone()).collect();
    let mut out = Vec::new();
    while let Some(batch) = rows.source.next()? {
        match batch {
            RowBatch::Datums(rows) => {
                for row in rows {
                    let cells = row.iter().zip(&types);
                    out.push(cells.map(|(value, ty)| shown(value, ty.as_ref())).collect());
                }
            }
            RowBatch::Columns(batch) => {
                for at in 0..batch.num_rows() {
                    let mut cells = Vec::new();
                    for (array, ty) in batch.columns().iter().zip(&types) {
                        let value = convert::datum_at(array.as_ref(), at, ty.as_ref())?;
                        cells.push(shown(&value, ty.as_ref()));
                    }
                    out.push(cells);
                }
            }
        }
    }
    Ok(out)
}
