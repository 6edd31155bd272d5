package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Router is what is kept between two calls: which files are in force.
type Router struct {
	Folder string
	System System
}

// Applied is the answer to a bundle.
type Applied struct {
	// Hash of the files that are in force now.
	Hash string `json:"hash,omitempty"`
	// Leads tells, of two routers, whether it is this one's turn.
	Leads *bool `json:"leads,omitempty"`
	// Missing names files whose contents have to be sent too.
	Missing []string `json:"missing,omitempty"`
	// File that is wrong, if one is, and what is wrong.
	File  string `json:"file,omitempty"`
	Error string `json:"error,omitempty"`
}

// Fault is what is wrong with a file.
type Fault struct {
	File string
	Err  error
}

func (fault Fault) Error() string { return fault.File + ": " + fault.Err.Error() }

// Take keeps a piece of a bundle. The first one begins a new bundle, the others follow on what is there.
func (router Router) Take(place string, input io.Reader) error {
	begin, err := strconv.ParseInt(place, 10, 64)
	if err != nil || begin < 0 || begin > LargestBundle {
		return fmt.Errorf("%q is no place in a bundle", place)
	}
	if err := os.MkdirAll(router.Folder, 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(router.bundle(), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	if about, err := file.Stat(); err != nil || begin > about.Size() {
		return fmt.Errorf("nothing stands before byte %d yet", begin)
	}
	if err := file.Truncate(begin); err != nil {
		return err
	}
	if _, err := file.Seek(begin, io.SeekStart); err != nil {
		return err
	}
	_, err = io.Copy(file, io.LimitReader(input, LargestBundle-begin))
	return err
}

func (router Router) bundle() string { return filepath.Join(router.Folder, "bundle.json") }

// Apply puts the bundle in force that was taken, or tells why not.
func (router Router) Apply() Applied {
	missing, err := router.apply()
	answer := Applied{Hash: router.inForce().overall(), Leads: router.leads(), Missing: missing}
	if err != nil {
		answer.Error = err.Error()
		var fault Fault
		if errors.As(err, &fault) {
			answer.File, answer.Error = fault.File, fault.Err.Error()
		}
	}
	return answer
}

func (router Router) apply() ([]string, error) {
	input, err := os.Open(router.bundle())
	if err != nil {
		return nil, err
	}
	defer input.Close()
	bundle, err := ReadBundle(input)
	if err != nil {
		return nil, err
	}
	unlock, err := lock(filepath.Join(router.Folder, "lock"))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := router.System.Prepared(); err != nil {
		return nil, err
	}
	done := router.inForce()
	changed := func(name string) bool { return done[name] != bundle.Documents[name].Hash }
	current := filepath.Join(router.Folder, "current")
	before, _ := os.Readlink(current)
	next := filepath.Join(router.Folder, "files-"+bundle.Hash[:12])
	if next != before {
		if missing, err := bundle.Write(next, current); err != nil || len(missing) > 0 {
			_ = os.RemoveAll(next)
			return missing, err
		}
		if err := router.System.Check(next, changed); err != nil {
			_ = os.RemoveAll(next)
			return nil, err
		}
		if err := swap(current, next); err != nil {
			return nil, err
		}
		if before != "" {
			_ = os.RemoveAll(before)
		}
	}
	return nil, router.enforce(bundle, current, done, changed)
}

// enforce makes the system work by the files, those that changed, and notes each that it does work by.
func (router Router) enforce(bundle *Bundle, current string, done Hashes, changed func(string) bool) error {
	note := func(name string) error {
		done[name] = bundle.Documents[name].Hash
		return router.remember(done)
	}
	// First the wall, then what it stands before; last of all, packets pass. A file is noted at the last step that reads it.
	for _, step := range []struct {
		reads []string
		run   func(folder string) error
		notes []string
	}{
		{[]string{Sysctl}, router.System.Settings, []string{Sysctl}},
		{[]string{Nftables}, router.System.Wall, []string{Nftables}},
		{[]string{Interfaces}, router.System.Cards, nil},
		{[]string{Interfaces, Keepalived}, router.System.Elect, []string{Keepalived}},
		{[]string{Interfaces, Wireguard}, router.System.Tunnel, []string{Interfaces, Wireguard}},
		{[]string{Dnsmasq}, router.System.ServeAnew, []string{Dnsmasq}},
		{[]string{Hosts, Reservations}, router.System.Serve, []string{Hosts, Reservations}},
	} {
		if !anyOf(step.reads, changed) {
			continue
		}
		if err := step.run(current); err != nil {
			return Fault{step.reads[len(step.reads)-1], err}
		}
		for _, name := range step.notes {
			if err := note(name); err != nil {
				return err
			}
		}
	}
	return router.System.Forward()
}

func anyOf(names []string, is func(string) bool) bool {
	for _, name := range names {
		if is(name) {
			return true
		}
	}
	return false
}

// Hashes of files, by name.
type Hashes map[string]string

func (hashes Hashes) overall() string {
	if len(hashes) < len(all) {
		return ""
	}
	return Overall(hashes)
}

// inForce tells by which files the system works. It may be cut off between two of them.
func (router Router) inForce() Hashes {
	hashes := Hashes{}
	if text, err := os.ReadFile(filepath.Join(router.Folder, "in-force.json")); err == nil {
		_ = json.Unmarshal(text, &hashes) // unreadable: nothing is, and all is done again
	}
	return hashes
}

func (router Router) remember(hashes Hashes) error {
	text, err := json.Marshal(hashes)
	if err != nil {
		return err
	}
	file := filepath.Join(router.Folder, "in-force.json")
	if err := os.WriteFile(file+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// swap makes a link lead elsewhere, at once.
func swap(link, target string) error {
	_ = os.Remove(link + ".new")
	if err := os.Symlink(target, link+".new"); err != nil {
		return err
	}
	return os.Rename(link+".new", link)
}

func short(text []byte) string {
	const most = 500
	said := strings.TrimSpace(string(text))
	if len(said) > most {
		said = said[:most] + "…"
	}
	return said
}

func failed(command string, output []byte, err error) error {
	if said := short(output); said != "" {
		return fmt.Errorf("%s: %s", command, said)
	}
	return fmt.Errorf("%s: %w", command, err)
}
