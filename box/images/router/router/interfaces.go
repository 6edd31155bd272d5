package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// Cards is what interfaces.json says.
type Cards struct {
	Farm   Card    `json:"farm"`
	Public *Card   `json:"public,omitempty"`
	VPN    *Tunnel `json:"vpn,omitempty"`
}

// Card is a network card: the one of these that is there.
type Card struct {
	MTU   int       `json:"mtu"`
	Cards []OwnCard `json:"cards"`
	// Shared are addresses that come and go with the turn.
	Shared  []netip.Prefix `json:"shared,omitempty"`
	Gateway *netip.Addr    `json:"gateway,omitempty"`
}

// OwnCard is the card of one of the routers that are told the same, known by its MAC address.
type OwnCard struct {
	MAC       string         `json:"mac"`
	Addresses []netip.Prefix `json:"addresses"`
}

// Tunnel is where other farms are.
type Tunnel struct {
	MTU    int            `json:"mtu"`
	Routes []netip.Prefix `json:"routes"`
}

func readInterfaces(path string) (*Cards, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var cards Cards
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&cards); err != nil {
		return nil, err
	}
	return &cards, nil
}

// link as ip(8) tells of it.
type link struct {
	Name    string `json:"ifname"`
	MAC     string `json:"address"`
	Address []struct {
		Family string     `json:"family"`
		Local  netip.Addr `json:"local"`
		Prefix int        `json:"prefixlen"`
	} `json:"addr_info"`
}

// route as ip(8) tells of it.
type route struct {
	To string `json:"dst"`
}

func ask[T any](arguments ...string) ([]T, error) {
	text, err := run("ip", append([]string{"-json"}, arguments...)...)
	if err != nil || len(bytes.TrimSpace(text)) == 0 {
		return nil, err
	}
	var answer []T
	return answer, json.Unmarshal(text, &answer)
}

// Cards makes them what the file says.
func (Linux) Cards(folder string) error {
	cards, err := readInterfaces(filepath.Join(folder, Interfaces))
	if err != nil {
		return err
	}
	if err := cards.Farm.enforce("farm"); err != nil {
		return err
	}
	if cards.Public != nil {
		return cards.Public.enforce("public")
	}
	return nil
}

// Tunnel makes the tunnel and its routes what the files say. Of two routers one at a time has it.
func (Linux) Tunnel(folder string) error {
	cards, err := readInterfaces(filepath.Join(folder, Interfaces))
	if err != nil {
		return err
	}
	return cards.VPN.enforce(filepath.Join(folder, Wireguard), leads(folder))
}

// find tells which of the cards is there, and what is known of it.
func (card Card) find() (int, *link, error) {
	links, err := ask[link]("address", "show")
	if err != nil {
		return 0, nil, err
	}
	var wanted []string
	for seat, own := range card.Cards {
		for i := range links {
			if links[i].MAC == own.MAC {
				return seat, &links[i], nil
			}
		}
		wanted = append(wanted, own.MAC)
	}
	return 0, nil, fmt.Errorf("no card has the address %s", strings.Join(wanted, " or "))
}

func (card Card) enforce(name string) error {
	seat, found, err := card.find()
	if err != nil {
		return err
	}
	if found.Name != name {
		if err := errors.Join(do("ip", "link", "set", found.Name, "down"), do("ip", "link", "set", found.Name, "name", name)); err != nil {
			return err
		}
	}
	if err := do("ip", "link", "set", name, "mtu", fmt.Sprint(card.MTU), "up"); err != nil {
		return err
	}
	if err := card.addresses(name, card.Cards[seat].Addresses, found); err != nil {
		return err
	}
	if card.Gateway != nil {
		return do("ip", "route", "replace", "default", "via", card.Gateway.String(), "dev", name)
	}
	return nil
}

func (card Card) addresses(name string, own []netip.Prefix, now *link) error {
	there := map[netip.Prefix]bool{}
	for _, address := range now.Address {
		if address.Family != "inet" {
			continue
		}
		there[netip.PrefixFrom(address.Local, address.Prefix)] = true
	}
	for _, address := range own {
		if there[address] {
			delete(there, address)
			continue
		}
		if err := do("ip", "address", "add", address.String(), "dev", name); err != nil {
			return err
		}
		// Who knew another owner of the address hears of this one. Nobody has to.
		_, _ = run("arping", "-U", "-c", "1", "-I", name, address.Addr().String())
	}
	for _, address := range card.Shared {
		delete(there, address)
	}
	for address := range there {
		if err := do("ip", "address", "del", address.String(), "dev", name); err != nil {
			return err
		}
	}
	return nil
}

const tunnel = "vpn"

// enforce makes the tunnel, or removes it. One that is down is ready, and says nothing.
func (wanted *Tunnel) enforce(file string, up bool) error {
	_, err := os.Stat("/sys/class/net/" + tunnel)
	there := err == nil
	if wanted == nil {
		if there {
			return do("ip", "link", "del", tunnel)
		}
		return nil
	}
	if !there {
		if err := do("ip", "link", "add", tunnel, "type", "wireguard"); err != nil {
			return err
		}
	}
	if err := wireguard("syncconf", tunnel, file); err != nil {
		return err
	}
	if !up {
		return do("ip", "link", "set", tunnel, "down")
	}
	if err := do("ip", "link", "set", tunnel, "mtu", fmt.Sprint(wanted.MTU), "up"); err != nil {
		return err
	}
	return wanted.routes()
}

func (wanted *Tunnel) routes() error {
	now, err := ask[route]("-4", "route", "show", "dev", tunnel)
	if err != nil {
		return err
	}
	stays := map[string]bool{}
	for _, to := range wanted.Routes {
		stays[to.String()] = true
		if err := do("ip", "route", "replace", to.String(), "dev", tunnel); err != nil {
			return err
		}
	}
	for _, route := range now {
		to := route.To
		if address, err := netip.ParseAddr(to); err == nil {
			to = netip.PrefixFrom(address, address.BitLen()).String()
		}
		if !stays[to] {
			if err := do("ip", "route", "del", route.To, "dev", tunnel); err != nil {
				return err
			}
		}
	}
	return nil
}

// wireguard reads a file with a private key: what it says of it is not repeated.
func wireguard(arguments ...string) error {
	if _, err := run("wg", arguments...); err != nil {
		return errors.New("wg refuses it")
	}
	return nil
}

// checkTunnels lets a tunnel that leads nowhere read the file: wg has no other way to check it.
func checkTunnels(file string) error {
	text, err := os.ReadFile(file)
	if err != nil || len(text) == 0 {
		return err
	}
	const nowhere = "vpn-check"
	_, _ = run("ip", "link", "del", nowhere) // left by one that was cut off
	if err := do("ip", "link", "add", nowhere, "type", "wireguard"); err != nil {
		return err
	}
	return errors.Join(wireguard("setconf", nowhere, file), do("ip", "link", "del", nowhere))
}
