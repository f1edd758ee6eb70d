//! Every command's answers.

use crate::client::{Answer, CAPABILITIES, Client, Login, ROOT, Refusal, texts};
use crate::{connect, serve, serve_with};
use damask_sql_lite::protocol::{Server, ServerConfig};
use damask_types::Datum;
use mysql_common::constants::{CapabilityFlags, StatusFlags};
use mysql_common::io::ParseBuf;
use mysql_common::packets::HandshakePacket;
use std::collections::HashSet;
use std::io::Write;

#[test]
fn the_greeting_is_honest() {
    let (server, _) = serve();
    let mut salts = HashSet::new();
    let mut ids = HashSet::new();
    for _ in 0..32 {
        let greeting = Client::raw(server.addr()).read().unwrap();
        let handshake: HandshakePacket<'_> = ParseBuf(&greeting).parse(()).unwrap();
        assert_eq!(handshake.protocol_version(), 10);
        assert!(handshake.server_version_str().starts_with("8.0.11-TiDB-v8.5.0-damask-"));
        assert_eq!(handshake.status_flags(), StatusFlags::SERVER_STATUS_AUTOCOMMIT);
        assert!(!handshake.capabilities().contains(CapabilityFlags::CLIENT_SSL));
        assert!(!handshake.capabilities().contains(CapabilityFlags::CLIENT_COMPRESS));
        let nonce = handshake.nonce();
        assert_eq!(nonce.len(), 20);
        assert!(nonce.iter().all(|b| *b != 0 && *b != b'$' && *b < 0x80));
        assert!(salts.insert(nonce));
        assert!(ids.insert(handshake.connection_id()));
    }
}

#[test]
fn who_may_enter() {
    let (server, fake) = serve();
    let enter = |login: Login<'_>, second: &[u8]| {
        Client::log_in(server.addr(), CAPABILITIES, &login, second).map(|(_, plugin)| plugin)
    };
    let sha2 = "caching_sha2_password";
    assert_eq!(enter(ROOT, b""), Ok(None));
    assert_eq!(enter(Login { plugin: sha2, ..ROOT }, b"\0"), Ok(Some(sha2.into())));
    assert_eq!(enter(Login { plugin: sha2, ..ROOT }, b""), Ok(Some(sha2.into())));
    let native = Some("mysql_native_password".to_owned());
    assert_eq!(enter(Login { plugin: "client_ed25519", ..ROOT }, b""), Ok(native));
    assert_eq!(enter(Login { database: Some("test"), ..ROOT }, b""), Ok(None));
    assert_eq!(fake.opened.lock().unwrap().last().unwrap().database.as_deref(), Some("test"));
    let denied = enter(Login { answer: &[7; 20], ..ROOT }, b"").unwrap_err();
    let text = "Access denied for user 'root'@'127.0.0.1' (using password: YES)";
    assert_eq!(denied, Refusal(1045, "28000".into(), text.into()));
    assert_eq!(enter(Login { plugin: sha2, ..ROOT }, &[7; 32]).unwrap_err().0, 1045);
    assert_eq!(enter(Login { user: "bob", ..ROOT }, b"").unwrap_err().0, 1045);
    assert_eq!(enter(Login { database: Some("missing"), ..ROOT }, b"").unwrap_err().0, 1049);
}

#[test]
fn statuses_are_in_every_answer() {
    let (server, _) = serve();
    for capabilities in [CAPABILITIES, CAPABILITIES - CapabilityFlags::CLIENT_DEPRECATE_EOF] {
        let mut client = Client::connect(server.addr(), capabilities);
        let okay = client.query("insert").ok();
        assert_eq!((okay.affected, okay.insert_id, okay.warnings), (300, 70_000, 2));
        assert_eq!(okay.info, b"Records: 300");
        assert_eq!(okay.status, StatusFlags::SERVER_STATUS_AUTOCOMMIT);
        client.query("begin").ok();
        let table = client.query("rows 3").rows();
        let open = StatusFlags::SERVER_STATUS_AUTOCOMMIT | StatusFlags::SERVER_STATUS_IN_TRANS;
        assert_eq!(table.status, open);
        let rows: Vec<_> = table.rows.iter().map(|row| texts(row)).collect();
        assert_eq!(rows[2], [Some("2".into()), Some("row 2".into())]);
        let no_rows = client.query("rows 0").rows();
        assert_eq!((no_rows.columns.len(), no_rows.rows.len()), (2, 0));
    }
}

#[test]
fn several_results_follow_each_other() {
    let (server, _) = serve();
    let more = StatusFlags::SERVER_MORE_RESULTS_EXISTS;
    for capabilities in [CAPABILITIES, CAPABILITIES - CapabilityFlags::CLIENT_DEPRECATE_EOF] {
        let mut client = Client::connect(server.addr(), capabilities);
        assert!(client.query("insert; rows 2; begin; fail; rows 1").ok().status.contains(more));
        assert!(client.answer().rows().status.contains(more));
        assert!(client.answer().ok().status.contains(more));
        assert_eq!(client.answer().code(), 1062);
        assert!(client.query("rows 1; rows 1").rows().status.contains(more));
        assert!(!client.answer().rows().status.contains(more));
        assert!(client.is_alive());
    }
}

#[test]
fn several_statements_need_leave() {
    let (server, _) = serve();
    let capabilities = CAPABILITIES - CapabilityFlags::CLIENT_MULTI_STATEMENTS;
    let mut client = Client::connect(server.addr(), capabilities);
    assert_eq!(client.query("insert; insert").code(), 1064);
    client.query("insert; -- only one").ok();
    client.command(0x1B, &[0, 0]);
    client.eof().expect("an end");
    client.query("insert; insert").ok();
    client.answer().ok();
    client.command(0x1B, &[1, 0]);
    client.eof().expect("an end");
    assert_eq!(client.query("insert; insert").code(), 1064);
    client.command(0x1B, &[9, 0]);
    assert_eq!(client.answer().code(), 1047);
}

#[test]
fn rows_that_fail_midway_end_the_answer() {
    let (server, _) = serve();
    let mut client = connect(&server);
    assert_eq!(client.query("badrows 0; insert").code(), 1365);
    assert_eq!(client.query("badrows 2").code(), 1365);
    assert!(client.is_alive());
}

#[test]
fn small_commands_answer() {
    let (server, fake) = serve();
    let mut client = connect(&server);
    client.command(0x0E, b"");
    client.answer().ok();
    client.command(0x02, b"test");
    client.answer().ok();
    client.command(0x02, b"nowhere");
    assert_eq!(client.answer().code(), 1049);
    client.command(0x09, b"");
    let line = String::from_utf8(client.read().unwrap()).unwrap();
    assert!(line.starts_with("Uptime: ") && line.contains("Threads: 1 "), "{line}");
    client.query("begin").ok();
    client.command(0x1F, b"");
    assert_eq!(client.answer().ok().status, StatusFlags::SERVER_STATUS_AUTOCOMMIT);
    assert_eq!(*fake.resets.lock().unwrap(), 1);
    for unknown in [0x00, 0x05, 0x0F, 0x12, 0x1D, 0x20, 0xFA, 0xFF] {
        client.command(unknown, b"junk");
        assert_eq!(client.answer().code(), 1047, "command {unknown}");
    }
    client.command(0x03, b"");
    assert_eq!(client.answer().code(), 1065);
    client.command(0x01, b"");
    assert_eq!(client.read(), None);
}

#[test]
fn users_change() {
    let (server, fake) = serve();
    let mut client = connect(&server);
    client.query("begin").ok();
    client.command(0x11, b"root\0\0test\0\x2d\0mysql_native_password\0");
    assert!(!client.answer().ok().status.contains(StatusFlags::SERVER_STATUS_IN_TRANS));
    let opened = fake.opened.lock().unwrap().clone();
    assert_eq!(opened.len(), 2);
    assert_eq!(opened[0].id, opened[1].id);
    assert_eq!(opened[1].database.as_deref(), Some("test"));
    client.command(0x11, b"root\0\0\0\x2d\0caching_sha2_password\0");
    assert_eq!(client.read().unwrap()[0], 0xFE);
    client.write(b"\0");
    client.answer().ok();
    client.command(0x11, b"eve\0\0\0");
    assert_eq!(client.answer().code(), 1045);
    assert_eq!(client.read(), None);
}

#[test]
fn a_killed_client_goes() {
    let (server, _) = serve();
    let mut victim = connect(&server);
    let mut other = connect(&server);
    other.command(0x0C, &victim.id.to_le_bytes());
    other.answer().ok();
    assert_eq!(victim.read(), None);
    assert!(other.is_alive());
}

#[test]
fn statements_are_prepared_run_and_closed() {
    let (server, fake) = serve();
    for capabilities in [CAPABILITIES, CAPABILITIES - CapabilityFlags::CLIENT_DEPRECATE_EOF] {
        let mut client = Client::connect(server.addr(), capabilities);
        let (id, params, columns) = client.prepare("params ? ?").unwrap();
        assert_eq!((params, columns.len()), (2, 0));
        let longlong = [0, 1, 8, 0, 8, 0];
        let body = [&longlong[..], &1u64.to_le_bytes(), &2u64.to_le_bytes()].concat();
        let table = client.execute(id, &body).rows();
        assert_eq!(table.rows[0][2..], *b"\x0dInt(1) Int(2)");
        // Types stay bound.
        let body = [&[1, 0][..], &3u64.to_le_bytes()].concat();
        assert_eq!(client.execute(id, &body).rows().rows[0][2..], *b"\x0bNull Int(3)");
        client.command(0x18, &[&id.to_le_bytes()[..], &[0, 0], b"long"].concat());
        let blob = [0, 1, 252, 0, 8, 128];
        let body = [&blob[..], &5u64.to_le_bytes()].concat();
        let row = client.execute(id, &body).rows().rows.remove(0);
        assert_eq!(row[3..], *format!("{:?} UInt(5)", Datum::Bytes(b"long".to_vec())).as_bytes());
        client.command(0x1A, &id.to_le_bytes());
        client.answer().ok();
        client.command(0x1C, &[&id.to_le_bytes()[..], &[1, 0, 0, 0]].concat());
        assert_eq!(client.answer().code(), 1421);
        assert_eq!(client.execute(id, &[0]).code(), 1835);
        client.command(0x19, &id.to_le_bytes());
        assert_eq!(client.execute(id, &body).code(), 1243);
        client.command(0x1A, &id.to_le_bytes());
        assert_eq!(client.answer().code(), 1243);
        assert_eq!(client.prepare("fail").unwrap_err().0, 1064);
        assert_eq!(client.prepare("insert; insert").unwrap_err().0, 1064);
        let (id, ..) = client.prepare("rows 3").unwrap();
        assert_eq!(client.execute(id, &[]).rows().rows.len(), 3);
        assert_eq!(client.prepare("fail").unwrap_err().0, 1064);
        assert_eq!(client.execute(id, &[]).rows().columns.len(), 2);
    }
    assert_eq!(*fake.resets.lock().unwrap(), 0);
}

#[test]
fn a_file_is_taken() {
    let (server, fake) = serve();
    let mut client = connect(&server);
    let name = |answer| match answer {
        Answer::File(name) => name,
        other => panic!("{other:?}"),
    };
    assert_eq!(name(client.query("load; insert")), "data.csv");
    for part in [&b"1,2\n"[..], b"3,4\n", b""] {
        client.write(part);
    }
    let okay = client.answer().ok();
    assert_eq!(okay.affected, 8);
    assert!(okay.status.contains(StatusFlags::SERVER_MORE_RESULTS_EXISTS));
    assert_eq!(client.answer().ok().affected, 300);
    assert_eq!(*fake.file.lock().unwrap(), b"1,2\n3,4\n");
    assert_eq!(name(client.query("load 5")), "data.csv");
    for part in [&b"1,2\n"[..], b"3,4\n", b"5,6\n", b""] {
        client.write(part);
    }
    assert_eq!(client.answer().code(), 1406);
    assert_eq!(*fake.file.lock().unwrap(), b"1,2\n3,4\n", "nothing after the error");
    assert!(client.is_alive());
    let capabilities = CAPABILITIES - CapabilityFlags::CLIENT_LOCAL_FILES;
    let mut client = Client::connect(server.addr(), capabilities);
    assert_eq!(client.query("load").code(), 3948);
}

#[test]
fn raw_bytes_in_a_text_arrive() {
    let (server, _) = serve();
    let mut client = connect(&server);
    client.command(3, b"echo _binary'\xff\\'', 1");
    let table = client.answer().rows();
    assert_eq!(texts(&table.rows[0]), [Some("echo X'FF27', 1".into())]);
    client.command(3, b"echo \xff");
    assert_eq!(client.answer().code(), 1300);
}

#[test]
fn commands_may_come_before_answers_go() {
    let (server, _) = serve();
    let mut client = connect(&server);
    let mut packets = Vec::new();
    for sql in ["rows 2", "fail", "insert"] {
        packets.extend_from_slice(&[sql.len() as u8 + 1, 0, 0, 0, 3]);
        packets.extend_from_slice(sql.as_bytes());
    }
    client.stream.write_all(&packets).unwrap();
    client.sequence = 1;
    assert_eq!(client.answer().rows().rows.len(), 2);
    client.sequence = 1;
    assert_eq!(client.answer().code(), 1062);
    client.sequence = 1;
    client.answer().ok();
}

#[test]
fn the_limit_of_clients_holds() {
    let (server, _) = serve_with(|config| config.connections_max = 2);
    let mut first = connect(&server);
    let second = connect(&server);
    let refused = Client::log_in(server.addr(), CAPABILITIES, &ROOT, b"").err().unwrap();
    assert_eq!(refused, Refusal(1040, String::new(), "Too many connections".into()));
    drop(second);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while server.connections() > 1 {
        assert!(std::time::Instant::now() < deadline, "a client's place is given back");
        std::thread::yield_now();
    }
    assert!(connect(&server).is_alive());
    assert!(first.is_alive());
}

#[test]
fn a_taken_port_is_named() {
    let (server, fake) = serve();
    let error = Server::start(ServerConfig::at(server.addr()), fake).err().unwrap();
    assert!(error.message.contains(&server.addr().to_string()), "{error}");
    assert!(error.message.contains("in use"), "{error}");
}

#[test]
fn stop_ends_everything_and_frees_the_port() {
    let (server, fake) = serve();
    let mut client = connect(&server);
    let silent = Client::raw(server.addr());
    server.stop();
    server.stop();
    assert_eq!(server.connections(), 0);
    assert_eq!(client.read(), None);
    drop(silent);
    let again = Server::start(ServerConfig::at(server.addr()), fake).expect("the port is free");
    assert!(connect(&again).is_alive());
}
