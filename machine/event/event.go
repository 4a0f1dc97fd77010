// SPDX-License-Identifier: Apache-2.0

// Package event names all that crosses the boundary of a virtual machine.
//
// A machine is a pure function. Its state changes only by executing steps and
// by the inputs in this package, each applied at an exact Step; what it wants
// from the world leaves as an Output. An Entry is an input with its place: the
// replication log is a sequence of entries, and a backup that applies the same
// entries at the same steps is the same machine (paper §2.1).
//
//	world ──Input──► machine ──Output──► world
//	          │                   │
//	          └── Entry in the log ┴── OutputMark in the log (§2.2)
package event

// Step counts instructions retired and traps or interrupts taken, summed over
// the harts in rotation order. It only grows and no guest can write it.
type Step uint64

// Seq numbers the entries of one log, from 1. It goes on across epochs.
type Seq uint64

// Epoch counts the times that the right to emit outputs of one VM has been
// claimed or handed over, from 1.
type Epoch uint64

// OutputID numbers the outputs of one machine in the order it emitted them,
// from 1. Primary and backup give an output the same number.
type OutputID uint64

// Ticks is guest time: a count of the 10 MHz time CSR.
type Ticks uint64

// TicksPerSecond is the timebase-frequency of the board.
const TicksPerSecond = 10_000_000

// DeviceID names a device of one machine: its index among the virtio-mmio slots
// (0 to 7), or UART.
type DeviceID uint8

// UART is the 16550 on the board; virtio devices are 0 to 7 by slot.
const UART DeviceID = 255

// Entry is one record of the log: an input, or a note for the peer, and the
// step at which it happened.
type Entry struct {
	Seq  Seq
	Step Step
	// GoLive marks the last entry of a group: all that is needed to replay one
	// instruction or one device operation. A backup applies whole groups only
	// and goes live only after one.
	GoLive bool
	Input  Input
}

// Input is what an entry carries: one of Clock, Frames, DiskDone, ConsoleIn,
// Entropy, OutputMark, Released, Control, Hash and Medium.
type Input interface{ Kind() Kind }

// Kind is the number of an input in the log's encoding; it never changes its meaning.
type Kind uint8

const (
	KindClock Kind = iota + 1
	KindFrames
	KindDiskDone
	KindConsoleIn
	KindEntropy
	KindOutputMark
	KindReleased
	KindControl
	KindHash
	KindMedium
)

// Clock says what the time CSR is from this step on: at step s it reads
//
//	Base + ((s - step of this entry) * Rate) >> RateShift
//
// and the machine waits at step Limit for the next Clock. Base is never below
// the time that the clock before it had reached.
type Clock struct {
	Base  Ticks
	Rate  uint64 // ticks per step, times 2^RateShift
	Limit Step
}

// RateShift is the position of the binary point in Clock.Rate.
const RateShift = 32

// Frames are Ethernet frames received by a network device, in order.
type Frames struct {
	Device DeviceID
	Frames []Frame
}

// Frame is one Ethernet frame without its FCS, with what is left to be done to it.
type Frame struct {
	Offload Offload
	Data    []byte
}

// Offload is the part of virtio's net header (Virtio 1.2 §5.1.6) that both
// directions use: a partial checksum, and segmentation of a frame larger than the MTU.
type Offload struct {
	Flags      uint8 // 1: NEEDS_CSUM, 2: DATA_VALID
	GSOType    uint8 // 0: none, 1: TCPv4, 4: TCPv6; 0x80: ECN
	HdrLen     uint16
	GSOSize    uint16
	CsumStart  uint16
	CsumOffset uint16
}

// DiskDone completes a DiskRequest. The payload of a read travels here and is
// copied to guest memory only as the entry is applied: the paper's bounce
// buffer (§3.4). FromDisk stands for a payload that the backup reads from its
// own disk (§4.2).
type DiskDone struct {
	Device   DeviceID
	ID       uint64 // of the DiskRequest
	Status   DiskStatus
	FromDisk bool
	Data     []byte // of a read, Length bytes
}

// DiskStatus is the outcome of a disk request as virtio-blk reports it.
type DiskStatus uint8

const (
	DiskOK          DiskStatus = 0
	DiskIOError     DiskStatus = 1
	DiskUnsupported DiskStatus = 2
)

// ConsoleIn is bytes typed at a console.
type ConsoleIn struct {
	Device DeviceID
	Data   []byte
}

// Entropy answers an EntropyRequest.
type Entropy struct {
	Device DeviceID
	ID     uint64 // of the EntropyRequest
	Data   []byte
}

// OutputMark tells the backup that the machine has emitted the outputs up to
// and including Last. Held outputs wait for the acknowledgement of the first
// go-live entry at or after their mark (§2.2, Output Rule).
type OutputMark struct{ Last OutputID }

// Released tells the backup that the outputs up to and including Last have left,
// so that it need not emit them again when it goes live.
type Released struct{ Last OutputID }

// Control is an operation on the VM that both copies carry out at the same step (§3.3).
type Control struct {
	Op  ControlOp
	Arg uint64 // meaning by Op
}

// ControlOp is the kind of a control entry.
type ControlOp uint8

const (
	PowerOff ControlOp = iota + 1 // the plug is pulled; Arg is not used
	Reset                         // the reset button; Arg is not used
	CPUShare                      // the machine gets at most Arg thousandths of one host CPU
	Activate                      // the backup may claim epoch Arg from here on
	Switch                        // the peers change roles; the backup is the primary of epoch Arg
	Dismiss                       // the backup ends, and may not claim epoch Arg any more

	// What the machine itself sees; its devices have numbers of their own.

	Link        ControlOp = 16 // the cable of a network device is plugged in or pulled; Arg is LinkArg
	PowerButton ControlOp = 17 // the power button is pressed and let go; Arg is not used
	Resize      ControlOp = 18 // a disk has become larger; Arg is ResizeArg
	Balloon     ControlOp = 19 // the guest is to do without Arg bytes of its memory
)

// LinkArg is what a Link says: twice the slot, and 1 if the link is up.
func LinkArg(d DeviceID, up bool) uint64 {
	if up {
		return uint64(d)<<1 | 1
	}
	return uint64(d) << 1
}

// ResizeArg is what a Resize says: eight times the capacity in sectors of 512 bytes, and
// the slot.
func ResizeArg(d DeviceID, capacity uint64) uint64 { return capacity/512<<3 | uint64(d) }

// Resized reads a ResizeArg.
func Resized(arg uint64) (d DeviceID, capacity uint64) { return DeviceID(arg & 7), arg >> 3 * 512 }

// LeastMemory is the least that a guest is asked to run in, in bytes.
const LeastMemory = 64 << 20

// Hash lets the backup compare itself with the primary. State covers registers
// and devices, Memory the pages chosen for this entry (package machine).
type Hash struct {
	State  uint64
	Memory uint64
}

// Medium is what lies in a disk's drive from this step on, where an operator puts it in or
// takes it out (§3.3), or moves it elsewhere. The driver learns of it as of a disk that has
// changed its size, and of a move not at all. The machine only keeps the names, by which
// hosts find the disk.
type Medium struct {
	Device   DeviceID
	Capacity uint64 // in bytes; 0: the drive is empty
	Source   string
	Mirror   string // where the same is written too: the disk's place before a move; or empty
}

// MaxSource bounds Medium.Source and Mirror, in bytes.
const MaxSource = 4096

func (Clock) Kind() Kind      { return KindClock }
func (Frames) Kind() Kind     { return KindFrames }
func (DiskDone) Kind() Kind   { return KindDiskDone }
func (ConsoleIn) Kind() Kind  { return KindConsoleIn }
func (Entropy) Kind() Kind    { return KindEntropy }
func (OutputMark) Kind() Kind { return KindOutputMark }
func (Released) Kind() Kind   { return KindReleased }
func (Control) Kind() Kind    { return KindControl }
func (Hash) Kind() Kind       { return KindHash }
func (Medium) Kind() Kind     { return KindMedium }

// Output is something the machine asks of the world, with its place.
type Output struct {
	ID   OutputID
	Step Step // the step after the instruction that emitted it
	Body OutputBody
}

// External reports whether the world outside the pair can see the output, so
// that it must wait by the Output Rule. Reads and entropy requests are not
// external, and a disk that is not shared has no external outputs (§4.1).
func (o Output) External() bool { return o.Body.External() }

// OutputBody is one of FrameOut, DiskRequest, ConsoleOut, EntropyRequest and Exit.
type OutputBody interface{ External() bool }

// FrameOut is a frame transmitted by a network device.
type FrameOut struct {
	Device DeviceID
	Frame  Frame
}

// DiskRequest asks for one disk operation. The device may have many in flight.
type DiskRequest struct {
	Device DeviceID
	ID     uint64 // per device, from 1
	Op     DiskOp
	Offset uint64 // in bytes
	Length uint64 // in bytes
	Data   []byte // of a write, Length bytes, copied out of the guest
	Mode   DiskMode
}

// DiskMode says whose a disk is.
type DiskMode uint8

const (
	// SharedDisk is one disk that both hosts reach.
	SharedDisk DiskMode = iota
	// ReplicatedDisk is one of two, on each host its own: nobody else can see what is
	// written there (paper §4.1).
	ReplicatedDisk
	// ReplicatedFlush is the same with flushes that end when both disks are flushed.
	ReplicatedFlush
)

// Own reports whether each copy of the VM has a disk of its own.
func (m DiskMode) Own() bool { return m != SharedDisk }

// DiskOp is the kind of a disk request.
type DiskOp uint8

const (
	DiskRead DiskOp = iota + 1
	DiskWrite
	DiskFlush
	DiskDiscard
	DiskWriteZeroes

	// DiskGrow makes a disk Length bytes large, if it is smaller. No machine asks for it:
	// it is how a replica prepares a Resize.
	DiskGrow
)

// ConsoleOut is bytes printed at a console. Offset counts all bytes that this
// console has printed before, so that a repeat is recognised.
type ConsoleOut struct {
	Device DeviceID
	Offset uint64
	Data   []byte
}

// EntropyRequest asks for Length random bytes.
type EntropyRequest struct {
	Device DeviceID
	ID     uint64 // per device, from 1
	Length uint32
}

// Exit is the guest's end: power-off, or a code given to the test device or tohost.
type Exit struct {
	Code int // 0 is power-off and success
}

func (FrameOut) External() bool       { return true }
func (ConsoleOut) External() bool     { return true }
func (EntropyRequest) External() bool { return false }
func (Exit) External() bool           { return true }

// External is true of operations that change a shared disk. A flush changes nothing
// that another host can see; but one that is to end when both disks are flushed must
// be known to the backup at once, and so counts as external.
func (r DiskRequest) External() bool {
	return r.Changes() && r.Mode == SharedDisk || r.Op == DiskFlush && r.Mode == ReplicatedFlush
}

// Changes reports whether the request changes what is on the disk.
func (r DiskRequest) Changes() bool {
	return r.Op == DiskWrite || r.Op == DiskDiscard || r.Op == DiskWriteZeroes
}

// Stop is why a machine came back from Run.
type Stop uint8

const (
	StopLimit  Stop = iota // the limit is reached
	StopOutput             // an output waits in Outputs; run on
	StopIdle               // all harts wait; an entry must come first
	StopClock              // the clock's limit is reached; a Clock must come first
	StopExit               // the machine has ended
)

func (s Stop) String() string {
	names := [...]string{"at its limit", "after an output", "idle", "at the clock's limit", "ended"}
	if int(s) < len(names) {
		return names[s]
	}
	return "unknown stop"
}
