//! Packets over a TCP stream. It must never hold more of a packet than the limit allows.
//!
//! ```text
//!  packet:  payload length, 3 bytes LE | sequence number, 1 byte | payload
//! ```
//! A payload of 0xFFFFFF bytes or more is cut into packets of that size and a last shorter one
//! (perhaps empty). Sequence numbers run through a command and its answer, from 0, modulo 256.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Payload bytes of a packet at most.
pub const PAYLOAD_BYTES_MAX: usize = 0xFF_FFFF;
/// Bytes of answer held before they are sent.
const OUTPUT_BYTES: usize = 64 << 10;
/// Bytes read at once.
const INPUT_BYTES: usize = 32 << 10;
/// A buffer that grew beyond this is given back after use.
const KEPT_BYTES_MAX: usize = 1 << 20;
/// How often a waiting connection looks whether it was told to end.
pub const TICK: Duration = Duration::from_millis(250);
/// How long a client may refuse to take bytes (net_write_timeout).
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// Why no packet came or went.
#[derive(Debug)]
pub enum WireError {
    /// The client went, waited too long, or the server wants the connection to end.
    Closed,
    /// The stream failed.
    Io(io::Error),
    /// A packet above the limit came; it was read to its end and dropped.
    TooLarge,
    /// A packet came with an unexpected sequence number; nothing after it makes sense.
    OutOfOrder,
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireError::Closed => f.write_str("closed"),
            WireError::Io(error) => write!(f, "the stream failed: {error}"),
            WireError::TooLarge => f.write_str("a packet above the limit"),
            WireError::OutOfOrder => f.write_str("packets out of order"),
        }
    }
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> WireError {
        WireError::Io(error)
    }
}

/// One client's stream.
pub struct Wire {
    stream: TcpStream,
    input: Box<[u8]>,
    at: usize,
    filled: usize,
    output: Vec<u8>,
    sequence: u8,
    /// Bytes of a joined payload at most.
    pub payload_bytes_max: usize,
    /// Ticks a client may be silent.
    pub idle_ticks_max: u32,
    must_end: Box<dyn Fn() -> bool + Send>,
}

impl Wire {
    /// Takes a fresh stream; `must_end` is asked on every tick of waiting.
    pub fn new(stream: TcpStream, must_end: Box<dyn Fn() -> bool + Send>) -> io::Result<Wire> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TICK))?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        Ok(Wire {
            stream,
            input: vec![0; INPUT_BYTES].into_boxed_slice(),
            at: 0,
            filled: 0,
            output: Vec::new(),
            sequence: 0,
            payload_bytes_max: PAYLOAD_BYTES_MAX,
            idle_ticks_max: u32::MAX,
            must_end,
        })
    }

    /// Has this connection been told to end?
    pub fn must_end(&self) -> bool {
        (self.must_end)()
    }

    /// Reads a command: its sequence starts anew.
    pub fn read_command(&mut self, payload: &mut Vec<u8>) -> Result<(), WireError> {
        self.sequence = 0;
        self.read(payload)
    }

    /// Reads the next payload of the running exchange, its parts joined.
    pub fn read(&mut self, payload: &mut Vec<u8>) -> Result<(), WireError> {
        payload.clear();
        if payload.capacity() > KEPT_BYTES_MAX {
            payload.shrink_to(0);
        }
        let mut too_large = false;
        loop {
            let mut header = [0; 4];
            for byte in &mut header {
                *byte = self.byte()?;
            }
            if header[3] != self.sequence {
                // An answer must continue the client's count for the client to read it.
                self.sequence = header[3].wrapping_add(1);
                return Err(WireError::OutOfOrder);
            }
            self.sequence = self.sequence.wrapping_add(1);
            let len =
                usize::from(header[0]) | usize::from(header[1]) << 8 | usize::from(header[2]) << 16;
            if payload.len() + len > self.payload_bytes_max {
                too_large = true;
                payload.clear();
            }
            self.body(len, (!too_large).then_some(&mut *payload))?;
            if len < PAYLOAD_BYTES_MAX {
                return if too_large { Err(WireError::TooLarge) } else { Ok(()) };
            }
        }
    }

    /// Appends one packet (cut as needed) to the answer, sending what is full. If `fill` fails,
    /// nothing of the packet remains.
    pub fn packet<E: From<WireError>>(
        &mut self,
        fill: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let start = self.output.len();
        self.output.extend_from_slice(&[0; 4]);
        if let Err(error) = fill(&mut self.output) {
            self.output.truncate(start);
            return Err(error);
        }
        let len = self.output.len() - start - 4;
        if len < PAYLOAD_BYTES_MAX {
            let header = self.header(len);
            self.output[start..start + 4].copy_from_slice(&header);
        } else {
            let payload = self.output.split_off(start + 4);
            self.output.truncate(start);
            for part in payload.chunks(PAYLOAD_BYTES_MAX) {
                let header = self.header(part.len());
                self.output.extend_from_slice(&header);
                self.output.extend_from_slice(part);
            }
            if payload.len().is_multiple_of(PAYLOAD_BYTES_MAX) {
                let header = self.header(0);
                self.output.extend_from_slice(&header);
            }
        }
        if self.output.len() >= OUTPUT_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    /// Sends what is held.
    pub fn flush(&mut self) -> Result<(), WireError> {
        if !self.output.is_empty() {
            self.stream.write_all(&self.output)?;
            self.output.clear();
            if self.output.capacity() > KEPT_BYTES_MAX {
                self.output.shrink_to(0);
            }
        }
        Ok(())
    }

    fn header(&mut self, len: usize) -> [u8; 4] {
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        [len as u8, (len >> 8) as u8, (len >> 16) as u8, sequence]
    }

    fn byte(&mut self) -> Result<u8, WireError> {
        if self.at == self.filled {
            self.fill()?;
        }
        self.at += 1;
        Ok(self.input[self.at - 1])
    }

    /// Takes `len` bytes to `payload`, or drops them. Memory follows what really comes.
    fn body(&mut self, mut len: usize, mut payload: Option<&mut Vec<u8>>) -> Result<(), WireError> {
        while len > 0 {
            if self.at == self.filled {
                self.fill()?;
            }
            let take = len.min(self.filled - self.at);
            if let Some(payload) = &mut payload {
                payload.extend_from_slice(&self.input[self.at..self.at + take]);
            }
            self.at += take;
            len -= take;
        }
        Ok(())
    }

    fn fill(&mut self) -> Result<(), WireError> {
        let mut ticks = 0;
        loop {
            match self.stream.read(&mut self.input) {
                Ok(0) => return Err(WireError::Closed),
                Ok(n) => {
                    (self.at, self.filled) = (0, n);
                    return Ok(());
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    ticks += 1;
                    if ticks > self.idle_ticks_max || self.must_end() {
                        return Err(WireError::Closed);
                    }
                }
                Err(e) => return Err(e.into()),
            }
        }
    }
}
