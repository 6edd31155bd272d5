//! As much of DNS (RFC 1035) as is needed to ask and to answer for an address.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use super::place::{LOGIN, NAME_SERVER, WEB_SERVER};
use crate::namespaces::in_namespace;

const ADDRESS: u16 = 1;
const POINTER: u16 = 12;

fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut packet = vec![0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        packet.push(u8::try_from(label.len()).unwrap());
        packet.extend(label.bytes());
    }
    packet.push(0);
    packet.extend([kind.to_be_bytes(), [0, 1]].concat());
    packet
}

/// The end of a name, and the name as far as it isn't compressed.
fn name_at(packet: &[u8], mut at: usize) -> (usize, String) {
    let mut labels = Vec::new();
    loop {
        match usize::from(packet[at]) {
            0 => return (at + 1, labels.join(".")),
            length if length >= 0xc0 => return (at + 2, labels.join(".")),
            length => {
                labels.push(String::from_utf8_lossy(&packet[at + 1..at + 1 + length]).into_owned());
                at += 1 + length;
            }
        }
    }
}

/// What the records of an answer hold, and its code.
fn answers(packet: &[u8]) -> (u8, Vec<Vec<u8>>) {
    let count = u16::from_be_bytes([packet[6], packet[7]]);
    let mut at = name_at(packet, 12).0 + 4;
    let mut records = Vec::new();
    for _ in 0..count {
        at = name_at(packet, at).0 + 8;
        let length = usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
        records.push(packet[at + 2..at + 2 + length].to_vec());
        at += 2 + length;
    }
    (packet[3] & 0x0f, records)
}

fn ask(namespace: &str, server: Ipv4Addr, question: Vec<u8>) -> Option<Vec<u8>> {
    super::talk::in_namespace(namespace, move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        for _ in 0..2 {
            socket.send_to(&question, (server, 53)).ok()?;
            let mut answer = [0; 1500];
            if let Ok(length) = socket.recv(&mut answer) {
                return Some(answer[..length].to_vec());
            }
        }
        None
    })
}

/// The addresses of a name, sorted; `None`: no answer.
pub fn addresses(namespace: &str, server: Ipv4Addr, name: &str) -> Option<Vec<Ipv4Addr>> {
    let (_, records) = answers(&ask(namespace, server, question(name, ADDRESS))?);
    let mut found: Vec<_> =
        records.iter().filter_map(|it| Some(Ipv4Addr::from(<[u8; 4]>::try_from(it.as_slice()).ok()?))).collect();
    found.sort();
    Some(found)
}

/// The name of an address.
pub fn name_of(namespace: &str, server: Ipv4Addr, address: Ipv4Addr) -> Option<String> {
    let [a, b, c, d] = address.octets();
    let (_, records) = answers(&ask(namespace, server, question(&format!("{d}.{c}.{b}.{a}.in-addr.arpa"), POINTER))?);
    records.first().map(|record| name_at(record, 0).1)
}

/// Answers outside, until its process ends: `rebind.*` is an address inside, `10-9-8-7.*` is that address, everything else the
/// web server.
pub fn serve(namespace: &str) {
    in_namespace(namespace, || {
        let socket = UdpSocket::bind(SocketAddr::from((NAME_SERVER, 53))).unwrap();
        let mut packet = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut packet) {
            let (end, name) = name_at(&packet[..length], 12);
            let first = name.split('.').next().unwrap_or_default().replace('-', ".");
            let address = if first == "rebind" { LOGIN } else { first.parse().unwrap_or(WEB_SERVER) };
            let mut answer = packet[..end + 4].to_vec();
            answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            answer.extend(address.octets());
            let _ = socket.send_to(&answer, from);
        }
    });
}
