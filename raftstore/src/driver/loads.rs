//! What a store's handle is told of requests' keys, and says of its regions' load. It must never
//! look at what is stored: a busy region's key comes from the requests alone.

use super::StoreHandle;
use crate::load::{Access, RegionLoad};
use damask_types::{KeyRange, RegionId};
use std::collections::BTreeMap;

impl StoreHandle {
    /// A read of `low..end` of a region was served here: of one key if they are equal; an empty
    /// `end` is no bound. `bytes` went to the reader. Proposals are counted without a word.
    pub fn note_read(&self, region: RegionId, low: &[u8], end: &[u8], bytes: u64) {
        self.shared.loads.note(region, Access::Read, low, end, bytes);
    }

    /// Reads of a region that are noted by themselves have got so many bytes: for who learns of a
    /// read's keys before it knows what it finds.
    pub fn note_read_bytes(&self, region: RegionId, bytes: u64) {
        self.shared.loads.note_bytes(region, bytes);
    }

    /// How busy each region is that is led here, since the last call that ended a window
    /// (`LoadConfig::window`), and where to cut those that are too busy. For one caller, who calls
    /// as often as there are windows, or less.
    pub fn loads(&self) -> BTreeMap<RegionId, RegionLoad> {
        let statuses = self.shared.statuses.read();
        let led = statuses.iter().filter(|(_, status)| status.is_leader);
        let led: Vec<(RegionId, KeyRange)> =
            led.map(|(id, status)| (*id, status.region.range.clone())).collect();
        drop(statuses);
        self.shared.loads.close(self.shared.clock.monotonic(), &led)
    }
}
