package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// given writes a seed and a machine with one NIC; did holds the commands that were run.
func given(t *testing.T, files map[string]string) (seed string, system System, did *[]string) {
	t.Helper()
	seed, root := t.TempDir(), t.TempDir()
	for name, text := range files {
		must(t, os.WriteFile(filepath.Join(seed, name), []byte(text), 0o600))
	}
	must(t, os.MkdirAll(filepath.Join(root, "sys/class/net/eth0"), 0o755))
	must(t, os.MkdirAll(filepath.Join(root, "run"), 0o755))
	must(t, os.WriteFile(filepath.Join(root, "sys/class/net/eth0/address"), []byte("02:00:ac:10:01:0a\n"), 0o600))
	did = &[]string{}
	system = System{Root: root, Exec: func(name string, args ...string) error {
		*did = append(*did, strings.Join(append([]string{name}, args...), "|"))
		return nil
	}}
	return
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, system System, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(system.Root, path))
	must(t, err)
	return string(text)
}

const meta = "instance-id: i-1\nlocal-hostname: n1\n"

func TestStaticAddressWithoutGateway(t *testing.T) {
	seed, system, did := given(t, map[string]string{"meta-data": meta, "network-config": `
version: 2
ethernets:
  nic0:
    match: {macaddress: "02:00:AC:10:01:0A"}
    set-name: eth0
    addresses: [172.16.1.10/24]
`})
	config, err := Read(seed)
	must(t, err)
	must(t, system.Apply(config))
	want := []string{"ip|address|replace|172.16.1.10/24|dev|eth0", "ip|link|set|dev|eth0|up"}
	if got := (*did)[:2]; !slices.Equal(got, want) {
		t.Errorf("ran %q", got)
	}
	if slices.ContainsFunc(*did, func(c string) bool { return strings.Contains(c, "route") }) {
		t.Errorf("a route from nowhere: %q", *did)
	}
	if got := read(t, system, "etc/hostname"); got != "n1\n" {
		t.Errorf("host name %q", got)
	}
}

func TestGatewayRoutesAndNames(t *testing.T) {
	seed, system, did := given(t, map[string]string{"meta-data": meta, "network-config": `
network:
  version: 2
  ethernets:
    nic0:
      match: {macaddress: "02:00:ac:10:01:0a"}
      set-name: farm0
      mtu: 1400
      addresses: [172.16.1.10/24]
      routes: [{to: default, via: 172.16.1.1, metric: 5}]
      nameservers: {addresses: [172.16.1.1], search: [a.farm]}
`})
	config, err := Read(seed)
	must(t, err)
	must(t, system.Apply(config))
	for _, want := range []string{"ip|link|set|dev|eth0|name|farm0", "ip|link|set|dev|farm0|mtu|1400", "ip|route|replace|default|via|172.16.1.1|dev|farm0|metric|5"} {
		if !slices.Contains(*did, want) {
			t.Errorf("missing %q in %q", want, *did)
		}
	}
	if got := read(t, system, "etc/resolv.conf"); got != "search a.farm\nnameserver 172.16.1.1\n" {
		t.Errorf("resolv.conf %q", got)
	}
}

func TestFilesKeysCommands(t *testing.T) {
	seed, system, did := given(t, map[string]string{"meta-data": meta,
		"vendor-data": "#cloud-config\nhostname: vendor\nruncmd: [[vendor]]\nssh_authorized_keys: [vendor-key]\n",
		"user-data": `#cloud-config
ssh_authorized_keys:
  - ssh-ed25519 AAAA a"b'$(c)
write_files:
  - {path: /opt/a, content: "aGVsbG8=", encoding: b64, permissions: 0750}
  - path: /opt/b
    permissions: "0600"
    content: |
      $(touch /tmp/no)
runcmd:
  - [echo, "two words", $HOME]
  - echo line | cat
`})
	config, err := Read(seed)
	must(t, err)
	must(t, system.Apply(config))
	*did = nil
	must(t, system.Run(config))
	if want := []string{"echo|two words|$HOME", "/bin/sh|-c|echo line | cat"}; !slices.Equal(*did, want) {
		t.Errorf("ran %q", *did)
	}
	if got := read(t, system, "root/.ssh/authorized_keys"); got != "ssh-ed25519 AAAA a\"b'$(c)\n" {
		t.Errorf("keys %q", got)
	}
	if got := read(t, system, "opt/a") + read(t, system, "opt/b"); got != "hello$(touch /tmp/no)\n" {
		t.Errorf("files %q", got)
	}
	info, _ := os.Stat(filepath.Join(system.Root, "opt/a"))
	if info.Mode().Perm() != 0o750 {
		t.Errorf("mode %v", info.Mode())
	}
	if config.Hostname != "vendor" {
		t.Errorf("vendor data is below user data, not absent: %q", config.Hostname)
	}
}

func TestKeysOfTheFarmAndOfTheUserDataMayBothLogIn(t *testing.T) {
	seed, system, _ := given(t, map[string]string{"meta-data": meta + "public-keys: [farm-key]\n",
		"user-data": "#cloud-config\nssh_authorized_keys: [own-key]\n"})
	config, err := Read(seed)
	must(t, err)
	must(t, system.Apply(config))
	if got := read(t, system, "home/cascina/.ssh/authorized_keys"); got != "farm-key\nown-key\n" {
		t.Errorf("keys %q", got)
	}
}

func TestAnArchiveIsItsParts(t *testing.T) {
	seed, system, did := given(t, map[string]string{"meta-data": meta, "vendor-data": `#cloud-config-archive
- {type: text/cloud-config, content: "hostname: vendor\nfqdn: vendor.farm\n"}
- {type: text/cloud-boothook, content: "#!/bin/sh\nexit 1\n"}
- "#!/bin/sh\nexit 0\n"
`})
	config, err := Read(seed)
	must(t, err)
	must(t, system.Run(config))
	if config.Hostname != "vendor" || len(*did) != 1 || read(t, system, "run/nocloud-script-0") != "#!/bin/sh\nexit 0\n" {
		t.Errorf("host name %q, ran %q", config.Hostname, *did)
	}
}

func TestScripts(t *testing.T) {
	seed, system, did := given(t, map[string]string{"meta-data": meta, "user-data": "#!/bin/sh\nexit 0\n"})
	config, err := Read(seed)
	must(t, err)
	must(t, system.Run(config))
	if len(*did) != 1 || read(t, system, "run/nocloud-script-0") != "#!/bin/sh\nexit 0\n" {
		t.Errorf("ran %q", *did)
	}
}

func TestBrokenUserDataCostsOnlyItself(t *testing.T) {
	seed, system, did := given(t, map[string]string{"meta-data": meta, "user-data": "#cloud-config\n{{{", "network-config": "version: 2\nethernets: {eth0: {addresses: [10.0.0.1/24]}}\n"})
	config, err := Read(seed)
	if err == nil || config == nil {
		t.Fatal("the error must be told, and the rest kept")
	}
	must(t, system.Apply(config))
	if !slices.Contains(*did, "ip|address|replace|10.0.0.1/24|dev|eth0") {
		t.Errorf("ran %q", *did)
	}
	if config, _ := Read(t.TempDir()); config != nil {
		t.Error("an empty directory is no seed")
	}
}

func TestTheLabelIsFound(t *testing.T) {
	mkfs, err := exec.LookPath("mkfs.vfat")
	if err != nil {
		t.Skip("no mkfs.vfat")
	}
	for _, c := range []struct {
		label string
		fat   string
		size  string
		want  bool
	}{{"CIDATA", "12", "2M", true}, {"cidata", "16", "20M", true}, {"CIDATA", "32", "40M", true}, {"OTHER", "16", "20M", false}} {
		image := filepath.Join(t.TempDir(), "image")
		must(t, exec.Command("truncate", "-s", c.size, image).Run())
		must(t, exec.Command(mkfs, "-F", c.fat, "-n", c.label, image).Run())
		if got := isSeed(image); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
	if isSeed("/dev/null") {
		t.Error("/dev/null is no seed")
	}
}
