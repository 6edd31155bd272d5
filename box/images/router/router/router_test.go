package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

// fake notes what it is asked to do.
type fake struct {
	did    *[]string
	fails  map[string]error
	counts Counts
}

func (system fake) step(name string) error {
	*system.did = append(*system.did, name)
	return system.fails[name]
}
func (system fake) Prepared() error                       { return nil }
func (system fake) Check(string, func(string) bool) error { return system.fails["check"] }
func (system fake) Settings(string) error                 { return system.step("settings") }
func (system fake) Wall(string) error                     { return system.step("wall") }
func (system fake) Cards(string) error                    { return system.step("cards") }
func (system fake) Elect(string) error                    { return system.step("elect") }
func (system fake) Leads(string) *bool                    { return nil }
func (system fake) Turn(string) error                     { return system.step("turn") }
func (system fake) Watch(string) error                    { return system.step("watch") }
func (system fake) Tunnel(string) error                   { return system.step("tunnel") }
func (system fake) ServeAnew(string) error                { return system.step("serve anew") }
func (system fake) Serve(string) error                    { return system.step("serve") }
func (system fake) Forward() error                        { return system.step("forward") }
func (system fake) Counts() Counts                        { return system.counts }
func (system fake) Peers() map[string]Peer                { return nil }
func text(t *testing.T, bundle Bundle) string {
	t.Helper()
	text, err := json.Marshal(bundle)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// bundle of these contents; those of the names that are left out are not sent along.
func bundle(contents map[string]string, leftOut ...string) Bundle {
	bundle, hashes := Bundle{Documents: map[string]Document{}}, map[string]string{}
	for _, name := range all {
		content := contents[name]
		hashes[name] = hash([]byte(content))
		bundle.Documents[name] = Document{Hash: hashes[name], Content: &content}
	}
	for _, name := range leftOut {
		bundle.Documents[name] = Document{Hash: hashes[name]}
	}
	bundle.Hash = Overall(hashes)
	return bundle
}

func router(t *testing.T) (Router, fake) {
	system := fake{did: &[]string{}, fails: map[string]error{}}
	return Router{Folder: filepath.Join(t.TempDir(), "router"), System: system}, system
}

func did(t *testing.T, system fake, expected ...string) {
	t.Helper()
	if len(*system.did)+len(expected) > 0 && !reflect.DeepEqual(*system.did, expected) {
		t.Errorf("did %q, not %q", *system.did, expected)
	}
	*system.did = nil
}

// apply hands over in two pieces.
func apply(t *testing.T, router Router, text string) Applied {
	t.Helper()
	half := len(text) / 2
	if err := router.Take("0", strings.NewReader(text[:half])); err != nil {
		t.Fatal(err)
	}
	if err := router.Take(strconv.Itoa(half), strings.NewReader(text[half:])); err != nil {
		t.Fatal(err)
	}
	return router.Apply()
}

func TestEverythingIsPutInForceOnceAndThenWhatChanged(t *testing.T) {
	router, system := router(t)
	contents := map[string]string{Nftables: "one", Hosts: "one"}
	answer := apply(t, router, (text(t, bundle(contents))))
	if answer.Error != "" || answer.Hash != bundle(contents).Hash {
		t.Fatalf("%+v", answer)
	}
	did(t, system, "settings", "wall", "cards", "elect", "tunnel", "serve anew", "serve", "forward")
	apply(t, router, (text(t, bundle(contents))))
	did(t, system, "forward")
	contents[Hosts] = "two"
	answer = apply(t, router, (text(t, bundle(contents, Nftables, Dnsmasq, Interfaces, Sysctl, Wireguard, Reservations))))
	if answer.Error != "" || answer.Hash != bundle(contents).Hash {
		t.Fatalf("%+v", answer)
	}
	did(t, system, "serve", "forward")
	contents[Wireguard] = "another key"
	apply(t, router, (text(t, bundle(contents))))
	did(t, system, "tunnel", "forward")
	if content, err := os.ReadFile(filepath.Join(router.Folder, "current", Nftables)); err != nil || string(content) != "one" {
		t.Errorf("%q %v", content, err)
	}
	folders, _ := filepath.Glob(filepath.Join(router.Folder, "files-*"))
	if len(folders) != 1 {
		t.Errorf("what is not in force any more is left: %q", folders)
	}
}

func TestWhatIsMissingIsAskedFor(t *testing.T) {
	router, system := router(t)
	answer := apply(t, router, (text(t, bundle(map[string]string{}, Hosts, Nftables))))
	if !reflect.DeepEqual(answer.Missing, []string{Hosts, Nftables}) || answer.Hash != "" {
		t.Fatalf("%+v", answer)
	}
	did(t, system)
}

func TestWhatIsWrongStaysOut(t *testing.T) {
	router, system := router(t)
	good := bundle(map[string]string{})
	apply(t, router, (text(t, good)))
	*system.did = nil
	system.fails["check"] = Fault{Nftables, errors.New("line 7")}
	answer := apply(t, router, (text(t, bundle(map[string]string{Nftables: "bad"}))))
	if answer.Hash != good.Hash || answer.File != Nftables || answer.Error != "line 7" {
		t.Fatalf("%+v", answer)
	}
	did(t, system)
}

func TestWhatWasCutOffIsFinished(t *testing.T) {
	router, system := router(t)
	system.fails["cards"] = errors.New("no card")
	answer := apply(t, router, (text(t, bundle(map[string]string{}))))
	if answer.Hash != "" || answer.File != Interfaces {
		t.Fatalf("%+v", answer)
	}
	did(t, system, "settings", "wall", "cards")
	delete(system.fails, "cards")
	answer = apply(t, router, (text(t, bundle(map[string]string{}))))
	if answer.Error != "" || answer.Hash == "" {
		t.Fatalf("%+v", answer)
	}
	did(t, system, "cards", "elect", "tunnel", "serve anew", "serve", "forward")
}

func TestABundleThatIsNoneIsRefused(t *testing.T) {
	router, system := router(t)
	forged := bundle(map[string]string{})
	other := "other"
	forged.Documents[Hosts] = Document{Hash: forged.Documents[Hosts].Hash, Content: &other}
	mixed := bundle(map[string]string{})
	mixed.Hash = bundle(map[string]string{Hosts: "other"}).Hash
	few := bundle(map[string]string{})
	delete(few.Documents, Hosts)
	for _, input := range []string{"", "{}", "[]", `{"hash":"x","documents":{},"more":1}`, text(t, forged), text(t, mixed), text(t, few)} {
		if answer := apply(t, router, (input)); answer.Error == "" || answer.Hash != "" {
			t.Errorf("%q: %+v", input, answer)
		}
	}
	did(t, system)
}

func TestPiecesFollowOnEachOther(t *testing.T) {
	router, _ := router(t)
	for _, place := range []string{"1", "-1", "x", "999999999999"} {
		if err := router.Take(place, strings.NewReader("{}")); err == nil {
			t.Errorf("%s: taken", place)
		}
	}
	for _, piece := range []struct{ place, text string }{{"0", "a longer one"}, {"0", "abc"}, {"3", "def"}, {"3", "de"}} {
		if err := router.Take(piece.place, strings.NewReader(piece.text)); err != nil {
			t.Error(err)
		}
	}
	if text, err := os.ReadFile(router.bundle()); err != nil || string(text) != "abcde" {
		t.Errorf("%q %v", text, err)
	}
}

func TestSettingsAreOfTheNetwork(t *testing.T) {
	file := filepath.Join(t.TempDir(), Sysctl)
	for text, good := range map[string]bool{"net.ipv4.a = 1\n": true, "kernel.core_pattern = |x\n": false, "net./../x = 1\n": false, "net.a=1\n": false} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readSettings(file); (err == nil) != good {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestCountersAreToldInPages(t *testing.T) {
	router, system := router(t)
	system.counts.Counters = map[string][2]int64{}
	for port := range 2*mostCounters + 1 {
		system.counts.Counters["forward-tcp-"+strconv.Itoa(port)] = [2]int64{1, int64(port)}
	}
	router.System = system
	told := map[string][2]int64{}
	for pages, from := 1, 0; ; pages++ {
		counts, err := router.Count(strconv.Itoa(from))
		if err != nil || len(counts.Counters) > mostCounters || pages > 3 {
			t.Fatal(pages, len(counts.Counters), err)
		}
		for name, counted := range counts.Counters {
			told[name] = counted
		}
		if from = counts.Next; from == 0 {
			break
		}
	}
	if !reflect.DeepEqual(told, system.counts.Counters) {
		t.Errorf("%d counters told of %d", len(told), len(system.counts.Counters))
	}
	for _, wrong := range []string{"-1", "", "many"} {
		if _, err := router.Count(wrong); err == nil {
			t.Errorf("%q is no number", wrong)
		}
	}
	if counts, err := router.Count("999999"); err != nil || len(counts.Counters) != 0 {
		t.Error("behind the last there is none")
	}
}

func TestCountersGoOnWhereTheyWere(t *testing.T) {
	rules := "table inet cascina {\n\tcounter dns { }\n\tcounter forward-tcp-80 { }\n\t\tudp dport 53 counter name \"dns\"\n}\n"
	counted := map[string][2]int64{"dns": {2, 166}, "gone": {1, 1}}
	want := strings.Replace(rules, "dns { }", "dns { packets 2 bytes 166 }", 1)
	if got := goOnCounting(rules, counted); got != want {
		t.Errorf("%s instead of %s", got, want)
	}
}
