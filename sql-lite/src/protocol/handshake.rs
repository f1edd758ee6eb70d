//! The greeting and who may enter. It must never let a password through that is not the user's.
//!
//! ```text
//!  server: greeting (version, connection id, 20 random bytes, capabilities, plugin)
//!  client: response (capabilities, user, answer, database, plugin)
//!  server: [AuthSwitch to another plugin ── client: answer]
//!  server: OK or ERR
//! ```
//!
//! One user is known, `root`, without a password. Both plugins answer an empty password with
//! nothing (or a lone zero byte), so no scramble is ever compared: any other answer is refused.

use super::packets::{self, TEXT_CHARSET};
use super::wire::{Wire, WireError};
use crate::error::Error;
use crate::outcome::{ConnectionInfo, Done, Status};
use mysql_common::constants::{CapabilityFlags, StatusFlags};
use mysql_common::io::ParseBuf;
use mysql_common::packets::{AuthSwitchRequest, HandshakePacket, HandshakeResponse};
use mysql_common::proto::MySerialize;
use rand::RngCore;

/// The user there is.
const USER: &[u8] = b"root";
/// The plugin the greeting names.
const PLUGIN: &[u8] = b"mysql_native_password";
/// Plugins a client may ask for.
const PLUGINS: [&[u8]; 2] = [PLUGIN, b"caching_sha2_password"];
/// Bytes of the random challenge.
const SALT_BYTES: usize = 20;
/// Bytes of a packet at most before a client is let in.
const LOGIN_BYTES_MAX: usize = 1 << 20;
/// Ticks a client may be silent before it is let in: 5 s.
const LOGIN_TICKS_MAX: u32 = 20;

/// What the server does.
pub fn capabilities() -> CapabilityFlags {
    use CapabilityFlags as C;
    C::CLIENT_LONG_PASSWORD
        | C::CLIENT_FOUND_ROWS
        | C::CLIENT_LONG_FLAG
        | C::CLIENT_CONNECT_WITH_DB
        | C::CLIENT_LOCAL_FILES
        | C::CLIENT_PROTOCOL_41
        | C::CLIENT_INTERACTIVE
        | C::CLIENT_TRANSACTIONS
        | C::CLIENT_SECURE_CONNECTION
        | C::CLIENT_MULTI_STATEMENTS
        | C::CLIENT_MULTI_RESULTS
        | C::CLIENT_PS_MULTI_RESULTS
        | C::CLIENT_PLUGIN_AUTH
        | C::CLIENT_CONNECT_ATTRS
        | C::CLIENT_PLUGIN_AUTH_LENENC_CLIENT_DATA
        | C::CLIENT_DEPRECATE_EOF
}

/// A client that was let in.
pub struct Login {
    /// What both sides do.
    pub capabilities: CapabilityFlags,
    /// Who it is.
    pub info: ConnectionInfo,
}

/// Greets and checks. The OK is not sent yet: the session may still refuse the database.
///
/// # Errors
/// `Closed` after a refusal, which the client has been told.
pub fn log_in(wire: &mut Wire, version: &str, id: u32, host: &str) -> Result<Login, WireError> {
    wire.payload_bytes_max = LOGIN_BYTES_MAX;
    wire.idle_ticks_max = LOGIN_TICKS_MAX;
    let salt = salt();
    greet(wire, version, id, &salt)?;
    let mut payload = Vec::new();
    if let Err(error) = wire.read(&mut payload) {
        return match error {
            WireError::TooLarge | WireError::OutOfOrder => refuse(wire, &bad_handshake()),
            error => Err(error),
        };
    }
    let Ok(response) = ParseBuf(&payload).parse::<HandshakeResponse<'_>>(()) else {
        return refuse(wire, &bad_handshake());
    };
    if !response.capabilities().contains(CapabilityFlags::CLIENT_PROTOCOL_41) {
        return refuse(wire, &bad_handshake());
    }
    let common = response.capabilities() & capabilities();
    let plugin = response.auth_plugin().map(|plugin| plugin.as_bytes().to_vec());
    let claim =
        Claim { user: response.user(), plugin: plugin.as_deref(), answer: response.scramble_buf() };
    authenticate(wire, common, host, &salt, &claim)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let info = ConnectionInfo {
        id,
        user: text(response.user()),
        host: host.to_owned(),
        database: response.db_name().filter(|name| !name.is_empty()).map(text),
        found_rows: common.contains(CapabilityFlags::CLIENT_FOUND_ROWS),
    };
    Ok(Login { capabilities: common, info })
}

/// Who a client says it is.
pub struct Claim<'a> {
    /// User name.
    pub user: &'a [u8],
    /// The plugin that made the answer, if the client names plugins.
    pub plugin: Option<&'a [u8]>,
    /// The plugin's answer to the challenge.
    pub answer: &'a [u8],
}

/// Checks a claim. A client whose plugin is not the one of the greeting made its answer without
/// the challenge: it is asked again, by its own plugin if that is known.
///
/// # Errors
/// `Closed` after a refusal, which the client has been told.
pub fn authenticate(
    wire: &mut Wire,
    capabilities: CapabilityFlags,
    host: &str,
    salt: &[u8],
    claim: &Claim<'_>,
) -> Result<(), WireError> {
    let mut switched = Vec::new();
    let mut answer = claim.answer;
    let may_switch = capabilities.contains(CapabilityFlags::CLIENT_PLUGIN_AUTH);
    if let (true, Some(plugin)) = (may_switch, claim.plugin)
        && plugin != PLUGIN
    {
        let plugin = if PLUGINS.contains(&plugin) { plugin } else { PLUGIN };
        let mut data = salt.to_vec();
        data.push(0);
        wire.packet(|out| {
            AuthSwitchRequest::new(plugin, data).serialize(out);
            Ok::<_, WireError>(())
        })?;
        wire.flush()?;
        match wire.read(&mut switched) {
            Ok(()) => answer = &switched,
            Err(WireError::TooLarge | WireError::OutOfOrder) => {
                return refuse(wire, &bad_handshake());
            }
            Err(error) => return Err(error),
        }
    }
    let empty = matches!(answer, [] | [0]);
    if claim.user == USER && empty {
        return Ok(());
    }
    let user = String::from_utf8_lossy(claim.user);
    let used = if empty { "NO" } else { "YES" };
    refuse(
        wire,
        &Error::access_denied(format!(
            "Access denied for user '{user}'@'{host}' (using password: {used})"
        )),
    )
}

/// Tells the client that it is in.
pub fn welcome(wire: &mut Wire, status: Status) -> Result<(), WireError> {
    wire.packet(|out| {
        packets::put_ok(out, &Done::default(), status, false);
        Ok::<_, WireError>(())
    })?;
    wire.flush()
}

/// Tells the client why it is not in; always `Closed`.
pub fn refuse<T>(wire: &mut Wire, error: &Error) -> Result<T, WireError> {
    wire.packet(|out| {
        packets::put_error(out, error, true);
        Ok::<_, WireError>(())
    })?;
    wire.flush()?;
    Err(WireError::Closed)
}

/// A challenge: no zero byte, which would end it early, and no `$`, which parts stored hashes.
pub fn salt() -> [u8; SALT_BYTES] {
    let mut salt = [0; SALT_BYTES];
    #[allow(clippy::disallowed_methods)] // a challenge must not be foreseeable
    rand::rng().fill_bytes(&mut salt);
    for byte in &mut salt {
        *byte &= 0x7F;
        if matches!(*byte, 0 | b'$') {
            *byte += 1;
        }
    }
    salt
}

fn greet(wire: &mut Wire, version: &str, id: u32, salt: &[u8]) -> Result<(), WireError> {
    let first: [u8; 8] = salt[..8].try_into().expect("a salt has 20 bytes");
    let mut second = salt[8..].to_vec();
    second.push(0);
    let packet = HandshakePacket::new(
        10,
        version.as_bytes(),
        id,
        first,
        Some(second),
        capabilities(),
        TEXT_CHARSET,
        StatusFlags::SERVER_STATUS_AUTOCOMMIT,
        Some(PLUGIN),
    );
    wire.packet(|out| {
        packet.serialize(out);
        Ok::<_, WireError>(())
    })?;
    wire.flush()
}

fn bad_handshake() -> Error {
    Error { code: 1043, state: "08S01", message: "Bad handshake".to_owned() }
}
