// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"tandem/host/nbd/wire"
)

const maxOptions = 64 // of one client, before it chooses an export

var (
	errBye  = errors.New("the client left")
	errText = errors.New("not an NBD client")

	errPlain = errors.New("the client doesn't use TLS, which is required")
)

// option is a client's option with all its data.
type option struct {
	kind uint32
	data []byte
}

// negotiate runs the handshake. If it returns nil the client has entered c.export.
func (c *conn) negotiate() error {
	c.allow(handshakeTime)
	if err := c.send(wire.AppendHello(nil)); err != nil {
		return err
	}
	var flags [4]byte
	if _, err := io.ReadFull(c.r, flags[:]); err != nil {
		return err
	}
	f := binary.BigEndian.Uint32(flags[:])
	if f&wire.FlagFixedNewstyle == 0 || f&^(wire.FlagFixedNewstyle|wire.FlagNoZeroes) != 0 {
		return errText
	}
	c.noZeroes = f&wire.FlagNoZeroes != 0
	for range maxOptions {
		o, err := c.readOption()
		if err != nil {
			return err
		}
		if done, err := c.answer(o); done || err != nil {
			return err
		}
	}
	return errors.New("too many options without choosing an export")
}

func (c *conn) readOption() (o option, err error) {
	var h [wire.OptionSize]byte
	if _, err := io.ReadFull(c.r, h[:]); err != nil {
		return o, err
	}
	n := binary.BigEndian.Uint32(h[12:])
	if binary.BigEndian.Uint64(h[:]) != wire.OptMagic || n > wire.MaxOption {
		return o, errText
	}
	o = option{binary.BigEndian.Uint32(h[8:]), make([]byte, n)}
	_, err = io.ReadFull(c.r, o.data)
	return o, err
}

func (c *conn) answer(o option) (entered bool, err error) {
	switch {
	case o.kind == wire.OptAbort:
		c.reply(o, wire.RepAck, nil)
		return false, errBye
	case o.kind == wire.OptStartTLS:
		return false, c.startTLS(o)
	case c.store.cfg.TLS == nil || c.nc != c.raw:
	case o.kind == wire.OptExportName: // has no place for an error
		return false, errPlain
	default:
		return false, c.reply(o, wire.RepErrTLS, []byte("start TLS first: this store serves nobody without"))
	}
	switch o.kind {
	case wire.OptExportName:
		return true, c.exportName(string(o.data))
	case wire.OptList:
		return false, c.list(o)
	case wire.OptInfo, wire.OptGo:
		return c.infoOrGo(o)
	}
	return false, c.reply(o, wire.RepErrUnsup, nil)
}

// startTLS encrypts all that follows. What was sent behind the request before it
// was answered could be anybody's and ends the connection.
func (c *conn) startTLS(o option) error {
	switch {
	case c.store.cfg.TLS == nil:
		return c.reply(o, wire.RepErrPolicy, []byte("this store has no certificate; use it without TLS"))
	case len(o.data) > 0 || c.nc != c.raw:
		return c.reply(o, wire.RepErrInvalid, []byte("TLS is started once, and takes no data"))
	case c.r.Buffered() > 0:
		return errText
	}
	if err := c.reply(o, wire.RepAck, nil); err != nil {
		return err
	}
	t := tls.Server(c.raw, c.store.cfg.TLS)
	if err := t.Handshake(); err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	c.nc, c.r = t, bufio.NewReaderSize(t, 64<<10)
	return nil
}

func (c *conn) list(o option) error {
	if len(o.data) > 0 {
		return c.reply(o, wire.RepErrInvalid, []byte("a list takes no data"))
	}
	for _, x := range c.store.exports {
		d := binary.BigEndian.AppendUint32(nil, uint32(len(x.name)))
		if err := c.reply(o, wire.RepServer, append(d, x.name...)); err != nil {
			return err
		}
	}
	return c.reply(o, wire.RepAck, nil)
}

// infoOrGo answers OptInfo, which only looks, and OptGo, which enters.
func (c *conn) infoOrGo(o option) (entered bool, err error) {
	asked, infos, ok := wire.ParseGo(o.data)
	if !ok {
		return false, c.reply(o, wire.RepErrInvalid, []byte("malformed request for an export"))
	}
	x, err := c.choose(asked, o.kind == wire.OptGo)
	if err != nil {
		kind, text := explain(err)
		return false, c.reply(o, kind, []byte(text))
	}
	c.allow(handshakeTime) // waiting for others took none of it
	n, _ := wire.ParseName(asked)
	b := wire.AppendOptReply(nil, o.kind, wire.RepInfo, exportInfo(x, x.readOnly || n.Reader))
	for _, i := range infos {
		if d := c.info(x, i); d != nil {
			b = wire.AppendOptReply(b, o.kind, wire.RepInfo, d)
		}
	}
	b = wire.AppendOptReply(b, o.kind, wire.RepAck, nil)
	return o.kind == wire.OptGo, c.send(b)
}

// exportName is the old way to enter: no error can be told.
func (c *conn) exportName(asked string) error {
	x, err := c.choose(asked, true)
	if err != nil {
		return err
	}
	c.allow(handshakeTime)
	b := exportInfo(x, c.readOnly())[2:]
	if !c.noZeroes {
		b = append(b, make([]byte, wire.ExportNamePad)...)
	}
	return c.send(b)
}

var errNoExport = errors.New("no such export")

// choose finds the export that a client asked for and, if it means to use it,
// lets it through the fence.
func (c *conn) choose(asked string, enter bool) (*export, error) {
	n, ok := wire.ParseName(asked)
	x := c.store.find(n.Export)
	if !ok || x == nil {
		return nil, errNoExport
	}
	if !enter {
		x.mu.Lock()
		defer x.mu.Unlock()
		return x, x.check(n)
	}
	if err := x.enter(c, n); err != nil {
		c.log.Warn("client refused", "export", asked, "reason", err)
		return nil, err
	}
	c.export, c.reader = x, n.Reader
	c.log = c.log.With("export", asked)
	return x, nil
}

func explain(err error) (kind uint32, text string) {
	var r refusal
	switch {
	case errors.As(err, &r):
		return wire.RepErrPolicy, string(r)
	case errors.Is(err, errNoExport):
		return wire.RepErrUnknown, err.Error()
	}
	return wire.RepErrPlatform, "the store can't keep the epoch; its log says why"
}

func exportInfo(x *export, readOnly bool) []byte {
	flags := uint16(wire.FlagHasFlags | wire.FlagFlush | wire.FlagFUA | wire.FlagTrim | wire.FlagWriteZeroes | wire.FlagCanMultiConn)
	if readOnly {
		flags = wire.FlagHasFlags | wire.FlagReadOnly | wire.FlagFlush | wire.FlagCanMultiConn
	}
	b := binary.BigEndian.AppendUint16(nil, wire.InfoExport)
	b = binary.BigEndian.AppendUint64(b, x.disk.Size())
	return binary.BigEndian.AppendUint16(b, flags)
}

// info returns one kind of information about an export, nil if it has none.
func (c *conn) info(x *export, kind uint16) []byte {
	b := binary.BigEndian.AppendUint16(nil, kind)
	switch kind {
	case wire.InfoName:
		return append(b, x.name...)
	case wire.InfoDescription:
		return append(b, c.store.description()...)
	case wire.InfoBlockSize:
		for _, n := range [3]uint32{1, 4096, wire.MaxPayload} {
			b = binary.BigEndian.AppendUint32(b, n)
		}
		return b
	}
	return nil
}

func (c *conn) reply(o option, kind uint32, data []byte) error {
	return c.send(wire.AppendOptReply(nil, o.kind, kind, data))
}

func (c *conn) send(b []byte) error {
	if _, err := c.nc.Write(b); err != nil {
		return fmt.Errorf("sending: %w", err)
	}
	return nil
}
