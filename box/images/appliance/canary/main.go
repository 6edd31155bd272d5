// Command cascina-canary attacks the neighbours of the guest that it runs in, to see whether the host keeps farms apart.
//
//	cascina-canary run NONCE ATTACKER VICTIM PEER OUTSIDER
//	        tries every attack between the guest's own four network cards, named by their addresses, and prints as JSON
//	        what arrived where. Attacker, victim and peer are of one farm, the outsider is of another.
//	cascina-canary attack NAME INTERFACE SELF VICTIM [COUNT]
//	        sends the frame of one attack to somebody else
//	cascina-canary send INTERFACE HEX [COUNT]
//	        sends any frame
//
// It judges nothing: that is for whoever asked.
package main

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
)

var errUsage = errors.New("usage: cascina-canary run NONCE ATTACKER VICTIM PEER OUTSIDER | " +
	"attack NAME INTERFACE SELF VICTIM [COUNT] | send INTERFACE HEX [COUNT]")

func main() {
	if err := command(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "cascina-canary: %v\n", err)
		os.Exit(1)
	}
}

func command(args []string) error {
	switch {
	case len(args) == 6 && args[0] == "run":
		return runTest(args[1], args[2:])
	case (len(args) == 5 || len(args) == 6) && args[0] == "attack":
		attack, ok := attacks[args[1]]
		if !ok {
			return fmt.Errorf("no attack %q", args[1])
		}
		named, err := stations(args[3:5])
		if err != nil {
			return err
		}
		self, victim := named[0], named[1]
		frame := attack(Parties{attacker: self, victim: victim, peer: victim, outsider: victim}, mark{})
		return sendOn(args[2], frame, args[5:])
	case (len(args) == 3 || len(args) == 4) && args[0] == "send":
		frame, err := hex.DecodeString(args[2])
		if err != nil {
			return fmt.Errorf("frame: %w", err)
		}
		return sendOn(args[1], frame, args[3:])
	}
	return errUsage
}

func runTest(text string, names []string) error {
	nonce, err := parseNonce(text)
	if err != nil {
		return err
	}
	named, err := stations(names)
	if err != nil {
		return err
	}
	who := Parties{attacker: named[0], victim: named[1], peer: named[2], outsider: named[3]}
	wires, err := openWires(who)
	if err != nil {
		return err
	}
	defer wires.close()
	return json.NewEncoder(os.Stdout).Encode(report{Nonce: text, Checks: tryAll(wires, who, nonce)})
}

func stations(texts []string) ([]Station, error) {
	var all []Station
	for _, text := range texts {
		address, err := netip.ParseAddr(text)
		if err != nil || !address.Is4() {
			return nil, fmt.Errorf("%q is no IPv4 address", text)
		}
		all = append(all, station(address))
	}
	return all, nil
}

func sendOn(name string, frame []byte, count []string) error {
	times := 1
	if len(count) == 1 {
		parsed, err := strconv.Atoi(count[0])
		if err != nil || parsed < 1 || parsed > 1000 {
			return fmt.Errorf("count: %q is not between 1 and 1000", count[0])
		}
		times = parsed
	}
	card, err := net.InterfaceByName(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	wire, err := openWire(card.Index)
	if err != nil {
		return err
	}
	defer wire.close()
	return wire.send(frame, times)
}
