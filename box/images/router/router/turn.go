package main

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
)

// seats are what the file's lines that are for one of two routers begin with.
var seats = []string{"first", "second"}

const (
	// seat says which of the two this is, or that it is alone; keepalived's script waits for it.
	seat = "/run/router/seat"
	// serving says that DNS and DHCP are this router's to serve.
	serving = "/run/router/serves"
)

// checkElection lets keepalived read the file as each of the two would. Before the cards have their names it would miss them:
// then the file is checked when they have.
func checkElection(file string) error {
	if text, err := os.ReadFile(file); err != nil || len(text) == 0 {
		return err
	}
	if _, err := os.Stat("/sys/class/net/farm"); err != nil {
		return nil
	}
	var wrong error
	for _, id := range seats {
		wrong = errors.Join(wrong, do("keepalived", "--config-test", "--config-id="+id, "--use-file="+file))
	}
	return wrong
}

// Elect tells keepalived what changed; init starts it when it is known which of the two this is.
func (Linux) Elect(folder string) error {
	if isAlone(folder) {
		return os.WriteFile(seat, []byte("alone"), 0o644)
	}
	if err := checkElection(filepath.Join(folder, Keepalived)); err != nil {
		return err
	}
	cards, err := readInterfaces(filepath.Join(folder, Interfaces))
	if err != nil {
		return err
	}
	own, _, err := cards.Farm.find()
	if err != nil {
		return err
	}
	if own >= len(seats) {
		return errors.New("more than two routers")
	}
	if err := os.WriteFile(seat, []byte(seats[own]), 0o644); err != nil {
		return err
	}
	_, _ = run("killall", "-HUP", "keepalived") // there may be none yet
	return nil
}

// isAlone tells whether there is no other router.
func isAlone(folder string) bool {
	about, err := os.Stat(filepath.Join(folder, Keepalived))
	return err != nil || about.Size() == 0
}

// leads tells whether the gateway's address is here. keepalived puts it on the card before it says that the turn has come.
func leads(folder string) bool {
	if isAlone(folder) {
		return true
	}
	cards, err := readInterfaces(filepath.Join(folder, Interfaces))
	if err != nil {
		return false
	}
	_, link, err := cards.Farm.find()
	if err != nil {
		return false
	}
	for _, address := range link.Address {
		is := func(shared netip.Prefix) bool { return shared.Addr() == address.Local }
		if slices.ContainsFunc(cards.Farm.Shared, is) {
			return true
		}
	}
	return false
}

// Leads tells whether it is this router's turn.
func (Linux) Leads(folder string) *bool {
	if isAlone(folder) {
		return nil
	}
	leads := leads(folder)
	return &leads
}

// Turn does what depends on whose turn it is, and isn't keepalived's own to do: the tunnel, and DNS with DHCP.
func (linux Linux) Turn(folder string) error {
	wrong := linux.Tunnel(folder)
	if leads(folder) {
		return errors.Join(wrong, os.WriteFile(serving, nil, 0o644))
	}
	if err := os.Remove(serving); err != nil && !os.IsNotExist(err) {
		wrong = errors.Join(wrong, err)
	}
	_, _ = run("killall", "-TERM", "dnsmasq") // there may be none
	return wrong
}

// Turn is called whenever the turn changed. It waits for files that are being put in force.
func (router Router) Turn() error {
	unlock, err := lock(filepath.Join(router.Folder, "lock"))
	if err != nil {
		return err
	}
	defer unlock()
	return router.System.Turn(filepath.Join(router.Folder, "current"))
}
