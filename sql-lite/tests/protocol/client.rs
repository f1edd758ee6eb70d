//! A small client that checks every sequence number and every packet's end.

use mysql_common::constants::{CapabilityFlags, ColumnType as WireType, StatusFlags};
use mysql_common::io::ParseBuf;
use mysql_common::packets::{AuthPlugin, Column, HandshakePacket, HandshakeResponse};
use mysql_common::proto::MySerialize;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub const CAPABILITIES: CapabilityFlags = CapabilityFlags::CLIENT_PROTOCOL_41
    .union(CapabilityFlags::CLIENT_LONG_PASSWORD)
    .union(CapabilityFlags::CLIENT_SECURE_CONNECTION)
    .union(CapabilityFlags::CLIENT_PLUGIN_AUTH)
    .union(CapabilityFlags::CLIENT_MULTI_STATEMENTS)
    .union(CapabilityFlags::CLIENT_MULTI_RESULTS)
    .union(CapabilityFlags::CLIENT_LOCAL_FILES)
    .union(CapabilityFlags::CLIENT_DEPRECATE_EOF);

pub struct Client {
    pub stream: TcpStream,
    pub capabilities: CapabilityFlags,
    pub sequence: u8,
    pub id: u32,
}

/// ERR's number, state and text.
#[derive(Debug, PartialEq)]
pub struct Refusal(pub u16, pub String, pub String);

#[derive(Debug)]
pub struct Okay {
    pub affected: u64,
    pub insert_id: u64,
    pub status: StatusFlags,
    pub warnings: u16,
    pub info: Vec<u8>,
}

#[derive(Debug)]
pub struct Table {
    pub columns: Vec<Column>,
    pub rows: Vec<Vec<u8>>,
    pub status: StatusFlags,
}

#[derive(Debug)]
pub enum Answer {
    Ok(Okay),
    Err(Refusal),
    Rows(Table),
    File(String),
}

impl Answer {
    pub fn ok(self) -> Okay {
        match self {
            Answer::Ok(okay) => okay,
            other => panic!("{other:?}"),
        }
    }
    pub fn code(self) -> u16 {
        match self {
            Answer::Err(refusal) => refusal.0,
            other => panic!("{other:?}"),
        }
    }
    pub fn rows(self) -> Table {
        match self {
            Answer::Rows(table) => table,
            other => panic!("{other:?}"),
        }
    }
}

/// A login that may go wrong.
pub struct Login<'a> {
    pub user: &'a str,
    pub plugin: &'a str,
    pub answer: &'a [u8],
    pub database: Option<&'a str>,
}

pub const ROOT: Login<'static> =
    Login { user: "root", plugin: "mysql_native_password", answer: b"", database: None };

impl Client {
    pub fn connect(addr: SocketAddr, capabilities: CapabilityFlags) -> Client {
        Client::log_in(addr, capabilities, &ROOT, b"").expect("root is let in").0
    }

    /// Stream only: nothing is read yet.
    pub fn raw(addr: SocketAddr) -> Client {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Client { stream, capabilities: CAPABILITIES, sequence: 0, id: 0 }
    }

    /// Logs in; gives the plugin the server switched to, if any. `second` answers the switch.
    pub fn log_in(
        addr: SocketAddr,
        capabilities: CapabilityFlags,
        login: &Login<'_>,
        second: &[u8],
    ) -> Result<(Client, Option<String>), Refusal> {
        let mut client = Client::raw(addr);
        client.capabilities = capabilities;
        let greeting = client.read().expect("a greeting");
        if greeting[0] == 0xFF {
            return Err(refusal(&greeting, false));
        }
        let handshake: HandshakePacket<'_> = ParseBuf(&greeting).parse(()).unwrap();
        client.id = handshake.connection_id();
        let response = HandshakeResponse::new(
            Some(login.answer.to_vec()),
            (8, 0, 11),
            Some(login.user.as_bytes().to_vec()),
            login.database.map(|name| name.as_bytes().to_vec()),
            Some(AuthPlugin::from_bytes(login.plugin.as_bytes())),
            capabilities,
            None,
            1 << 24,
        );
        let mut payload = Vec::new();
        response.serialize(&mut payload);
        client.write(&payload);
        let mut reply = client.read().expect("an answer");
        let mut plugin = None;
        if reply[0] == 0xFE {
            let name = reply[1..].split(|b| *b == 0).next().unwrap();
            plugin = Some(String::from_utf8(name.to_vec()).unwrap());
            assert_eq!(reply.len(), 1 + name.len() + 1 + 21);
            client.write(second);
            reply = client.read().expect("an answer");
        }
        match reply[0] {
            0 => Ok((client, plugin)),
            _ => Err(refusal(&reply, true)),
        }
    }

    pub fn write(&mut self, payload: &[u8]) {
        let mut packets = Vec::new();
        let mut parts: Vec<&[u8]> = payload.chunks(0xFF_FFFF).collect();
        if payload.len().is_multiple_of(0xFF_FFFF) {
            parts.push(&[]);
        }
        for part in parts {
            packets.extend_from_slice(&(part.len() as u32).to_le_bytes()[..3]);
            packets.push(self.sequence);
            packets.extend_from_slice(part);
            self.sequence = self.sequence.wrapping_add(1);
        }
        self.stream.write_all(&packets).unwrap();
    }

    /// A joined payload; `None` when the server has closed.
    pub fn read(&mut self) -> Option<Vec<u8>> {
        let mut payload = Vec::new();
        loop {
            let mut header = [0; 4];
            self.stream.read_exact(&mut header).ok()?;
            assert_eq!(header[3], self.sequence, "sequence");
            self.sequence = self.sequence.wrapping_add(1);
            let len = u32::from_le_bytes([header[0], header[1], header[2], 0]) as usize;
            let start = payload.len();
            payload.resize(start + len, 0);
            self.stream.read_exact(&mut payload[start..]).ok()?;
            if len < 0xFF_FFFF {
                return Some(payload);
            }
        }
    }

    pub fn command(&mut self, code: u8, body: &[u8]) {
        self.sequence = 0;
        self.write(&[&[code], body].concat());
    }

    pub fn query(&mut self, sql: &str) -> Answer {
        self.command(3, sql.as_bytes());
        self.answer()
    }

    pub fn deprecates_eof(&self) -> bool {
        self.capabilities.contains(CapabilityFlags::CLIENT_DEPRECATE_EOF)
    }

    pub fn answer(&mut self) -> Answer {
        let payload = self.read().expect("an answer");
        match payload[0] {
            0x00 => Answer::Ok(okay(&payload)),
            0xFF => Answer::Err(refusal(&payload, true)),
            0xFB => Answer::File(String::from_utf8(payload[1..].to_vec()).unwrap()),
            _ => {
                let count = ParseBuf(&payload).eat_lenenc_int();
                let columns = (0..count).map(|_| self.column()).collect();
                if !self.deprecates_eof() {
                    self.eof().expect("an end of columns");
                }
                let mut rows = Vec::new();
                loop {
                    let row = self.read().expect("a row");
                    match row[0] {
                        0xFF => return Answer::Err(refusal(&row, true)),
                        0xFE if row.len() < 9 => {
                            let status = self.end_status(&row).expect("an end of rows");
                            return Answer::Rows(Table { columns, rows, status });
                        }
                        _ => rows.push(row),
                    }
                }
            }
        }
    }

    pub fn column(&mut self) -> Column {
        let payload = self.read().expect("a column");
        ParseBuf(&payload).parse(()).unwrap()
    }

    pub fn eof(&mut self) -> Option<StatusFlags> {
        let payload = self.read()?;
        self.end_status(&payload)
    }

    fn end_status(&self, payload: &[u8]) -> Option<StatusFlags> {
        let at = match (payload[0], payload.len(), self.deprecates_eof()) {
            (0xFE, 7, true) => 3,
            (0xFE, 5, false) => 3,
            _ => return None,
        };
        let bits = u16::from_le_bytes([payload[at], payload[at + 1]]);
        Some(StatusFlags::from_bits_truncate(bits))
    }

    /// Prepares; gives number, parameters and column definitions.
    pub fn prepare(&mut self, sql: &str) -> Result<(u32, u16, Vec<Column>), Refusal> {
        self.command(0x16, sql.as_bytes());
        let head = self.read().expect("an answer");
        if head[0] == 0xFF {
            return Err(refusal(&head, true));
        }
        assert_eq!(head.len(), 12);
        let id = u32::from_le_bytes(head[1..5].try_into().unwrap());
        let columns = u16::from_le_bytes([head[5], head[6]]);
        let params = u16::from_le_bytes([head[7], head[8]]);
        for _ in 0..params {
            assert_eq!(self.column().name_ref(), b"?");
        }
        if params > 0 && !self.deprecates_eof() {
            self.eof().expect("an end of parameters");
        }
        let definitions = (0..columns).map(|_| self.column()).collect();
        if columns > 0 && !self.deprecates_eof() {
            self.eof().expect("an end of columns");
        }
        Ok((id, params, definitions))
    }

    pub fn execute(&mut self, id: u32, body: &[u8]) -> Answer {
        let head = [&id.to_le_bytes()[..], &[0], &1u32.to_le_bytes()].concat();
        self.command(0x17, &[&head, body].concat());
        self.answer()
    }

    pub fn is_alive(&mut self) -> bool {
        self.command(0x0E, b"");
        matches!(self.read().as_deref(), Some([0, ..]))
    }
}

fn okay(payload: &[u8]) -> Okay {
    let mut buf = ParseBuf(&payload[1..]);
    let affected = buf.eat_lenenc_int();
    let insert_id = buf.eat_lenenc_int();
    let status = StatusFlags::from_bits_truncate(buf.eat_u16_le());
    let warnings = buf.eat_u16_le();
    let info = if buf.is_empty() { vec![] } else { buf.eat_lenenc_str().to_vec() };
    assert!(buf.is_empty());
    Okay { affected, insert_id, status, warnings, info }
}

fn refusal(payload: &[u8], with_state: bool) -> Refusal {
    assert_eq!(payload[0], 0xFF);
    let code = u16::from_le_bytes([payload[1], payload[2]]);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    if !with_state {
        return Refusal(code, String::new(), text(&payload[3..]));
    }
    assert_eq!(payload[3], b'#');
    Refusal(code, text(&payload[4..9]), text(&payload[9..]))
}

/// A text row's values.
pub fn texts(row: &[u8]) -> Vec<Option<String>> {
    let mut buf = ParseBuf(row);
    let mut values = Vec::new();
    while !buf.is_empty() {
        values.push(if buf.0[0] == 0xFB {
            buf.skip(1);
            None
        } else {
            Some(String::from_utf8_lossy(buf.eat_lenenc_str()).into_owned())
        });
    }
    values
}

/// A binary row's values: each one's bytes as sent, strings without their length.
pub fn binaries(row: &[u8], columns: &[Column]) -> Vec<Option<Vec<u8>>> {
    use WireType::*;
    assert_eq!(row[0], 0);
    let bitmap_len = (columns.len() + 2).div_ceil(8);
    let bitmap = &row[1..1 + bitmap_len];
    let mut buf = ParseBuf(&row[1 + bitmap_len..]);
    let values = columns.iter().enumerate().map(|(i, column)| {
        if bitmap[(i + 2) / 8] & 1 << ((i + 2) % 8) != 0 {
            return None;
        }
        let bytes = match column.column_type() {
            MYSQL_TYPE_TINY => buf.eat(1),
            MYSQL_TYPE_SHORT => buf.eat(2),
            MYSQL_TYPE_LONG | MYSQL_TYPE_INT24 | MYSQL_TYPE_FLOAT => buf.eat(4),
            MYSQL_TYPE_LONGLONG | MYSQL_TYPE_DOUBLE => buf.eat(8),
            MYSQL_TYPE_DATE | MYSQL_TYPE_DATETIME | MYSQL_TYPE_TIMESTAMP | MYSQL_TYPE_TIME => {
                buf.eat_u8_str()
            }
            _ => buf.eat_lenenc_str(),
        };
        Some(bytes.to_vec())
    });
    let values = values.collect();
    assert!(buf.is_empty(), "the row's end");
    values
}
