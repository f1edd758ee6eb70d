//! System variables: which exist, what they may hold, and the values of one session and of the
//! server. Values that every statement asks for are kept decoded. Global values live in this SQL
//! node's memory only. It must never evaluate an expression.

mod known;
mod mode;

use crate::error::{Error, Result};
use damask_txn::{Isolation, Mode, Wait};
use damask_types::Datum;
pub use known::{
    CHARSETS, COLLATIONS, Charset, Definition, Kind, Scope, definitions, unsupported_isolation,
};
pub use mode::SqlMode;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;

/// The version clients see at connect and as VERSION().
pub const VERSION: &str = concat!("8.0.11-TiDB-v8.5.0-damask-", env!("CARGO_PKG_VERSION"));
/// `@@version_comment`.
pub const VERSION_COMMENT: &str = "Damask Server (Apache License 2.0), MySQL 8.0 compatible";

/// Values set with SET GLOBAL on this node.
#[derive(Debug, Default)]
pub struct Globals(RwLock<HashMap<&'static str, Datum>>);

/// Which storages a session may read (`damask_isolation_read_engines`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadEngines {
    /// Row stores.
    pub row: bool,
    /// Column replicas.
    pub column: bool,
}

/// One session's variables.
#[derive(Clone, Debug)]
pub struct Variables {
    globals: Arc<Globals>,
    session: HashMap<&'static str, Datum>,
    autocommit: bool,
    mode: SqlMode,
    offset_us: i64,
    engines: ReadEngines,
}

impl Variables {
    /// A new session's: it starts from the global values.
    pub fn new(globals: Arc<Globals>) -> Variables {
        let session = globals.0.read().clone();
        let mut variables = Variables {
            globals,
            session,
            autocommit: true,
            mode: SqlMode::default(),
            offset_us: 0,
            engines: ReadEngines { row: true, column: true },
        };
        variables.decode_all();
        variables
    }

    /// `@@name` or `@@session.name`; `None` if there is no such variable.
    pub fn get(&self, name: &str) -> Option<Datum> {
        let definition = known::find(name)?;
        if definition.scope == Scope::Global {
            return self.get_global(definition.name);
        }
        Some(match self.session.get(definition.name) {
            Some(value) => value.clone(),
            None => definition.default_value(),
        })
    }

    /// `@@global.name`; `None` if there is no such variable.
    pub fn get_global(&self, name: &str) -> Option<Datum> {
        let definition = known::find(name)?;
        let globals = self.globals.0.read();
        Some(globals.get(definition.name).cloned().unwrap_or_else(|| definition.default_value()))
    }

    /// As SHOW VARIABLES prints it: ON and OFF for switches.
    pub fn shown(&self, name: &str, global: bool) -> Option<String> {
        let value = if global { self.get_global(name)? } else { self.get(name)? };
        let switch = matches!(known::find(name)?.kind, Kind::Switch(_));
        Some(match value {
            Datum::Int(v) if switch => if v == 0 { "OFF" } else { "ON" }.to_owned(),
            Datum::Int(v) => v.to_string(),
            Datum::UInt(v) => v.to_string(),
            Datum::Double(v) => format!("{v:.6}"),
            Datum::Decimal(v) => v.to_string(),
            Datum::Text(v) => v,
            _ => String::new(),
        })
    }

    /// SET: `None` = DEFAULT. 1193, 1231, 1238 as MySQL gives them.
    pub fn set(&mut self, name: &str, value: Option<Datum>, global: bool) -> Result<()> {
        let Some(definition) = known::find(name) else {
            return Err(Error::unknown_variable(format!("Unknown system variable '{name}'")));
        };
        definition.check_scope(global)?;
        if definition.name.starts_with("character_set_") && value == Some(Datum::Null) {
            self.session.insert(definition.name, Datum::Null);
            return Ok(());
        }
        let value = match value {
            Some(value) => Some(definition.check(value)?),
            None if global => None,
            None => self.get_global(definition.name),
        };
        if definition.name == "transaction_isolation"
            && let Some(level) = &value
        {
            self.check_isolation(level)?;
        }
        if global {
            let mut globals = self.globals.0.write();
            match value {
                Some(value) => globals.insert(definition.name, value),
                None => globals.remove(definition.name),
            };
            return Ok(());
        }
        let value = value.unwrap_or_else(|| definition.default_value());
        self.session.insert(definition.name, value);
        self.decode(definition.name);
        Ok(())
    }

    /// 8048 for a level that there is not, unless tidb_skip_isolation_level_check is on.
    pub fn check_isolation(&self, level: &Datum) -> Result<()> {
        match unsupported_isolation(level) {
            Some(error) if self.number("tidb_skip_isolation_level_check") == 0 => Err(error),
            _ => Ok(()),
        }
    }

    /// What a transaction is that does not say it (`tidb_txn_mode`; empty is optimistic).
    pub fn transaction_mode(&self) -> Mode {
        match self.text("tidb_txn_mode").as_str() {
            "pessimistic" => Mode::Pessimistic,
            _ => Mode::Optimistic,
        }
    }

    /// `innodb_lock_wait_timeout`.
    pub fn lock_wait(&self) -> Wait {
        Wait::Millis(self.number("innodb_lock_wait_timeout").saturating_mul(1_000))
    }

    /// `transaction_isolation`.
    pub fn isolation(&self) -> Isolation {
        isolation_of(&self.text("transaction_isolation"))
    }

    /// Sets what the server itself keeps (last_insert_id, warning_count); no checks.
    pub fn set_internal(&mut self, name: &'static str, value: Datum) {
        debug_assert!(known::find(name).is_some_and(|d| d.name == name));
        self.session.insert(name, value);
    }

    /// SET NAMES and SET CHARACTER SET. 1115 and 1273 for what is not known.
    pub fn set_names(&mut self, charset: &str, collation: Option<&str>) -> Result<()> {
        let charset = if charset.eq_ignore_ascii_case("default") { "utf8mb4" } else { charset };
        let charset = known::charset(charset).ok_or_else(|| {
            Error::unknown_character_set(format!("Unknown character set: '{charset}'"))
        })?;
        let collation = match collation {
            None => charset.collation.to_owned(),
            Some(name) => known::collation(name)?,
        };
        for name in ["character_set_client", "character_set_connection", "character_set_results"] {
            self.session.insert(name, Datum::Text(charset.name.to_owned()));
        }
        self.session.insert("collation_connection", Datum::Text(collation));
        Ok(())
    }

    /// Statements commit by themselves.
    pub fn autocommit(&self) -> bool {
        self.autocommit
    }

    /// `sql_mode`.
    pub fn sql_mode(&self) -> SqlMode {
        self.mode
    }

    /// `time_zone` as microseconds to add to UTC. Only fixed offsets exist.
    pub fn time_zone_offset_us(&self) -> i64 {
        self.offset_us
    }

    /// Which storages may be read.
    pub fn read_engines(&self) -> ReadEngines {
        self.engines
    }

    /// A number, 0 when the variable is not one.
    pub fn number(&self, name: &str) -> u64 {
        match self.get(name) {
            Some(Datum::Int(v)) => v.max(0) as u64,
            Some(Datum::UInt(v)) => v,
            _ => 0,
        }
    }

    /// A text, empty when the variable is not one.
    pub fn text(&self, name: &str) -> String {
        match self.get(name) {
            Some(Datum::Text(text)) => text,
            _ => String::new(),
        }
    }

    /// All variables in name order, as SHOW VARIABLES prints them.
    pub fn all(&self, global: bool) -> Vec<(&'static str, String)> {
        let names = definitions().iter().filter(|d| !(global && d.scope == Scope::Session));
        names.map(|d| (d.name, self.shown(d.name, global).unwrap_or_default())).collect()
    }

    fn decode_all(&mut self) {
        let names: Vec<_> = self.session.keys().copied().collect();
        names.into_iter().for_each(|name| self.decode(name));
    }

    fn decode(&mut self, name: &'static str) {
        match name {
            "autocommit" => self.autocommit = self.number("autocommit") != 0,
            "sql_mode" => self.mode = SqlMode::parse(&self.text("sql_mode")).unwrap_or_default(),
            "time_zone" => {
                self.offset_us = known::zone_offset_us(&self.text("time_zone")).unwrap_or(0);
            }
            "damask_isolation_read_engines" => {
                let text = self.text(name);
                let engines = known::read_engines(&text);
                self.engines = engines.unwrap_or(ReadEngines { row: true, column: true });
            }
            _ => {}
        }
    }
}

/// What a level's name means here.
pub fn isolation_of(level: &str) -> Isolation {
    match level {
        "READ-COMMITTED" => Isolation::ReadCommitted,
        _ => Isolation::RepeatableRead,
    }
}

#[cfg(test)]
mod tests;
