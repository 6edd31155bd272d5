package main

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
	"time"
)

// beats lets a router hear so many frames at each beat, and tells how often everybody was asked.
func beats(hearing *Hearing, frames ...uint64) (everybody int) {
	for _, more := range frames {
		if hearing.Beat(hearing.frames+more) == Everybody {
			everybody++
		}
	}
	return everybody
}

func TestWhoHearsNobodyIsDeafBeforeItTakesItsTurn(t *testing.T) {
	hearing := Hearing{}
	beats(&hearing, 3, 1, 2)
	beats(&hearing, 0, 0, 0)
	if hearing.Deaf {
		t.Error("a farm is quiet for a moment")
	}
	beats(&hearing, 0)
	if !hearing.Deaf {
		t.Error("nobody is there")
	}
	// Half a second passes between two that VRRP says, and 1.8 s without one until the turn is taken.
	if soonest := 1300 * time.Millisecond; (deafAfter+1)*beat >= soonest {
		t.Errorf("the turn is taken after %s", soonest)
	}
}

func TestOneFrameIsNotEnoughToHearAgain(t *testing.T) {
	hearing := Hearing{Deaf: true}
	beats(&hearing, 1, 0, 1, 1)
	if !hearing.Deaf {
		t.Error("two routers may both have the turn")
	}
	beats(&hearing, 1)
	if hearing.Deaf {
		t.Error("somebody is there")
	}
	if VRRP := 500 * time.Millisecond; hearsAfter*beat <= VRRP {
		t.Error("the other one wasn't heard yet")
	}
}

func TestMachinesAreAskedWhenTheOtherRouterDoesNotAnswer(t *testing.T) {
	hearing := Hearing{}
	if asked := hearing.Beat(7); asked != Nobody {
		t.Error("there was a frame")
	}
	if asked := hearing.Beat(7); asked != TheOther {
		t.Error("first the other router")
	}
	if asked := beats(&hearing, 1, 0, 1, 0, 1, 0, 1, 0); asked != 0 {
		t.Error("it answers, which is enough")
	}
	if asked := beats(&hearing, 0); asked != 1 {
		t.Error("it doesn't answer")
	}
	beats(&hearing, 0, 0)
	if asked := beats(&hearing, make([]uint64, 8*asksAgain)...); asked != 8 {
		t.Errorf("asked %d times: once a second will do", asked)
	}
}

func TestARouterAloneHearsMachinesThatSayNothingUnasked(t *testing.T) {
	hearing := Hearing{Deaf: true}
	for asked, beats := Nobody, 0; hearing.Deaf; beats++ {
		frames := hearing.frames
		if asked == Everybody {
			frames++
		}
		if asked = hearing.Beat(frames); beats > deafAfter+2*hearsAfter {
			t.Fatal("it stays deaf")
		}
	}
}

func TestMachinesAreThoseOfTheReservations(t *testing.T) {
	machines := readReservations("02:00:ac:10:07:02,172.16.7.2\n02:00:ac:10:07:0a,172.16.7.10,login,1h\n\nnonsense\nx,y\n")
	if len(machines) != 2 || machines[1].address != netip.MustParseAddr("172.16.7.10") || machines[1].mac.String() != "02:00:ac:10:07:0a" {
		t.Errorf("%v", machines)
	}
	card := Card{Cards: []OwnCard{
		{MAC: "02:00:ac:10:07:fd", Addresses: []netip.Prefix{netip.MustParsePrefix("172.16.7.253/24")}},
		{MAC: "02:00:ac:10:07:fe", Addresses: []netip.Prefix{netip.MustParsePrefix("172.16.7.254/24")}},
	}}
	own, others := card.seats(net.HardwareAddr{2, 0, 172, 16, 7, 254})
	if own != netip.MustParseAddr("172.16.7.254") || len(others) != 1 || others[0].address != netip.MustParseAddr("172.16.7.253") {
		t.Errorf("%v %v", own, others)
	}
}

func TestARPIsThatOfRFC826(t *testing.T) {
	own := net.HardwareAddr{2, 0, 172, 16, 7, 253}
	gateway := netip.MustParseAddr("172.16.7.1")
	frame := request{to: everybody, sender: gateway, target: gateway}.frame(own)
	expected := []byte{
		255, 255, 255, 255, 255, 255, 2, 0, 172, 16, 7, 253, 8, 6,
		0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 172, 16, 7, 253, 172, 16, 7, 1, 0, 0, 0, 0, 0, 0, 172, 16, 7, 1,
	}
	if !bytes.Equal(frame, expected) {
		t.Errorf("%v", frame)
	}
}
