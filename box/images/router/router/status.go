package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"
)

// State is what is in force.
type State struct {
	Hash      string `json:"hash,omitempty"`
	Documents Hashes `json:"documents"`
	// Leads tells, of two routers, whether it is this one's turn.
	Leads *bool `json:"leads,omitempty"`
	// Peers at the other ends of tunnels, by public key.
	Peers map[string]Peer `json:"peers,omitempty"`
	// Now is what the clock shows by which the rest is told, in seconds since 1970.
	Now int64 `json:"now"`
}

// Counts is what was counted since the router, or what the counter stands for, came to be.
type Counts struct {
	// Serves tells whether DNS is served.
	Serves bool `json:"serves"`
	// Connections that the kernel remembers, and how many it may.
	Connections     int64 `json:"connections"`
	MostConnections int64 `json:"mostConnections"`
	// Counters that counted anything: packets and bytes.
	Counters map[string][2]int64 `json:"counters,omitempty"`
	// Next is the number of the first counter that isn't in here; 0: there is none.
	Next int `json:"next,omitempty"`
}

// mostCounters at once: an agent tells 48 KiB of output, and each counter takes up to 60 bytes.
const mostCounters = 500

// Peer is the other end of a tunnel.
type Peer struct {
	// Handshake is when it last proved itself, in seconds since 1970; 0: never.
	Handshake int64 `json:"handshake"`
	Received  int64 `json:"received"`
	Sent      int64 `json:"sent"`
}

// State tells what is in force.
func (router Router) State() State {
	hashes := router.inForce()
	peers := router.System.Peers()
	return State{Hash: hashes.overall(), Documents: hashes, Leads: router.leads(), Peers: peers, Now: time.Now().Unix()}
}

func (router Router) leads() *bool {
	return router.System.Leads(filepath.Join(router.Folder, "current"))
}

// Count tells what was counted: of the counters, in the order of their names, those from a number on.
func (router Router) Count(from string) (Counts, error) {
	first, err := strconv.Atoi(from)
	if err != nil || first < 0 {
		return Counts{}, fmt.Errorf("%q is no number of a counter", from)
	}
	counts := router.System.Counts()
	names := make([]string, 0, len(counts.Counters))
	for name := range counts.Counters {
		names = append(names, name)
	}
	sort.Strings(names)
	end := min(first+mostCounters, len(names))
	page := map[string][2]int64{}
	for _, name := range names[min(first, end):end] {
		page[name] = counts.Counters[name]
	}
	if end < len(names) {
		counts.Next = end
	}
	counts.Counters = page
	return counts, nil
}

// Counts reads them; what can't be read is left out.
func (Linux) Counts() Counts {
	return Counts{
		Serves:          serves(),
		Connections:     number("/proc/sys/net/netfilter/nf_conntrack_count"),
		MostConnections: number("/proc/sys/net/netfilter/nf_conntrack_max"),
		Counters:        counters(),
	}
}

func number(path string) int64 {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	value, _ := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return value
}

// serves tells whether somebody listens at the port of DNS.
func serves() bool {
	text, err := os.ReadFile("/proc/net/udp")
	return err == nil && strings.Contains(string(text), ":0035 ")
}

// ruleset is nft's JSON, as far as it is read.
type ruleset struct {
	Nftables []struct {
		Counter *struct {
			Name    string `json:"name"`
			Packets int64  `json:"packets"`
			Bytes   int64  `json:"bytes"`
		} `json:"counter"`
		Set *struct {
			Elements []any `json:"elem"`
		} `json:"set"`
	} `json:"nftables"`
}

func ruleSet(arguments ...string) ruleset {
	var rules ruleset
	if text, err := run("nft", append([]string{"--json", "--numeric"}, arguments...)...); err == nil {
		_ = json.Unmarshal(text, &rules) // nothing is counted then
	}
	return rules
}

func counters() map[string][2]int64 {
	counted := map[string][2]int64{}
	for _, object := range ruleSet("list", "counters", "table", "inet", "cascina").Nftables {
		if counter := object.Counter; counter != nil && counter.Packets > 0 {
			counted[counter.Name] = [2]int64{counter.Packets, counter.Bytes}
		}
	}
	return counted
}

// goOnCounting lets the counters of rules begin at what was counted before.
func goOnCounting(rules string, counted map[string][2]int64) string {
	lines := strings.Split(rules, "\n")
	for at, line := range lines {
		name, is := strings.CutPrefix(line, "\tcounter ")
		name, empty := strings.CutSuffix(name, " { }")
		if before, known := counted[name]; is && empty && known {
			lines[at] = fmt.Sprintf("\tcounter %s { packets %d bytes %d }", name, before[0], before[1])
		}
	}
	return strings.Join(lines, "\n")
}

// entrances are the marks of all ways in.
func entrances() map[string]bool {
	marks := map[string]bool{}
	for _, object := range ruleSet("list", "set", "inet", "cascina", "entrances").Nftables {
		if object.Set == nil {
			continue
		}
		for _, element := range object.Set.Elements {
			if mark, is := element.(float64); is {
				marks[fmt.Sprint(uint32(mark))] = true
			}
		}
	}
	return marks
}

// Peers reads `wg show … dump`: public key, its secret, endpoint, networks, handshake, received, sent, keepalive.
func (Linux) Peers() map[string]Peer {
	text, err := run("wg", "show", tunnel, "dump")
	if err != nil {
		return nil
	}
	peers := map[string]Peer{}
	for _, line := range strings.Split(string(text), "\n") {
		fields := strings.Split(line, "\t")
		if len(fields) != 8 {
			continue
		}
		value := func(index int) int64 { value, _ := strconv.ParseInt(fields[index], 10, 64); return value }
		peers[fields[0]] = Peer{Handshake: value(4), Received: value(5), Sent: value(6)}
	}
	return peers
}
