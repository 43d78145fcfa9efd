package smp

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Target tells what answers on a line.
type Target int

// What can answer.
const (
	TargetUnknown     Target = iota
	TargetBootloader         // MCUboot's serial recovery
	TargetApplication        // an application's SMP server
)

// String returns "bootloader", "application" or "unknown".
func (t Target) String() string {
	switch t {
	case TargetBootloader:
		return "bootloader"
	case TargetApplication:
		return "application"
	}
	return "unknown"
}

// emptyMap is the payload of requests without parameters.
var emptyMap = []byte{0xa0}

func probeRequest(payload []byte) request {
	return request{name: "probe", op: OpWrite, group: GroupOS, command: cmdConsoleEcho, payload: payload}
}

// targetOf reads a probe's answer: console-echo-control is served by every
// MCUboot recovery and by no application. An application built without
// CONFIG_MCUMGR_SMP_SUPPORT_ORIGINAL_PROTOCOL refuses a version 1 probe for its
// version instead, which MCUboot never does.
func (c *Client) targetOf(payload []byte) (Target, error) {
	if len(payload) == 0 {
		return TargetUnknown, &ProtocolError{Request: "probe", Problem: "the answer is empty"}
	}
	var s status
	err := c.codec.decode("probe", payload, &s)
	var refused *ServerError
	switch {
	case err == nil:
		return TargetBootloader, nil
	case errors.As(err, &refused) && (refused.NotSupported() || refused.TooOld()):
		return TargetApplication, nil
	}
	return TargetUnknown, err
}

// Probe asks once what is there, with the harmless console-echo-control
// command.
func (c *Client) Probe(ctx context.Context, timeout time.Duration) (Target, error) {
	return c.AwaitTarget(ctx, timeout, timeout)
}

// AwaitTarget probes every interval until something answers, at most for the
// time given by total. Earlier probes stay open while later ones go out, so
// that a device or adapter slower than the interval is heard all the same.
// Silence to the end is a *TimeoutError. A raw target has answered only when it
// has answered the last probe, since an earlier one may have left part of a
// later one with it; that may take RawQuiet beyond total.
func (c *Client) AwaitTarget(ctx context.Context, every, total time.Duration) (Target, error) {
	r := probeRequest(emptyMap)
	raw := c.Framing() == FramingRaw
	if raw {
		// No payload, which nobody asks for: of what comes while it is still busy
		// with its start a bootloader may keep eight bytes and no more, one in each
		// line buffer. They are a whole message.
		r.payload = nil
	}
	every += c.wireTime(len(r.payload))
	if err := c.rest(ctx, r.name); err != nil {
		return TargetUnknown, err
	}
	deadline := time.Now().Add(total)
	answers := make(chan answer, maxOutstanding)
	heard, again := false, false // of a raw target
	var open []uint8
	defer func() {
		for _, seq := range open {
			c.forget(seq, answers)
		}
	}()
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return TargetUnknown, &TimeoutError{Request: r.name, After: total}
		}
		if rest := c.resting(); rest > 0 {
			if err := c.pause(ctx, r.name, min(rest, left)); err != nil {
				return TargetUnknown, err
			}
			continue
		}
		wctx, cancel := context.WithTimeoutCause(ctx, left, &TimeoutError{Request: r.name, After: total})
		seq, err := c.send(wctx, r, answers)
		cancel()
		if err != nil {
			return TargetUnknown, err
		}
		if open = append(open, seq); len(open) == maxOutstanding {
			c.forget(open[0], answers)
			open = open[1:]
		}
		if heard {
			every = max(every, rawSettle)
		}
		a, err := c.wait(ctx, r.name, answers, min(every, max(time.Until(deadline), 0)))
		for raw && err == nil && a.header.Sequence != seq {
			// It is there, and is given the time to be heard again.
			if again := time.Now().Add(RawQuiet + every + rawSettle); !heard && deadline.Before(again) {
				deadline = again
			}
			heard = true
			a, err = c.wait(ctx, r.name, answers, rawSettle)
		}
		var silent *TimeoutError
		if errors.As(err, &silent) {
			if heard && !again {
				// The others were lost as a whole, most likely: once more at once.
				again = true
				c.mu.Lock()
				c.raw.spoilt = false
				c.mu.Unlock()
			}
			continue
		}
		if err != nil {
			return TargetUnknown, err
		}
		return c.targetOf(a.payload)
	}
}

// ProbeSize reports whether the device takes a message of size bytes (header
// included): a probe padded to that size is answered when it fits, and met
// with silence when not.
func (c *Client) ProbeSize(ctx context.Context, size int, timeout time.Duration) (bool, error) {
	return c.probeSize(ctx, size, 0, timeout)
}

func (c *Client) probeSize(ctx context.Context, size int, frame framing, timeout time.Duration) (bool, error) {
	payload := padding(size - HeaderSize)
	if payload == nil {
		return false, fmt.Errorf("smp: no probe has exactly %d bytes", size)
	}
	r := probeRequest(payload)
	r.timeout, r.frame = timeout, frame
	var s status
	err := c.do(ctx, r, &s)
	var (
		silent  *TimeoutError
		refused *ServerError
	)
	switch {
	case err == nil || errors.As(err, &refused):
		return true, nil
	case errors.As(err, &silent) && ctx.Err() == nil:
		return false, nil
	}
	return false, err
}

// padding is a CBOR map {"pad": bytes} of exactly n bytes, nil if there is
// none of that size. Where the head of the bytes leaves a gap, the name is longer.
// The bytes are ones that a raw target whose buffer is too small for them does not
// take for headers: of zeros it would answer every eight.
func padding(n int) []byte {
	for _, name := range []string{"pad", "pads"} {
		if out := padded(name, n); out != nil {
			return out
		}
	}
	return nil
}

func padded(name string, n int) []byte {
	for _, head := range []int{1, 2, 3} {
		body := n - 2 - len(name) - head
		if body < 0 {
			continue
		}
		if (head == 1) != (body < 24) || (head == 3) != (body > 255) || body > 0xffff {
			continue
		}
		out := append(make([]byte, 0, n), cborMap|1, cborText|byte(len(name)))
		out = append(out, name...)
		switch head {
		case 1:
			out = append(out, 0x40|byte(body))
		case 2:
			out = append(out, 0x58, byte(body))
		case 3:
			out = append(out, 0x59, byte(body>>8), byte(body))
		}
		for len(out) < n {
			out = append(out, 0xff)
		}
		return out
	}
	return nil
}

// Echo asks the device to send text back. Bootloaders are mostly built
// without it, so it is no sign of life; use Probe for that.
func (c *Client) Echo(ctx context.Context, text string) (string, error) {
	var in struct {
		D string `cbor:"d"`
	}
	in.D = text
	var out struct {
		status
		R *string `cbor:"r"`
	}
	r := request{name: "echo", op: OpWrite, group: GroupOS, command: cmdEcho, payload: c.encode(in)}
	if err := c.do(ctx, r, &out); err != nil {
		return "", err
	}
	if out.R == nil {
		return "", &ProtocolError{Request: r.name, Problem: `the answer has no "r"`}
	}
	return *out.R, nil
}

// BootMode asks an application's reset for what to start next.
type BootMode uint8

// The boot modes of Zephyr's retention subsystem.
const (
	BootNormal     BootMode = 0 // sent as no boot_mode at all
	BootBootloader BootMode = 1 // stay in the bootloader, where it was built for that
)

// Reset asks the device to restart, which it does about 250 ms after its
// answer. MCUboot and applications before Zephyr 4.2 ignore mode.
func (c *Client) Reset(ctx context.Context, mode BootMode) error {
	payload := emptyMap
	if mode != BootNormal {
		payload = c.encode(struct {
			BootMode BootMode `cbor:"boot_mode"`
		}{mode})
	}
	var out status
	err := c.do(ctx, request{name: "reset", op: OpWrite, group: GroupOS, command: cmdReset, payload: payload}, &out)
	c.mu.Lock()
	c.raw.known, c.raw.vain = false, time.Time{} // what starts has yet to be found
	c.mu.Unlock()
	return err
}

// Params is what a server says of its buffers.
type Params struct {
	BufSize  int // bytes of one buffer, console length and CRC fields included
	BufCount int
}

// MaxMessage is the largest message that fits: a buffer also holds the
// packet's length and CRC fields.
func (p Params) MaxMessage() int { return p.BufSize - packetOverhead }

// Window is how many upload requests such a server can have at once: of its
// buffers one is being filled and one holds an answer. It is 1 for MCUboot,
// which has one buffer.
func (p Params) Window() int { return max(p.BufCount-2, 1) }

// Params asks for the server's buffer size and count. MCUboot up to 2.4.0
// does not know the command.
func (c *Client) Params(ctx context.Context) (Params, error) {
	var out struct {
		status
		Size  *uint32 `cbor:"buf_size"`
		Count *uint32 `cbor:"buf_count"`
	}
	r := request{name: "buffer parameters", op: OpRead, group: GroupOS, command: cmdParams, payload: emptyMap}
	if err := c.do(ctx, r, &out); err != nil {
		return Params{}, err
	}
	if out.Size == nil || out.Count == nil {
		return Params{}, &ProtocolError{Request: r.name, Problem: "the answer lacks buf_size or buf_count"}
	}
	if *out.Size < 64 || *out.Size > 0xffff {
		return Params{}, &ProtocolError{Request: r.name, Problem: fmt.Sprintf("a buf_size of %d bytes is impossible", *out.Size)}
	}
	return Params{BufSize: int(*out.Size), BufCount: int(min(*out.Count, 0xffff))}, nil
}

// Info asks an application what it is; format is Zephyr's, as "a" for all.
func (c *Client) Info(ctx context.Context, format string) (string, error) {
	payload := emptyMap
	if format != "" {
		payload = c.encode(struct {
			Format string `cbor:"format"`
		}{format})
	}
	var out struct {
		status
		Output *string `cbor:"output"`
	}
	r := request{name: "information", op: OpRead, group: GroupOS, command: cmdInfo, payload: payload}
	if err := c.do(ctx, r, &out); err != nil {
		return "", err
	}
	if out.Output == nil {
		return "", &ProtocolError{Request: r.name, Problem: `the answer has no "output"`}
	}
	return *out.Output, nil
}

// BootloaderMode is how MCUboot updates, as an application reports it.
type BootloaderMode int

// Modes of MCUboot (enum mcuboot_mode in bootutil's boot_status.h).
const (
	ModeUnknown        BootloaderMode = -1
	ModeSingleSlot     BootloaderMode = 0
	ModeSwapScratch    BootloaderMode = 1
	ModeOverwriteOnly  BootloaderMode = 2
	ModeSwapMove       BootloaderMode = 3
	ModeDirectXIP      BootloaderMode = 4
	ModeDirectXIPRev   BootloaderMode = 5
	ModeRAMLoad        BootloaderMode = 6
	ModeFirmwareLoader BootloaderMode = 7
	ModeSingleRAMLoad  BootloaderMode = 8
	ModeSwapOffset     BootloaderMode = 9
)

// BootloaderInfo is what an application knows of its bootloader.
type BootloaderInfo struct {
	Name        string // "MCUboot"
	Mode        BootloaderMode
	NoDowngrade bool
}

// BootloaderInfo asks an application which bootloader started it and in which
// mode; a bootloader itself refuses the question.
func (c *Client) BootloaderInfo(ctx context.Context) (BootloaderInfo, error) {
	r := request{name: "bootloader information", op: OpRead, group: GroupOS, command: cmdBootloaderInfo, payload: emptyMap}
	var name struct {
		status
		Bootloader string `cbor:"bootloader"`
	}
	if err := c.do(ctx, r, &name); err != nil {
		return BootloaderInfo{}, err
	}
	info := BootloaderInfo{Name: name.Bootloader, Mode: ModeUnknown}
	r.payload = c.encode(struct {
		Query string `cbor:"query"`
	}{"mode"})
	var mode struct {
		status
		Mode        *int64 `cbor:"mode"`
		NoDowngrade bool   `cbor:"no-downgrade"`
	}
	if err := c.do(ctx, r, &mode); err != nil {
		return info, err
	}
	if mode.Mode != nil {
		info.Mode = BootloaderMode(*mode.Mode)
	}
	info.NoDowngrade = mode.NoDowngrade
	return info, nil
}
