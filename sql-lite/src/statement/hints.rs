//! Optimizer hints of a statement: `/*+ READ_FROM_STORAGE(COLUMN[t1, t2], ROW[u]) */`, TiDB's
//! `TIFLASH` and `TIKV` meaning the same; `MAX_EXECUTION_TIME(ms)`. Unknown hints are ignored, as
//! MySQL does; a hint must never make a statement fail.

/// Where a table is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Storage {
    /// The row stores.
    Row,
    /// The column replicas.
    Column,
}

/// What the text asked the optimizer to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Table name or alias (as written, perhaps `db.table`) and where to read it. First wins.
    pub storage: Vec<(String, Storage)>,
    /// MAX_EXECUTION_TIME: how long a query may run, milliseconds; 0 = for ever.
    pub max_execution_ms: Option<u64>,
    /// SQL_CALC_FOUND_ROWS.
    pub calc_found_rows: bool,
}

impl Hints {
    /// The storage asked for a table by its alias or name, without regard to case.
    pub fn storage_of(&self, name: &str) -> Option<Storage> {
        self.storage.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, s)| *s)
    }

    /// Nothing asked.
    pub fn is_empty(&self) -> bool {
        *self == Hints::default()
    }

    /// Reads the text between `/*+` and `*/`, adding to what is known.
    pub fn add(&mut self, text: &str) {
        let upper = text.to_ascii_uppercase();
        self.add_time(text, &upper);
        let mut from = 0;
        while let Some(at) = upper[from..].find("READ_FROM_STORAGE") {
            let open = from + at + "READ_FROM_STORAGE".len();
            let Some(body) = text[open..].trim_start().strip_prefix('(') else { return };
            let end = body.find(')').unwrap_or(body.len());
            self.add_storage(&body[..end]);
            from = open;
        }
    }

    fn add_time(&mut self, text: &str, upper: &str) {
        const NAME: &str = "MAX_EXECUTION_TIME";
        let Some(at) = upper.find(NAME) else { return };
        let body = text[at + NAME.len()..].trim_start().strip_prefix('(');
        let number = body.and_then(|body| body.split(')').next()?.trim().parse().ok());
        self.max_execution_ms = self.max_execution_ms.or(number);
    }

    fn add_storage(&mut self, body: &str) {
        // COLUMN[a, b], ROW[c]
        let mut rest = body;
        while let Some((engine, tail)) = rest.split_once('[') {
            let Some((tables, tail)) = tail.split_once(']') else { return };
            let engine = engine.trim_matches(|c: char| c == ',' || c.is_whitespace());
            let storage = match engine.to_ascii_uppercase().as_str() {
                "COLUMN" | "COLUMNS" | "TIFLASH" => Some(Storage::Column),
                "ROW" | "ROWS" | "TIKV" => Some(Storage::Row),
                _ => None,
            };
            if let Some(storage) = storage {
                let names = tables.split(',').map(|t| t.trim().replace('`', ""));
                self.storage.extend(names.filter(|n| !n.is_empty()).map(|n| (n, storage)));
            }
            rest = tail;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_dialects_and_several_tables() {
        let mut hints = Hints::default();
        hints.add(
            " READ_FROM_STORAGE(COLUMN[a, `B`], ROW[c]) other(x) read_from_storage(tiflash[d])",
        );
        assert_eq!(hints.storage_of("A"), Some(Storage::Column));
        assert_eq!(hints.storage_of("b"), Some(Storage::Column));
        assert_eq!(hints.storage_of("c"), Some(Storage::Row));
        assert_eq!(hints.storage_of("d"), Some(Storage::Column));
        assert_eq!(hints.storage_of("e"), None);
    }

    #[test]
    fn time_limits() {
        let mut hints = Hints::default();
        hints.add(" Max_Execution_Time( 250 ) READ_FROM_STORAGE(ROW[t])");
        hints.add("MAX_EXECUTION_TIME(7)");
        assert_eq!(hints.max_execution_ms, Some(250), "the first wins");
        assert_eq!(hints.storage_of("t"), Some(Storage::Row));
    }

    #[test]
    fn malformed_hints_are_ignored() {
        for text in ["MAX_EXECUTION_TIME", "MAX_EXECUTION_TIME(", "MAX_EXECUTION_TIME(x)"] {
            let mut hints = Hints::default();
            hints.add(text);
            assert!(hints.is_empty(), "{text}");
        }
        for text in ["READ_FROM_STORAGE", "READ_FROM_STORAGE(", "READ_FROM_STORAGE(COLUMN[a)", "x["]
        {
            let mut hints = Hints::default();
            hints.add(text);
            assert!(hints.is_empty(), "{text}");
        }
    }
}
