//! `sql_mode` as a set of flags. It must never be wider than what MySQL names.

/// The modes in MySQL's order, with combination modes last.
const NAMES: [&str; 18] = [
    "REAL_AS_FLOAT",
    "PIPES_AS_CONCAT",
    "ANSI_QUOTES",
    "IGNORE_SPACE",
    "ONLY_FULL_GROUP_BY",
    "NO_UNSIGNED_SUBTRACTION",
    "NO_DIR_IN_CREATE",
    "NO_AUTO_VALUE_ON_ZERO",
    "NO_BACKSLASH_ESCAPES",
    "STRICT_TRANS_TABLES",
    "STRICT_ALL_TABLES",
    "NO_ZERO_IN_DATE",
    "NO_ZERO_DATE",
    "ALLOW_INVALID_DATES",
    "ERROR_FOR_DIVISION_BY_ZERO",
    "NO_AUTO_CREATE_USER",
    "HIGH_NOT_PRECEDENCE",
    "NO_ENGINE_SUBSTITUTION",
];
const ANSI: &str = "REAL_AS_FLOAT,PIPES_AS_CONCAT,ANSI_QUOTES,IGNORE_SPACE,ONLY_FULL_GROUP_BY";
const TRADITIONAL: &str = "STRICT_TRANS_TABLES,STRICT_ALL_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,\
    ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION";

/// `sql_mode` when nothing is set: as TiDB's.
pub const DEFAULT: &str = "ONLY_FULL_GROUP_BY,STRICT_TRANS_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,\
    ERROR_FOR_DIVISION_BY_ZERO,NO_AUTO_CREATE_USER,NO_ENGINE_SUBSTITUTION";

/// A set of modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SqlMode(u32);

impl Default for SqlMode {
    fn default() -> SqlMode {
        SqlMode::parse(DEFAULT).expect("the default mode parses")
    }
}

impl SqlMode {
    /// From a comma-separated list; `Err` names the part that is no mode.
    pub fn parse(text: &str) -> Result<SqlMode, String> {
        let mut bits = 0;
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            bits |= match part.to_ascii_uppercase().as_str() {
                "ANSI" => SqlMode::parse(ANSI)?.0,
                "TRADITIONAL" => SqlMode::parse(TRADITIONAL)?.0,
                name => match NAMES.iter().position(|n| *n == name) {
                    Some(at) => 1 << at,
                    None => return Err(part.to_owned()),
                },
            };
        }
        Ok(SqlMode(bits))
    }

    /// Is this mode (by its name in capitals) on?
    pub fn has(self, name: &str) -> bool {
        NAMES.iter().position(|n| *n == name).is_some_and(|at| self.0 & (1 << at) != 0)
    }

    /// A wrong value fails the statement instead of being adjusted with a warning.
    pub fn strict(self) -> bool {
        self.has("STRICT_TRANS_TABLES") || self.has("STRICT_ALL_TABLES")
    }

    /// `"x"` is an identifier.
    pub fn ansi_quotes(self) -> bool {
        self.has("ANSI_QUOTES")
    }

    /// `\` is an ordinary character in strings.
    pub fn no_backslash_escapes(self) -> bool {
        self.has("NO_BACKSLASH_ESCAPES")
    }

    /// Division by zero in a change fails under strict mode.
    pub fn error_for_division_by_zero(self) -> bool {
        self.has("ERROR_FOR_DIVISION_BY_ZERO")
    }
}

impl std::fmt::Display for SqlMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let on: Vec<_> = NAMES.into_iter().filter(|n| self.has(n)).collect();
        f.write_str(&on.join(","))
    }
}
