//! Opening a log folder: replays every record in order. It cuts a torn end off the last file, and
//! says so, and changes nothing else; any other damage is an error that names file and offset.

use super::format::{self, SEGMENT_HEADER, Stored};
use super::record::{self, Found};
use super::state::{Place, Slot, State};
use crate::error::{Error, Result};
use crate::log_index::LogIndex;
use crate::machine::Applied;
use damask_env::Disk;
use damask_types::RegionId;
use std::sync::Arc;

pub(super) fn replay(disk: &Arc<dyn Disk>, folder: &str) -> Result<State> {
    let names = disk.list(folder).map_err(|e| Error::io(folder, &e))?;
    let numbers: Vec<u64> = names.iter().filter_map(|name| format::parse_name(name)).collect();
    let mut state = State::default();
    for (at, &number) in numbers.iter().enumerate() {
        if at > 0 && numbers[at - 1] + 1 != number {
            let name = format::segment_name(folder, numbers[at - 1] + 1);
            return Err(Error::corrupt(format!("{name} is missing")));
        }
        segment(disk, folder, number, at + 1 == numbers.len(), &mut state)?;
    }
    state.written = state.sequence;
    for (id, log) in &state.groups {
        log.check().map_err(|why| Error::corrupt(format!("{folder}: group {id}: {why}")))?;
    }
    Ok(state)
}

fn segment(
    disk: &Arc<dyn Disk>,
    folder: &str,
    number: u64,
    last: bool,
    state: &mut State,
) -> Result<()> {
    let name = format::segment_name(folder, number);
    let io = |e: std::io::Error| Error::io(&name, &e);
    let content = disk.map(&name).map_err(io)?;
    let (len, at) = (content.len(), records(&content, &name, number, state)?);
    let unfinished = !record::is_zero(&content[at..]);
    drop(content);
    if (at < len || at <= SEGMENT_HEADER) && !last {
        return Err(Error::corrupt(format!("{name} at {at}: the record is cut short")));
    }
    if unfinished {
        tracing::warn!(
            file = name,
            offset = at,
            bytes = len - at,
            "an unfinished write is cut off"
        );
    }
    if at <= SEGMENT_HEADER {
        // Not one record was complete: as if the segment had not been begun.
        disk.remove(&name).map_err(io)?;
        disk.sync_folder(folder).map_err(io)?;
        // The next segment begins with every group's state, so the tail counts as full.
        state.tail = (number - 1, 0);
        return Ok(());
    }
    let file = disk.open(&name).map_err(io)?;
    if at < len {
        // Room that was reserved, or what is left of the last write: what follows begins at `at`.
        file.truncate(at as u64).map_err(io)?;
    }
    if unfinished {
        file.sync().map_err(io)?;
    }
    state.files.insert(number, file);
    state.tail = (number, at as u64);
    Ok(())
}

/// Replays a segment's records: where the last good one ends. What follows, if anything, is torn.
fn records(segment: &[u8], name: &str, number: u64, state: &mut State) -> Result<usize> {
    let damaged = |at: usize, why: &str| Error::corrupt(format!("{name} at {at}: {why}"));
    if segment.get(..SEGMENT_HEADER) != Some(&format::segment_header(number)[..]) {
        let torn = record::is_torn(segment, 0, SEGMENT_HEADER, &[])
            && !record::is_followed(segment, 0, known(state));
        return match torn {
            true => Ok(0),
            false => Err(damaged(0, "not the header of this segment, in this version's format")),
        };
    }
    let mut at = SEGMENT_HEADER;
    loop {
        match record::find(segment, at, known(state)) {
            Found::Record { sequence, payload, bytes } => {
                if known(state).is_some_and(|known| known != sequence) {
                    return Err(damaged(at, "a record is missing before this one"));
                }
                let place =
                    Place { segment: number, record: at as u64, sequence, ..Place::default() };
                apply(state, place, &payload)
                    .map_err(|e| damaged(at, &format!("a bad record: {e}")))?;
                state.sequence = sequence + 1;
                at += bytes;
            }
            Found::End | Found::Torn => return Ok(at),
            Found::Damaged => return Err(damaged(at, "a damaged record")),
        }
    }
}

/// The sequence that the next record must have; any will do for the first.
fn known(state: &State) -> Option<u64> {
    (state.sequence != 0).then_some(state.sequence)
}

/// Replays a record: `place` is that of an entry in it, as far as it goes for all.
fn apply(
    state: &mut State,
    place: Place,
    payload: &[u8],
) -> std::result::Result<(), damask_types::codec::DecodeError> {
    let mut buf = payload;
    while !buf.is_empty() {
        let (id, op): (RegionId, Stored<'_>) = format::take_op(&mut buf)?;
        let live = &mut state.live;
        if let Stored::Destroy = op {
            if let Some(mut log) = state.groups.remove(&id) {
                log.reset(Applied::default(), &mut |gone: Slot| live.remove(gone.place));
            }
            continue;
        }
        let log: &mut LogIndex<Slot> = state.groups.entry(id).or_default();
        match op {
            Stored::Entries { rewrite, entries } => {
                for entry in entries {
                    let inside = entry.bytes.as_ptr() as usize - payload.as_ptr() as usize;
                    let place = Place {
                        inside: inside as u32,
                        len: entry.bytes.len() as u32,
                        crc: crc32fast::hash(entry.bytes),
                        ..place
                    };
                    let slot = Slot { place, cached: None };
                    live.add(place);
                    let mut gone = |gone: Slot| live.remove(gone.place);
                    if rewrite {
                        log.replace(entry.index, entry.term, slot, &mut gone);
                    } else {
                        log.replay(entry.index, entry.term, slot, &mut gone);
                    }
                }
            }
            Stored::Hard(hard) => log.hard = hard,
            Stored::Compact(to) => log.compact(to, &mut |gone| live.remove(gone.place)),
            Stored::Reset(to) => log.reset(to, &mut |gone| live.remove(gone.place)),
            Stored::Restoring(at) => log.restoring = Some(at),
            Stored::State { hard, truncated, restoring } => {
                log.hard = hard;
                log.restoring = restoring;
                log.compact(truncated, &mut |gone| live.remove(gone.place));
            }
            Stored::Destroy => unreachable!("handled above"),
        }
    }
    Ok(())
}
