//! One client from greeting to goodbye. It must never outlive its stream, nor let a panic of one
//! command reach another client.

use super::commands::{self, Next};
use super::handshake;
use super::packets;
use super::parameters::Statement;
use super::replies::too_large;
use super::server::{Busy, Shared};
use super::wire::{TICK, Wire, WireError};
use crate::error::Error;
use crate::outcome::{ConnectionInfo, Session};
use mysql_common::constants::CapabilityFlags;
use std::collections::HashMap;
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Ticks an idle client may wait between commands (wait_timeout, 8 hours).
const IDLE_TICKS_MAX: u32 = (8 * 3600 * 1000 / TICK.as_millis()) as u32;

/// One client that was let in.
pub struct Connection {
    /// Its stream.
    pub wire: Wire,
    /// Its session.
    pub session: Box<dyn Session>,
    /// What both sides do.
    pub capabilities: CapabilityFlags,
    /// May a text hold several statements?
    pub multi_statements: bool,
    /// Who it is.
    pub info: ConnectionInfo,
    /// Its prepared statements.
    pub statements: HashMap<u32, Statement>,
    /// The server.
    pub shared: Arc<Shared>,
    busy: Arc<Busy>,
}

/// Serves a client until either side ends it.
pub fn serve(stream: TcpStream, id: u32, shared: &Arc<Shared>) {
    match log_in(stream, id, shared) {
        Ok(mut connection) => {
            let end = connection.run();
            tracing::debug!(id, %end, "a client's connection ended");
        }
        Err(end) => tracing::debug!(id, %end, "a client was not let in"),
    }
}

fn log_in(stream: TcpStream, id: u32, shared: &Arc<Shared>) -> Result<Connection, WireError> {
    let host = stream.peer_addr()?.ip().to_string();
    let watched = shared.clone();
    let mut wire = Wire::new(stream, Box::new(move || watched.must_end(id)))?;
    let login = handshake::log_in(&mut wire, &shared.config.version, id, &host)?;
    let session = shared.let_in(id).and_then(|()| shared.sessions.open(login.info.clone()));
    let session = match session {
        Ok(session) => session,
        Err(error) => return handshake::refuse(&mut wire, &error),
    };
    handshake::welcome(&mut wire, session.status())?;
    wire.payload_bytes_max = shared.config.packet_bytes_max;
    wire.idle_ticks_max = IDLE_TICKS_MAX;
    Ok(Connection {
        wire,
        session,
        capabilities: login.capabilities,
        multi_statements: login.capabilities.contains(CapabilityFlags::CLIENT_MULTI_STATEMENTS),
        info: login.info,
        statements: HashMap::new(),
        shared: shared.clone(),
        busy: shared.busy(id),
    })
}

impl Connection {
    /// Command after command; returns why it ended.
    fn run(&mut self) -> WireError {
        let mut payload = Vec::new();
        loop {
            let next = match self.wire.read_command(&mut payload) {
                Ok(()) => self.guarded(&payload),
                Err(WireError::TooLarge) => self.fail(&too_large()).map(|()| Next::Command),
                Err(WireError::OutOfOrder) => {
                    let text = "Got packets out of order";
                    let error = Error { code: 1156, state: "08S01", message: text.to_owned() };
                    self.fail(&error).map(|()| Next::End)
                }
                Err(error) => Err(error),
            };
            match next {
                Ok(Next::Command) if self.wire.must_end() => return WireError::Closed,
                Ok(Next::Command) => {}
                Ok(Next::End) => return WireError::Closed,
                Err(error) => return error,
            }
        }
    }

    /// Runs a command; a panic in it costs this client its connection, and only that.
    fn guarded(&mut self, payload: &[u8]) -> Result<Next, WireError> {
        self.shared.count_question();
        self.shared.begin(&self.busy);
        let run = AssertUnwindSafe(|| commands::run(self, payload));
        let ran = catch_unwind(run);
        self.busy.end();
        ran.unwrap_or_else(|_| {
            tracing::error!(id = self.info.id, "a command panicked; its connection is closed");
            let error = Error::unknown("internal error: the statement was abandoned");
            self.fail(&error).map(|()| Next::End)
        })
    }

    /// Answers ERR.
    pub fn fail(&mut self, error: &Error) -> Result<(), WireError> {
        self.wire.packet(|out| {
            packets::put_error(out, error, true);
            Ok::<_, WireError>(())
        })?;
        self.wire.flush()
    }
}
