//! The commands of the protocol and their answers. It must never answer OK to what it did not do.

use super::connection::Connection;
use super::handshake::{self, Claim};
use super::packets;
use super::parameters::{Statement, malformed};
use super::replies::Replies;
use super::rows::Form;
use super::sql_text;
use super::wire::WireError;
use crate::error::{Error, Result};
use crate::outcome::{ColumnMeta, ConnectionInfo, Done, Prepared, Sink};
use mysql_common::constants::{CapabilityFlags, Command};
use mysql_common::io::ParseBuf;

/// Prepared statements of a connection at most (max_prepared_stmt_count).
const STATEMENTS_MAX: usize = 16_382;

/// What follows a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another.
    Command,
    /// Nothing: the connection ends.
    End,
}

type Answered = std::result::Result<(), WireError>;

/// Runs one command.
pub fn run(connection: &mut Connection, payload: &[u8]) -> std::result::Result<Next, WireError> {
    let Some((&code, body)) = payload.split_first() else {
        connection.fail(&malformed())?;
        return Ok(Next::Command);
    };
    const QUIT: u8 = Command::COM_QUIT as u8;
    const CHANGE_USER: u8 = Command::COM_CHANGE_USER as u8;
    match code {
        QUIT => return Ok(Next::End),
        CHANGE_USER => change_user(connection, body)?,
        _ => answer(connection, code, body)?,
    }
    Ok(Next::Command)
}

fn answer(connection: &mut Connection, code: u8, body: &[u8]) -> Answered {
    const INIT_DB: u8 = Command::COM_INIT_DB as u8;
    const QUERY: u8 = Command::COM_QUERY as u8;
    const FIELD_LIST: u8 = Command::COM_FIELD_LIST as u8;
    const STATISTICS: u8 = Command::COM_STATISTICS as u8;
    const PROCESS_INFO: u8 = Command::COM_PROCESS_INFO as u8;
    const PROCESS_KILL: u8 = Command::COM_PROCESS_KILL as u8;
    const PING: u8 = Command::COM_PING as u8;
    const PREPARE: u8 = Command::COM_STMT_PREPARE as u8;
    const EXECUTE: u8 = Command::COM_STMT_EXECUTE as u8;
    const LONG_DATA: u8 = Command::COM_STMT_SEND_LONG_DATA as u8;
    const CLOSE: u8 = Command::COM_STMT_CLOSE as u8;
    const RESET: u8 = Command::COM_STMT_RESET as u8;
    const FETCH: u8 = Command::COM_STMT_FETCH as u8;
    const SET_OPTION: u8 = Command::COM_SET_OPTION as u8;
    const RESET_CONNECTION: u8 = Command::COM_RESET_CONNECTION as u8;
    match code {
        QUERY => query(connection, body),
        EXECUTE => execute(connection, body),
        PREPARE => prepare(connection, body),
        CLOSE => {
            close(connection, body);
            Ok(())
        }
        LONG_DATA => {
            long_data(connection, body);
            Ok(())
        }
        PING => done(connection, Ok(())),
        INIT_DB => {
            let used = utf8(body).and_then(|name| connection.session.use_database(name));
            done(connection, used)
        }
        FIELD_LIST => field_list(connection, body),
        STATISTICS => statistics(connection),
        PROCESS_INFO => text(connection, "SHOW PROCESSLIST"),
        PROCESS_KILL => match ParseBuf(body).checked_eat_u32_le() {
            Some(id) => text(connection, &format!("KILL {id}")),
            None => connection.fail(&malformed()),
        },
        RESET => {
            let known = statement(connection, body, "mysqld_stmt_reset").map(Statement::reset);
            done(connection, known)
        }
        FETCH => {
            // Cursors are not opened: every execution sends all its rows.
            let message = "The statement has no open cursor.";
            connection.fail(&Error { code: 1421, ..Error::unknown(message) })
        }
        SET_OPTION => set_option(connection, body),
        RESET_CONNECTION => {
            connection.session.reset();
            connection.statements.clear();
            done(connection, Ok(()))
        }
        _ => connection.fail(&Error::unknown_command("Unknown command")),
    }
}

fn utf8(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| Error::unknown_database("a name is not UTF-8"))
}

/// OK or ERR.
fn done(connection: &mut Connection, result: Result<()>) -> Answered {
    if let Err(error) = result {
        return connection.fail(&error);
    }
    let status = connection.session.status();
    connection.wire.packet(|out| {
        packets::put_ok(out, &Done::default(), status, false);
        Ok::<_, WireError>(())
    })?;
    connection.wire.flush()
}

fn query(connection: &mut Connection, body: &[u8]) -> Answered {
    match sql_text::to_utf8(body) {
        Ok(sql) => text(connection, &sql),
        Err(error) => connection.fail(&error),
    }
}

fn text(connection: &mut Connection, sql: &str) -> Answered {
    if !connection.multi_statements
        && let Err(error) = sql_text::check_single(sql)
    {
        return connection.fail(&error);
    }
    let mut replies = Replies::new(&mut connection.wire, connection.capabilities, Form::Text);
    let result = connection.session.query(sql, &mut replies);
    replies.finish(result)
}

fn prepare(connection: &mut Connection, body: &[u8]) -> Answered {
    if connection.statements.len() >= STATEMENTS_MAX {
        let message = format!(
            "Can't create more than max_prepared_stmt_count statements \
             (current value: {STATEMENTS_MAX})"
        );
        return connection.fail(&Error { code: 1461, state: "42000", message });
    }
    let prepared = sql_text::to_utf8(body).and_then(|sql| {
        sql_text::check_single(&sql)?;
        connection.session.prepare(&sql)
    });
    let prepared = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return connection.fail(&error),
    };
    let (Ok(parameters), Ok(columns)) =
        (u16::try_from(prepared.params), u16::try_from(prepared.columns.len()))
    else {
        connection.session.close_statement(prepared.id);
        let message = "Prepared statement contains too many placeholders";
        return connection.fail(&Error { code: 1390, ..Error::unknown(message) });
    };
    send_prepared(connection, &prepared, parameters, columns)?;
    connection.statements.insert(prepared.id, Statement::new(prepared.params));
    connection.wire.flush()
}

/// `00 | id u32 | columns u16 | parameters u16 | 00 | warnings u16`, then the definitions of
/// parameters and of columns.
fn send_prepared(
    connection: &mut Connection,
    prepared: &Prepared,
    parameters: u16,
    columns: u16,
) -> Answered {
    let status = connection.session.status();
    connection.wire.packet(|out| {
        out.push(0x00);
        out.extend_from_slice(&prepared.id.to_le_bytes());
        out.extend_from_slice(&columns.to_le_bytes());
        out.extend_from_slice(&parameters.to_le_bytes());
        out.push(0);
        out.extend_from_slice(&status.warnings.to_le_bytes());
        Ok::<_, WireError>(())
    })?;
    let eof = !connection.capabilities.contains(CapabilityFlags::CLIENT_DEPRECATE_EOF);
    for _ in 0..parameters {
        connection.wire.packet(|out| {
            packets::put_parameter(out);
            Ok::<_, WireError>(())
        })?;
    }
    if parameters > 0 && eof {
        send_eof(connection)?;
    }
    for column in &prepared.columns {
        send_column(connection, column, false)?;
    }
    if columns > 0 && eof {
        send_eof(connection)?;
    }
    Ok(())
}

fn send_eof(connection: &mut Connection) -> Answered {
    let status = connection.session.status();
    let capabilities = connection.capabilities;
    connection.wire.packet(|out| {
        packets::put_eof(out, status, false, capabilities);
        Ok(())
    })
}

fn send_column(connection: &mut Connection, column: &ColumnMeta, default: bool) -> Answered {
    connection.wire.packet(|out| {
        packets::put_column(out, column);
        if default {
            // COM_FIELD_LIST adds the default value; NULL is what modern servers say.
            out.push(0xFB);
        }
        Ok(())
    })
}

/// The statement whose number a packet starts with.
fn statement<'a>(
    connection: &'a mut Connection,
    body: &[u8],
    caller: &str,
) -> Result<&'a mut Statement> {
    let id = ParseBuf(body).checked_eat_u32_le().ok_or_else(malformed)?;
    connection.statements.get_mut(&id).ok_or_else(|| {
        Error::unknown_statement(format!(
            "Unknown prepared statement handler ({id}) given to {caller}"
        ))
    })
}

/// Bytes of COM_STMT_EXECUTE before the NULL bitmap: statement, cursor flags, iterations.
const EXECUTE_HEADER: usize = 9;

fn execute(connection: &mut Connection, body: &[u8]) -> Answered {
    let values = statement(connection, body, "mysqld_stmt_execute")
        .and_then(|statement| statement.values(body.get(EXECUTE_HEADER..).ok_or_else(malformed)?));
    let values = match values {
        Ok(values) => values,
        Err(error) => return connection.fail(&error),
    };
    let id = ParseBuf(body).checked_eat_u32_le().expect("the statement was found by it");
    let mut replies = Replies::new(&mut connection.wire, connection.capabilities, Form::Binary);
    let session = connection.session.as_mut();
    let result = session.execute(id, values);
    let result = result.and_then(|outcome| replies.outcome(outcome, session, false));
    replies.finish(result)
}

/// The bytes that a connection may send ahead in all, in largest packets.
const LONG_DATA_PACKETS_MAX: usize = 4;

/// `statement u32 | parameter u16 | bytes`; never answered.
fn long_data(connection: &mut Connection, body: &[u8]) {
    let bytes_max = connection.shared.config.packet_bytes_max;
    let held: usize = connection.statements.values().map(Statement::long_data_bytes).sum();
    let left = (LONG_DATA_PACKETS_MAX * bytes_max).saturating_sub(held);
    if body.len() >= 6
        && let Ok(statement) = statement(connection, body, "mysqld_stmt_send_long_data")
    {
        let parameter = u16::from_le_bytes([body[4], body[5]]);
        statement.append_long_data(parameter.into(), &body[6..], bytes_max, left);
    }
}

/// Never answered.
fn close(connection: &mut Connection, body: &[u8]) {
    if let Some(id) = ParseBuf(body).checked_eat_u32_le()
        && connection.statements.remove(&id).is_some()
    {
        connection.session.close_statement(id);
    }
}

/// `table | 00 | pattern`; the pattern is applied by no modern client, nor here.
fn field_list(connection: &mut Connection, body: &[u8]) -> Answered {
    let table = body.split(|b| *b == 0).next().unwrap_or(body);
    let fields = utf8(table).and_then(|table| connection.session.fields(table));
    let fields = match fields {
        Ok(fields) => fields,
        Err(error) => return connection.fail(&error),
    };
    for field in &fields {
        send_column(connection, field, true)?;
    }
    send_eof(connection)?;
    connection.wire.flush()
}

fn statistics(connection: &mut Connection) -> Answered {
    let line = connection.shared.statistics();
    connection.wire.packet(|out| {
        out.extend_from_slice(line.as_bytes());
        Ok::<_, WireError>(())
    })?;
    connection.wire.flush()
}

/// `0u16` allows several statements in a text, `1u16` forbids them.
fn set_option(connection: &mut Connection, body: &[u8]) -> Answered {
    match ParseBuf(body).checked_eat_u16_le() {
        Some(option @ 0..=1) => {
            connection.multi_statements = option == 0;
            send_eof(connection)?;
            connection.wire.flush()
        }
        Some(_) => connection.fail(&Error::unknown_command("Unknown command")),
        None => connection.fail(&malformed()),
    }
}

/// What COM_CHANGE_USER carries: `user 00 | answer lenenc8 | database 00 | charset u16 |
/// plugin 00 | attributes`, of which the last three may be missing.
struct ChangeUser<'a> {
    user: &'a [u8],
    answer: &'a [u8],
    database: &'a [u8],
    plugin: Option<&'a [u8]>,
}

impl<'a> ChangeUser<'a> {
    fn parse(body: &'a [u8]) -> Option<ChangeUser<'a>> {
        let mut buf = ParseBuf(body);
        let user = buf.eat_null_str();
        let answer = buf.checked_eat_u8_str()?;
        let database = buf.eat_null_str();
        let plugin = buf.checked_eat_u16_le().map(|_charset| buf.eat_null_str());
        Some(ChangeUser { user, answer, database, plugin: plugin.filter(|p| !p.is_empty()) })
    }
}

fn change_user(connection: &mut Connection, body: &[u8]) -> Answered {
    let Some(change) = ChangeUser::parse(body) else {
        return connection.fail(&malformed());
    };
    let claim = Claim { user: change.user, plugin: change.plugin, answer: change.answer };
    let (capabilities, host) = (connection.capabilities, connection.info.host.clone());
    let salt = handshake::salt();
    handshake::authenticate(&mut connection.wire, capabilities, &host, &salt, &claim)?;
    connection.session.reset();
    connection.statements.clear();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let info = ConnectionInfo {
        user: text(change.user),
        database: (!change.database.is_empty()).then(|| text(change.database)),
        ..connection.info.clone()
    };
    match connection.shared.sessions.open(info.clone()) {
        Ok(session) => {
            connection.session = session;
            connection.info = info;
            done(connection, Ok(()))
        }
        Err(error) => handshake::refuse(&mut connection.wire, &error),
    }
}
