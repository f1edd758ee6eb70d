//! What must survive a restart (`raftstore-txn-pd.md` §4.4): identity, the bound of ids, stores and
//! which of them have held data, the first region, rules. Other regions and leaders are not here: reports rebuild them.
//!
//! ```text
//! "DPD2" | crc32 of the rest, u32 little-endian | JSON of Durable
//! ```

use crate::error::{Error, Result};
use crate::values::{ColumnRule, StoreInfo};
use damask_types::{Region, StoreId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

const MAGIC: &[u8; 4] = b"DPD2";

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
}

impl Durable {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let json = serde_json::to_vec(self).expect("plain data has a JSON form");
        let crc = crc32fast::hash(&json).to_le_bytes();
        [MAGIC.as_slice(), &crc, &json].concat()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Durable> {
        let corrupt = |text: &str| Error::Corrupt(text.to_owned());
        let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| corrupt("unknown format"))?;
        let (crc, json) = rest.split_at_checked(4).ok_or_else(|| corrupt("too short"))?;
        if crc != crc32fast::hash(json).to_le_bytes() {
            return Err(corrupt("the checksum does not match"));
        }
        serde_json::from_slice(json).map_err(|e| Error::Corrupt(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use damask_types::KeyRange;

    #[test]
    fn golden_bytes_and_every_flipped_bit() {
        let rule = ColumnRule { range: KeyRange::new(b"a".to_vec(), b"b".to_vec()), replicas: 1 };
        let durable =
            Durable { cluster_id: 7, id_bound: 1000, rules: vec![rule], ..Durable::default() };
        let bytes = durable.encode();
        let json = concat!(
            r#"{"cluster_id":7,"first":null,"id_bound":1000,"stores":[],"initialised":[],"#,
            r#""rules":[{"range":{"start":[97],"end":[98]},"replicas":1}]}"#
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
