//! What must survive a restart: identity, the bound of ids, stores, what is asked of them and which
//! of them have held data, the first region, rules, marks. Other regions, leaders and statistics
//! are not here: reports rebuild them.
//!
//! ```text
//! "DPD3" | crc32 of magic and JSON, u32 little-endian | JSON of Durable
//! ```

use crate::error::{Error, Result};
use crate::values::{ColumnRule, Intent, Mark, StoreInfo, StoreKind, StoreSettings};
use damask_types::{Region, StoreId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

const MAGIC: &[u8; 4] = b"DPD3";
/// Without settings and marks; read, never written.
const MAGIC_2: &[u8; 4] = b"DPD2";

/// The state that is saved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Durable {
    /// Which cluster.
    pub cluster_id: u64,
    /// The first region as it was announced.
    pub first: Option<Region>,
    /// Ids below it may have been given out.
    pub id_bound: u64,
    /// Every store.
    pub stores: Vec<StoreInfo>,
    /// Those that have held data.
    pub initialised: BTreeSet<StoreId>,
    /// Every column rule.
    pub rules: Vec<ColumnRule>,
    /// What is asked of stores, where it is not the default.
    #[serde(default)]
    pub settings: BTreeMap<StoreId, StoreSettings>,
    /// Values that only grow.
    #[serde(default)]
    pub marks: BTreeMap<Mark, u64>,
}

impl Durable {
    /// Is there another row store that may lead, if this one is not to any more?
    pub(crate) fn check_another_serves(&self, store: StoreId) -> Result<()> {
        let rows = |s: &&StoreInfo| s.kind == StoreKind::Row;
        let serves =
            |s: &StoreInfo| self.settings.get(&s.id).is_none_or(|set| set.intent == Intent::Serve);
        let mut others = self.stores.iter().filter(rows).filter(|s| s.id != store);
        let is_row = self.stores.iter().filter(rows).any(|s| s.id == store);
        if !is_row || others.any(serves) {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "store {store} is the last row store that serves: nobody else could lead; let another \
             one serve first"
        )))
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let json = serde_json::to_vec(self).expect("plain data has a JSON form");
        let crc = crc32fast::hash(&[MAGIC.as_slice(), &json].concat()).to_le_bytes();
        [MAGIC.as_slice(), &crc, &json].concat()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Durable> {
        let corrupt = |text: &str| Error::Corrupt(text.to_owned());
        let (magic, rest) = bytes.split_at_checked(4).ok_or_else(|| corrupt("too short"))?;
        let (crc, json) = rest.split_at_checked(4).ok_or_else(|| corrupt("too short"))?;
        let expected = match magic {
            m if m == MAGIC => crc32fast::hash(&[magic, json].concat()),
            // The checksum did not cover the magic yet.
            m if m == MAGIC_2 => crc32fast::hash(json),
            _ => return Err(corrupt("unknown format")),
        };
        if crc != expected.to_le_bytes() {
            return Err(corrupt("the checksum does not match"));
        }
        serde_json::from_slice(json).map_err(|e| Error::Corrupt(e.to_string()))
    }
}

#[cfg(test)]
mod garbage;

#[cfg(test)]
mod tests {
    use super::*;
    use damask_types::KeyRange;

    #[test]
    fn the_format_before_is_read() {
        let json = concat!(
            r#"{"cluster_id":7,"first":null,"id_bound":9,"#,
            r#""stores":[],"initialised":[],"rules":[]}"#
        );
        let crc = crc32fast::hash(json.as_bytes()).to_le_bytes();
        let bytes = [MAGIC_2.as_slice(), &crc, json.as_bytes()].concat();
        let durable = Durable { cluster_id: 7, id_bound: 9, ..Durable::default() };
        assert_eq!(Durable::decode(&bytes).expect("valid"), durable);
    }

    #[test]
    fn golden_bytes_and_every_flipped_bit() {
        let rule = ColumnRule { range: KeyRange::new(b"a".to_vec(), b"b".to_vec()), replicas: 1 };
        let settings = StoreSettings { intent: Intent::Drain, ..StoreSettings::default() };
        let durable = Durable {
            cluster_id: 7,
            id_bound: 1000,
            rules: vec![rule],
            settings: BTreeMap::from([(StoreId(3), settings)]),
            marks: BTreeMap::from([(Mark::SafePoint, 5)]),
            ..Durable::default()
        };
        let bytes = durable.encode();
        let json = concat!(
            r#"{"cluster_id":7,"first":null,"id_bound":1000,"stores":[],"initialised":[],"#,
            r#""rules":[{"range":{"start":[97],"end":[98]},"replicas":1}],"#,
            r#""settings":{"3":{"intent":"drain","labels":{}}},"marks":{"safe_point":5}}"#
        );
        assert_eq!(&bytes[8..], json.as_bytes());
        assert_eq!(Durable::decode(&bytes).expect("valid"), durable);
        for i in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[i / 8] ^= 1 << (i % 8);
            assert!(matches!(Durable::decode(&bad), Err(Error::Corrupt(_))), "bit {i}");
        }
        for n in 0..bytes.len() {
            assert!(Durable::decode(&bytes[..n]).is_err(), "{n} bytes");
        }
    }
}
