//! Listens and gives each client a thread. It must never take more clients than its limits, nor
//! leave a thread of its own behind after `stop`.
//!
//! ```text
//!  accept ─► waiting (handshakes_max, the oldest makes room) ─ let in ─► inside (connections_max)
//!  watch ──► is the client of a long statement still there? ─ no ─► the statement is told to end
//! ```
//!
//! Who has not said who it is takes no place of those who have: silent sockets keep nobody out.

use super::connection;
use super::packets;
use crate::error::{Error, Result};
use crate::outcome::Sessions;
use crate::statement::STACK_BYTES;
use damask_env::{Clock, Closing, RealClock, Task, spawn, spawn_deep};
use parking_lot::{Condvar, Mutex};
use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// How long `stop` waits for running statements.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait after a failed accept (no descriptors left) before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Between two looks for clients that are gone; statements shorter than that are not looked at.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// How long `stop` tries to reach its own listener.
const WAKE_TIMEOUT: Duration = Duration::from_secs(1);

/// How to listen.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where; port 0 takes any free one.
    pub addr: SocketAddr,
    /// Clients at a time that were let in (max_connections).
    pub connections_max: usize,
    /// Clients at a time that have not said who they are.
    pub handshakes_max: usize,
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
            handshakes_max: 128,
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
    watching: Mutex<Option<Task>>,
}

/// What the server's threads share.
pub(super) struct Shared {
    /// How it listens.
    pub config: ServerConfig,
    /// Where sessions come from.
    pub sessions: Arc<dyn Sessions>,
    clock: RealClock,
    guests: Mutex<Guests>,
    closed: Condvar,
    next_id: AtomicU32,
    questions: AtomicU64,
    stopping: AtomicBool,
    /// Ends the watch.
    closing: Closing,
}

/// When a connection's running command began: milliseconds since the server did, and one; 0: idle.
#[derive(Default)]
pub(super) struct Busy(AtomicU64);

/// A client that has a thread.
struct Guest {
    stream: TcpStream,
    busy: Arc<Busy>,
}

/// Every client that has a thread.
#[derive(Default)]
struct Guests {
    open: HashMap<u32, Guest>,
    /// Not let in yet, the oldest first.
    waiting: VecDeque<u32>,
    /// Let in.
    inside: HashSet<u32>,
}

impl Guests {
    /// Ends the oldest that waits, if they are so many.
    fn make_room(&mut self, handshakes_max: usize) {
        if self.waiting.len() < handshakes_max.max(1) {
            return;
        }
        if let Some(guest) = self.waiting.pop_front().and_then(|id| self.open.get(&id)) {
            // Its thread ends when it looks. One that is gone already needs no goodbye.
            let _ = guest.stream.shutdown(Shutdown::Both);
        }
    }

    fn leave(&mut self, id: u32) {
        self.open.remove(&id);
        self.inside.remove(&id);
        self.waiting.retain(|waiting| *waiting != id);
    }
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
            guests: Mutex::default(),
            closed: Condvar::new(),
            next_id: AtomicU32::new(1),
            questions: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            closing: Closing::new(),
        });
        let accepting = shared.clone();
        let task = spawn("mysql-accept", move || accepting.accept(&listener));
        let watched = shared.clone();
        let watch = spawn("mysql-watch", move || watched.watch());
        let (accepting, watching) = (Mutex::new(Some(task)), Mutex::new(Some(watch)));
        Ok(Server { shared, addr, accepting, watching })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Clients that are let in now.
    pub fn connections(&self) -> usize {
        self.shared.guests.lock().inside.len()
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
        self.shared.closing.close();
        if let Some(watch) = self.watching.lock().take()
            && let Err(panic) = watch.join()
        {
            tracing::error!(panic, "the watching thread panicked");
        }
        let mut guests = self.shared.guests.lock();
        for guest in guests.open.values() {
            // A client that is already gone needs no goodbye.
            let _ = guest.stream.shutdown(Shutdown::Both);
        }
        while !guests.open.is_empty() {
            let left = deadline.saturating_sub(self.shared.clock.monotonic());
            if left.is_zero() {
                let clients = guests.open.len();
                tracing::warn!(clients, "statements still run after the server's end");
                return;
            }
            self.shared.closed.wait_for(&mut guests, left);
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
        let mut guests = self.guests.lock();
        if guests.inside.len() >= self.config.connections_max {
            drop(guests);
            let mut packet = vec![0; 4];
            packets::put_error(&mut packet, &too_many(), false);
            packet[0] = (packet.len() - 4) as u8;
            // The client may be gone: there is nobody else to tell.
            let _ = stream.write_all(&packet);
            return;
        }
        let Ok(handle) = stream.try_clone() else {
            tracing::warn!("no descriptor left for a client");
            return;
        };
        guests.make_room(self.config.handshakes_max);
        let mut id = self.next_id.fetch_add(1, Ordering::Relaxed);
        while id == 0 || guests.open.contains_key(&id) {
            id = self.next_id.fetch_add(1, Ordering::Relaxed);
        }
        guests.open.insert(id, Guest { stream: handle, busy: Arc::default() });
        guests.waiting.push_back(id);
        drop(guests);
        let leave = Leave { shared: self.clone(), id };
        spawn_deep("mysql-client", STACK_BYTES, move || {
            connection::serve(stream, id, &leave.shared);
        });
    }

    /// A client has said who it is; 1040 if there is no place, or it took too long.
    pub fn let_in(&self, id: u32) -> Result<()> {
        let mut guests = self.guests.lock();
        let Some(at) = guests.waiting.iter().position(|waiting| *waiting == id) else {
            return Err(too_many());
        };
        if guests.inside.len() >= self.config.connections_max {
            return Err(too_many());
        }
        guests.waiting.remove(at);
        guests.inside.insert(id);
        Ok(())
    }

    /// Looks, until the server stops, whether those whose statements run for long are still there.
    fn watch(&self) {
        while !self.closing.wait(WATCH_EVERY) {
            for (id, stream) in self.long_running() {
                let gone = is_gone(&stream);
                if self.closing.is_closed() {
                    return;
                }
                if gone {
                    tracing::debug!(id, "a client is gone while its statement runs");
                    self.sessions.client_gone(id);
                }
            }
        }
    }

    fn long_running(&self) -> Vec<(u32, TcpStream)> {
        let began_before = self.now_ms().saturating_sub(WATCH_EVERY.as_millis() as u64);
        let guests = self.guests.lock();
        let long = guests.open.iter().filter(|(id, guest)| {
            let since = guest.busy.0.load(Ordering::Relaxed);
            guests.inside.contains(id) && since > 0 && since <= began_before
        });
        // Without a descriptor for it, it is looked at another time.
        long.filter_map(|(id, guest)| Some((*id, guest.stream.try_clone().ok()?))).collect()
    }

    fn now_ms(&self) -> u64 {
        self.clock.monotonic().as_millis() as u64
    }

    /// Where a connection says that a command of it runs.
    pub fn busy(&self, id: u32) -> Arc<Busy> {
        self.guests.lock().open.get(&id).map(|guest| guest.busy.clone()).unwrap_or_default()
    }

    /// A command begins.
    pub fn begin(&self, busy: &Busy) {
        busy.0.store(self.now_ms() + 1, Ordering::Relaxed);
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
        let threads = self.guests.lock().inside.len();
        let questions = self.questions.load(Ordering::Relaxed);
        let average = questions as f64 / uptime.max(1) as f64;
        format!(
            "Uptime: {uptime}  Threads: {threads}  Questions: {questions}  Slow queries: 0  \
             Opens: 0  Flush tables: 0  Open tables: 0  Queries per second avg: {average:.3}"
        )
    }
}

impl Busy {
    /// The command has ended.
    pub fn end(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// Has the other end closed? Takes a tick of the stream's at most, when nothing comes.
fn is_gone(stream: &TcpStream) -> bool {
    match stream.peek(&mut [0]) {
        Ok(bytes) => bytes == 0,
        Err(e) => {
            let alive = [ErrorKind::WouldBlock, ErrorKind::TimedOut, ErrorKind::Interrupted];
            !alive.contains(&e.kind())
        }
    }
}

fn too_many() -> Error {
    Error::too_many_connections("Too many connections")
}

/// Takes a connection off the list when its thread ends, however it ends.
struct Leave {
    shared: Arc<Shared>,
    id: u32,
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.shared.guests.lock().leave(self.id);
        self.shared.closed.notify_all();
    }
}
