//! The variables that exist, with defaults and the values they take. Names clients set and that
//! mean nothing here are accepted and remembered; a name that is not listed is an error (1193).

use super::ReadEngines;
use super::mode::{self, SqlMode};
use crate::error::{Error, Result};
use damask_types::Datum;

/// Where a variable may be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Per session, with a global value new sessions start from.
    Both,
    /// Global only.
    Global,
    /// Session only.
    Session,
    /// Nowhere.
    ReadOnly,
}

/// What a variable holds, with its default.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// ON or OFF, kept as 1 or 0.
    Switch(bool),
    /// A number and its bounds.
    Number(u64, u64, u64),
    /// A number with a fraction.
    Real(f64),
    /// Any text.
    Text(&'static str),
    /// Always NULL.
    Null,
    /// One of a few words; the first is the default.
    OneOf(&'static [&'static str]),
    /// `sql_mode`.
    Mode,
    /// `time_zone`.
    Zone,
    /// A character set.
    Charset(&'static str),
    /// A collation.
    Collation(&'static str),
    /// `damask_isolation_read_engines`.
    Engines,
    /// `tidb_read_staleness`: seconds, not above 0.
    Staleness,
}

/// A variable.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Definition {
    /// Lower case.
    pub name: &'static str,
    /// Where it may be set.
    pub scope: Scope,
    /// What it holds.
    pub kind: Kind,
}

/// A character set and its default collation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charset {
    /// Its name.
    pub name: &'static str,
    /// Default collation.
    pub collation: &'static str,
    /// Description.
    pub description: &'static str,
    /// Bytes of a character at most.
    pub bytes_max: i64,
}

/// The character sets clients may name. All text is UTF-8 inside.
pub const CHARSETS: [Charset; 5] = [
    Charset { name: "ascii", collation: "ascii_bin", description: "US ASCII", bytes_max: 1 },
    Charset { name: "binary", collation: "binary", description: "binary", bytes_max: 1 },
    Charset { name: "latin1", collation: "latin1_bin", description: "Latin1", bytes_max: 1 },
    Charset { name: "utf8", collation: "utf8_bin", description: "UTF-8 Unicode", bytes_max: 3 },
    Charset {
        name: "utf8mb4",
        collation: "utf8mb4_bin",
        description: "UTF-8 Unicode",
        bytes_max: 4,
    },
];

/// Collations clients may name: name, charset, id, is it the charset's default. Comparison is by
/// bytes whatever the name.
pub const COLLATIONS: [(&str, &str, i64, bool); 16] = [
    ("ascii_bin", "ascii", 65, true),
    ("ascii_general_ci", "ascii", 11, false),
    ("binary", "binary", 63, true),
    ("latin1_bin", "latin1", 47, true),
    ("latin1_swedish_ci", "latin1", 8, false),
    ("latin1_general_ci", "latin1", 48, false),
    ("utf8_bin", "utf8", 83, true),
    ("utf8_general_ci", "utf8", 33, false),
    ("utf8_unicode_ci", "utf8", 192, false),
    ("utf8mb4_bin", "utf8mb4", 46, true),
    ("utf8mb4_general_ci", "utf8mb4", 45, false),
    ("utf8mb4_unicode_ci", "utf8mb4", 224, false),
    ("utf8mb4_unicode_520_ci", "utf8mb4", 246, false),
    ("utf8mb4_0900_ai_ci", "utf8mb4", 255, false),
    ("utf8mb4_0900_as_cs", "utf8mb4", 278, false),
    ("utf8mb4_0900_bin", "utf8mb4", 309, false),
];

/// Finds a character set.
pub fn charset(name: &str) -> Option<Charset> {
    let name = if name.eq_ignore_ascii_case("utf8mb3") { "utf8" } else { name };
    CHARSETS.into_iter().find(|c| c.name.eq_ignore_ascii_case(name))
}

/// Checks a collation's name; 1273 if unknown.
pub fn collation(name: &str) -> Result<String> {
    let plain = name.to_ascii_lowercase().replace("utf8mb3_", "utf8_");
    match COLLATIONS.iter().find(|c| c.0 == plain) {
        Some(found) => Ok(found.0.to_owned()),
        None => Err(Error {
            code: 1273,
            state: "HY000",
            message: format!("Unknown collation: '{name}'"),
        }),
    }
}

/// `SYSTEM`, `UTC` or `[+-]h:mm` as microseconds; `None` if it is something else.
pub fn zone_offset_us(text: &str) -> Option<i64> {
    if text.eq_ignore_ascii_case("system") || text.eq_ignore_ascii_case("utc") {
        return Some(0);
    }
    let sign = match text.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = text[1..].split_once(':')?;
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit()).then(|| s.parse::<i64>().ok())?;
    let (hours, minutes) = (digits(hours)?, digits(minutes)?);
    let total = hours * 60 + minutes;
    let allowed = if sign < 0 { 13 * 60 + 59 } else { 14 * 60 };
    (minutes < 60 && total <= allowed).then_some(sign * total * 60_000_000)
}

/// Parses `row,column` (TiDB: `tikv,tiflash,tidb`); `None` if a word is unknown or none is left.
pub fn read_engines(text: &str) -> Option<ReadEngines> {
    let mut engines = ReadEngines { row: false, column: false };
    for word in text.split(',').map(|w| w.trim().to_ascii_lowercase()) {
        match word.as_str() {
            "row" | "tikv" => engines.row = true,
            "column" | "tiflash" => engines.column = true,
            "tidb" => {}
            _ => return None,
        }
    }
    (engines.row || engines.column).then_some(engines)
}

const fn both(name: &'static str, kind: Kind) -> Definition {
    Definition { name, scope: Scope::Both, kind }
}

const fn global(name: &'static str, kind: Kind) -> Definition {
    Definition { name, scope: Scope::Global, kind }
}

const fn session(name: &'static str, kind: Kind) -> Definition {
    Definition { name, scope: Scope::Session, kind }
}

const fn fixed(name: &'static str, kind: Kind) -> Definition {
    Definition { name, scope: Scope::ReadOnly, kind }
}

use Kind::{Charset as Cs, Collation as Co, Null, Number as N, OneOf, Real, Switch, Text};

const MAX: u64 = u64::MAX;
/// No read is further in the past than this many seconds (TiDB's bound).
const STALENESS_MIN: i64 = i32::MIN as i64;
const ISOLATION: Kind =
    OneOf(&["REPEATABLE-READ", "READ-COMMITTED", "SERIALIZABLE", "READ-UNCOMMITTED"]);

/// 8048 for a level that is accepted only with tidb_skip_isolation_level_check, and then means
/// REPEATABLE READ.
pub fn unsupported_isolation(level: &Datum) -> Option<Error> {
    let Datum::Text(level) = level else { return None };
    if !["SERIALIZABLE", "READ-UNCOMMITTED"].contains(&level.as_str()) {
        return None;
    }
    Some(Error::unsupported_isolation(format!(
        "The isolation level '{level}' is not supported. Set tidb_skip_isolation_level_check=1 \
         to skip this error"
    )))
}

/// In name order.
const DEFINITIONS: &[Definition] = &[
    both("auto_increment_increment", N(1, 1, 65_535)),
    both("auto_increment_offset", N(1, 1, 65_535)),
    both("autocommit", Switch(true)),
    fixed("basedir", Text("")),
    both("big_tables", Switch(false)),
    both("bulk_insert_buffer_size", N(8_388_608, 0, MAX)),
    both("character_set_client", Cs("utf8mb4")),
    both("character_set_connection", Cs("utf8mb4")),
    both("character_set_database", Cs("utf8mb4")),
    both("character_set_filesystem", Cs("binary")),
    both("character_set_results", Cs("utf8mb4")),
    both("character_set_server", Cs("utf8mb4")),
    fixed("character_set_system", Text("utf8")),
    both("collation_connection", Co("utf8mb4_bin")),
    both("collation_database", Co("utf8mb4_bin")),
    both("collation_server", Co("utf8mb4_bin")),
    global("connect_timeout", N(10, 2, 31_536_000)),
    both("cte_max_recursion_depth", N(1000, 0, 4_294_967_295)),
    both("damask_isolation_read_engines", Kind::Engines),
    fixed("datadir", Text("")),
    both("default_storage_engine", Text("InnoDB")),
    both("default_week_format", N(0, 0, 7)),
    both("div_precision_increment", N(4, 0, 30)),
    session("error_count", N(0, 0, MAX)),
    both("explicit_defaults_for_timestamp", Switch(true)),
    both("foreign_key_checks", Switch(true)),
    global("general_log", Switch(false)),
    both("group_concat_max_len", N(1024, 4, MAX)),
    fixed("gtid_mode", Switch(false)),
    fixed("have_openssl", Text("DISABLED")),
    fixed("have_profiling", Text("NO")),
    fixed("have_ssl", Text("DISABLED")),
    fixed("hostname", Text("localhost")),
    session("identity", N(0, 0, MAX)),
    global("init_connect", Text("")),
    both("innodb_lock_wait_timeout", N(50, 1, 1_073_741_824)),
    global("innodb_rollback_on_timeout", Switch(false)),
    both("interactive_timeout", N(28_800, 1, 31_536_000)),
    both("join_buffer_size", N(262_144, 128, MAX)),
    session("last_insert_id", N(0, 0, MAX)),
    fixed("lc_messages", Text("en_US")),
    both("lc_time_names", Text("en_US")),
    fixed("license", Text("Apache License 2.0")),
    global("local_infile", Switch(true)),
    both("lock_wait_timeout", N(31_536_000, 1, 31_536_000)),
    fixed("log_bin", Switch(false)),
    fixed("lower_case_file_system", Switch(false)),
    fixed("lower_case_table_names", N(2, 0, 2)),
    both("max_allowed_packet", N(67_108_864, 1024, 1_073_741_824)),
    global("max_connections", N(1024, 1, 100_000)),
    both("max_error_count", N(64, 0, 65_535)),
    both("max_execution_time", N(0, 0, 4_294_967_295)),
    both("max_join_size", N(MAX, 1, MAX)),
    both("max_sort_length", N(1024, 4, 8_388_608)),
    both("max_sp_recursion_depth", N(0, 0, 255)),
    both("max_statement_time", Real(0.0)),
    both("net_buffer_length", N(16_384, 1024, 1_048_576)),
    both("net_read_timeout", N(30, 1, 31_536_000)),
    both("net_write_timeout", N(60, 1, 31_536_000)),
    both("old_passwords", N(0, 0, 2)),
    both("optimizer_prune_level", N(1, 0, 1)),
    both("optimizer_search_depth", N(62, 0, 62)),
    both("optimizer_switch", Text("")),
    fixed("performance_schema", Switch(false)),
    fixed("port", N(4000, 0, 65_535)),
    both("profiling", Switch(false)),
    fixed("protocol_version", N(10, 0, 255)),
    session("pseudo_thread_id", N(0, 0, MAX)),
    global("query_cache_limit", N(1_048_576, 0, MAX)),
    global("query_cache_size", N(0, 0, MAX)),
    both("query_cache_type", OneOf(&["OFF", "ON", "DEMAND"])),
    session("rand_seed1", N(0, 0, MAX)),
    session("rand_seed2", N(0, 0, MAX)),
    both("read_buffer_size", N(131_072, 8192, MAX)),
    global("read_only", Switch(false)),
    global("require_secure_transport", Switch(false)),
    fixed("secure_file_priv", Null),
    global("server_id", N(1, 0, 4_294_967_295)),
    both("session_track_schema", Switch(true)),
    both("session_track_state_change", Switch(false)),
    both("session_track_system_variables", Text("time_zone,autocommit,character_set_client")),
    both("session_track_transaction_info", OneOf(&["OFF", "STATE", "CHARACTERISTICS"])),
    fixed("skip_networking", Switch(false)),
    both("slow_query_log", Switch(false)),
    fixed("socket", Text("")),
    both("sort_buffer_size", N(262_144, 32_768, MAX)),
    both("sql_auto_is_null", Switch(false)),
    both("sql_big_selects", Switch(true)),
    session("sql_log_bin", Switch(true)),
    both("sql_mode", Kind::Mode),
    both("sql_notes", Switch(true)),
    both("sql_quote_show_create", Switch(true)),
    both("sql_safe_updates", Switch(false)),
    both("sql_select_limit", N(MAX, 0, MAX)),
    both("sql_warnings", Switch(false)),
    fixed("ssl_ca", Text("")),
    fixed("ssl_cert", Text("")),
    fixed("ssl_key", Text("")),
    global("super_read_only", Switch(false)),
    fixed("system_time_zone", Text("UTC")),
    both("tidb_allow_mpp", Switch(true)),
    both("tidb_build_stats_concurrency", N(4, 1, 256)),
    fixed("tidb_current_ts", N(0, 0, MAX)),
    both("tidb_distsql_scan_concurrency", N(15, 1, 256)),
    both("tidb_enable_async_commit", Switch(true)),
    both("tidb_enable_clustered_index", OneOf(&["INT_ONLY", "ON", "OFF", "1", "0"])),
    both("tidb_enable_1pc", Switch(true)),
    both("tidb_enable_shared_lock_promotion", Switch(true)),
    both("tidb_enable_tmp_storage_on_oom", Switch(true)),
    both("tidb_executor_concurrency", N(5, 1, 256)),
    both("tidb_index_lookup_concurrency", N(4, 1, 256)),
    both("tidb_index_serial_scan_concurrency", N(1, 1, 256)),
    both("tidb_mem_quota_query", N(1_073_741_824, 0, MAX)),
    both("tidb_multi_statement_mode", OneOf(&["OFF", "ON", "WARN"])),
    both("tidb_retry_limit", N(10, 0, 100)),
    both("tidb_skip_isolation_level_check", Switch(false)),
    both("tidb_read_staleness", Kind::Staleness),
    session("tidb_snapshot", Text("")),
    both("tidb_txn_mode", OneOf(&["pessimistic", "optimistic", ""])),
    both("time_zone", Kind::Zone),
    session("timestamp", Real(0.0)),
    both("tmp_table_size", N(16_777_216, 1024, MAX)),
    both("transaction_isolation", ISOLATION),
    both("transaction_read_only", Switch(false)),
    both("unique_checks", Switch(true)),
    fixed("version", Text(super::VERSION)),
    fixed("version_comment", Text(super::VERSION_COMMENT)),
    fixed("version_compile_machine", Text(std::env::consts::ARCH)),
    fixed("version_compile_os", Text("Linux")),
    both("wait_timeout", N(28_800, 1, 31_536_000)),
    session("warning_count", N(0, 0, MAX)),
    both("windowing_use_high_precision", Switch(true)),
];

/// Every variable, in name order.
pub fn definitions() -> &'static [Definition] {
    DEFINITIONS
}

/// Finds a variable by name or alias, without regard to case.
pub fn find(name: &str) -> Option<&'static Definition> {
    let lower = name.to_ascii_lowercase();
    let name = match lower.as_str() {
        "tx_isolation" => "transaction_isolation",
        "tx_read_only" => "transaction_read_only",
        "tidb_isolation_read_engines" => "damask_isolation_read_engines",
        "damask_txn_mode" => "tidb_txn_mode",
        "damask_read_staleness" => "tidb_read_staleness",
        "storage_engine" => "default_storage_engine",
        other => other,
    };
    DEFINITIONS.iter().find(|d| d.name == name)
}

impl Definition {
    /// Its value when nobody set it.
    pub fn default_value(&self) -> Datum {
        let number = |v: u64| i64::try_from(v).map_or(Datum::UInt(v), Datum::Int);
        match self.kind {
            Switch(on) => Datum::Int(i64::from(on)),
            N(v, _, _) => number(v),
            Real(v) => Datum::Double(v),
            Text(text) | Cs(text) | Co(text) => Datum::Text(text.to_owned()),
            Null => Datum::Null,
            OneOf(words) => Datum::Text(words[0].to_owned()),
            Kind::Mode => Datum::Text(mode::DEFAULT.to_owned()),
            Kind::Zone => Datum::Text("SYSTEM".to_owned()),
            Kind::Engines => Datum::Text("row,column".to_owned()),
            Kind::Staleness => Datum::Int(0),
        }
    }

    /// May SET change it in this scope?
    pub fn check_scope(&self, global: bool) -> Result<()> {
        let name = self.name;
        match (self.scope, global) {
            (Scope::ReadOnly, _) => {
                Err(Error::read_only_variable(format!("Variable '{name}' is a read only variable")))
            }
            (Scope::Global, false) => Err(Error {
                code: 1229,
                state: "HY000",
                message: format!(
                    "Variable '{name}' is a GLOBAL variable and should be set with SET GLOBAL"
                ),
            }),
            (Scope::Session, true) => Err(Error {
                code: 1228,
                state: "HY000",
                message: format!(
                    "Variable '{name}' is a SESSION variable and can't be used with SET GLOBAL"
                ),
            }),
            _ => Ok(()),
        }
    }

    /// The value as kept, or 1231/1232.
    pub fn check(&self, value: Datum) -> Result<Datum> {
        match self.kind {
            Switch(_) => self.check_switch(&value),
            N(_, min, max) => self.check_number(&value, min, max),
            Real(_) => match &value {
                Datum::Int(v) => Ok(Datum::Double(*v as f64)),
                Datum::UInt(v) => Ok(Datum::Double(*v as f64)),
                Datum::Double(v) => Ok(Datum::Double(*v)),
                Datum::Decimal(v) => Ok(Datum::Double(v.to_f64())),
                _ => Err(self.wrong_type()),
            },
            Text(_) => Ok(Datum::Text(text_of(&value).ok_or_else(|| self.wrong(&value))?)),
            Null => Err(self.wrong(&value)),
            OneOf(words) => self.check_word(&value, words),
            Kind::Mode => self.check_mode(&value),
            Kind::Zone => {
                let text = text_of(&value).ok_or_else(|| self.wrong(&value))?;
                if zone_offset_us(&text).is_none() {
                    let message = format!("Unknown or incorrect time zone: '{text}'");
                    return Err(Error { code: 1298, state: "HY000", message });
                }
                Ok(Datum::Text(text))
            }
            Cs(_) => {
                let text = text_of(&value).ok_or_else(|| self.wrong(&value))?;
                let found = charset(&text).ok_or_else(|| {
                    Error::unknown_character_set(format!("Unknown character set: '{text}'"))
                })?;
                Ok(Datum::Text(found.name.to_owned()))
            }
            Co(_) => {
                let text = text_of(&value).ok_or_else(|| self.wrong(&value))?;
                collation(&text).map(Datum::Text)
            }
            Kind::Engines => {
                let text = text_of(&value).ok_or_else(|| self.wrong(&value))?;
                read_engines(&text).ok_or_else(|| self.wrong(&value))?;
                Ok(Datum::Text(text))
            }
            Kind::Staleness => {
                let text = text_of(&value).ok_or_else(|| self.wrong(&value))?;
                let seconds = if text.is_empty() { Some(0) } else { text.trim().parse().ok() };
                let seconds = seconds.filter(|seconds| (STALENESS_MIN..=0).contains(seconds));
                seconds.map(Datum::Int).ok_or_else(|| self.wrong(&value))
            }
        }
    }

    fn check_switch(&self, value: &Datum) -> Result<Datum> {
        match value {
            Datum::Int(v @ (0 | 1)) => Ok(Datum::Int(*v)),
            Datum::UInt(v @ (0 | 1)) => Ok(Datum::Int(*v as i64)),
            Datum::Text(t) if matches!(t.to_ascii_uppercase().as_str(), "ON" | "TRUE" | "1") => {
                Ok(Datum::Int(1))
            }
            Datum::Text(t) if matches!(t.to_ascii_uppercase().as_str(), "OFF" | "FALSE" | "0") => {
                Ok(Datum::Int(0))
            }
            _ => Err(self.wrong(value)),
        }
    }

    fn check_number(&self, value: &Datum, min: u64, max: u64) -> Result<Datum> {
        let number = match value {
            Datum::Int(v) => u64::try_from(*v).unwrap_or(min),
            Datum::UInt(v) => *v,
            _ => return Err(self.wrong_type()),
        };
        let number = number.clamp(min, max);
        Ok(i64::try_from(number).map_or(Datum::UInt(number), Datum::Int))
    }

    fn check_word(&self, value: &Datum, words: &[&'static str]) -> Result<Datum> {
        let word = match value {
            Datum::Int(at) => usize::try_from(*at).ok().and_then(|at| words.get(at)),
            _ => {
                let text = text_of(value).ok_or_else(|| self.wrong(value))?;
                words.iter().find(|w| w.eq_ignore_ascii_case(&text))
            }
        };
        word.map(|w| Datum::Text((*w).to_owned())).ok_or_else(|| self.wrong(value))
    }

    fn check_mode(&self, value: &Datum) -> Result<Datum> {
        let text = text_of(value).ok_or_else(|| self.wrong(value))?;
        match SqlMode::parse(&text) {
            Ok(mode) => Ok(Datum::Text(mode.to_string())),
            Err(part) => Err(self.wrong(&Datum::Text(part))),
        }
    }

    fn wrong(&self, value: &Datum) -> Error {
        let value = text_of(value).unwrap_or_else(|| "NULL".to_owned());
        let name = self.name;
        Error::wrong_variable_value(format!(
            "Variable '{name}' can't be set to the value of '{value}'"
        ))
    }

    fn wrong_type(&self) -> Error {
        let message = format!("Incorrect argument type to variable '{}'", self.name);
        Error { code: 1232, state: "42000", message }
    }
}

fn text_of(value: &Datum) -> Option<String> {
    Some(match value {
        Datum::Text(text) => text.clone(),
        Datum::Bytes(bytes) => String::from_utf8(bytes.clone()).ok()?,
        Datum::Int(v) => v.to_string(),
        Datum::UInt(v) => v.to_string(),
        Datum::Double(v) => v.to_string(),
        Datum::Decimal(v) => v.to_string(),
        _ => return None,
    })
}
