//! `damask playground`: a whole cluster in this process, until Ctrl-C.

use crate::cli::Error;
use crate::{Cluster, Config, EngineName};
use damask_env::{Clock, RealClock};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Where MySQL clients connect, unless said otherwise.
const MYSQL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4000);
/// Where status and metrics are served, unless said otherwise.
pub(super) const STATUS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10080);

/// Options of the playground. What is said here wins over the configuration file.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Options {
    /// Configuration file, in TOML.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of all data [default: the user's data folder, `damask/playground`].
    #[arg(long, value_name = "DIR", conflicts_with = "memory")]
    data: Option<PathBuf>,
    /// Keep everything in memory; it is gone at the end.
    #[arg(long)]
    memory: bool,
    /// Row stores [default: 3].
    #[arg(long, value_name = "N")]
    stores: Option<usize>,
    /// Column stores [default: 1].
    #[arg(long, value_name = "N")]
    columns: Option<usize>,
    /// Members of the placement driver and timestamp oracle: 1, 3 or 5 [default: 1].
    #[arg(long, value_name = "N")]
    pds: Option<usize>,
    /// Row engine [default: RocksDB, if this build has it].
    #[arg(long, value_enum)]
    engine: Option<EngineName>,
    /// Where MySQL clients connect [default: 127.0.0.1:4000].
    #[arg(long, value_name = "ADDR")]
    mysql: Option<SocketAddr>,
    /// Where status and metrics are served [default: 127.0.0.1:10080].
    #[arg(long, value_name = "ADDR")]
    status: Option<SocketAddr>,
    /// Rough bytes above which a region is split [default: 96 MiB].
    #[arg(long, value_name = "BYTES")]
    region_bytes: Option<u64>,
}

impl Options {
    fn config(&self) -> Result<Config, Error> {
        let mut config = match &self.config {
            Some(path) => read(path)?,
            None => Config::default(),
        };
        let set = |value: &mut usize, option: Option<usize>| *value = option.unwrap_or(*value);
        set(&mut config.stores, self.stores);
        set(&mut config.columns, self.columns);
        set(&mut config.pds, self.pds);
        config.kv.engine = self.engine.unwrap_or(config.kv.engine);
        config.raft.region_bytes_max = self.region_bytes.unwrap_or(config.raft.region_bytes_max);
        config.mysql = self.mysql.or(config.mysql).or(Some(MYSQL));
        config.status = self.status.or(config.status).or(Some(STATUS));
        config.data = match (&self.data, config.data.take(), self.memory) {
            (_, _, true) => None,
            (Some(folder), _, _) => Some(folder.clone()),
            (None, Some(folder), _) => Some(folder),
            (None, None, _) => Some(default_folder()?),
        };
        Ok(config)
    }
}

fn read(path: &Path) -> Result<Config, Error> {
    let failed = |e: String| format!("{}: {e}", path.display());
    let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
    Ok(Config::parse(&text).map_err(failed)?)
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
    for what in cluster.not_running() {
        println!("  NOT RUNNING {what}");
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn config(arguments: &[&str]) -> Result<Config, Error> {
        let line = Line::try_parse_from(std::iter::once(&"playground").chain(arguments))?;
        line.options.config()
    }

    #[test]
    fn the_command_line_wins_over_the_file_and_the_file_over_the_defaults() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("damask.toml");
        let text = "data = '/tmp/file'\nstores = 5\nmysql = '127.0.0.1:1'\n[kv]\nengine = 'fjall'";
        std::fs::write(&file, text).expect("written");
        let file = file.to_str().expect("UTF-8");
        let config = |more: &[&str]| config(&[&["--config", file], more].concat());
        let found = config(&[]).expect("valid");
        assert_eq!((found.stores, found.columns), (5, 1));
        assert_eq!((found.mysql.map(|a| a.port()), found.status), (Some(1), Some(STATUS)));
        assert_eq!(found.data, Some(PathBuf::from("/tmp/file")));
        let line = ["--stores", "1", "--data", "/tmp/line", "--mysql", "127.0.0.1:2"];
        let found = config(&line).expect("valid");
        assert_eq!((found.stores, found.kv.engine), (1, EngineName::Fjall));
        assert_eq!(found.mysql.map(|addr| addr.port()), Some(2));
        assert_eq!(found.data, Some(PathBuf::from("/tmp/line")));
        assert_eq!(config(&["--memory"]).expect("valid").data, None);
    }

    #[test]
    fn a_bad_file_is_named() {
        let missing = config(&["--config", "/nowhere/damask.toml"]).expect_err("no such file");
        assert!(missing.to_string().contains("/nowhere/damask.toml"), "{missing}");
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), "storez = 1").expect("written");
        let path = file.path().to_str().expect("UTF-8");
        let refusal = config(&["--config", path]).expect_err("refused").to_string();
        assert!(refusal.contains(path) && refusal.contains("storez"), "{refusal}");
    }
}
