package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// LargestBundle is more than a farm of 253 machines and 1,000 forwards takes.
const LargestBundle = 4 << 20

// Names of the files, each of which a bundle names.
const (
	Interfaces   = "interfaces.json"
	Dnsmasq      = "dnsmasq.conf"
	Hosts        = "dnsmasq.hosts"
	Reservations = "dnsmasq.reservations"
	Nftables     = "nftables.conf"
	Wireguard    = "wireguard.conf"
	Sysctl       = "sysctl.conf"
	Keepalived   = "keepalived.conf"
)

var all = []string{Dnsmasq, Hosts, Reservations, Interfaces, Keepalived, Nftables, Sysctl, Wireguard}

// Bundle is what is to be in force: the hash of every file, and the contents of those that changed.
type Bundle struct {
	Hash      string              `json:"hash"`
	Documents map[string]Document `json:"documents"`
}

// Document is one file. Without content it is the one that is in force.
type Document struct {
	Hash    string  `json:"hash"`
	Content *string `json:"content,omitempty"`
}

// ReadBundle reads a bundle that is whole in itself.
func ReadBundle(input io.Reader) (*Bundle, error) {
	var bundle Bundle
	decoder := json.NewDecoder(io.LimitReader(input, LargestBundle))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&bundle); err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	if len(bundle.Documents) != len(all) {
		return nil, fmt.Errorf("bundle: %d files, not %d", len(bundle.Documents), len(all))
	}
	hashes := map[string]string{}
	for _, name := range all {
		document, there := bundle.Documents[name]
		if !there {
			return nil, fmt.Errorf("bundle: no %s", name)
		}
		if document.Content != nil && hash([]byte(*document.Content)) != document.Hash {
			return nil, fmt.Errorf("bundle: %s is not what its hash says", name)
		}
		hashes[name] = document.Hash
	}
	if Overall(hashes) != bundle.Hash {
		return nil, fmt.Errorf("bundle: its hash is not that of its files")
	}
	return &bundle, nil
}

// Overall is the one hash of all files: that of the lines that sha256sum would write of them.
func Overall(hashes map[string]string) string {
	var lines []string
	for name, hash := range hashes {
		lines = append(lines, name+"\x00"+hash)
	}
	sort.Strings(lines)
	var text strings.Builder
	for _, line := range lines {
		name, hash, _ := strings.Cut(line, "\x00")
		fmt.Fprintf(&text, "%s  %s\n", hash, name)
	}
	return hash([]byte(text.String()))
}

func hash(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// Write puts all files of a bundle into a new folder, the unchanged ones from the folder in force. It tells which of those
// are not there as they should be.
func (bundle *Bundle) Write(folder, current string) (missing []string, err error) {
	if err := os.RemoveAll(folder); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, err
	}
	for _, name := range all {
		document := bundle.Documents[name]
		var content []byte
		if document.Content != nil {
			content = []byte(*document.Content)
		} else if content, err = os.ReadFile(filepath.Join(current, name)); err != nil || hash(content) != document.Hash {
			missing = append(missing, name)
			continue
		}
		mode := os.FileMode(0o644)
		if name == Wireguard {
			mode = 0o600
		}
		if err := os.WriteFile(filepath.Join(folder, name), content, mode); err != nil {
			return nil, err
		}
	}
	return missing, nil
}
