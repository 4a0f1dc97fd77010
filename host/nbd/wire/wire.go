// SPDX-License-Identifier: Apache-2.0

// Package wire is what an NBD client and server say to each other: the numbers
// of the protocol and its fixed structures, as far as tandem uses them (fixed
// newstyle negotiation, simple replies). All integers are big-endian.
//
//	server  NBDMAGIC IHAVEOPT flags16
//	client  flags32, then options:   IHAVEOPT option32 length32 data
//	server  replies to an option:    RepMagic option32 type32 length32 data
//	client  request:                 RequestMagic flags16 command16 cookie64 offset64 length32 data
//	server  reply, in any order:     ReplyMagic error32 cookie64 data
//
// The names are those of the specification, "The NBD protocol",
// doc/proto.md of the NetworkBlockDevice project.
package wire

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
)

// Magic numbers.
const (
	Magic        = 0x4e42444d41474943 // "NBDMAGIC"
	OptMagic     = 0x49484156454f5054 // "IHAVEOPT"
	RepMagic     = 0x0003e889045565a9
	RequestMagic = 0x25609513
	ReplyMagic   = 0x67446698
)

// Sizes in bytes.
const (
	HelloSize     = 18
	OptionSize    = 16 // header of an option
	OptReplySize  = 20 // header of a reply to an option
	RequestSize   = 28
	ReplySize     = 16
	MaxPayload    = 32 << 20 // of a request, the limit all implementations accept
	MaxName       = 4096     // of an export
	MaxOption     = 64 << 10 // data of an option or of a reply to one; ours, the protocol has none
	ExportNamePad = 124      // zeros after the answer to OptExportName, unless FlagNoZeroes
)

// Handshake flags, of server and client alike.
const (
	FlagFixedNewstyle = 1 << 0
	FlagNoZeroes      = 1 << 1
)

// Options.
const (
	OptExportName = 1
	OptAbort      = 2
	OptList       = 3
	OptStartTLS   = 5
	OptInfo       = 6
	OptGo         = 7
)

// Replies to options.
const (
	RepAck         = 1
	RepServer      = 2
	RepInfo        = 3
	RepErr         = 1 << 31 // set in all errors
	RepErrUnsup    = RepErr + 1
	RepErrPolicy   = RepErr + 2
	RepErrInvalid  = RepErr + 3
	RepErrPlatform = RepErr + 4
	RepErrTLS      = RepErr + 5 // TLS is required
	RepErrUnknown  = RepErr + 6
	RepErrShutdown = RepErr + 7
	RepErrTooBig   = RepErr + 9
)

// RepErrors names the errors for people.
var RepErrors = map[uint32]string{
	RepErrUnsup:    "option not supported",
	RepErrPolicy:   "refused by policy",
	RepErrInvalid:  "invalid request",
	RepErrPlatform: "failure of the server",
	RepErrTLS:      "TLS required",
	RepErrUnknown:  "no such export",
	RepErrShutdown: "server is shutting down",
	RepErr + 8:     "block size must be negotiated",
	RepErrTooBig:   "request too big",
}

// Kinds of information in RepInfo.
const (
	InfoExport      = 0 // size64 flags16
	InfoName        = 1
	InfoDescription = 2
	InfoBlockSize   = 3 // minimum32 preferred32 maximum32
)

// Transmission flags of an export.
const (
	FlagHasFlags     = 1 << 0
	FlagReadOnly     = 1 << 1
	FlagFlush        = 1 << 2
	FlagFUA          = 1 << 3
	FlagTrim         = 1 << 5
	FlagWriteZeroes  = 1 << 6
	FlagCanMultiConn = 1 << 8
)

// Commands.
const (
	CmdRead        = 0
	CmdWrite       = 1
	CmdDisc        = 2
	CmdFlush       = 3
	CmdTrim        = 4
	CmdWriteZeroes = 6
	CmdResize      = 8 // the offset is the new size; of the protocol's extension "resize", here to grow only
)

// Command flags.
const (
	CmdFlagFUA    = 1 << 0
	CmdFlagNoHole = 1 << 1
)

// Errors of a request; their numbers are Linux's.
const (
	EPERM     = 1
	EIO       = 5
	EINVAL    = 22
	ENOSPC    = 28
	ENOTSUP   = 95
	ESHUTDOWN = 108
)

var be = binary.BigEndian

// AppendHello appends the first words of a server.
func AppendHello(b []byte) []byte {
	b = be.AppendUint64(b, Magic)
	b = be.AppendUint64(b, OptMagic)
	return be.AppendUint16(b, FlagFixedNewstyle|FlagNoZeroes)
}

// AppendOption appends an option of a client.
func AppendOption(b []byte, option uint32, data []byte) []byte {
	b = be.AppendUint64(b, OptMagic)
	b = be.AppendUint32(b, option)
	b = be.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

// AppendOptReply appends a reply to an option.
func AppendOptReply(b []byte, option, kind uint32, data []byte) []byte {
	b = be.AppendUint64(b, RepMagic)
	b = be.AppendUint32(b, option)
	b = be.AppendUint32(b, kind)
	b = be.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

// AppendGo appends the data of OptGo and OptInfo: the name and the information wanted.
func AppendGo(b []byte, name string, infos ...uint16) []byte {
	b = be.AppendUint32(b, uint32(len(name)))
	b = append(b, name...)
	b = be.AppendUint16(b, uint16(len(infos)))
	for _, i := range infos {
		b = be.AppendUint16(b, i)
	}
	return b
}

// ParseGo is the inverse of AppendGo.
func ParseGo(b []byte) (name string, infos []uint16, ok bool) {
	if len(b) < 4 {
		return "", nil, false
	}
	n := be.Uint32(b)
	b = b[4:]
	if n > MaxName || int(n)+2 > len(b) {
		return "", nil, false
	}
	name, b = string(b[:n]), b[n:]
	count := int(be.Uint16(b))
	b = b[2:]
	if len(b) != 2*count {
		return "", nil, false
	}
	for ; len(b) > 0; b = b[2:] {
		infos = append(infos, be.Uint16(b))
	}
	return name, infos, true
}

// Request is the header of a request.
type Request struct {
	Flags   uint16
	Command uint16
	Cookie  uint64
	Offset  uint64
	Length  uint32
}

// Append encodes the header.
func (r Request) Append(b []byte) []byte {
	b = be.AppendUint32(b, RequestMagic)
	b = be.AppendUint16(b, r.Flags)
	b = be.AppendUint16(b, r.Command)
	b = be.AppendUint64(b, r.Cookie)
	b = be.AppendUint64(b, r.Offset)
	return be.AppendUint32(b, r.Length)
}

// ParseRequest decodes RequestSize bytes.
func ParseRequest(b []byte) (r Request, ok bool) {
	if be.Uint32(b) != RequestMagic {
		return r, false
	}
	return Request{be.Uint16(b[4:]), be.Uint16(b[6:]), be.Uint64(b[8:]), be.Uint64(b[16:]), be.Uint32(b[24:])}, true
}

// Reply is the header of a simple reply.
type Reply struct {
	Error  uint32
	Cookie uint64
}

// Append encodes the header.
func (r Reply) Append(b []byte) []byte {
	b = be.AppendUint32(b, ReplyMagic)
	b = be.AppendUint32(b, r.Error)
	return be.AppendUint64(b, r.Cookie)
}

// ParseReply decodes ReplySize bytes.
func ParseReply(b []byte) (r Reply, ok bool) {
	if be.Uint32(b) != ReplyMagic {
		return r, false
	}
	return Reply{be.Uint32(b[4:]), be.Uint64(b[8:])}, true
}

// Name is an export name with the fence of tandem in it:
//
//	NAME              epoch 0: not protected
//	NAME@EPOCH        epoch in decimal; a newer epoch ends and drains all older ones
//	NAME@EPOCH.TRY    the TRY-th connection of the epoch's owner, from 1: a later
//	                  try ends and drains the earlier ones of its epoch
//	NAME@reader       only reads, ends nobody and is ended by nobody: a backup
//
// A client that lost its connection must not leave a write behind in the server
// that lands after what it writes next; hence the try. Without one, a connection
// stands beside the newest try of its epoch.
type Name struct {
	Export string
	Epoch  uint64
	Try    uint64 // 0 is none
	Reader bool
}

const readerSuffix = "@reader"

// Fenced reports whether only a server that knows such names may be asked for it.
func (n Name) Fenced() bool { return n.Epoch > 0 || n.Reader }

func (n Name) String() string {
	switch {
	case n.Reader:
		return n.Export + readerSuffix
	case n.Try > 0:
		return fmt.Sprintf("%s@%d.%d", n.Export, n.Epoch, n.Try)
	case n.Epoch > 0:
		return fmt.Sprintf("%s@%d", n.Export, n.Epoch)
	}
	return n.Export
}

// ParseName is the inverse of String.
func ParseName(s string) (n Name, ok bool) {
	if export, ok := strings.CutSuffix(s, readerSuffix); ok {
		return Name{Export: export, Reader: true}, true
	}
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		return Name{Export: s}, true
	}
	epoch, try, hasTry := strings.Cut(s[at+1:], ".")
	n.Export = s[:at]
	var err, errTry error
	n.Epoch, err = strconv.ParseUint(epoch, 10, 64)
	if hasTry {
		n.Try, errTry = strconv.ParseUint(try, 10, 64)
	}
	return n, err == nil && errTry == nil
}

// StorePrefix begins the description of an export of tandem's store: the sign that
// epochs in its name are heeded. Other servers may take any name and fence nobody.
const StorePrefix = "tandem store"

// FencedPrefix begins the message of RepErrPolicy that tells a client that a
// newer epoch has the export: there is no use in trying again.
const FencedPrefix = "fenced: "
