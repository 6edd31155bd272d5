package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"gopkg.in/yaml.v3"
)

var seedFiles = []string{"meta-data", "user-data", "vendor-data", "network-config"}

// Config is a seed, understood.
type Config struct {
	Hostname   string
	InstanceID string
	Keys       []string // of root and of the user cascina
	Files      []File
	Commands   []yaml.Node // runcmd: a list of arguments, or a line for the shell
	Scripts    []string    // user or vendor data that is a script itself
	Network    Network
}

type metaData struct {
	InstanceID    string    `yaml:"instance-id"`
	LocalHostname string    `yaml:"local-hostname"`
	PublicKeys    yaml.Node `yaml:"public-keys"`
}

type cloudConfig struct {
	Hostname string      `yaml:"hostname"`
	Keys     []string    `yaml:"ssh_authorized_keys"`
	Files    []File      `yaml:"write_files"`
	Commands []yaml.Node `yaml:"runcmd"`
}

// File is an entry of write_files.
type File struct {
	Path        string `yaml:"path"`
	Content     string `yaml:"content"`
	Encoding    string `yaml:"encoding"`
	Permissions string `yaml:"permissions"`
	Owner       string `yaml:"owner"`
	Append      bool   `yaml:"append"`
}

// Network is a network-config of version 2.
type Network struct {
	Ethernets map[string]Ethernet `yaml:"ethernets"`
}

// Ethernet is one interface, found by its MAC address, or by its name where there is none.
type Ethernet struct {
	Match struct {
		MAC string `yaml:"macaddress"`
	} `yaml:"match"`
	SetName     string   `yaml:"set-name"`
	MTU         int      `yaml:"mtu"`
	Addresses   []string `yaml:"addresses"`
	Gateway4    string   `yaml:"gateway4"`
	Routes      []Route  `yaml:"routes"`
	Nameservers struct {
		Addresses []string `yaml:"addresses"`
		Search    []string `yaml:"search"`
	} `yaml:"nameservers"`
}

// Route leads to a prefix, or `default`.
type Route struct {
	To     string `yaml:"to"`
	Via    string `yaml:"via"`
	OnLink bool   `yaml:"on-link"`
	Metric int    `yaml:"metric"`
}

// Read understands the seed in a directory. One broken file costs that file: the error tells of it, the rest is returned.
func Read(dir string) (*Config, error) {
	text := map[string]string{}
	for _, name := range seedFiles {
		if raw, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
			text[name] = string(raw)
		}
	}
	if _, ok := text["meta-data"]; !ok {
		return nil, errors.New("no seed: no meta-data")
	}

	config := &Config{}
	var broken []error
	note := func(file string, err error) {
		if err != nil {
			broken = append(broken, fmt.Errorf("%s: %w", file, err))
		}
	}

	var meta metaData
	note("meta-data", yaml.Unmarshal([]byte(text["meta-data"]), &meta))
	config.Hostname, config.InstanceID = meta.LocalHostname, meta.InstanceID
	keys, err := publicKeys(&meta.PublicKeys)
	note("meta-data", err)
	config.Keys = keys

	// As with cloud-init, a key of the user data replaces the same key of the vendor data.
	var cloud cloudConfig
	for _, file := range []string{"vendor-data", "user-data"} {
		note(file, userText(text[file], &cloud, &config.Scripts))
	}
	if cloud.Hostname != "" {
		config.Hostname = cloud.Hostname
	}
	config.Keys = append(config.Keys, cloud.Keys...)
	config.Files, config.Commands = cloud.Files, cloud.Commands

	note("network-config", readNetwork(text["network-config"], &config.Network))
	return config, errors.Join(broken...)
}

// ignored is what every farm says and what means nothing here; the rest is worth a word on the console.
var ignored = map[string]bool{"fqdn": true, "manage_etc_hosts": true, "disable_root": true, "ssh_pwauth": true, "updates": true}

var supported = map[string]bool{"hostname": true, "ssh_authorized_keys": true, "write_files": true, "runcmd": true}

// part is an entry of a cloud-config-archive; one that is a text only says itself what it is.
type part struct {
	Type    string `yaml:"type"`
	Content string `yaml:"content"`
}

// UnmarshalYAML takes both forms.
func (p *part) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind == yaml.ScalarNode {
		return node.Decode(&p.Content)
	}
	type typed part
	return node.Decode((*typed)(p))
}

// archive takes every part. A boothook brings what changed to a guest that had its first boot; each boot of an appliance is that.
func archive(text string, cloud *cloudConfig, scripts *[]string) error {
	var parts []part
	if err := yaml.Unmarshal([]byte(text), &parts); err != nil {
		return err
	}
	var errs []error
	for _, part := range parts {
		content := part.Content
		switch part.Type {
		case "text/cloud-boothook":
			continue
		case "text/cloud-config":
			content = "#cloud-config\n" + content
		}
		errs = append(errs, userText(content, cloud, scripts))
	}
	return errors.Join(errs...)
}

// userText takes user or vendor data: a cloud-config, a script, several of these, or nothing.
func userText(text string, cloud *cloudConfig, scripts *[]string) error {
	switch {
	case strings.TrimSpace(text) == "":
		return nil
	case strings.HasPrefix(text, "#cloud-config-archive"):
		return archive(text, cloud, scripts)
	case strings.HasPrefix(text, "#!"):
		*scripts = append(*scripts, text)
		return nil
	case !strings.HasPrefix(text, "#cloud-config"):
		return errors.New("neither #cloud-config nor a script (#!): left out")
	}
	var all map[string]yaml.Node
	if err := yaml.Unmarshal([]byte(text), &all); err != nil {
		return err
	}
	for key := range all {
		if !supported[key] && !ignored[key] {
			say("cloud-config's %q means nothing to an appliance: left out", key)
		}
	}
	next := *cloud
	// The decoder would merge lists' elements into old ones: a list that is named again starts empty.
	if _, ok := all["ssh_authorized_keys"]; ok {
		next.Keys = nil
	}
	if _, ok := all["write_files"]; ok {
		next.Files = nil
	}
	if _, ok := all["runcmd"]; ok {
		next.Commands = nil
	}
	if err := yaml.Unmarshal([]byte(text), &next); err != nil {
		return err
	}
	*cloud = next
	return nil
}

// publicKeys accepts the list and the map that NoCloud allows.
func publicKeys(node *yaml.Node) ([]string, error) {
	switch node.Kind {
	case 0:
		return nil, nil
	case yaml.SequenceNode:
		var keys []string
		return keys, node.Decode(&keys)
	case yaml.MappingNode:
		var named map[string]string
		if err := node.Decode(&named); err != nil {
			return nil, err
		}
		var keys []string
		for _, name := range sortedKeys(named) {
			keys = append(keys, named[name])
		}
		return keys, nil
	}
	return nil, errors.New("public-keys: neither a list nor a map")
}

func readNetwork(text string, network *Network) error {
	var wrapped struct {
		Version int       `yaml:"version"`
		Network yaml.Node `yaml:"network"`
	}
	if err := yaml.Unmarshal([]byte(text), &wrapped); err != nil {
		return err
	}
	if wrapped.Network.Kind != 0 { // netplan's own spelling: everything below `network`
		inner, err := yaml.Marshal(&wrapped.Network)
		if err != nil {
			return err
		}
		return readNetwork(string(inner), network)
	}
	if text != "" && wrapped.Version != 2 {
		return fmt.Errorf("version %d: only 2 is known here", wrapped.Version)
	}
	return yaml.Unmarshal([]byte(text), network)
}
