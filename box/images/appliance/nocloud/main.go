// Command nocloud reads a NoCloud seed (a FAT volume labelled CIDATA) and applies it to the appliance:
//
//	nocloud start            copies the seed to /run/nocloud and applies host name, keys, files, network:
//	                         what must stand before anybody talks to the machine
//	nocloud run              the commands and scripts of the user data, afterwards
//
// It understands the part of cloud-config that an appliance needs and says on the console what it leaves out.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

const seedDir = "/run/nocloud"

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: nocloud start|run")
		os.Exit(2)
	}
	if err := command(os.Args[1]); err != nil {
		say("%v", err)
		os.Exit(1)
	}
}

func command(name string) error {
	if name != "start" && name != "run" {
		return fmt.Errorf("unknown command %q", name)
	}
	if name == "start" {
		if err := find("/dev/vd*", seedDir); err != nil {
			return fmt.Errorf("%w: this machine has no name and no network", err)
		}
	}
	config, err := Read(seedDir)
	if config == nil {
		return err
	}
	system := System{Root: "/", Exec: execute}
	if name == "run" {
		return system.Run(config)
	}
	if err != nil {
		say("%v", err) // what could be read is applied all the same
	}
	return system.Apply(config)
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, "nocloud: "+format+"\n", args...) }

// find copies the seed out of the first disk that carries the label.
func find(pattern, into string) error {
	disks, err := filepath.Glob(pattern)
	if err != nil {
		return err
	}
	for _, disk := range disks {
		if !isSeed(disk) {
			continue
		}
		mount := into + ".mount"
		if err := os.MkdirAll(mount, 0o700); err != nil {
			return err
		}
		flags := uintptr(syscall.MS_RDONLY | syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC)
		if err := syscall.Mount(disk, mount, "vfat", flags, "iocharset=ascii,utf8=0"); err != nil {
			return fmt.Errorf("mounting %s: %w", disk, err)
		}
		defer os.Remove(mount)
		defer syscall.Unmount(mount, 0)
		return copySeed(mount, into)
	}
	return errors.New("no disk with the label CIDATA")
}

// isSeed reads the volume label of a FAT file system from its boot sector: FAT12/16 and FAT32 keep it in different places.
func isSeed(disk string) bool {
	file, err := os.Open(disk)
	if err != nil {
		return false
	}
	defer file.Close()
	sector := make([]byte, 512)
	if n, _ := file.ReadAt(sector, 0); n != len(sector) || sector[510] != 0x55 || sector[511] != 0xAA {
		return false
	}
	for _, at := range []struct{ label, kind int }{{43, 54}, {71, 82}} {
		label := string(sector[at.label : at.label+11])
		if string(sector[at.kind:at.kind+3]) == "FAT" && (label == "CIDATA     " || label == "cidata     ") {
			return true
		}
	}
	return false
}

func copySeed(from, into string) error {
	if err := os.MkdirAll(into, 0o700); err != nil {
		return err
	}
	for _, name := range seedFiles {
		text, err := os.ReadFile(filepath.Join(from, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(into, name), text, 0o600); err != nil {
			return err
		}
	}
	return nil
}
