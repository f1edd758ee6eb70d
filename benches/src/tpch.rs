//! A cluster in this process, on a folder of the disk, with the TPC-H tables loaded as a user
//! would load them. It must never measure anything but the load itself.

use crate::Error;
use crate::arguments::Arguments;
use crate::measure::Stopwatch;
use damask_cluster::cli::load::{self, LoadTpch};
use damask_cluster::nodes::Content;
use damask_cluster::{Cluster, Config};
use damask_deltatree::ColumnStore;
use damask_kv::Engine;
use damask_pd::StoreKind;
use damask_types::{StoreId, TableId};
use mysql::prelude::Queryable;
use mysql::{Conn, OptsBuilder};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The database that holds the tables.
const DATABASE: &str = "tpch";
/// Between two looks at the column stores' sizes.
const QUIET_POLL: Duration = Duration::from_millis(100);
/// Looks in a row without a change after which the columns count as quiet.
const QUIET_POLLS: usize = 10;
/// Until the columns must be quiet.
const QUIET_WAIT: Duration = Duration::from_secs(60);

/// The eight tables.
pub const TABLES: [&str; 8] =
    ["region", "nation", "supplier", "part", "partsupp", "customer", "orders", "lineitem"];

/// As `damask playground` runs it, but on free ports.
pub fn playground(data: Option<&Path>) -> Config {
    let any_port = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    Config {
        data: data.map(Path::to_owned),
        mysql: any_port,
        status: any_port,
        ..Config::default()
    }
}

/// A cluster with the eight tables in it.
pub struct Tpch {
    /// Rows of all tables.
    pub rows: u64,
    /// Seconds of `damask load tpch`: tables made, rows written, columns caught up.
    pub load_seconds: f64,
    // Dropped in this order: the cluster before its folder.
    cluster: Cluster,
    _folder: tempfile::TempDir,
}

impl Tpch {
    /// Starts and loads.
    pub fn start(arguments: &Arguments, stopwatch: &Stopwatch) -> Result<Tpch, Error> {
        let folder =
            tempfile::Builder::new().prefix("damask-bench-").tempdir_in(&arguments.folder)?;
        let cluster = Cluster::start(playground(Some(folder.path())))?;
        let options = LoadTpch {
            scale: arguments.scale,
            mysql: cluster.mysql_addr().ok_or("the MySQL server did not start")?,
            database: DATABASE.into(),
            drop: false,
            threads: 4,
            columns: 1,
        };
        let (loaded, load_seconds) = stopwatch.time(|| load::run(&options));
        loaded?;
        let mut tpch = Tpch { rows: 0, load_seconds, cluster, _folder: folder };
        tpch.rows = tpch.count()?;
        tpch.wait_until_quiet(stopwatch)?;
        Ok(tpch)
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// A new connection that uses the tables' database.
    pub fn connect(&self) -> Result<Conn, Error> {
        let addr = self.cluster.mysql_addr().ok_or("the MySQL server has stopped")?;
        let options = OptsBuilder::new()
            .ip_or_hostname(Some(addr.ip().to_string()))
            .tcp_port(addr.port())
            .user(Some("root"))
            .db_name(Some(DATABASE))
            .prefer_socket(false);
        Ok(Conn::new(options)?)
    }

    /// The id of one of the tables.
    pub fn table_id(&self, table: &str) -> Result<TableId, Error> {
        let id: Option<i64> = self.connect()?.exec_first(
            "SELECT table_id FROM information_schema.tiflash_replica \
             WHERE table_schema = ? AND table_name = ?",
            (DATABASE, table),
        )?;
        Ok(TableId(id.ok_or_else(|| format!("no table {table}"))?))
    }

    /// The engine of a row store: it holds every row, since three stores keep three copies.
    pub fn engine(&self) -> Result<Arc<dyn Engine>, Error> {
        let found = self.stores(StoreKind::Row).find_map(|id| match self.cluster.content(id) {
            Some(Content::Rows(engine)) => Some(engine),
            _ => None,
        });
        Ok(found.ok_or("no row store runs")?)
    }

    /// The columns of the column store.
    pub fn columns(&self) -> Result<Arc<dyn ColumnStore>, Error> {
        let found = self.stores(StoreKind::Column).find_map(|id| match self.cluster.content(id) {
            Some(Content::Columns(columns)) => Some(columns),
            _ => None,
        });
        Ok(found.ok_or("no column store runs")?)
    }

    fn stores(&self, kind: StoreKind) -> impl Iterator<Item = StoreId> {
        let of_kind = move |store: damask_pd::StoreInfo| (store.kind == kind).then_some(store.id);
        self.cluster.pd().stores().into_iter().filter_map(of_kind)
    }

    fn count(&self) -> Result<u64, Error> {
        let mut conn = self.connect()?;
        let mut rows = 0;
        for table in TABLES {
            let count: Option<u64> = conn.query_first(format!("SELECT count(*) FROM {table}"))?;
            rows += count.ok_or("count(*) gave no row")?;
        }
        Ok(rows)
    }

    /// Waits until the delta of the largest table is merged as far as it will be now: queries
    /// are measured at rest, not while the load is being digested.
    fn wait_until_quiet(&self, stopwatch: &Stopwatch) -> Result<(), Error> {
        let (columns, table) = (self.columns()?, self.table_id("lineitem")?);
        let deadline = stopwatch.elapsed() + QUIET_WAIT;
        let (mut last, mut same) = (columns.stats(table)?, 0);
        while same < QUIET_POLLS {
            if stopwatch.elapsed() > deadline {
                return Err(format!("the columns were not quiet after {QUIET_WAIT:?}").into());
            }
            std::thread::park_timeout(QUIET_POLL);
            let now = columns.stats(table)?;
            same = if now == last { same + 1 } else { 0 };
            last = now;
        }
        Ok(())
    }
}
