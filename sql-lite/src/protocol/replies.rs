//! The session's outcomes to packets. It must never leave an answer half said on a living
//! connection.

use super::packets;
use super::rows::{self, Fail, Form};
use super::wire::{Wire, WireError};
use crate::error::{Error, Result};
use crate::outcome::{Done, LocalInfile, Outcome, Rows, Session, Sink, Status};
use mysql_common::constants::CapabilityFlags;
use mysql_common::io::BufMutExt;

/// Answers one command.
pub struct Replies<'a> {
    wire: &'a mut Wire,
    capabilities: CapabilityFlags,
    form: Form,
    /// Does the client wait for an outcome?
    awaited: bool,
    failure: Option<Fail>,
    last: Status,
}

impl<'a> Replies<'a> {
    /// Answers to a client of these capabilities.
    pub fn new(wire: &'a mut Wire, capabilities: CapabilityFlags, form: Form) -> Replies<'a> {
        let last = Status { autocommit: true, ..Status::default() };
        Replies { wire, capabilities, form, awaited: true, failure: None, last }
    }

    /// Says how the command ended, and sends everything.
    pub fn finish(self, result: Result<()>) -> std::result::Result<(), WireError> {
        let error = match (self.failure, result) {
            (Some(Fail::Wire(error)), _) => return Err(error),
            (Some(Fail::Sql(error)), _) => Some(error),
            (None, Err(error)) => Some(error),
            (None, Ok(())) => None,
        };
        if let Some(error) = error {
            self.wire.packet(|out| {
                packets::put_error(out, &error, true);
                Ok::<_, WireError>(())
            })?;
        } else if self.awaited {
            let (done, last) = (Done::default(), self.last);
            self.wire.packet(|out| {
                packets::put_ok(out, &done, last, false);
                Ok::<_, WireError>(())
            })?;
        }
        self.wire.flush()
    }

    fn send(
        &mut self,
        outcome: Outcome,
        session: &mut dyn Session,
        more: bool,
    ) -> std::result::Result<(), Fail> {
        let done = match outcome {
            Outcome::Done(done) => done,
            Outcome::LocalInfile(infile) => self.local_infile(infile)?,
            Outcome::Rows(rows) => return self.rows(rows, session, more),
        };
        let status = session.status();
        self.wire.packet(|out| {
            packets::put_ok(out, &done, status, more);
            Ok(())
        })
    }

    fn rows(
        &mut self,
        mut rows: Rows,
        session: &mut dyn Session,
        more: bool,
    ) -> std::result::Result<(), Fail> {
        // The first batch first: a query that fails at once then fails without half a result.
        let mut batch = rows.source.next()?;
        let capabilities = self.capabilities;
        let status = session.status();
        self.wire.packet(|out| {
            out.put_lenenc_int(rows.columns.len() as u64);
            Ok::<_, Fail>(())
        })?;
        for column in &rows.columns {
            self.wire.packet(|out| {
                packets::put_column(out, column);
                Ok::<_, Fail>(())
            })?;
        }
        if !capabilities.contains(CapabilityFlags::CLIENT_DEPRECATE_EOF) {
            self.wire.packet(|out| {
                packets::put_eof(out, status, more, capabilities);
                Ok::<_, Fail>(())
            })?;
        }
        while let Some(rows_of_batch) = batch {
            rows::send(self.wire, &rows.columns, self.form, &rows_of_batch)?;
            if self.wire.must_end() {
                return Err(Error::interrupted("Query execution was interrupted").into());
            }
            batch = rows.source.next()?;
        }
        let status = session.status();
        self.wire.packet(|out| {
            packets::put_eof(out, status, more, capabilities);
            Ok(())
        })
    }

    /// `FB | file name` out; the file's bytes in packets back, an empty one at the end.
    fn local_infile(
        &mut self,
        mut infile: Box<dyn LocalInfile>,
    ) -> std::result::Result<Done, Fail> {
        if !self.capabilities.contains(CapabilityFlags::CLIENT_LOCAL_FILES) {
            let text = "Loading local data is disabled; this must be enabled on both the client \
                        and server sides";
            return Err(Error::local_infile_disabled(text).into());
        }
        self.wire.packet(|out| {
            out.push(0xFB);
            out.extend_from_slice(infile.file_name().as_bytes());
            Ok::<_, Fail>(())
        })?;
        self.wire.flush()?;
        let mut failed = None;
        let mut bytes = Vec::new();
        loop {
            match self.wire.read(&mut bytes) {
                Ok(()) if bytes.is_empty() => break,
                Ok(()) if failed.is_none() => failed = infile.write(&bytes).err(),
                Ok(()) => {}
                Err(WireError::TooLarge) => failed = failed.or_else(|| Some(too_large())),
                Err(error) => return Err(error.into()),
            }
        }
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(infile.finish()?),
        }
    }
}

impl Sink for Replies<'_> {
    fn outcome(&mut self, outcome: Outcome, session: &mut dyn Session, more: bool) -> Result<()> {
        if self.failure.is_some() || !self.awaited {
            return Err(Error::unknown("an outcome after the last"));
        }
        match self.send(outcome, session, more) {
            Ok(()) => {
                self.awaited = more;
                self.last = session.status();
                Ok(())
            }
            Err(fail) => {
                let error = match &fail {
                    Fail::Sql(error) => error.clone(),
                    Fail::Wire(_) => Error::interrupted("the client's connection is lost"),
                };
                self.failure = Some(fail);
                Err(error)
            }
        }
    }
}

/// The error for a packet above the limit.
pub fn too_large() -> Error {
    Error::packet_too_large("Got a packet bigger than 'max_allowed_packet' bytes")
}
