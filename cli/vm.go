// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"tandem/host/etcd"
	"tandem/host/filedisk"
	"tandem/host/nbd"
	"tandem/host/netswitch"
	"tandem/host/site"
	"tandem/host/tap"
	"tandem/image"
	"tandem/machine"
	"tandem/machine/event"
	"tandem/machine/fdt"
	"tandem/machine/loader"
)

// vmFlags describe a virtual machine on the command line.
type vmFlags struct {
	cpus     int
	memory   string
	target   string // of memory
	mmu      string
	kernel   string
	initrd   string
	append   string
	firmware string
	elf      string
	disks    []string
	network  string
	forwards []string
	name     string
	engine   engineFlags
	terminal string
	capacity uint64 // of disks that may not be asked, or 0
}

func (v *vmFlags) add(f *pflag.FlagSet) {
	f.IntVar(&v.cpus, "cpus", 1, "number of harts")
	f.StringVarP(&v.memory, "memory", "m", "512M", "guest memory, in bytes or with K, M or G")
	f.StringVar(&v.target, "memory-target", "", "how much of that the guest is asked to run in; it gives back the rest as far as it can")
	f.StringVar(&v.mmu, "mmu", "sv57", "largest address translation mode: sv39, sv48 or sv57")
	f.StringVar(&v.kernel, "kernel", "", "Linux Image to boot")
	f.StringVar(&v.initrd, "initrd", "", "initial RAM disk")
	f.StringVar(&v.append, "append", "", "kernel command line")
	f.StringVar(&v.firmware, "firmware", "", "OpenSBI or U-Boot to start in M-mode")
	f.StringVar(&v.elf, "elf", "", "bare-metal ELF program to run in M-mode")
	f.StringArrayVar(&v.disks, "disk", nil, "FILE or nbd://HOST:PORT/EXPORT, nbds:// with TLS, or empty for a drive that a disk can be put into later; may be repeated")
	f.StringVar(&v.network, "network", "user", "user, switch:ADDRESS, tap:NAME[,bridge=BRIDGE][,mtu=BYTES] or none")
	f.StringArrayVar(&v.forwards, "forward", nil, "HOST:PORT:GUESTPORT, a TCP port of the host for the guest's; may be repeated")
	f.StringVar(&v.terminal, "terminal", terminalUART, "the guest's console that is ours: uart (ttyS0) or virtio (hvc0)")
	v.engine.add(f)
	f.StringVar(&v.name, "name", "vm", "name of the VM; its MAC address follows from it")
}

// vm is what the flags come to.
type vm struct {
	config  machine.Config
	slots   []site.Slot
	program loader.Program // of --elf
	console event.DeviceID // on the terminal
	name    string
}

// build reads the files and lays out the machine.
func (v *vmFlags) build(img *image.Image) (vm, error) {
	var out vm
	ram, err := sizeOf("memory", v.memory)
	if err != nil {
		return out, err
	}
	out.config.RAM = ram
	if err := out.config.CheckRAM(); err != nil {
		return out, usageError{fmt.Errorf("--memory %s: %w", v.memory, err)}
	}
	if v.cpus < 1 || v.cpus > machine.MaxHarts {
		return out, usageError{fmt.Errorf("--cpus %d: choose 1 to %d", v.cpus, machine.MaxHarts)}
	}
	if n := len(v.name); n < 1 || n > 255 {
		return out, usageError{fmt.Errorf("--name of %d bytes: give 1 to 255", n)}
	}
	out.name = v.name
	if err := v.exclusive(img != nil); err != nil {
		return out, err
	}
	levels := map[string]int{"sv39": 3, "sv48": 4, "sv57": 5}[v.mmu]
	if levels == 0 {
		return out, usageError{fmt.Errorf("--mmu %s: choose sv39, sv48 or sv57", v.mmu)}
	}
	seed := make([]byte, 64)
	rand.Read(seed)
	out.config = machine.Config{Harts: v.cpus, RAM: ram, Levels: levels, Wall: uint64(time.Now().UnixNano()), Seed: seed, Append: v.append}
	if v.target != "" {
		target, err := sizeOf("memory-target", v.target)
		if err != nil {
			return out, err
		}
		if target > ram {
			return out, usageError{fmt.Errorf("--memory-target %s: the machine has --memory %s", v.target, v.memory)}
		}
		out.config.Balloon = ram - target
	}
	disks := v.disks
	if img != nil {
		if v.firmware == "" && v.kernel == "" {
			v.firmware = img.Firmware
		}
		v.kernel, v.initrd = orElse(v.kernel, img.Kernel), orElse(v.initrd, img.Initrd)
		out.config.Append = strings.TrimSpace(img.Append + " " + v.append)
		if img.Disk != "" {
			disks = append([]string{img.Disk}, disks...)
		}
		if img.Seed != "" {
			disks = append(disks, img.Seed)
		}
	}
	if err := v.boot(&out); err != nil {
		return out, err
	}
	if n := len(disks); n > maxDisks {
		return out, usageError{fmt.Errorf("%d disks: a machine takes at most %d, so leave some out", n, maxDisks)}
	}
	for i, d := range disks {
		if err := out.addDisk(d, fmt.Sprintf("tandem-%d", i), v.capacity); err != nil {
			return out, err
		}
	}
	if v.elf == "" {
		if err := v.addNetwork(&out); err != nil {
			return out, err
		}
		out.add(machine.Device{Kind: machine.RNGDevice}, site.Slot{})
	}
	return out, v.addConsole(&out)
}

func (o *vm) add(d machine.Device, s site.Slot) {
	o.config.Devices = append(o.config.Devices, d)
	o.slots = append(o.slots, s)
}

// disk is what --disk says.
type disk struct {
	url   string
	reads bool   // by the backup
	size  uint64 // in bytes, as a daemon knows it; 0 if it doesn't say
	mode  event.DiskMode
}

// diskOptions are what --disk may say after the path.
var diskOptions = map[string]func(d *disk){
	"reads=log":       func(d *disk) { d.reads = false },
	"reads=backup":    func(d *disk) { d.reads = true },
	"mode=shared":     func(d *disk) { d.mode = event.SharedDisk },
	"mode=replicated": func(d *disk) { d.mode = max(d.mode, event.ReplicatedDisk) },
	"flush=one":       func(d *disk) {},
	"flush=both":      func(d *disk) { d.mode = event.ReplicatedFlush },
}

// parseDisk reads PATH-OR-URL[,OPTION...].
func parseDisk(s string) (d disk, err error) {
	d.url = s
	for {
		i := strings.LastIndexByte(d.url, ',')
		if i < 0 {
			return d, nil
		}
		option := d.url[i+1:]
		set, known := diskOptions[option]
		switch name, value, _ := strings.Cut(option, "="); {
		case known:
			set(&d)
		case name == "reads" || name == "mode" || name == "flush":
			return d, fmt.Errorf("--disk %s: choose reads=log or backup, mode=shared or replicated, flush=one or both", s)
		case name == "size":
			if d.size, err = parseSize(value); err != nil {
				return d, fmt.Errorf("--disk %s: %w", s, err)
			}
		default:
			return d, nil // a comma of the path
		}
		d.url = d.url[:i]
	}
}

func (o *vm) addDisk(s, serial string, size uint64) error {
	d, err := parseDisk(s)
	if err != nil {
		return usageError{err}
	}
	url := d.url
	if url == etcd.EmptyDrive {
		o.add(machine.Device{Kind: machine.DiskDevice, Serial: serial}, site.Slot{Drive: true})
		return nil
	}
	if d.size > 0 {
		size = d.size
	}
	if d.mode.Own() && nbd.IsURL(url) {
		return usageError{fmt.Errorf("--disk %s: a replicated disk is a file of each host, not a server's export", s)}
	}
	if size == 0 {
		if size, err = diskSize(url); err != nil {
			return err
		}
	}
	slot := site.Slot{Disk: url, Reads: d.reads, Mode: d.mode}
	if d.mode.Own() {
		slot.Size = size
	}
	o.add(machine.Device{Kind: machine.DiskDevice, Capacity: size, Serial: serial, Disk: d.mode}, slot)
	return nil
}

// The guest's consoles.
const (
	terminalUART   = "uart"
	terminalVirtio = "virtio"
)

// addConsole chooses the console that the terminal belongs to.
func (v *vmFlags) addConsole(o *vm) error {
	switch v.terminal {
	case terminalUART:
		o.console = event.UART
	case terminalVirtio:
		o.console = event.DeviceID(len(o.slots))
		o.add(machine.Device{Kind: machine.ConsoleDevice}, site.Slot{})
	default:
		return usageError{fmt.Errorf("--terminal %s: choose uart or virtio", v.terminal)}
	}
	return nil
}

// etherMTU is what a network card carries unless it is told otherwise, in bytes.
const etherMTU = 1500

// networkIndex numbers a VM's network devices for their MAC addresses.
const networkIndex = 0

// maxDisks leaves slots for the network and the random numbers.
const maxDisks = fdt.VirtioSlots - 2

func (v *vmFlags) addNetwork(o *vm) error {
	addr, isSwitch := strings.CutPrefix(v.network, "switch:")
	device, isTap := strings.CutPrefix(v.network, "tap:")
	mtu := 0
	switch {
	case len(v.forwards) > 0 && v.network != "user":
		return usageError{errors.New("--forward is for --network user; a switch has forwards of its own, and a tap needs none")}
	case v.network == "none":
		return nil
	case isTap:
		cfg, err := tap.Parse(device)
		if err != nil {
			return usageError{fmt.Errorf("--network %w", err)}
		}
		if mtu = tap.DeviceMTU(cfg); mtu == etherMTU {
			mtu = 0 // every driver's own choice
		}
	case v.network != "user" && (!isSwitch || addr == ""):
		return usageError{fmt.Errorf("--network %s: choose user, switch:ADDRESS, tap:NAME or none", v.network)}
	}
	mac := site.MAC(v.name, networkIndex)
	slot := site.Slot{Network: v.network, MAC: mac}
	for _, f := range v.forwards {
		fw, err := parseForward(f, site.GuestAddress())
		if err != nil {
			return usageError{err}
		}
		slot.Forwards = append(slot.Forwards, fw)
	}
	o.add(machine.Device{Kind: machine.NetDevice, MAC: mac, MTU: uint16(mtu)}, slot)
	return nil
}

// diskSize asks a disk for its size.
func diskSize(url string) (uint64, error) {
	if nbd.IsURL(url) {
		return nbdSize(url)
	}
	f, err := filedisk.OpenFile(url, true)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return f.Size(), nil
}

// parseForward reads HOST:PORT:GUESTPORT.
func parseForward(s string, guest netip.Addr) (netswitch.Forward, error) {
	bad := fmt.Errorf("forward %q: want HOST:PORT:GUESTPORT, for instance 127.0.0.1:8080:80", s)
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return netswitch.Forward{}, bad
	}
	_, host, err := net.SplitHostPort(s[:i])
	if err != nil {
		return netswitch.Forward{}, bad
	}
	if _, err := strconv.ParseUint(host, 10, 16); err != nil {
		return netswitch.Forward{}, bad
	}
	port, err := strconv.ParseUint(s[i+1:], 10, 16)
	if err != nil || port == 0 {
		return netswitch.Forward{}, bad
	}
	return netswitch.Forward{Host: s[:i], Guest: netip.AddrPortFrom(guest, uint16(port))}, nil
}

// parseSize reads bytes with an optional K, M, G or T, powers of 1024.
func parseSize(s string) (uint64, error) {
	shift := 0
	num := strings.TrimSuffix(strings.TrimSuffix(strings.ToUpper(s), "B"), "I")
	if n := len(num); n > 0 {
		if i := strings.IndexByte("KMGT", num[n-1]); i >= 0 {
			shift, num = 10*(i+1), num[:n-1]
		}
	}
	v, err := strconv.ParseUint(num, 10, 63-40)
	if shift == 0 {
		v, err = strconv.ParseUint(num, 10, 63)
	}
	if err != nil {
		return 0, errors.New("want a number of bytes, for instance 512M or 1G")
	}
	return v << shift, nil
}

// sizeOf reads what a flag gives as a size.
func sizeOf(flag, text string) (uint64, error) {
	n, err := parseSize(text)
	if err != nil {
		return 0, usageError{fmt.Errorf("--%s %s: %w", flag, text, err)}
	}
	return n, nil
}

func orElse(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
