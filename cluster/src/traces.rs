//! Recordings of what column stores are told, if the configuration wants them. They must never
//! keep a store from starting, nor stop it: what goes wrong with one is a warning.

use crate::config::{Config, Trace};
use crate::nodes::{Error, column_folder};
use damask_env::{Disk, RealDisk};
use damask_learner::trace::Recorder;
use damask_types::StoreId;
use std::sync::Arc;

const ENDING: &str = ".trace";

/// A recorder for a store that is about to start.
pub(crate) fn recorder(config: &Config, id: StoreId) -> Option<Arc<Recorder>> {
    let trace = config.trace.as_ref()?;
    match create(trace, id) {
        Ok(recorder) => Some(recorder),
        Err(e) => {
            let folder = trace.folder.display();
            tracing::warn!(store = %id, "nothing is recorded in {folder}: {e}");
            None
        }
    }
}

fn create(trace: &Trace, id: StoreId) -> Result<Arc<Recorder>, Error> {
    let disk = RealDisk::open(&trace.folder)?;
    let name = next_name(&disk.list("")?, id);
    let path = trace.folder.join(&name);
    let on_end = move |why: &str| {
        tracing::warn!(store = %id, "the recording in {} ended: {why}", path.display());
    };
    Ok(Recorder::create(&disk, &name, trace.bytes_max, Box::new(on_end))?)
}

/// `columns-101.3.trace` for a store's third start: an earlier recording is not written over.
fn next_name(names: &[String], id: StoreId) -> String {
    let store = column_folder(id);
    let number = |name: &String| -> Option<u64> {
        let rest = name.strip_prefix(store.as_str())?.strip_prefix('.')?;
        rest.strip_suffix(ENDING)?.parse().ok()
    };
    let last = names.iter().filter_map(number).max().unwrap_or(0);
    format!("{store}.{}{ENDING}", last.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_start_has_a_file_of_its_own() {
        let next = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            next_name(&names, StoreId(101))
        };
        assert_eq!(next(&[]), "columns-101.1.trace");
        let there = ["columns-101.1.trace", "columns-101.10.trace", "columns-102.30.trace", "x"];
        assert_eq!(next(&there), "columns-101.11.trace");
        assert_eq!(next(&["columns-1011.5.trace", "columns-101.x.trace"]), "columns-101.1.trace");
    }
}
