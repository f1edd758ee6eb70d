//! `damask playground`: a whole cluster in this process, until Ctrl-C.

use crate::cli::Error;
use crate::{Cluster, Config, EngineName};
use damask_env::{Clock, RealClock};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Options of the playground.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Folder of all data [default: the user's data folder, `damask/playground`].
    #[arg(long, value_name = "DIR", conflicts_with = "memory")]
    data: Option<PathBuf>,
    /// Keep everything in memory; it is gone at the end.
    #[arg(long)]
    memory: bool,
    /// Row stores.
    #[arg(long, default_value_t = 3)]
    stores: usize,
    /// Column stores.
    #[arg(long, default_value_t = 1)]
    columns: usize,
    /// Row engine.
    #[arg(long, value_enum, default_value_t = EngineName::best())]
    engine: EngineName,
    /// Where MySQL clients connect.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4000")]
    mysql: SocketAddr,
    /// Where status and metrics are served.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:10080")]
    status: SocketAddr,
    /// Rough bytes above which a region is split.
    #[arg(long, value_name = "BYTES", default_value_t = 96 << 20)]
    region_bytes: u64,
}

impl Options {
    fn config(&self) -> Result<Config, Error> {
        let data = match (&self.data, self.memory) {
            (_, true) => None,
            (Some(folder), _) => Some(folder.clone()),
            (None, _) => Some(default_folder()?),
        };
        let mut config = Config {
            data,
            stores: self.stores,
            columns: self.columns,
            mysql: Some(self.mysql),
            status: Some(self.status),
            ..Config::default()
        };
        config.kv.engine = self.engine;
        config.raft.region_bytes_max = self.region_bytes;
        Ok(config)
    }
}

/// `$XDG_DATA_HOME/damask/playground`, or the same below `~/.local/share`.
fn default_folder() -> Result<PathBuf, Error> {
    let absolute = |p: &PathBuf| p.is_absolute();
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(absolute);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    let base = data.or_else(home).ok_or("HOME is not set: name a folder with --data")?;
    Ok(base.join("damask/playground"))
}

/// Starts, prints how to connect, waits for Ctrl-C or SIGTERM, stops.
pub fn run(options: Options) -> Result<(), Error> {
    let config = options.config()?;
    let clock = RealClock::default();
    eprintln!("damask {} playground", env!("CARGO_PKG_VERSION"));
    let mut cluster = Cluster::start_with_progress(config.clone(), |step| {
        eprintln!("  {:>5} ms  {step}", clock.monotonic().as_millis());
    })?;
    let mysql = cluster.mysql_addr().ok_or("the MySQL server did not start")?;
    let status = cluster.status_addr().ok_or("the status server did not start")?;
    println!();
    match &config.data {
        Some(folder) => println!("  data        {}", folder.display()),
        None => println!("  data        in memory, gone at the end"),
    }
    println!("  mysql       {mysql}");
    println!("  status      http://{status}/status  /regions  /metrics");
    println!();
    println!("  mariadb -h {} -P {} -u root", mysql.ip(), mysql.port());
    println!("  mysql+pymysql://root@{mysql}/test");
    println!();
    println!("ready");
    wait_for_signal()?;
    eprintln!("stopping");
    cluster.stop();
    Ok(())
}

fn wait_for_signal() -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            result = tokio::signal::ctrl_c() => result?,
            _ = terminate.recv() => {}
        }
        Ok(())
    })
}
