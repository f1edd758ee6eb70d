//! The protocol server from outside: raw packets against a scripted session.

// A test may stop at what it did not expect, and measure its own deadline.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod abuse;
mod client;
mod commands;
mod fake;
mod types;

use client::Client;
use damask_sql_lite::protocol::{Server, ServerConfig};
use fake::Fake;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// A server of scripted sessions on a free port.
fn serve() -> (Server, Arc<Fake>) {
    serve_with(|_| {})
}

fn serve_with(change: impl FnOnce(&mut ServerConfig)) -> (Server, Arc<Fake>) {
    let fake = Arc::new(Fake::default());
    let mut config = ServerConfig::at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    change(&mut config);
    let server = Server::start(config, fake.clone()).expect("a free port");
    (server, fake)
}

/// A client that was let in.
fn connect(server: &Server) -> Client {
    Client::connect(server.addr(), client::CAPABILITIES)
}
