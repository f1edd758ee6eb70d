//! Listens and gives each client a thread. It must never take more clients than its limit, nor
//! leave a thread of its own behind after `stop`.

use super::connection;
use super::packets;
use crate::error::{Error, Result};
use crate::outcome::Sessions;
use crate::statement::STACK_BYTES;
use damask_env::{Clock, RealClock, Task, spawn, spawn_deep};
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// How long `stop` waits for running statements.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait after a failed accept (no descriptors left) before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long `stop` tries to reach its own listener.
const WAKE_TIMEOUT: Duration = Duration::from_secs(1);

/// How to listen.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where; port 0 takes any free one.
    pub addr: SocketAddr,
    /// Clients at a time (max_connections).
    pub connections_max: usize,
    /// Bytes of a command at most (max_allowed_packet).
    pub packet_bytes_max: usize,
    /// The version clients are told. Drivers read features out of it.
    pub version: String,
}

impl ServerConfig {
    /// The usual limits at an address.
    pub fn at(addr: SocketAddr) -> ServerConfig {
        ServerConfig {
            addr,
            connections_max: 151,
            packet_bytes_max: 64 << 20,
            version: format!("8.0.11-TiDB-v8.5.0-damask-{}", env!("CARGO_PKG_VERSION")),
        }
    }
}

/// A running server. Dropping it stops it.
pub struct Server {
    shared: Arc<Shared>,
    addr: SocketAddr,
    accepting: Mutex<Option<Task>>,
}

/// What the server's threads share.
pub(super) struct Shared {
    /// How it listens.
    pub config: ServerConfig,
    /// Where sessions come from.
    pub sessions: Arc<dyn Sessions>,
    clock: RealClock,
    open: Mutex<HashMap<u32, TcpStream>>,
    closed: Condvar,
    next_id: AtomicU32,
    questions: AtomicU64,
    stopping: AtomicBool,
}

impl Server {
    /// Binds and serves.
    ///
    /// # Errors
    /// If the address cannot be listened on; the text names it and why.
    pub fn start(config: ServerConfig, sessions: Arc<dyn Sessions>) -> Result<Server> {
        let fail =
            |e: std::io::Error| Error::unknown(format!("cannot listen on {}: {e}", config.addr));
        let listener = TcpListener::bind(config.addr).map_err(fail)?;
        let addr = listener.local_addr().map_err(fail)?;
        let shared = Arc::new(Shared {
            config,
            sessions,
            clock: RealClock::default(),
            open: Mutex::default(),
            closed: Condvar::new(),
            next_id: AtomicU32::new(1),
            questions: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
        });
        let accepting = shared.clone();
        let task = spawn("mysql-accept", move || accepting.accept(&listener));
        Ok(Server { shared, addr, accepting: Mutex::new(Some(task)) })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Clients connected now.
    pub fn connections(&self) -> usize {
        self.shared.open.lock().len()
    }

    /// Takes no more clients, ends those there are, and waits (5 s at most) for their statements.
    /// A second call does nothing.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        let Some(task) = self.accepting.lock().take() else {
            return;
        };
        // The accepting thread sees the flag when its next client comes: this one.
        let woken = TcpStream::connect_timeout(&self.wake_addr(), WAKE_TIMEOUT).is_ok();
        if woken && let Err(panic) = task.join() {
            tracing::error!(panic, "the accepting thread panicked");
        }
        let deadline = self.shared.clock.monotonic() + STOP_TIMEOUT;
        let mut open = self.shared.open.lock();
        for stream in open.values() {
            // A client that is already gone needs no goodbye.
            let _ = stream.shutdown(Shutdown::Both);
        }
        while !open.is_empty() {
            let left = deadline.saturating_sub(self.shared.clock.monotonic());
            if left.is_zero() {
                tracing::warn!(clients = open.len(), "statements still run after the server's end");
                return;
            }
            self.shared.closed.wait_for(&mut open, left);
        }
    }

    /// Its own address as a client reaches it.
    fn wake_addr(&self) -> SocketAddr {
        let ip = match self.addr.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        SocketAddr::new(ip, self.addr.port())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn accept(self: Arc<Shared>, listener: &TcpListener) {
        loop {
            let accepted = listener.accept();
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            match accepted {
                Ok((stream, _)) => self.admit(stream),
                Err(error) => {
                    tracing::warn!(%error, "a client could not be accepted");
                    std::thread::park_timeout(ACCEPT_PAUSE);
                }
            }
        }
    }

    fn admit(self: &Arc<Shared>, mut stream: TcpStream) {
        let mut open = self.open.lock();
        if open.len() >= self.config.connections_max {
            drop(open);
            let mut packet = vec![0; 4];
            packets::put_error(&mut packet, &Error::too_many_connections(TOO_MANY), false);
            packet[0] = (packet.len() - 4) as u8;
            // The client may be gone: there is nobody else to tell.
            let _ = stream.write_all(&packet);
            return;
        }
        let Ok(handle) = stream.try_clone() else {
            tracing::warn!("no descriptor left for a client");
            return;
        };
        let mut id = self.next_id.fetch_add(1, Ordering::Relaxed);
        while id == 0 || open.contains_key(&id) {
            id = self.next_id.fetch_add(1, Ordering::Relaxed);
        }
        open.insert(id, handle);
        drop(open);
        let leave = Leave { shared: self.clone(), id };
        spawn_deep("mysql-client", STACK_BYTES, move || {
            connection::serve(stream, id, &leave.shared);
        });
    }

    /// Is this connection to end?
    pub fn must_end(&self, id: u32) -> bool {
        self.stopping.load(Ordering::Relaxed) || self.sessions.is_killed(id)
    }

    /// Counts a command.
    pub fn count_question(&self) {
        self.questions.fetch_add(1, Ordering::Relaxed);
    }

    /// The line of COM_STATISTICS.
    pub fn statistics(&self) -> String {
        let uptime = self.clock.monotonic().as_secs();
        let threads = self.open.lock().len();
        let questions = self.questions.load(Ordering::Relaxed);
        let average = questions as f64 / uptime.max(1) as f64;
        format!(
            "Uptime: {uptime}  Threads: {threads}  Questions: {questions}  Slow queries: 0  \
             Opens: 0  Flush tables: 0  Open tables: 0  Queries per second avg: {average:.3}"
        )
    }
}

const TOO_MANY: &str = "Too many connections";

/// Takes a connection off the list when its thread ends, however it ends.
struct Leave {
    shared: Arc<Shared>,
    id: u32,
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.shared.open.lock().remove(&self.id);
        self.shared.closed.notify_all();
    }
}
