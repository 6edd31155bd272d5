package main

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
)

// Station is a network card: its address, and the MAC address that follows from it.
type Station struct {
	mac     [6]byte
	address [4]byte
}

func station(address netip.Addr) Station {
	four := address.As4()
	return Station{mac: [6]byte{0x02, 0x00, four[0], four[1], four[2], four[3]}, address: four}
}

// sibling is a station of the same farm that nobody is.
func (s Station) sibling(last byte) Station {
	address := s.address
	address[3] = last
	return station(netip.AddrFrom4(address))
}

// Parties are the cards of a test: all of one farm, but the outsider.
type Parties struct{ attacker, victim, peer, outsider Station }

// mark tells a frame of this run, and of which check, from all others.
type mark struct {
	nonce [8]byte
	check byte
}

var magic = [4]byte{'c', 'a', 'n', 'y'}

const markLength = len(magic) + 8 + 1

func (m mark) bytes() []byte {
	marked := append(magic[:len(magic):len(magic)], m.nonce[:]...)
	return append(marked, m.check)
}

func parseNonce(text string) (nonce [8]byte, err error) {
	if len(text) != 2*len(nonce) {
		return nonce, errors.New("a nonce has 16 hexadecimal digits")
	}
	_, err = hex.Decode(nonce[:], []byte(text))
	return nonce, err
}

const (
	typeIPv4 = 0x0800
	typeARP  = 0x0806
	typeVLAN = 0x8100
	typeLLDP = 0x88cc

	shortestFrame = 60
	vlan          = 5
	nobody        = 77 // last byte of an address that no card of the test has
)

var (
	broadcast = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	// Bridges keep frames to this address to themselves, and learn from them where the sender is.
	linkLocal = [6]byte{0x01, 0x80, 0xc2, 0x00, 0x00, 0x0e}
)

func ethernet(to, from [6]byte, kind uint16, payload []byte) []byte {
	frame := append(to[:len(to):len(to)], from[:]...)
	frame = binary.BigEndian.AppendUint16(frame, kind)
	frame = append(frame, payload...)
	for len(frame) < shortestFrame {
		frame = append(frame, 0)
	}
	return frame
}

// ip is a UDP datagram to the port that discards, with the mark as its data.
func ip(from, to [4]byte, m mark) []byte {
	data := m.bytes()
	udp := binary.BigEndian.AppendUint16(nil, 9)
	udp = binary.BigEndian.AppendUint16(udp, 9)
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(data)))
	udp = append(udp, 0, 0) // no checksum
	header := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 1, 17, 0, 0}
	binary.BigEndian.PutUint16(header[2:], uint16(20+len(udp)+len(data)))
	header = append(append(header, from[:]...), to[:]...)
	binary.BigEndian.PutUint16(header[10:], checksum(header))
	return append(append(header, udp...), data...)
}

func checksum(header []byte) uint16 {
	var sum uint32
	for at := 0; at < len(header); at += 2 {
		sum += uint32(binary.BigEndian.Uint16(header[at:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// arpClaim says to all that an address is at the sender. The mark stands in what would be padding.
func arpClaim(sender [6]byte, address [4]byte, m mark) []byte {
	claim := []byte{0, 1, 8, 0, 6, 4, 0, 2}
	claim = append(append(claim, sender[:]...), address[:]...)
	claim = append(append(claim, broadcast[:]...), address[:]...)
	return append(claim, m.bytes()...)
}

func tagged(frame []byte, tag uint16) []byte {
	head := append([]byte{}, frame[:12]...)
	head = binary.BigEndian.AppendUint16(head, typeVLAN)
	head = binary.BigEndian.AppendUint16(head, tag)
	return append(head, frame[12:]...)
}

// honest is what a card may send.
func honest(from, to Station, m mark) []byte {
	return ethernet(to.mac, from.mac, typeIPv4, ip(from.address, to.address, m))
}

// The names of the checks; their numbers stand in the frames.
const (
	good = iota
	crossFarmUnicast
	crossFarmBroadcast
	macSpoof
	ipSpoof
	arpSpoof
	vlanTag
	stealByFrame
	stealByLinkLocal
	lesson // honest frames by the way, which no check counts
	theft  // the frame that shall take over a place
)

var checkNames = []string{
	"good", "cross-farm-unicast", "cross-farm-broadcast", "mac-spoof", "ip-spoof", "arp-claim", "vlan-tag",
	"steal-by-frame", "steal-by-link-local",
}

// attacks make the one frame that each attack is made of.
var attacks = map[string]func(Parties, mark) []byte{
	checkNames[crossFarmUnicast]: func(who Parties, m mark) []byte { return honest(who.attacker, who.outsider, m) },
	checkNames[crossFarmBroadcast]: func(who Parties, m mark) []byte {
		return ethernet(broadcast, who.attacker.mac, typeIPv4, ip(who.attacker.address, [4]byte{255, 255, 255, 255}, m))
	},
	checkNames[macSpoof]: func(who Parties, m mark) []byte {
		forged := who.attacker.sibling(nobody)
		return ethernet(who.victim.mac, forged.mac, typeIPv4, ip(who.attacker.address, who.victim.address, m))
	},
	checkNames[ipSpoof]: func(who Parties, m mark) []byte {
		forged := who.attacker.sibling(nobody)
		return ethernet(who.victim.mac, who.attacker.mac, typeIPv4, ip(forged.address, who.victim.address, m))
	},
	checkNames[arpSpoof]: func(who Parties, m mark) []byte {
		gateway := who.attacker.sibling(1)
		return ethernet(broadcast, who.attacker.mac, typeARP, arpClaim(who.attacker.mac, gateway.address, m))
	},
	checkNames[vlanTag]: func(who Parties, m mark) []byte { return tagged(honest(who.attacker, who.victim, m), vlan) },
	checkNames[stealByFrame]: func(who Parties, m mark) []byte {
		return ethernet(who.peer.mac, who.victim.mac, typeIPv4, ip(who.victim.address, who.peer.address, m))
	},
	checkNames[stealByLinkLocal]: func(who Parties, m mark) []byte {
		return ethernet(linkLocal, who.victim.mac, typeLLDP, m.bytes())
	},
}
