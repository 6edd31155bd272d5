package main

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Of two routers, one that is cut off from the farm hears nobody there, the other one's VRRP neither, and takes its turn: it
// can't know better. In the public network it would then be a second owner of the addresses. So it is quiet there while it
// hears nobody at all: whoever hears the farm's machines has the public side.

const (
	// beat is how often it is looked whether somebody is heard.
	beat = 250 * time.Millisecond
	// deafAfter beats without a frame nobody is there. keepalived takes the turn 1.3 s after a cut at the earliest: the router
	// is quiet by then.
	deafAfter = 4
	// hearsAfter beats with frames somebody is: meanwhile two that both have the turn hear each other, which takes VRRP half a
	// second, and one gives it up before anything of it is heard outside.
	hearsAfter = 3
	// asksAgain is after how many beats one that hears nobody asks once more.
	asksAgain = 4
)

// Hearing is what is known of who is in the farm.
type Hearing struct {
	frames       uint64
	silent, loud int
	// Deaf: nobody is heard.
	Deaf bool
}

// Beat takes how many frames the farm's card has received in all. It tells who is to be asked for a frame.
func (hearing *Hearing) Beat(frames uint64) (asked Asked) {
	if frames == hearing.frames {
		hearing.silent, hearing.loud = hearing.silent+1, 0
	} else {
		hearing.silent, hearing.loud = 0, hearing.loud+1
	}
	hearing.frames = frames
	switch {
	case hearing.silent >= deafAfter:
		hearing.Deaf = true
	case hearing.loud >= hearsAfter:
		hearing.Deaf = false
	}
	switch {
	case hearing.silent == 0 && hearing.Deaf:
		return Everybody // one that begins to hear doesn't take the quiet of a farm for deafness again
	case hearing.silent == 0, hearing.silent >= deafAfter && hearing.silent%asksAgain != 0:
		return Nobody
	case hearing.silent == 1 && !hearing.Deaf:
		return TheOther
	}
	return Everybody
}

// Asked is who is asked whether they are there.
type Asked int

const (
	// Nobody is: there are frames enough.
	Nobody Asked = iota
	// TheOther router is.
	TheOther
	// Everybody in the farm is.
	Everybody
)

// Watch keeps a router quiet outside while it hears nobody in the farm. It ends when something can't be read or said.
func (linux Linux) Watch(folder string) error {
	hearing := Hearing{Deaf: true}
	quiet := false
	for range time.Tick(beat) {
		asked := hearing.Beat(uint64(number("/sys/class/net/farm/statistics/rx_packets")))
		if quiet != hearing.Deaf {
			if err := hush(hearing.Deaf); err != nil {
				return err
			}
			quiet = hearing.Deaf
			fmt.Fprintln(os.Stderr, "cascina-router: hears nobody in the farm:", quiet)
			if !quiet && leads(folder) {
				if err := announce(folder); err != nil {
					return err
				}
			}
		}
		if asked != Nobody {
			if err := askFor(folder, asked); err != nil {
				return err
			}
		}
	}
	return nil
}

// hush keeps everything that the router says from the public network, keepalived's announcements too, which tables of other
// families don't see.
func hush(quiet bool) error {
	const table = "table netdev cascina_quiet"
	if _, err := os.Stat("/sys/class/net/public"); err != nil {
		return nil // it has no public side
	}
	rules := table + "\ndelete " + table + "\n"
	if quiet {
		rules += table + " { chain out { type filter hook egress device public priority 0; policy drop; }; }\n"
	}
	_, err := runWith(rules, "nft", "--file", "-")
	return err
}

// announce tells everybody where the addresses are that go with the turn: who heard another owner last goes by that.
func announce(folder string) error {
	cards, err := readInterfaces(filepath.Join(folder, Interfaces))
	if err != nil {
		return err
	}
	for name, card := range map[string]*Card{"farm": &cards.Farm, "public": cards.Public} {
		if card == nil {
			continue
		}
		wire, err := openWire(name)
		if err != nil {
			return err
		}
		for _, address := range card.Shared {
			wire.say(request{to: everybody, sender: address.Addr(), target: address.Addr()})
		}
		wire.close()
	}
	return nil
}

// askFor asks for the addresses of others: their answers are frames.
func askFor(folder string, asked Asked) error {
	cards, err := readInterfaces(filepath.Join(folder, Interfaces))
	if err != nil {
		return err
	}
	wire, err := openWire("farm")
	if err != nil {
		return err
	}
	defer wire.close()
	own, others := cards.Farm.seats(wire.card.HardwareAddr)
	if asked == Everybody {
		reservations, err := os.ReadFile(filepath.Join(folder, Reservations))
		if err != nil {
			return err
		}
		others = append(others, readReservations(string(reservations))...)
	}
	for _, neighbour := range others {
		wire.say(request{to: neighbour.mac, sender: own, target: neighbour.address})
	}
	return nil
}

// Neighbour is who may be in the farm.
type Neighbour struct {
	mac     net.HardwareAddr
	address netip.Addr
}

// seats tells the own address of the router that has this card, and who else is told the same.
func (card Card) seats(own net.HardwareAddr) (address netip.Addr, others []Neighbour) {
	for _, seat := range card.Cards {
		mac, err := net.ParseMAC(seat.MAC)
		switch {
		case err != nil || len(seat.Addresses) == 0:
		case bytes.Equal(mac, own):
			address = seat.Addresses[0].Addr()
		default:
			others = append(others, Neighbour{mac, seat.Addresses[0].Addr()})
		}
	}
	return address, others
}

// readReservations reads the file by which machines get their addresses; what isn't of its form is nobody.
func readReservations(text string) (machines []Neighbour) {
	for _, line := range strings.Split(text, "\n") {
		fields := strings.Split(line, ",")
		if len(fields) < 2 {
			continue
		}
		mac, badMAC := net.ParseMAC(fields[0])
		address, badAddress := netip.ParseAddr(fields[1])
		if badMAC == nil && badAddress == nil {
			machines = append(machines, Neighbour{mac, address})
		}
	}
	return machines
}

// Watch goes on while the files that are in force say so.
func (router Router) Watch() error {
	return router.System.Watch(filepath.Join(router.Folder, "current"))
}
