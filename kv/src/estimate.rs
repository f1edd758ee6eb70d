//! Sizes by walking, shared by backends. It must never walk further than its limits.

use crate::engine::{Cursor, Estimate};
use crate::error::Result;

/// Adds up keys and bytes from `start` until the cursor's end, or until either limit is passed;
/// says whether the end was reached.
pub(crate) fn walk(
    cursor: &mut dyn Cursor,
    start: &[u8],
    keys_max: u64,
    bytes_max: u64,
) -> Result<(Estimate, bool)> {
    let mut sum = Estimate::default();
    let mut pair = cursor.seek(start)?;
    while let Some((key, value)) = pair {
        if sum.keys >= keys_max || sum.bytes >= bytes_max {
            return Ok((sum, false));
        }
        sum.keys += 1;
        sum.bytes += (key.len() + value.len()) as u64;
        pair = cursor.next()?;
    }
    Ok((sum, true))
}
