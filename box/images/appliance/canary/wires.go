package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// wire is a raw socket on one network card.
type wire struct{ socket int }

// networkOrder is how the kernel wants the number of a protocol.
func networkOrder(number uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, number))
}

func openWire(index int) (*wire, error) {
	protocol := networkOrder(syscall.ETH_P_ALL)
	socket, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, int(protocol))
	if err != nil {
		return nil, fmt.Errorf("raw socket: %w", err)
	}
	wire := &wire{socket}
	// So that whoever listens looks up now and then.
	pause := syscall.NsecToTimeval((20 * time.Millisecond).Nanoseconds())
	err = errors.Join(
		syscall.Bind(socket, &syscall.SockaddrLinklayer{Protocol: protocol, Ifindex: index}),
		syscall.SetsockoptTimeval(socket, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &pause))
	if err != nil {
		wire.close()
		return nil, fmt.Errorf("raw socket: %w", err)
	}
	return wire, nil
}

func (w *wire) close() { syscall.Close(w.socket) }

func (w *wire) send(frame []byte, times int) error {
	for range times {
		if _, err := syscall.Write(w.socket, frame); err != nil {
			return fmt.Errorf("sending: %w", err)
		}
	}
	return nil
}

// listen hands every frame that comes in to whoever wants it, until told to stop.
func (w *wire) listen(stop <-chan struct{}, hear func([]byte)) {
	buffer := make([]byte, 2048)
	for {
		select {
		case <-stop:
			return
		default:
		}
		count, from, err := syscall.Recvfrom(w.socket, buffer, 0)
		if err != nil {
			continue // mostly: nothing came for a while
		}
		if link, ok := from.(*syscall.SockaddrLinklayer); ok && link.Pkttype != syscall.PACKET_OUTGOING {
			hear(buffer[:count])
		}
	}
}

// readyCard brings a card up so that it shows all that the bridge sends it, and says nothing by itself.
func readyCard(mac [6]byte) (int, error) {
	cards, err := net.Interfaces()
	if err != nil {
		return 0, err
	}
	for _, card := range cards {
		if !bytes.Equal(card.HardwareAddr, mac[:]) {
			continue
		}
		// A kernel without IPv6 has no such file, and is silent all the same.
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+card.Name+"/disable_ipv6", []byte("1"), 0)
		said, err := exec.Command("ip", "link", "set", card.Name, "promisc", "on", "up").CombinedOutput()
		if err != nil {
			return 0, fmt.Errorf("%s: %w: %s", card.Name, err, said)
		}
		return card.Index, nil
	}
	return 0, fmt.Errorf("no network card has the MAC address %s", net.HardwareAddr(mac[:]))
}

// The cards of a test, in the order in which they are named.
const (
	attacker = iota
	victim
	peer
	outsider
	cards
)

// wires are the cards of a test and what was heard on each, by check.
type wires struct {
	all   [cards]*wire
	stop  chan struct{}
	ears  sync.WaitGroup
	mutex sync.Mutex
	heard [cards][theft + 1]int
	nonce [8]byte
}

func openWires(who Parties) (*wires, error) {
	opened := &wires{stop: make(chan struct{})}
	for at, station := range []Station{who.attacker, who.victim, who.peer, who.outsider} {
		index, err := readyCard(station.mac)
		if err == nil {
			opened.all[at], err = openWire(index)
		}
		if err != nil {
			opened.close()
			return nil, err
		}
	}
	return opened, nil
}

func (w *wires) listen(nonce [8]byte) {
	w.nonce = nonce
	for at, wire := range w.all {
		w.ears.Go(func() { wire.listen(w.stop, func(frame []byte) { w.count(at, frame) }) })
	}
}

// count finds the mark of this run in a frame.
func (w *wires) count(at int, frame []byte) {
	wanted := append(magic[:len(magic):len(magic)], w.nonce[:]...)
	found := bytes.Index(frame, wanted)
	if found < 0 || found+markLength > len(frame) {
		return
	}
	check := int(frame[found+markLength-1])
	if check > theft {
		return
	}
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.heard[at][check]++
}

func (w *wires) heardOn(at, check int) int {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return w.heard[at][check]
}

func (w *wires) close() {
	close(w.stop)
	w.ears.Wait()
	for _, wire := range w.all {
		if wire != nil {
			wire.close()
		}
	}
}
