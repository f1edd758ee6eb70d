//! What a scan knows of a batch beside its values, and may let a folder use. It must never say of
//! a column what one of its values contradicts.

use super::wide::Next;
use crate::tree::bounds::Bounds;

/// Of the columns of one batch, by their place in the request. To know nothing is never wrong.
pub(crate) trait Known {
    /// Bounds that hold every value of a column, hidden rows included, if they are at hand.
    /// `sought`: a look at all the values is worth it, for they would be looked at otherwise.
    fn bounds(&self, _at: usize, _sought: bool) -> Option<&Bounds> {
        None
    }

    /// Where the same column of the batch that is folded after this one begins.
    fn next(&self, _at: usize) -> Next {
        Next::default()
    }
}

/// Nothing.
pub(crate) struct Nothing;

impl Known for Nothing {}
