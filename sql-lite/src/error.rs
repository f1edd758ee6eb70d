//! What a client sees when a statement fails: MySQL's error number, SQLSTATE and a message.
//! Nothing below the session knows these numbers.

use std::fmt;

/// A statement's failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// MySQL's error number, e.g. 1062.
    pub code: u16,
    /// Five characters, e.g. `23000`.
    pub state: &'static str,
    /// The text.
    pub message: String,
}

/// The result of a statement.
pub type Result<T> = std::result::Result<T, Error>;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ERROR {} ({}): {}", self.code, self.state, self.message)
    }
}

impl std::error::Error for Error {}

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $state:literal;)*) => {
        impl Error {
            $($(#[$doc])* pub fn $name(message: impl Into<String>) -> Error {
                Error { code: $code, state: $state, message: message.into() }
            })*
        }
    };
}

errors! {
    /// ER_CON_COUNT_ERROR.
    too_many_connections = 1040, "08004";
    /// ER_ACCESS_DENIED_ERROR.
    access_denied = 1045, "28000";
    /// ER_NO_DB_ERROR.
    no_database = 1046, "3D000";
    /// ER_UNKNOWN_COM_ERROR.
    unknown_command = 1047, "08S01";
    /// ER_BAD_NULL_ERROR.
    bad_null = 1048, "23000";
    /// ER_BAD_DB_ERROR.
    unknown_database = 1049, "42000";
    /// ER_TABLE_EXISTS_ERROR.
    table_exists = 1050, "42S01";
    /// ER_BAD_TABLE_ERROR.
    bad_table = 1051, "42S02";
    /// ER_BAD_FIELD_ERROR.
    unknown_column = 1054, "42S22";
    /// ER_DUP_FIELDNAME.
    duplicate_column = 1060, "42S21";
    /// ER_DUP_KEYNAME.
    duplicate_key_name = 1061, "42000";
    /// ER_DUP_ENTRY.
    duplicate_entry = 1062, "23000";
    /// ER_PARSE_ERROR.
    parse = 1064, "42000";
    /// ER_EMPTY_QUERY.
    empty_query = 1065, "42000";
    /// ER_INVALID_DEFAULT.
    invalid_default = 1067, "42000";
    /// ER_MULTIPLE_PRI_KEY.
    multiple_primary_key = 1068, "42000";
    /// ER_KEY_COLUMN_DOES_NOT_EXITS.
    key_column_missing = 1072, "42000";
    /// ER_CANT_DROP_FIELD_OR_KEY.
    cannot_drop = 1091, "42000";
    /// ER_NO_SUCH_THREAD.
    no_such_thread = 1094, "HY000";
    /// ER_UNKNOWN_ERROR: what has no number of its own.
    unknown = 1105, "HY000";
    /// ER_UNKNOWN_CHARACTER_SET.
    unknown_character_set = 1115, "42000";
    /// ER_WRONG_VALUE_COUNT_ON_ROW.
    wrong_value_count = 1136, "21S01";
    /// ER_NO_SUCH_TABLE.
    no_such_table = 1146, "42S02";
    /// ER_NET_PACKET_TOO_LARGE.
    packet_too_large = 1153, "08S01";
    /// ER_UNKNOWN_SYSTEM_VARIABLE.
    unknown_variable = 1193, "HY000";
    /// ER_LOCK_WAIT_TIMEOUT.
    lock_wait_timeout = 1205, "HY000";
    /// ER_LOCK_DEADLOCK.
    deadlock = 1213, "40001";
    /// ER_WRONG_USAGE.
    wrong_usage = 1221, "HY000";
    /// ER_WRONG_VALUE_FOR_VAR.
    wrong_variable_value = 1231, "42000";
    /// ER_NOT_SUPPORTED_YET.
    not_supported = 1235, "42000";
    /// ER_INCORRECT_GLOBAL_LOCAL_VAR.
    read_only_variable = 1238, "HY000";
    /// ER_OPERAND_COLUMNS.
    operand_columns = 1241, "21000";
    /// ER_UNKNOWN_STMT_HANDLER.
    unknown_statement = 1243, "HY000";
    /// ER_WARN_DATA_OUT_OF_RANGE.
    out_of_range = 1264, "22003";
    /// WARN_DATA_TRUNCATED.
    data_truncated = 1265, "01000";
    /// ER_OPTION_PREVENTS_STATEMENT.
    option_prevents = 1290, "HY000";
    /// ER_TRUNCATED_WRONG_VALUE.
    wrong_value = 1292, "22007";
    /// ER_NO_DEFAULT_FOR_FIELD.
    no_default = 1364, "HY000";
    /// ER_DIVISION_BY_ZERO.
    division_by_zero = 1365, "22012";
    /// ER_TRUNCATED_WRONG_VALUE_FOR_FIELD.
    wrong_value_for_field = 1366, "HY000";
    /// ER_DATA_TOO_LONG.
    data_too_long = 1406, "22001";
    /// ER_DATA_OUT_OF_RANGE: an expression's value.
    expression_out_of_range = 1690, "22003";
    /// ER_AUTOINC_READ_FAILED.
    auto_increment_exhausted = 1467, "HY000";
    /// ER_INVALID_GROUP_FUNC_USE and its like: the query makes no sense.
    invalid_query = 1111, "HY000";
    /// ER_QUERY_INTERRUPTED.
    interrupted = 1317, "70100";
    /// ER_CANT_CHANGE_TX_CHARACTERISTICS.
    transaction_in_progress = 1568, "25001";
    /// ER_DISK_FULL.
    disk_full = 1021, "HY000";
    /// ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION.
    read_only_transaction = 1792, "25006";
    /// ER_LOCK_NOWAIT.
    lock_not_available = 3572, "HY000";
    /// ER_LOAD_INFO and LOCAL INFILE refused.
    local_infile_disabled = 3948, "42000";
    /// TiDB's transaction too large.
    transaction_too_large = 8004, "HY000";
    /// TiDB's "The isolation level is not supported".
    unsupported_isolation = 8048, "HY000";
    /// TiDB's undetermined result.
    undetermined = 8501, "HY000";
    /// TiDB's "Information schema is changed".
    schema_changed = 8028, "HY000";
    /// TiDB's write conflict: run the transaction again.
    write_conflict = 9007, "HY000";
    /// TiDB's "GC life time is shorter than transaction duration".
    gc_too_early = 9006, "HY000";
    /// TiDB's ErrAsOf.
    as_of = 8135, "HY000";
    /// TiDB's "Region is unavailable".
    unavailable = 9005, "HY000";
}
