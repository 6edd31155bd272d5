//! Frames, from parts: what kernels send, and what no kernel would.

use std::net::Ipv4Addr;

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, IcmpEchoHeader, Icmpv4Header, Icmpv4Type, IpNumber, Ipv4Header,
    UdpHeader,
};

/// Six bytes.
pub type Mac = [u8; 6];

pub const BROADCAST: Mac = [0xff; 6];
pub const NOBODY: Mac = [0; 6];
pub const EVERYWHERE: Ipv4Addr = Ipv4Addr::BROADCAST;
pub const UNKNOWN: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
pub const RARP: u16 = 0x8035;

/// An Ethernet frame.
pub fn ethernet(from: Mac, to: Mac, kind: u16, body: &[u8]) -> Vec<u8> {
    [&to[..], &from[..], &kind.to_be_bytes(), body].concat()
}

/// A frame with a VLAN tag: `kind` is that of the tag (0x8100 or 0x88a8), the priority is 0.
pub fn tagged(frame: &[u8], kind: u16, vlan: u16) -> Vec<u8> {
    [&frame[..12], &kind.to_be_bytes(), &vlan.to_be_bytes(), &frame[12..]].concat()
}

/// A frame with a length in place of a type, and LLC.
pub fn llc(from: Mac, to: Mac, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap();
    ethernet(from, to, length, body)
}

/// An IPv4 packet in a frame.
pub fn ip(from: Mac, to: Mac, packet: &[u8]) -> Vec<u8> {
    ethernet(from, to, EtherType::IPV4.0, packet)
}

/// An IPv4 packet.
pub fn packet(from: Ipv4Addr, to: Ipv4Addr, protocol: IpNumber, body: &[u8]) -> Vec<u8> {
    fragment(from, to, protocol, body, 0, false)
}

/// A fragment of one; `offset` in units of eight bytes.
pub fn fragment(from: Ipv4Addr, to: Ipv4Addr, protocol: IpNumber, body: &[u8], offset: u16, more: bool) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap();
    let mut header = Ipv4Header::new(length, 64, protocol, from.octets(), to.octets()).unwrap();
    header.fragment_offset = offset.try_into().unwrap();
    header.more_fragments = more;
    header.dont_fragment = false;
    header.header_checksum = header.calc_header_checksum();
    [header.to_bytes().as_slice(), body].concat()
}

/// A UDP datagram, without its IP header.
pub fn datagram(from: Ipv4Addr, to: Ipv4Addr, ports: (u16, u16), body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len() + 8).unwrap();
    let header = Ipv4Header::new(length, 64, IpNumber::UDP, from.octets(), to.octets()).unwrap();
    let udp = UdpHeader::with_ipv4_checksum(ports.0, ports.1, &header, body).unwrap();
    [&udp.to_bytes()[..], body].concat()
}

/// A UDP packet.
pub fn udp(from: Ipv4Addr, to: Ipv4Addr, ports: (u16, u16)) -> Vec<u8> {
    udp_of(from, to, ports, b"some bytes")
}

/// A UDP packet with these bytes.
pub fn udp_of(from: Ipv4Addr, to: Ipv4Addr, ports: (u16, u16), body: &[u8]) -> Vec<u8> {
    packet(from, to, IpNumber::UDP, &datagram(from, to, ports, body))
}

/// A question that a kernel answers with the same payload.
pub fn echo(from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let kind = Icmpv4Type::EchoRequest(IcmpEchoHeader { id: 7, seq: 7 });
    let icmp = Icmpv4Header::with_checksum(kind, payload).to_bytes();
    packet(from, to, IpNumber::ICMP, &[icmp.as_slice(), payload].concat())
}

/// The same frame with a mark at its end: within the packet, where there is one, since bridges cut off what is behind it.
pub fn marked(frame: &[u8], mark: &[u8]) -> Vec<u8> {
    let mut frame = [frame, mark].concat();
    let (kind, length) = (u16::from_be_bytes([frame[12], frame[13]]), u16::try_from(frame.len() - 14).unwrap());
    if kind == EtherType::IPV4.0 {
        let mut header = Ipv4Header::from_slice(&frame[14..]).unwrap().0;
        header.total_len = length;
        header.header_checksum = header.calc_header_checksum();
        frame[14..34].copy_from_slice(&header.to_bytes());
    } else if kind == EtherType::IPV6.0 {
        frame[18..20].copy_from_slice(&(length - 40).to_be_bytes());
    }
    frame
}

/// Who ARP says is speaking, or is spoken to.
pub type Speaker = (Mac, Ipv4Addr);

/// The body of an ARP (or RARP) frame.
pub fn arp_body(operation: u16, sender: Speaker, target: Speaker) -> Vec<u8> {
    let (sender_ip, target_ip) = (sender.1.octets(), target.1.octets());
    let (ethernet, operation) = (ArpHardwareId::ETHERNET, ArpOperation(operation));
    ArpPacket::new(ethernet, EtherType::IPV4, operation, &sender.0, &sender_ip, &target.0, &target_ip)
        .unwrap()
        .to_bytes()
        .to_vec()
}

/// "Who has this address?", to everybody.
pub fn arp_question(sender: Speaker, wanted: Ipv4Addr) -> Vec<u8> {
    ethernet(sender.0, BROADCAST, EtherType::ARP.0, &arp_body(1, sender, (NOBODY, wanted)))
}

/// "I have it", to one.
pub fn arp_answer(from: Mac, to: Mac, sender: Speaker, target: Speaker) -> Vec<u8> {
    ethernet(from, to, EtherType::ARP.0, &arp_body(2, sender, target))
}

/// "I am here now", as QEMU sends it for a guest that was moved.
pub fn announcement(from: Mac, who: Mac) -> Vec<u8> {
    ethernet(from, BROADCAST, RARP, &arp_body(3, (who, UNKNOWN), (who, UNKNOWN)))
}

/// Who answers here, if the frame is an ARP answer.
pub fn arp_answer_from(frame: &[u8]) -> Option<Mac> {
    let answers = frame.get(12..14)? == EtherType::ARP.0.to_be_bytes() && frame.get(20..22)? == [0, 2];
    frame.get(22..28).filter(|_| answers)?.try_into().ok()
}

/// The address with this last byte in the same farm.
pub fn neighbour(address: Ipv4Addr, last: u8) -> Ipv4Addr {
    let [a, b, c, _] = address.octets();
    Ipv4Addr::new(a, b, c, last)
}

/// A MAC address as people write it.
pub fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
