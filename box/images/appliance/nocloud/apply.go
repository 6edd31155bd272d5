package main

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"gopkg.in/yaml.v3"
)

// System is the machine that a configuration is applied to; tests give it another root and record the commands.
type System struct {
	Root string
	Exec func(name string, args ...string) error
}

func execute(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// Apply does everything that it can and reports all that failed.
func (s System) Apply(c *Config) error {
	errs := []error{s.network(&c.Network), s.hostname(c.Hostname), s.keys(c.Keys)}
	for _, file := range c.Files {
		if err := s.file(file); err != nil {
			errs = append(errs, fmt.Errorf("write_files %s: %w", file.Path, err))
		}
	}
	return errors.Join(errs...)
}

// Run executes runcmd and the scripts in their order; a failure doesn't keep the rest from running.
func (s System) Run(c *Config) error {
	var errs []error
	for _, node := range c.Commands {
		args, err := arguments(&node)
		if err == nil {
			err = s.Exec(args[0], args[1:]...)
		}
		errs = append(errs, err)
	}
	for i, script := range c.Scripts {
		path := filepath.Join(s.Root, "run", fmt.Sprintf("nocloud-script-%d", i))
		err := os.WriteFile(path, []byte(script), 0o700)
		if err == nil {
			err = s.Exec(path)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// arguments: a list is executed as it stands, a line goes to the shell because its author meant it to.
func arguments(node *yaml.Node) ([]string, error) {
	if node.Kind == yaml.ScalarNode {
		return []string{"/bin/sh", "-c", node.Value}, nil
	}
	var args []string
	if err := node.Decode(&args); err != nil {
		return nil, fmt.Errorf("runcmd: %w", err)
	}
	if len(args) == 0 {
		return nil, errors.New("runcmd: an empty command")
	}
	return args, nil
}

func (s System) hostname(name string) error {
	if name == "" {
		return nil
	}
	hosts := fmt.Sprintf("127.0.0.1 localhost\n127.0.1.1 %s\n", name)
	return errors.Join(s.write("etc/hostname", name+"\n", 0o644), s.write("etc/hosts", hosts, 0o644), s.Exec("hostname", name))
}

func (s System) keys(keys []string) error {
	var text strings.Builder
	for _, key := range keys {
		text.WriteString(strings.TrimSpace(key) + "\n")
	}
	err := s.write("root/.ssh/authorized_keys", text.String(), 0o600)
	return errors.Join(err, s.write("home/cascina/.ssh/authorized_keys", text.String(), 0o600), s.Exec("chown", "-R", "cascina:cascina", "/home/cascina"))
}

func (s System) write(path, text string, mode os.FileMode) error {
	path = filepath.Join(s.Root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), mode)
}

func (s System) file(f File) error {
	if !filepath.IsAbs(f.Path) {
		return errors.New("the path must be absolute")
	}
	content, err := decode(f.Content, f.Encoding)
	if err != nil {
		return err
	}
	mode := uint64(0o644)
	if f.Permissions != "" {
		if mode, err = strconv.ParseUint(strings.TrimPrefix(f.Permissions, "0o"), 8, 12); err != nil {
			return fmt.Errorf("permissions: %w", err)
		}
	}
	path := filepath.Join(s.Root, f.Path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	how := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	if f.Append {
		how = os.O_WRONLY | os.O_CREATE | os.O_APPEND
	}
	out, err := os.OpenFile(path, how, 0o600)
	if err != nil {
		return err
	}
	_, err = out.Write(content)
	// chmod by hand: the file may have been there, and Go keeps setuid in bits of its own.
	err = errors.Join(err, out.Close(), chown(path, f.Owner), syscall.Chmod(path, uint32(mode)))
	return err
}

func decode(content, encoding string) ([]byte, error) {
	raw := []byte(content)
	var err error
	if strings.Contains(encoding, "b64") || strings.Contains(encoding, "base64") {
		if raw, err = base64.StdEncoding.DecodeString(strings.Join(strings.Fields(content), "")); err != nil {
			return nil, err
		}
	}
	if strings.HasPrefix(encoding, "gz") {
		zipped, err := gzip.NewReader(bytes.NewReader(raw))
		if err != nil {
			return nil, err
		}
		return io.ReadAll(zipped)
	}
	return raw, nil
}

func chown(path, owner string) error {
	if owner == "" {
		return nil
	}
	name, group, _ := strings.Cut(owner, ":")
	account, err := user.Lookup(name)
	if err != nil {
		return err
	}
	uid, _ := strconv.Atoi(account.Uid)
	gid, _ := strconv.Atoi(account.Gid)
	if group != "" {
		g, err := user.LookupGroup(group)
		if err != nil {
			return err
		}
		gid, _ = strconv.Atoi(g.Gid)
	}
	return os.Chown(path, uid, gid)
}

func (s System) network(n *Network) error {
	var errs []error
	run := func(args ...string) { errs = append(errs, s.Exec("ip", args...)) }
	var resolv strings.Builder
	for _, name := range sortedKeys(n.Ethernets) {
		nic := n.Ethernets[name]
		device, err := s.device(name, nic.Match.MAC)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if nic.SetName != "" && nic.SetName != device {
			run("link", "set", "dev", device, "name", nic.SetName)
			device = nic.SetName
		}
		if nic.MTU > 0 {
			run("link", "set", "dev", device, "mtu", strconv.Itoa(nic.MTU))
		}
		for _, address := range nic.Addresses {
			run("address", "replace", address, "dev", device)
		}
		run("link", "set", "dev", device, "up")
		routes := nic.Routes
		if nic.Gateway4 != "" {
			routes = append(routes, Route{To: "default", Via: nic.Gateway4})
		}
		for _, r := range routes {
			args := []string{"route", "replace", r.To, "via", r.Via, "dev", device}
			if r.OnLink {
				args = append(args, "onlink")
			}
			if r.Metric > 0 {
				args = append(args, "metric", strconv.Itoa(r.Metric))
			}
			run(args...)
		}
		if len(nic.Nameservers.Search) > 0 {
			resolv.WriteString("search " + strings.Join(nic.Nameservers.Search, " ") + "\n")
		}
		for _, server := range nic.Nameservers.Addresses {
			resolv.WriteString("nameserver " + server + "\n")
		}
	}
	if resolv.Len() > 0 {
		errs = append(errs, s.write("etc/resolv.conf", resolv.String(), 0o644))
	}
	return errors.Join(errs...)
}

// device finds the interface with a MAC address; without one, the key in the document is the interface's name.
func (s System) device(name, mac string) (string, error) {
	if mac == "" {
		return name, nil
	}
	want, err := net.ParseMAC(mac)
	if err != nil {
		return "", err
	}
	addresses, _ := filepath.Glob(filepath.Join(s.Root, "sys/class/net/*/address"))
	for _, path := range addresses {
		text, _ := os.ReadFile(path)
		if have, err := net.ParseMAC(strings.TrimSpace(string(text))); err == nil && bytes.Equal(have, want) {
			return filepath.Base(filepath.Dir(path)), nil
		}
	}
	return "", fmt.Errorf("network-config: no interface with the address %s", mac)
}
