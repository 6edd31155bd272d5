package main

import (
	"net"
	"net/netip"
	"syscall"
)

// everybody is Ethernet's broadcast address.
var everybody = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// wire is a card that ARP is spoken on (RFC 826). It hears nothing: whoever answers is counted by the card.
type wire struct {
	socket int
	card   *net.Interface
}

func openWire(name string) (*wire, error) {
	card, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	// Of protocol 0 no frame is received.
	socket, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &wire{socket, card}, nil
}

func (wire *wire) close() { _ = syscall.Close(wire.socket) }

// request asks for the address of a neighbour; if that is the sender's own, it tells where the sender is.
type request struct {
	to             net.HardwareAddr
	sender, target netip.Addr
}

func (request request) frame(from net.HardwareAddr) []byte {
	sender, target := request.sender.As4(), request.target.As4()
	frame := append([]byte{}, request.to...)
	frame = append(frame, from...)
	// ARP; of Ethernet and IPv4, whose addresses have 6 and 4 bytes; a request.
	frame = append(frame, 0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, 1)
	frame = append(append(frame, from...), sender[:]...)
	return append(append(frame, make([]byte, 6)...), target[:]...)
}

// say sends one. A card that is down says nothing, which is what happens then anyway.
func (wire *wire) say(request request) {
	if !request.sender.Is4() || !request.target.Is4() {
		return // the card is not one of those that the files speak of
	}
	to := syscall.SockaddrLinklayer{Ifindex: wire.card.Index, Halen: 6}
	copy(to.Addr[:], request.to)
	_ = syscall.Sendto(wire.socket, request.frame(wire.card.HardwareAddr), 0, &to)
}
