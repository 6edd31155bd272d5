package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// System is what the files are put in force on.
type System interface {
	// Prepared waits until the kernel has what the files need.
	Prepared() error
	// Check tells whether the files of a folder that changed could be put in force. It changes nothing.
	Check(folder string, changed func(name string) bool) error
	// Settings are the kernel's.
	Settings(folder string) error
	// Wall is NAT and firewall.
	Wall(folder string) error
	// Cards are the farm's and the public one, with addresses and the way on.
	Cards(folder string) error
	// Elect lets two routers agree whose turn it is.
	Elect(folder string) error
	// Leads tells whether it is this one's; nil: it is alone.
	Leads(folder string) *bool
	// Turn does what depends on whose turn it is.
	Turn(folder string) error
	// Watch keeps one of two quiet outside while it hears nobody in the farm.
	Watch(folder string) error
	// Tunnel leads to other farms.
	Tunnel(folder string) error
	// ServeAnew starts DNS and DHCP with another configuration.
	ServeAnew(folder string) error
	// Serve lets them know of other machines.
	Serve(folder string) error
	// Forward lets packets pass.
	Forward() error
	// Counts tells what was counted.
	Counts() Counts
	Peers() map[string]Peer
}

// Linux is the system itself.
type Linux struct{}

func run(name string, arguments ...string) ([]byte, error) {
	return runWith("", name, arguments...)
}

func runWith(input, name string, arguments ...string) ([]byte, error) {
	var said, wrong strings.Builder
	command := exec.Command(name, arguments...)
	command.Stdin, command.Stdout, command.Stderr = strings.NewReader(input), &said, &wrong
	if err := command.Run(); err != nil {
		return nil, failed(name, []byte(wrong.String()+said.String()), err)
	}
	return []byte(said.String()), nil
}

func do(name string, arguments ...string) error {
	_, err := run(name, arguments...)
	return err
}

func lock(path string) (func(), error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err != nil {
		return nil, err
	}
	return func() { _ = file.Close() }, nil
}

// Prepared waits for the kernel's modules.
func (Linux) Prepared() error {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if _, err := os.Stat("/run/prepared"); err == nil {
			return nil
		}
	}
	return errors.New("the kernel's modules are not loaded yet")
}

// Check asks the programs that will read the files.
func (Linux) Check(folder string, changed func(string) bool) error {
	for _, check := range []struct {
		name string
		of   func(file string) error
	}{
		{Interfaces, func(file string) error { _, err := readInterfaces(file); return err }},
		{Sysctl, func(file string) error { _, err := readSettings(file); return err }},
		{Nftables, func(file string) error { return do("nft", "--check", "--file", file) }},
		{Dnsmasq, func(file string) error { return do("dnsmasq", "--test", "--conf-file="+file) }},
		{Wireguard, checkTunnels},
		{Keepalived, checkElection},
	} {
		if !changed(check.name) {
			continue
		}
		if err := check.of(filepath.Join(folder, check.name)); err != nil {
			return Fault{check.name, err}
		}
	}
	return nil
}

// Setting is one of the kernel's, and its value.
type Setting struct{ Path, Value string }

func readSettings(path string) ([]Setting, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var settings []Setting
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		name, value, found := strings.Cut(line, " = ")
		if !found || !strings.HasPrefix(name, "net.") || strings.ContainsAny(name, "/ ") {
			return nil, fmt.Errorf("%q is no setting of the network", line)
		}
		settings = append(settings, Setting{"/proc/sys/" + strings.ReplaceAll(name, ".", "/"), value})
	}
	return settings, nil
}

// Settings writes them.
func (Linux) Settings(folder string) error {
	settings, err := readSettings(filepath.Join(folder, Sysctl))
	if err != nil {
		return err
	}
	for _, setting := range settings {
		if err := os.WriteFile(setting.Path, []byte(setting.Value), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Wall replaces the table in one transaction, in which counters go on where they were, and forgets connections that came through a way in that is gone: the wall
// drops their packets, but a sender that goes on would keep them alive.
func (Linux) Wall(folder string) error {
	before := entrances()
	rules, err := os.ReadFile(filepath.Join(folder, Nftables))
	if err != nil {
		return err
	}
	counting := "/run/router/counting.conf"
	if err := os.WriteFile(counting, []byte(goOnCounting(string(rules), counters())), 0o600); err != nil {
		return err
	}
	if err := do("nft", "--file", counting); err != nil {
		return err
	}
	after := entrances()
	for mark := range before {
		if !after[mark] {
			// That there is none is an error to it.
			_, _ = run("conntrack", "--delete", "--mark", mark)
		}
	}
	return nil
}

// ServeAnew ends the server; init starts it again.
func (Linux) ServeAnew(folder string) error {
	if leads(folder) {
		if err := os.WriteFile(serving, nil, 0o644); err != nil {
			return err
		}
	}
	_, _ = run("killall", "-TERM", "dnsmasq") // there may be none yet
	return nil
}

// Serve lets it read the files about machines again. One that just starts and takes this for its end starts again.
func (Linux) Serve(string) error {
	_, _ = run("killall", "-HUP", "dnsmasq")
	return nil
}

// Forward lets packets pass.
func (Linux) Forward() error {
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644)
}
