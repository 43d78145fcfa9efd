package smp

import (
	"context"
	"fmt"
	"io"
	"time"
)

// Framing is how messages go over the line. A target is built for one and does
// not tell which; to the other it is silent.
type Framing int

// The framings.
const (
	// FramingConsole is lines of base64 with a length and a CRC, which can share
	// a line with text.
	FramingConsole Framing = iota
	// FramingRaw is the bare message (CONFIG_BOOT_SERIAL_RAW_PROTOCOL of MCUboot,
	// CONFIG_UART_MCUMGR_RAW_PROTOCOL of Zephyr). Nothing marks where one begins
	// and nothing shows that one was damaged: what was uploaded is proven by the
	// hash that the device reports, and by nothing before.
	FramingRaw
)

// String returns "console" or "raw".
func (f Framing) String() string {
	if f == FramingRaw {
		return "raw"
	}
	return "console"
}

const (
	// RawQuiet is how long a raw target must get nothing before it takes the next
	// byte for the start of a message, whatever it was sent before: it forgets
	// half a message after CONFIG_BOOT_SERIAL_RAW_PROTOCOL_INPUT_TIMEOUT_MS, which
	// is 3000, counted from when it looked at the last byte.
	RawQuiet = 3200 * time.Millisecond
	// rawBurst is how long a raw target that has never answered is asked in vain
	// before it is left alone for RawQuiet: one that starts may catch the second
	// half of a question, and then takes every later one at the wrong place.
	rawBurst = 1500 * time.Millisecond
	// rawSettle is how long the answer to the last of several questions may come
	// behind that to an earlier one.
	rawSettle = 300 * time.Millisecond
	// rawSeq is the first sequence number: one that makes an oversize length of
	// most questions that are read at the wrong place.
	rawSeq = 0xa7
)

// ProbeRaw asks once what is there, in the raw protocol, and closes line. It
// must be the first thing that the target hears, or the first for RawQuiet:
// console text leaves up to seven bytes in a raw target, which spoil what comes
// next. The other way round does no harm, since a console's client begins with a
// line feed. Silence is a *TimeoutError, and so is anything that is no answer; a
// line that fails is a *PortError.
func ProbeRaw(ctx context.Context, line io.ReadWriteCloser, timeout time.Duration) (Target, error) {
	c := NewClient(line, Options{Framing: FramingRaw})
	defer c.Close()
	return c.Probe(ctx, timeout)
}

// Framing returns how the client's messages go.
func (c *Client) Framing() Framing {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.opts.Framing
}

// SetFraming changes Options.Framing for the requests to come, of which there
// may be none under way. A target that was sent console frames before is left
// alone for RawQuiet before the first raw request.
func (c *Client) SetFraming(f Framing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f == c.opts.Framing {
		return
	}
	c.opts.Framing = f
	c.nudge = f == FramingConsole
	c.raw = rawTalk{spoilt: !c.left.IsZero()}
	if f == FramingRaw {
		c.seq = rawSeq
	}
}

// framing is that of requests which have none of their own.
func (c *Client) framing() framing {
	if c.Framing() == FramingRaw {
		return bare
	}
	return 0
}

// rawTalk is what has to be minded with a raw target.
type rawTalk struct {
	spoilt bool      // it may hold half a message
	known  bool      // it has answered since it started
	vain   time.Time // since when it has been asked in vain
	stale  bool      // what was heard of an answer will not be completed
}

// resting is how much longer nothing may be sent, 0 mostly and with console
// framing always. Where it is 0 something is about to be sent.
func (c *Client) resting() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.opts.Framing != FramingRaw {
		return 0
	}
	r, now := &c.raw, time.Now()
	if r.vain.IsZero() {
		r.vain = now
	}
	if !r.spoilt && (r.known || now.Sub(r.vain) < rawBurst) {
		return 0
	}
	if left := c.left.Add(RawQuiet).Sub(now); left > 0 {
		return left
	}
	r.spoilt, r.stale, r.vain = false, true, now
	return 0
}

// rest waits until something may be sent.
func (c *Client) rest(ctx context.Context, name string) error {
	for d := c.resting(); d > 0; d = c.resting() {
		if err := c.pause(ctx, name, d); err != nil {
			return err
		}
	}
	return nil
}

// pause waits, unless the line or the context ends.
func (c *Client) pause(ctx context.Context, name string, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", name, context.Cause(ctx))
	case <-c.gone:
		return fmt.Errorf("%s: %w", name, c.lineError())
	}
}

// asked reports whether a raw message with such a header can be: the answer to
// one of the last 256 requests, or that request itself come back.
func (c *Client) asked(h Header) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	want := c.seqs[h.Sequence]
	if c.sent[h.Sequence] == 0 || h.Group != want.Group || h.Command != want.Command {
		return false
	}
	return h.Op == want.Op+1 || h == want
}

// rawDecoder finds messages in what a line carries without framing. Nothing
// marks them, and a board may print before and after: it is a message if its
// header is one that was asked for, and its payload exactly one CBOR map, which
// stands in for a checksum. What is none is text, byte by byte, so that no
// damage hides the next message for long.
type rawDecoder struct {
	asked func(Header) bool
	codec codec
	held  []byte // may become a message; at most maxPacket and what is fed at once
	line  []byte // of text
	stats DecoderStats
}

// maxRawFeed bounds what a raw decoder takes at once.
const maxRawFeed = 4 << 10

// feed takes the next bytes from the line. It calls message and text as
// [Decoder.Feed] does.
func (d *rawDecoder) feed(p []byte, message, text func([]byte)) {
	for len(p) > 0 {
		n := min(len(p), maxRawFeed)
		d.held = append(d.held, p[:n]...)
		p = p[n:]
		d.scan(false, message, text)
	}
}

// giveUp makes text of what would have been completed by now.
func (d *rawDecoder) giveUp(message, text func([]byte)) {
	if len(d.held) >= HeaderSize {
		d.stats.BadPacket++
	}
	d.scan(true, message, text)
}

// scan takes from what is held all that is certain, and with end everything.
func (d *rawDecoder) scan(end bool, message, text func([]byte)) {
	at := 0
	for at < len(d.held) {
		n, more := d.match(d.held[at:])
		if more && !end {
			break
		}
		if n == 0 {
			d.print(d.held[at], text)
			at++
			continue
		}
		d.stats.Messages++
		if message != nil {
			message(d.held[at : at+n])
		}
		at += n
	}
	d.held = d.held[:copy(d.held, d.held[at:])]
}

// match is the length of the message that b begins with, 0 if it does not, or
// whether it takes more to know.
func (d *rawDecoder) match(b []byte) (n int, more bool) {
	switch {
	// A line feed ends a line at once: what else it could be is a request of
	// version 2 come back.
	case b[0] == '\n', b[0]&0xe0 != 0, Version(b[0]>>3) > V2, Op(b[0]&7) > OpWriteResponse:
		return 0, false
	case len(b) > 1 && b[1] != 0: // flags, of which there are none
		return 0, false
	case len(b) < HeaderSize:
		return 0, true
	}
	h := parseHeader(b)
	n = HeaderSize + int(h.Length)
	switch {
	case h.Length == 0, n > maxPacket, !d.asked(h), len(b) > HeaderSize && b[HeaderSize]&0xe0 != cborMap:
		return 0, false
	case len(b) < n:
		return 0, true
	}
	payload := b[HeaderSize:n]
	if _, plain := plainOffset(payload); !plain && d.codec.dec.Wellformed(payload) != nil {
		d.stats.BadPacket++
		return 0, false
	}
	return n, false
}

// print adds a byte to the line of text.
func (d *rawDecoder) print(b byte, text func([]byte)) {
	switch {
	case b == '\r':
	case b != '\n':
		if len(d.line) < maxLine {
			d.line = append(d.line, b)
		}
	case len(d.line) > 0:
		if text != nil {
			text(d.line)
		}
		d.line = d.line[:0]
	}
}
