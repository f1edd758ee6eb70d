//! The columns of the system tables, by MySQL's names and in its order. Only definitions.

use crate::show::result::{Columns, Kind};

use Kind::{Count, Int, Name, Ratio, Text, Time};

pub(super) const SCHEMATA: Columns = &[
    ("CATALOG_NAME", Name),
    ("SCHEMA_NAME", Name),
    ("DEFAULT_CHARACTER_SET_NAME", Name),
    ("DEFAULT_COLLATION_NAME", Name),
    ("SQL_PATH", Text),
    ("DEFAULT_ENCRYPTION", Name),
];

pub(super) const TABLES: Columns = &[
    ("TABLE_CATALOG", Name),
    ("TABLE_SCHEMA", Name),
    ("TABLE_NAME", Name),
    ("TABLE_TYPE", Name),
    ("ENGINE", Name),
    ("VERSION", Int),
    ("ROW_FORMAT", Name),
    ("TABLE_ROWS", Count),
    ("AVG_ROW_LENGTH", Count),
    ("DATA_LENGTH", Count),
    ("MAX_DATA_LENGTH", Count),
    ("INDEX_LENGTH", Count),
    ("DATA_FREE", Count),
    ("AUTO_INCREMENT", Count),
    ("CREATE_TIME", Time),
    ("UPDATE_TIME", Time),
    ("CHECK_TIME", Time),
    ("TABLE_COLLATION", Name),
    ("CHECKSUM", Int),
    ("CREATE_OPTIONS", Text),
    ("TABLE_COMMENT", Text),
];

pub(super) const COLUMNS: Columns = &[
    ("TABLE_CATALOG", Name),
    ("TABLE_SCHEMA", Name),
    ("TABLE_NAME", Name),
    ("COLUMN_NAME", Name),
    ("ORDINAL_POSITION", Count),
    ("COLUMN_DEFAULT", Text),
    ("IS_NULLABLE", Name),
    ("DATA_TYPE", Name),
    ("CHARACTER_MAXIMUM_LENGTH", Int),
    ("CHARACTER_OCTET_LENGTH", Int),
    ("NUMERIC_PRECISION", Count),
    ("NUMERIC_SCALE", Count),
    ("DATETIME_PRECISION", Count),
    ("CHARACTER_SET_NAME", Name),
    ("COLLATION_NAME", Name),
    ("COLUMN_TYPE", Text),
    ("COLUMN_KEY", Name),
    ("EXTRA", Text),
    ("PRIVILEGES", Text),
    ("COLUMN_COMMENT", Text),
    ("GENERATION_EXPRESSION", Text),
    ("SRS_ID", Count),
];

pub(super) const STATISTICS: Columns = &[
    ("TABLE_CATALOG", Name),
    ("TABLE_SCHEMA", Name),
    ("TABLE_NAME", Name),
    ("NON_UNIQUE", Int),
    ("INDEX_SCHEMA", Name),
    ("INDEX_NAME", Name),
    ("SEQ_IN_INDEX", Count),
    ("COLUMN_NAME", Name),
    ("COLLATION", Name),
    ("CARDINALITY", Count),
    ("SUB_PART", Count),
    ("PACKED", Name),
    ("NULLABLE", Name),
    ("INDEX_TYPE", Name),
    ("COMMENT", Text),
    ("INDEX_COMMENT", Text),
    ("IS_VISIBLE", Name),
    ("EXPRESSION", Text),
];

pub(super) const KEY_COLUMN_USAGE: Columns = &[
    ("CONSTRAINT_CATALOG", Name),
    ("CONSTRAINT_SCHEMA", Name),
    ("CONSTRAINT_NAME", Name),
    ("TABLE_CATALOG", Name),
    ("TABLE_SCHEMA", Name),
    ("TABLE_NAME", Name),
    ("COLUMN_NAME", Name),
    ("ORDINAL_POSITION", Count),
    ("POSITION_IN_UNIQUE_CONSTRAINT", Count),
    ("REFERENCED_TABLE_SCHEMA", Name),
    ("REFERENCED_TABLE_NAME", Name),
    ("REFERENCED_COLUMN_NAME", Name),
];

pub(super) const REFERENTIAL_CONSTRAINTS: Columns = &[
    ("CONSTRAINT_CATALOG", Name),
    ("CONSTRAINT_SCHEMA", Name),
    ("CONSTRAINT_NAME", Name),
    ("UNIQUE_CONSTRAINT_CATALOG", Name),
    ("UNIQUE_CONSTRAINT_SCHEMA", Name),
    ("UNIQUE_CONSTRAINT_NAME", Name),
    ("MATCH_OPTION", Name),
    ("UPDATE_RULE", Name),
    ("DELETE_RULE", Name),
    ("TABLE_NAME", Name),
    ("REFERENCED_TABLE_NAME", Name),
];

pub(super) const TABLE_CONSTRAINTS: Columns = &[
    ("CONSTRAINT_CATALOG", Name),
    ("CONSTRAINT_SCHEMA", Name),
    ("CONSTRAINT_NAME", Name),
    ("TABLE_SCHEMA", Name),
    ("TABLE_NAME", Name),
    ("CONSTRAINT_TYPE", Name),
    ("ENFORCED", Name),
];

pub(super) const CHECK_CONSTRAINTS: Columns = &[
    ("CONSTRAINT_CATALOG", Name),
    ("CONSTRAINT_SCHEMA", Name),
    ("CONSTRAINT_NAME", Name),
    ("CHECK_CLAUSE", Text),
];

pub(super) const VIEWS: Columns = &[
    ("TABLE_CATALOG", Name),
    ("TABLE_SCHEMA", Name),
    ("TABLE_NAME", Name),
    ("VIEW_DEFINITION", Text),
    ("CHECK_OPTION", Name),
    ("IS_UPDATABLE", Name),
    ("DEFINER", Name),
    ("SECURITY_TYPE", Name),
    ("CHARACTER_SET_CLIENT", Name),
    ("COLLATION_CONNECTION", Name),
];

pub(super) const TRIGGERS: Columns = &[
    ("TRIGGER_CATALOG", Name),
    ("TRIGGER_SCHEMA", Name),
    ("TRIGGER_NAME", Name),
    ("EVENT_MANIPULATION", Name),
    ("EVENT_OBJECT_CATALOG", Name),
    ("EVENT_OBJECT_SCHEMA", Name),
    ("EVENT_OBJECT_TABLE", Name),
    ("ACTION_ORDER", Count),
    ("ACTION_CONDITION", Text),
    ("ACTION_STATEMENT", Text),
    ("ACTION_ORIENTATION", Name),
    ("ACTION_TIMING", Name),
    ("ACTION_REFERENCE_OLD_TABLE", Name),
    ("ACTION_REFERENCE_NEW_TABLE", Name),
    ("ACTION_REFERENCE_OLD_ROW", Name),
    ("ACTION_REFERENCE_NEW_ROW", Name),
    ("CREATED", Time),
    ("SQL_MODE", Text),
    ("DEFINER", Name),
    ("CHARACTER_SET_CLIENT", Name),
    ("COLLATION_CONNECTION", Name),
    ("DATABASE_COLLATION", Name),
];

pub(super) const ROUTINES: Columns = &[
    ("SPECIFIC_NAME", Name),
    ("ROUTINE_CATALOG", Name),
    ("ROUTINE_SCHEMA", Name),
    ("ROUTINE_NAME", Name),
    ("ROUTINE_TYPE", Name),
    ("DATA_TYPE", Text),
    ("CHARACTER_MAXIMUM_LENGTH", Int),
    ("CHARACTER_OCTET_LENGTH", Int),
    ("NUMERIC_PRECISION", Count),
    ("NUMERIC_SCALE", Count),
    ("DATETIME_PRECISION", Count),
    ("CHARACTER_SET_NAME", Name),
    ("COLLATION_NAME", Name),
    ("DTD_IDENTIFIER", Text),
    ("ROUTINE_BODY", Name),
    ("ROUTINE_DEFINITION", Text),
    ("EXTERNAL_NAME", Name),
    ("EXTERNAL_LANGUAGE", Name),
    ("PARAMETER_STYLE", Name),
    ("IS_DETERMINISTIC", Name),
    ("SQL_DATA_ACCESS", Name),
    ("SQL_PATH", Text),
    ("SECURITY_TYPE", Name),
    ("CREATED", Time),
    ("LAST_ALTERED", Time),
    ("SQL_MODE", Text),
    ("ROUTINE_COMMENT", Text),
    ("DEFINER", Name),
    ("CHARACTER_SET_CLIENT", Name),
    ("COLLATION_CONNECTION", Name),
    ("DATABASE_COLLATION", Name),
];

pub(super) const PARAMETERS: Columns = &[
    ("SPECIFIC_CATALOG", Name),
    ("SPECIFIC_SCHEMA", Name),
    ("SPECIFIC_NAME", Name),
    ("ORDINAL_POSITION", Count),
    ("PARAMETER_MODE", Name),
    ("PARAMETER_NAME", Name),
    ("DATA_TYPE", Text),
    ("CHARACTER_MAXIMUM_LENGTH", Int),
    ("CHARACTER_OCTET_LENGTH", Int),
    ("NUMERIC_PRECISION", Count),
    ("NUMERIC_SCALE", Count),
    ("DATETIME_PRECISION", Count),
    ("CHARACTER_SET_NAME", Name),
    ("COLLATION_NAME", Name),
    ("DTD_IDENTIFIER", Text),
    ("ROUTINE_TYPE", Name),
];

pub(super) const EVENTS: Columns = &[
    ("EVENT_CATALOG", Name),
    ("EVENT_SCHEMA", Name),
    ("EVENT_NAME", Name),
    ("DEFINER", Name),
    ("TIME_ZONE", Name),
    ("EVENT_BODY", Name),
    ("EVENT_DEFINITION", Text),
    ("EVENT_TYPE", Name),
    ("EXECUTE_AT", Time),
    ("INTERVAL_VALUE", Name),
    ("INTERVAL_FIELD", Name),
    ("SQL_MODE", Text),
    ("STARTS", Time),
    ("ENDS", Time),
    ("STATUS", Name),
    ("ON_COMPLETION", Name),
    ("CREATED", Time),
    ("LAST_ALTERED", Time),
    ("LAST_EXECUTED", Time),
    ("EVENT_COMMENT", Text),
    ("ORIGINATOR", Count),
    ("CHARACTER_SET_CLIENT", Name),
    ("COLLATION_CONNECTION", Name),
    ("DATABASE_COLLATION", Name),
];

pub(super) const PARTITIONS: Columns = &[
    ("TABLE_CATALOG", Name),
    ("TABLE_SCHEMA", Name),
    ("TABLE_NAME", Name),
    ("PARTITION_NAME", Name),
    ("SUBPARTITION_NAME", Name),
    ("PARTITION_ORDINAL_POSITION", Count),
    ("SUBPARTITION_ORDINAL_POSITION", Count),
    ("PARTITION_METHOD", Name),
    ("SUBPARTITION_METHOD", Name),
    ("PARTITION_EXPRESSION", Text),
    ("SUBPARTITION_EXPRESSION", Text),
    ("PARTITION_DESCRIPTION", Text),
    ("TABLE_ROWS", Count),
    ("AVG_ROW_LENGTH", Count),
    ("DATA_LENGTH", Count),
    ("MAX_DATA_LENGTH", Count),
    ("INDEX_LENGTH", Count),
    ("DATA_FREE", Count),
    ("CREATE_TIME", Time),
    ("UPDATE_TIME", Time),
    ("CHECK_TIME", Time),
    ("CHECKSUM", Int),
    ("PARTITION_COMMENT", Text),
    ("NODEGROUP", Name),
    ("TABLESPACE_NAME", Name),
];

pub(super) const FILES: Columns = &[
    ("FILE_ID", Int),
    ("FILE_NAME", Text),
    ("FILE_TYPE", Name),
    ("TABLESPACE_NAME", Name),
    ("TABLE_CATALOG", Name),
    ("TABLE_SCHEMA", Name),
    ("TABLE_NAME", Name),
    ("LOGFILE_GROUP_NAME", Name),
    ("LOGFILE_GROUP_NUMBER", Int),
    ("ENGINE", Name),
    ("FULLTEXT_KEYS", Name),
    ("DELETED_ROWS", Count),
    ("UPDATE_COUNT", Count),
    ("FREE_EXTENTS", Int),
    ("TOTAL_EXTENTS", Int),
    ("EXTENT_SIZE", Int),
    ("INITIAL_SIZE", Int),
    ("MAXIMUM_SIZE", Int),
    ("AUTOEXTEND_SIZE", Int),
    ("CREATION_TIME", Time),
    ("LAST_UPDATE_TIME", Time),
    ("LAST_ACCESS_TIME", Time),
    ("RECOVER_TIME", Int),
    ("TRANSACTION_COUNTER", Int),
    ("VERSION", Int),
    ("ROW_FORMAT", Name),
    ("TABLE_ROWS", Count),
    ("AVG_ROW_LENGTH", Count),
    ("DATA_LENGTH", Count),
    ("MAX_DATA_LENGTH", Count),
    ("INDEX_LENGTH", Count),
    ("DATA_FREE", Count),
    ("CREATE_TIME", Time),
    ("UPDATE_TIME", Time),
    ("CHECK_TIME", Time),
    ("CHECKSUM", Int),
    ("STATUS", Name),
    ("EXTRA", Text),
];

pub(super) const ENGINES: Columns = &[
    ("ENGINE", Name),
    ("SUPPORT", Name),
    ("COMMENT", Text),
    ("TRANSACTIONS", Name),
    ("XA", Name),
    ("SAVEPOINTS", Name),
];

pub(super) const CHARACTER_SETS: Columns = &[
    ("CHARACTER_SET_NAME", Name),
    ("DEFAULT_COLLATE_NAME", Name),
    ("DESCRIPTION", Text),
    ("MAXLEN", Int),
];

pub(super) const COLLATIONS: Columns = &[
    ("COLLATION_NAME", Name),
    ("CHARACTER_SET_NAME", Name),
    ("ID", Count),
    ("IS_DEFAULT", Name),
    ("IS_COMPILED", Name),
    ("SORTLEN", Int),
    ("PAD_ATTRIBUTE", Name),
];

pub(super) const APPLICABILITY: Columns = &[("COLLATION_NAME", Name), ("CHARACTER_SET_NAME", Name)];

pub(super) const KEYWORDS: Columns = &[("WORD", Name), ("RESERVED", Int)];

pub(super) const PROCESSLIST: Columns = &[
    ("ID", Count),
    ("USER", Name),
    ("HOST", Name),
    ("DB", Name),
    ("COMMAND", Name),
    ("TIME", Int),
    ("STATE", Name),
    ("INFO", Text),
];

pub(super) const USER_PRIVILEGES: Columns =
    &[("GRANTEE", Name), ("TABLE_CATALOG", Name), ("PRIVILEGE_TYPE", Name), ("IS_GRANTABLE", Name)];

pub(super) const SCHEMA_PRIVILEGES: Columns = &[
    ("GRANTEE", Name),
    ("TABLE_CATALOG", Name),
    ("TABLE_SCHEMA", Name),
    ("PRIVILEGE_TYPE", Name),
    ("IS_GRANTABLE", Name),
];

pub(super) const COLUMN_PRIVILEGES: Columns = &[
    ("GRANTEE", Name),
    ("TABLE_CATALOG", Name),
    ("TABLE_SCHEMA", Name),
    ("TABLE_NAME", Name),
    ("COLUMN_NAME", Name),
    ("PRIVILEGE_TYPE", Name),
    ("IS_GRANTABLE", Name),
];

pub(super) const TABLE_PRIVILEGES: Columns = &[
    ("GRANTEE", Name),
    ("TABLE_CATALOG", Name),
    ("TABLE_SCHEMA", Name),
    ("TABLE_NAME", Name),
    ("PRIVILEGE_TYPE", Name),
    ("IS_GRANTABLE", Name),
];

/// How far the column replicas of each table are; AVAILABLE is 0 or 1, PROGRESS from 0 to 1.
pub(super) const COLUMN_REPLICA: Columns = &[
    ("TABLE_SCHEMA", Name),
    ("TABLE_NAME", Name),
    ("TABLE_ID", Int),
    ("REPLICA_COUNT", Int),
    ("AVAILABLE", Int),
    ("PROGRESS", Ratio),
    ("APPLIED_INDEX", Count),
    ("COMMIT_INDEX", Count),
    ("LAG_MS", Count),
];

/// TiDB's.
pub(super) const DATA_LOCK_WAITS: Columns = &[
    ("KEY", Text),
    ("KEY_INFO", Text),
    ("TRX_ID", Count),
    ("CURRENT_HOLDING_TRX_ID", Count),
    ("SQL_DIGEST", Text),
    ("SQL_DIGEST_TEXT", Text),
];

/// TiDB's table of the same.
pub(super) const TIFLASH_REPLICA: Columns = &[
    ("TABLE_SCHEMA", Name),
    ("TABLE_NAME", Name),
    ("TABLE_ID", Int),
    ("REPLICA_COUNT", Int),
    ("LOCATION_LABELS", Text),
    ("AVAILABLE", Int),
    ("PROGRESS", Ratio),
];

pub(super) const VARIABLES: Columns = &[("VARIABLE_NAME", Name), ("VARIABLE_VALUE", Text)];

pub(super) const USER: Columns =
    &[("Host", Name), ("User", Name), ("plugin", Name), ("account_locked", Name)];
