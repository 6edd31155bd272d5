package main

import (
	"encoding/hex"
	"net/netip"
	"testing"
)

func someone(text string) Station { return station(netip.MustParseAddr(text)) }

var who = Parties{someone("198.18.0.4"), someone("198.18.0.2"), someone("198.18.0.3"), someone("198.18.1.2")}

// A bridge with or without filters, and with or without learning from link-local frames.
type bridge struct {
	wires
	filters, learnsLinkLocal bool
	table                    map[[6]byte]int
}

func (b *bridge) listen(nonce [8]byte) { b.nonce = nonce; b.table = map[[6]byte]int{} }

func (b *bridge) sendFrom(at int, frame []byte, times int) error {
	to, from := [6]byte(frame[:6]), [6]byte(frame[6:12])
	if to == linkLocal {
		if b.learnsLinkLocal {
			b.table[from] = at
		}
		return nil
	}
	if b.filters && !honestFrom(ports[at], frame) {
		return nil
	}
	b.table[from] = at
	for port := range cards {
		known, learnt := b.table[to]
		reached := port != at && (!learnt || known == port)
		if reached && (!b.filters || sameFarm(ports[port].mac, from)) {
			for range times {
				b.count(port, frame)
			}
		}
	}
	return nil
}

var ports = [cards]Station{who.attacker, who.victim, who.peer, who.outsider}

func sameFarm(one, other [6]byte) bool { return [5]byte(one[:5]) == [5]byte(other[:5]) }

// honestFrom tells whether a card may send this: untagged IP as itself, to its farm or to all.
func honestFrom(self Station, frame []byte) bool {
	to, from := [6]byte(frame[:6]), [6]byte(frame[6:12])
	isIP := frame[12] == 0x08 && frame[13] == 0x00
	return from == self.mac && (to == broadcast || sameFarm(to, from)) && isIP && [4]byte(frame[26:30]) == self.address
}

func outcome(b *bridge) map[string]check {
	byName := map[string]check{}
	for _, check := range tryAll(b, who, [8]byte{1, 2, 3}) {
		byName[check.Name] = check
	}
	return byName
}

func TestAHostThatHoldsLetsHonestFramesPassAndNoOthers(t *testing.T) {
	checks := outcome(&bridge{filters: true})
	if len(checks) != len(checkNames) {
		t.Fatalf("%d checks of %d", len(checks), len(checkNames))
	}
	for name, check := range checks {
		delivers := name == checkNames[good] || name == checkNames[stealByFrame] || name == checkNames[stealByLinkLocal]
		if check.Strayed != 0 || check.Sent != frames || delivers != (check.Arrived == frames) {
			t.Errorf("%s: %+v", name, check)
		}
	}
}

func TestWithoutFiltersEveryAttackPasses(t *testing.T) {
	for name, check := range outcome(&bridge{}) {
		if strays := check.Strayed > 0; strays == (name == checkNames[good] || name == checkNames[stealByLinkLocal]) {
			t.Errorf("%s: %+v", name, check)
		}
	}
}

func TestABridgeThatLearnsFromLinkLocalFramesIsRobbed(t *testing.T) {
	for name, check := range outcome(&bridge{filters: true, learnsLinkLocal: true}) {
		if stolen := check.Strayed > 0; stolen != (name == checkNames[stealByLinkLocal]) {
			t.Errorf("%s: %+v", name, check)
		}
	}
}

func TestFramesAreWhatTheySay(t *testing.T) {
	frame := hex.EncodeToString(honest(who.peer, who.victim, mark{[8]byte{0xaa}, 7}))
	const want = "0200c612000202" + "00c6120003" + "0800" + // to, from, IPv4
		"4500002900000000" + "0111" + "2d9b" + "c6120003" + "c6120002" + // header with its checksum
		"000900090015" + "0000" + "63616e79" + "aa00000000000000" + "07" // UDP, the mark
	if frame[:len(want)] != want {
		t.Errorf("\n%s, not\n%s", frame[:len(want)], want)
	}
	for name, attack := range attacks {
		if frame := attack(who, mark{}); len(frame) < shortestFrame {
			t.Errorf("%s is too short", name)
		}
	}
}

func TestOddArgumentsAreRefused(t *testing.T) {
	for _, args := range [][]string{
		{}, {"run"}, {"run", "xyz", "198.18.0.4", "198.18.0.2", "198.18.0.3", "198.18.1.2"},
		{"run", "0011223344556677", "::1", "198.18.0.2", "198.18.0.3", "198.18.1.2"},
		{"attack", "none", "eth0", "198.18.0.4", "198.18.0.2"}, {"send", "eth0", "xx"},
		{"send", "no-such-card", "00", "1"}, {"send", "lo", "00", "100000"},
	} {
		if command(args) == nil {
			t.Errorf("%v was taken", args)
		}
	}
}
