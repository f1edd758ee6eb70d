//! The MySQL front door: TCP connections in, sessions behind. It must never read SQL for its
//! meaning, nor know a table; all of that is the session's.
//!
//! ```text
//!  server      listens, one thread a connection, stops
//!  connection  one client: log in, then command after command
//!   ├ handshake   greeting, plugins, who may enter
//!   ├ commands    COM_* packets and their answers
//!   ├ parameters  values of COM_STMT_EXECUTE
//!   ├ replies     outcomes to packets (the session's Sink)
//!   │  └ rows     values to text and binary rows
//!   ├ packets     OK, EOF, ERR, column definitions
//!   ├ sql_text    bytes of COM_QUERY to UTF-8, one statement or several
//!   └ wire        bytes to packets and back
//! ```
//!
//! Invariants:
//! * each command gets exactly the answers the protocol says, with running sequence numbers, or
//!   the connection is closed;
//! * a bad packet costs its sender an error or the connection, and others nothing;
//! * what waits for a client is bounded: by the packet limit in, by a buffer and the client's
//!   reading out.
//!
//! Not offered: TLS, compression, cursors, session tracking, query attributes. The reference is
//! MySQL's "Client/Server Protocol" chapter, version 10 handshake, protocol 4.1.

mod commands;
mod connection;
mod handshake;
mod packets;
mod parameters;
mod replies;
mod rows;
mod server;
mod sql_text;
mod wire;

pub use server::{Server, ServerConfig};
