//! What an access path costs (paper §5.3, equations 1 to 5), and the choice of the cheapest.
//! Pure: sizes in, a choice with its reason out.
//!
//! ```text
//!  C_row    = S_tuple · N · f_scan + N_regions · f_seek
//!  C_column = Σ over columns (S_column · N · f_scan) + N_regions · f_seek
//!  C_index  = S_entry · N · f_scan + N_regions · f_seek + C_double
//!  C_double = 0 if the index covers the query, else S_tuple · N · f_scan + N · f_seek
//! ```
//! Each store has scan and seek constants of its own: a row is found by merging versions and
//! decoded, a column is mapped; a learner is asked for its read index first.

/// Nanoseconds to scan one byte of rows.
const ROW_SCAN: f64 = 2.5;
/// Nanoseconds to scan one byte of columns.
const COLUMN_SCAN: f64 = 0.15;
/// Nanoseconds to start reading one region's rows.
const ROW_SEEK: f64 = 30_000.0;
/// Nanoseconds to start reading one region's columns.
const COLUMN_SEEK: f64 = 120_000.0;
/// Nanoseconds to find one row by its handle.
const POINT_SEEK: f64 = 3_000.0;

/// How large a table is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TableSize {
    /// Rows, about.
    pub rows: f64,
    /// Regions that hold its rows.
    pub regions: f64,
}

/// How a table's columns are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Columns {
    /// It was not asked to have any.
    None,
    /// They do not have all rows yet.
    Building,
    /// Who has them does not run.
    Stopped,
    /// They may be read.
    Ready,
}

/// A path's cost in microseconds.
pub(crate) fn row(size: TableSize, tuple_bytes: f64, rows: f64) -> f64 {
    let share = (rows / size.rows.max(1.0)).clamp(0.0, 1.0);
    (tuple_bytes * rows * ROW_SCAN + (size.regions * share).max(1.0) * ROW_SEEK) / 1e3
}

/// See the module; columns are pruned by packs, so that `rows` is what is read.
pub(crate) fn column(size: TableSize, column_bytes: &[f64], rows: f64) -> f64 {
    let bytes: f64 = column_bytes.iter().sum();
    (bytes * rows * COLUMN_SCAN + size.regions.max(1.0) * COLUMN_SEEK) / 1e3
}

/// See the module.
pub(crate) fn index(entry_bytes: f64, rows: f64, double_read: Option<f64>) -> f64 {
    let double =
        double_read.map_or(0.0, |tuple_bytes| tuple_bytes * rows * ROW_SCAN + rows * POINT_SEEK);
    (entry_bytes * rows * ROW_SCAN + ROW_SEEK + double) / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: TableSize = TableSize { rows: 600_000.0, regions: 2.0 };

    #[test]
    fn a_full_scan_is_cheaper_on_columns() {
        assert!(column(SIZE, &[8.0, 16.0], SIZE.rows) < row(SIZE, 120.0, SIZE.rows));
    }

    #[test]
    fn a_point_is_cheaper_on_rows() {
        assert!(row(SIZE, 120.0, 1.0) < column(SIZE, &[8.0; 16], SIZE.rows));
        assert!(row(SIZE, 120.0, 1.0) < column(SIZE, &[8.0], 1.0));
    }

    #[test]
    fn a_selective_index_beats_a_scan_and_a_wide_one_does_not() {
        assert!(index(30.0, 50.0, Some(120.0)) < row(SIZE, 120.0, SIZE.rows));
        assert!(index(30.0, 300_000.0, Some(120.0)) > row(SIZE, 120.0, SIZE.rows));
        assert!(index(30.0, 300_000.0, None) < row(SIZE, 120.0, SIZE.rows));
    }
}
