//! Bad clients: the server lives, and other clients notice nothing.

use crate::client::{CAPABILITIES, Client, ROOT};
use crate::{connect, serve, serve_with};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use std::io::{Read, Write};
use std::net::Shutdown;

/// Reads to the end, whatever comes.
fn drain(client: &mut Client) {
    let _ = client.stream.shutdown(Shutdown::Write);
    let mut rest = Vec::new();
    let _ = client.stream.read_to_end(&mut rest);
}

#[test]
fn random_bytes_after_the_greeting() {
    let (server, _) = serve();
    let mut other = connect(&server);
    for seed in 0..200 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut client = Client::raw(server.addr());
        client.read().expect("a greeting");
        let mut bytes = vec![0; random.random_range(0..300)];
        random.fill_bytes(&mut bytes);
        if seed % 2 == 0 && bytes.len() > 4 {
            // A plausible header, so that the payload is looked at.
            let len = bytes.len() - 4;
            bytes[..4].copy_from_slice(&[len as u8, (len >> 8) as u8, 0, 1]);
            bytes[4..].iter_mut().take(4).for_each(|b| *b |= 0x02);
        }
        let _ = client.stream.write_all(&bytes);
        drain(&mut client);
        assert!(other.is_alive(), "seed {seed}");
    }
}

#[test]
fn random_commands() {
    let (server, _) = serve();
    let mut other = connect(&server);
    let codes =
        [0x02, 0x04, 0x09, 0x0E, 0x11, 0x16, 0x17, 0x18, 0x19, 0x1A, 0x1B, 0x1C, 0x1F, 0x77];
    for seed in 0..200 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut client = connect(&server);
        let (id, ..) = client.prepare("insert ? ? ?").unwrap();
        for _ in 0..20 {
            let code = codes[random.random_range(0..codes.len())];
            let mut body = vec![0; random.random_range(0..60)];
            random.fill_bytes(&mut body);
            if (0x17..=0x1C).contains(&code) && body.len() > 14 {
                body[..4].copy_from_slice(&id.to_le_bytes());
                body[10] = 1;
            }
            let len = body.len() + 1;
            let packet = [&[len as u8, 0, 0, 0, code][..], &body].concat();
            if client.stream.write_all(&packet).is_err() {
                break;
            }
        }
        drain(&mut client);
        assert!(other.is_alive(), "seed {seed}");
    }
}

#[test]
fn packets_cut_anywhere() {
    let (server, _) = serve();
    let mut other = connect(&server);
    let packet = [&[11, 0, 0, 0, 3][..], b"rows 123456"].concat();
    for len in 0..packet.len() {
        let mut client = connect(&server);
        client.stream.write_all(&packet[..len]).unwrap();
        drain(&mut client);
    }
    assert!(other.is_alive());
}

#[test]
fn a_wrong_sequence_number_ends_only_its_sender() {
    let (server, _) = serve();
    let mut other = connect(&server);
    let mut client = connect(&server);
    client.sequence = 7;
    client.write(b"\x0e");
    assert_eq!(client.answer().code(), 1156);
    assert_eq!(client.read(), None);
    assert!(other.is_alive());
    let mut client = Client::raw(server.addr());
    client.read().expect("a greeting");
    client.sequence = 5;
    client.write(b"anything");
    assert_eq!(client.answer().code(), 1043);
    assert!(other.is_alive());
}

#[test]
fn an_empty_command_is_malformed() {
    let (server, _) = serve();
    let mut client = connect(&server);
    client.sequence = 0;
    client.stream.write_all(&[0, 0, 0, 0]).unwrap();
    client.sequence = 1;
    assert_eq!(client.answer().code(), 1835);
    assert!(client.is_alive());
}

#[test]
fn a_command_above_the_limit_is_refused_whole() {
    let (server, _) = serve_with(|config| config.packet_bytes_max = 1000);
    let mut client = connect(&server);
    let fits = format!("insert {}", "x".repeat(1000 - 8));
    client.query(&fits).ok();
    assert_eq!(client.query(&format!("{fits}x")).code(), 1153);
    assert!(client.is_alive());
}

#[test]
fn packets_above_16_mib_are_joined_and_cut() {
    const PART: usize = 0xFF_FFFF;
    let (server, _) = serve();
    let mut client = connect(&server);
    for len in [PART - 1, PART, PART + 1] {
        // One byte of the payload is the command.
        let sql = format!("insert {}", "x".repeat(len - 8));
        assert_eq!(client.query(&sql).ok().affected, 300);
    }
    for len in [PART - 5, PART - 4, PART - 3, 2 * PART - 9, 2 * PART] {
        let table = client.query(&format!("long {len}")).rows();
        let head = if len < 1 << 24 { 4 } else { 9 };
        assert_eq!(table.rows[0].len(), len + head);
        assert!(table.rows[0][head..].iter().all(|b| *b == 7));
    }
    assert!(client.is_alive());
}

#[test]
fn a_panic_costs_one_connection() {
    let (server, _) = serve();
    let mut other = connect(&server);
    let mut client = connect(&server);
    assert_eq!(client.query("panic").code(), 1105);
    assert_eq!(client.read(), None);
    assert!(other.is_alive());
}

#[test]
fn a_client_that_leaves_while_rows_come() {
    let (server, _) = serve();
    for _ in 0..4 {
        let mut client = connect(&server);
        client.command(3, b"rows 200000");
        let mut some = [0; 100];
        client.stream.read_exact(&mut some).unwrap();
    }
    let mut other = Client::connect(server.addr(), CAPABILITIES);
    assert_eq!(other.query("rows 100000").rows().rows.len(), 100_000);
}

#[test]
fn a_client_that_leaves_while_its_statement_runs() {
    let (server, fake) = serve();
    let mut stays = connect(&server);
    stays.command(3, b"wait");
    let mut leaves = connect(&server);
    leaves.command(3, b"wait");
    let id = leaves.id;
    drop(leaves);
    // The statement of who stays ends when anybody is told to end.
    stays.read().expect("an answer");
    assert_eq!(*fake.killed.lock().unwrap(), [id].into());
    assert!(stays.is_alive());
}

#[test]
fn silent_sockets_keep_nobody_out() {
    let (server, _) = serve_with(|config| {
        config.connections_max = 4;
        config.handshakes_max = 8;
    });
    // Far more than either limit, none of which ever answers the greeting.
    let silent: Vec<_> = (0..40).map(|_| Client::raw(server.addr())).collect();
    let mut clients: Vec<_> = (0..4).map(|_| connect(&server)).collect();
    assert_eq!(server.connections(), 4);
    assert!(clients.iter_mut().all(Client::is_alive));
    let refused = Client::log_in(server.addr(), CAPABILITIES, &ROOT, b"").err().unwrap();
    assert_eq!(refused.0, 1040, "of those who were let in there are enough");
    // The oldest silent ones made room for the later ones.
    let mut silent = silent.into_iter();
    let mut first = silent.next().expect("the oldest");
    while first.read().is_some() {}
    drop(silent);
}
