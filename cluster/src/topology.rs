//! Which stores a cluster is made of, and what it was made of before: the placement driver's state is
//! opened, checked against the configuration, and given the first region. It must never let a cluster
//! start without a store that it had: what only that store holds would be missing, or made up.

use crate::config::Config;
use crate::nodes::{self, Error, Memory, column_folder, row_folder};
use crate::pd_group::{self, MemberSetup, PdGroup};
use damask_env::{Clock, Disk, RealDisk};
use damask_pd::{Pd, Persist, Placement, StoreInfo, StoreKind};
use damask_raftstore::StoreConfig;
use damask_types::{Epoch, KeyRange, Peer, PeerId, PeerRole, Region, RegionId, StoreId};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Column stores' ids follow the row stores' with a gap, so that more row stores may join.
pub const FIRST_COLUMN_STORE: u64 = 101;
/// Ids that the first region may use.
const FIRST_IDS: u64 = 10;
/// Replicas of a region that vote, where there are enough row stores.
const VOTERS: usize = 3;
/// The file of the placement driver's state.
const PD_STATE: &str = "state";
/// The file of the timestamp oracle's bound, beside it.
pub const PD_TIMESTAMP: &str = "timestamp";
/// The folder of a single placement driver and its oracle; members of a group have `pd-1`, `pd-2`, …
pub const PD_FOLDER: &str = "pd";
/// Members that a group may have, at most.
pub const PD_MEMBERS_MAX: usize = 5;
/// For how long a request looks for the group's leader: several elections at the default ticks.
const PD_PATIENCE: Duration = Duration::from_secs(10);

struct PdFile(Arc<dyn Disk>);

impl Persist for PdFile {
    fn save(&self, bytes: &[u8]) -> Result<(), String> {
        self.0.replace(PD_STATE, bytes).map_err(|e| e.to_string())
    }
}

/// The row stores of a configuration.
pub fn row_stores(config: &Config) -> impl DoubleEndedIterator<Item = StoreId> + use<> {
    (1..=config.stores as u64).map(StoreId)
}

/// The column stores of a configuration.
pub fn column_stores(config: &Config) -> impl Iterator<Item = StoreId> + use<> {
    (FIRST_COLUMN_STORE..FIRST_COLUMN_STORE + config.columns as u64).map(StoreId)
}

/// Replicas of a region that vote.
pub fn voters(config: &Config) -> usize {
    if config.stores >= VOTERS { VOTERS } else { 1 }
}

/// Is what the placement driver and the oracle keep as old as the stores? Asked before either is
/// opened: they would begin anew.
///
/// # Errors
/// In words for the user, if a file is missing while data of stores is there.
pub fn check_pd_folder(config: &Config, disk: &dyn Disk) -> Result<(), Error> {
    let Some(data) = &config.data else { return Ok(()) };
    if let Some(members) = group_on_disk(data)? {
        return Err(format!(
            "{}: this cluster's placement driver has {members} members (pd-1/ …): start it with \
             --pds {members}",
            data.display()
        )
        .into());
    }
    let Some(folder) = store_folder(config, data) else { return Ok(()) };
    for (file, what) in
        [(PD_STATE, "the placement driver's state"), (PD_TIMESTAMP, "the timestamp oracle's bound")]
    {
        match disk.map(file) {
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(format!(
                    "{}: {what} (pd/{file}) is missing, but {folder} is there: without it ids or \
                     timestamps could be given out twice. Restore pd/ from a copy, or start with \
                     an empty folder",
                    data.display()
                )
                .into());
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Opens the placement driver's state, makes sure that every store it knows of is there, and
/// registers those of the configuration. More stores than before are welcome: they begin empty.
///
/// # Errors
/// In words for the user, if a store is missing.
pub fn open_pd(config: &Config, clock: &dyn Clock, disk: Arc<dyn Disk>) -> Result<Pd, Error> {
    let saved = match disk.map(PD_STATE) {
        Ok(content) => Some(content.to_vec()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => return Err(e.into()),
    };
    // Any number will do that differs from other clusters'.
    let cluster_id = clock.wall_ms();
    let pd = Pd::open(planner(config), cluster_id, saved.as_deref(), Box::new(PdFile(disk)))?;
    prepare(&pd, config)?;
    Ok(pd)
}

/// The same for a placement driver that is a group: `Config::pds` members, each with a folder.
///
/// # Errors
/// In words for the user, if a store is missing, the cluster was made with another number of
/// members, or too few of them can be started.
pub fn open_group(
    config: &Config,
    clock: &Arc<dyn Clock>,
    memory: &Memory,
) -> Result<PdGroup, Error> {
    let mut members = Vec::new();
    for n in 1..=config.pds {
        let disk = nodes::open_disk(config, memory, &member_folder(n))?;
        members.push(MemberSetup { disk, clock: clock.clone() });
    }
    if let Some(data) = &config.data {
        check_group_folders(config, data, &members)?;
    }
    let mut store = StoreConfig::default();
    config.raft.set(&mut store);
    let (planner, patience) = (planner(config), PD_PATIENCE);
    let group = PdGroup::start(pd_group::Setup { members, store, planner, patience })?;
    prepare(group.group().as_ref(), config)?;
    Ok(group)
}

fn member_folder(n: usize) -> String {
    format!("{PD_FOLDER}-{n}")
}

/// How many members the placement driver's group has that a data folder holds.
fn group_on_disk(data: &Path) -> Result<Option<u64>, Error> {
    for n in 1..=PD_MEMBERS_MAX {
        let folder = data.join(member_folder(n));
        if folder.join(pd_group::MADE).exists() {
            return Ok(pd_group::made(&RealDisk::open(folder)?)?);
        }
    }
    Ok(None)
}

/// Is there a group, or nothing yet at all? It would begin anew beside what there is.
fn check_group_folders(config: &Config, data: &Path, members: &[MemberSetup]) -> Result<(), Error> {
    let single = data.join(PD_FOLDER);
    if [PD_STATE, PD_TIMESTAMP].iter().any(|file| single.join(file).exists()) {
        return Err(format!(
            "{}: this cluster's placement driver is a single one (pd/{PD_STATE}, \
             pd/{PD_TIMESTAMP}) and not a group of {}: start it with --pds 1",
            data.display(),
            members.len()
        )
        .into());
    }
    let Some(folder) = store_folder(config, data) else { return Ok(()) };
    if group_on_disk(data)?.is_none() {
        return Err(format!(
            "{}: the members of the placement driver (pd-1/ …) are missing, but {folder} is \
             there: without them ids or timestamps could be given out twice. Restore them from a \
             copy, or start with an empty folder",
            data.display()
        )
        .into());
    }
    Ok(())
}

fn planner(config: &Config) -> damask_pd::Config {
    damask_pd::Config {
        region_bytes_max: config.raft.region_bytes_max,
        region_keys_max: config.raft.region_keys_max,
        voters: voters(config),
        ..Default::default()
    }
}

/// Makes sure that every store it knows of is there, and registers those of the configuration.
fn prepare(pd: &dyn Placement, config: &Config) -> Result<(), Error> {
    check(pd, config)?;
    for id in row_stores(config) {
        register(pd, id, StoreKind::Row)?;
    }
    for id in column_stores(config) {
        register(pd, id, StoreKind::Column)?;
    }
    bootstrap(pd, config)
}

/// A store's folder, if there is one.
fn store_folder(config: &Config, data: &Path) -> Option<String> {
    let rows = row_stores(config).map(row_folder);
    let mut folders = rows.chain(column_stores(config).map(column_folder));
    folders.find(|name| data.join(name).exists())
}

/// Is every store that the cluster had among those that are to start?
fn check(pd: &dyn Placement, config: &Config) -> Result<(), Error> {
    let kinds = [
        (StoreKind::Row, "row", "--stores", config.stores, row_stores(config).next_back()),
        (StoreKind::Column, "column", "--columns", config.columns, column_stores(config).last()),
    ];
    for (kind, word, option, now, last) in kinds {
        let stores = pd.stores().into_iter().filter(|s| s.kind == kind);
        let known: Vec<StoreId> = stores.map(|s| s.id).collect();
        let missing: Vec<String> =
            known.iter().filter(|id| Some(**id) > last).map(|id| id.to_string()).collect();
        if !missing.is_empty() {
            return Err(format!(
                "this cluster has {} {word} stores: with {option} {now} it would lack {} and what \
                 only they hold. Start it with {option} {} or more",
                known.len(),
                missing.join(" and "),
                known.len()
            )
            .into());
        }
    }
    Ok(())
}

/// Announces the region that holds every key at first: once. What it was then is what every store
/// begins with that has a part in it, however late it starts for the first time.
fn bootstrap(pd: &dyn Placement, config: &Config) -> Result<(), Error> {
    if pd.bootstrapped().is_some() {
        return Ok(());
    }
    let peer = |n| Peer { id: PeerId(n), store: StoreId(n), role: PeerRole::Voter };
    let first = Region {
        id: RegionId(1),
        range: KeyRange::all(),
        epoch: Epoch { conf_ver: 1, version: 1 },
        peers: (1..=voters(config) as u64).map(peer).collect(),
    };
    // Taken from the driver, so that nobody else ever gets the ids used here.
    pd.alloc_ids(FIRST_IDS)?;
    pd.bootstrap(&first)?;
    Ok(())
}

fn register(pd: &dyn Placement, id: StoreId, kind: StoreKind) -> Result<(), Error> {
    Ok(pd.register_store(StoreInfo { id, kind, address: format!("in-process-{id}") })?)
}
