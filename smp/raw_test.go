package smp

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// rawDevice is the far end of a line: it answers the first thing it is sent with
// pieces, 10 ms apart.
func rawDevice(t *testing.T, pieces ...string) (near net.Conn, got func() []byte) {
	t.Helper()
	near, far := net.Pipe()
	var (
		wg   sync.WaitGroup
		seen bytes.Buffer
	)
	wg.Go(func() {
		defer far.Close()
		buf := make([]byte, 256)
		for first := true; ; first = false {
			n, err := far.Read(buf)
			seen.Write(buf[:n])
			if err != nil {
				return
			}
			for _, p := range pieces {
				if !first {
					break
				}
				time.Sleep(10 * time.Millisecond)
				b, err := hex.DecodeString(p)
				if err != nil {
					panic(err)
				}
				if _, err := far.Write(b); err != nil {
					return
				}
			}
		}
	})
	return near, func() []byte {
		near.Close()
		wg.Wait()
		return seen.Bytes()
	}
}

func TestProbeRaw(t *testing.T) {
	const (
		noEnd       = "030000060000a701bf6272630000" // of the map
		ok          = "030000060000a701bf62726300ff"
		notKnown    = "030000060000a701bf62726308ff"
		refused     = "030000060000a701bf62726301ff"
		notOurs     = "030000060000a601bf62726300ff"
		noSense     = "030000020000a701ffff"
		emptyAnswer = "030000000000a701"
		asked       = "020000010000a701a0"
		banner      = "2a2a2a20426f6f74696e67205a65706879720d0a"
		framed      = "0609414151444141414741414141416239696247415f0a"
	)
	for name, test := range map[string]struct {
		pieces  []string
		target  Target
		silence bool
		refused bool
		garbled bool
	}{
		"bootloader":            {pieces: []string{ok}, target: TargetBootloader},
		"a map without an end":  {pieces: []string{noEnd}, garbled: true},
		"application":           {pieces: []string{notKnown}, target: TargetApplication},
		"in pieces":             {pieces: []string{ok[:2], ok[2:18], ok[18:]}, target: TargetBootloader},
		"after a banner":        {pieces: []string{banner + ok}, target: TargetBootloader},
		"after an echo":         {pieces: []string{asked + ok}, target: TargetBootloader},
		"with a banner behind":  {pieces: []string{ok + banner}, target: TargetBootloader},
		"refused":               {pieces: []string{refused}, refused: true},
		"nonsense":              {pieces: []string{noSense}, garbled: true},
		"silence":               {silence: true},
		"echo":                  {pieces: []string{asked}, silence: true},
		"banner":                {pieces: []string{banner}, silence: true},
		"console frame":         {pieces: []string{framed}, silence: true},
		"another's answer":      {pieces: []string{notOurs}, silence: true},
		"half an answer":        {pieces: []string{ok[:22]}, silence: true},
		"answer without a body": {pieces: []string{emptyAnswer}, silence: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				line, got := rawDevice(t, test.pieces...)
				began := time.Now()
				target, err := ProbeRaw(t.Context(), line, 300*time.Millisecond)
				var (
					silence *TimeoutError
					refused *ServerError
					garbled *ProtocolError
				)
				if target != test.target || errors.As(err, &silence) != test.silence ||
					errors.As(err, &refused) != test.refused || errors.As(err, &garbled) != test.garbled {
					t.Errorf("%v, %v", target, err)
				}
				if took := time.Since(began); test.silence && took != 300*time.Millisecond || took > 300*time.Millisecond {
					t.Errorf("took %v", took)
				}
				// One bare message, and above all no line feed.
				if sent := hex.EncodeToString(got()); sent != asked {
					t.Errorf("sent %s", sent)
				}
			})
		})
	}
}

// A line that fails and a caller who gives up end the probe at once, also while
// the line takes nothing; the line is closed.
func TestProbeRawEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		far.Close()
		if _, err := ProbeRaw(t.Context(), near, time.Second); !errors.As(err, new(*PortError)) {
			t.Errorf("a closed line: %v", err)
		}
		near, far = net.Pipe()
		defer far.Close()
		cause := errors.New("enough")
		ctx, stop := context.WithCancelCause(t.Context())
		time.AfterFunc(100*time.Millisecond, func() { stop(cause) })
		began := time.Now()
		if _, err := ProbeRaw(ctx, near, time.Second); !errors.Is(err, cause) {
			t.Errorf("given up: %v", err)
		}
		if took := time.Since(began); took != 100*time.Millisecond {
			t.Errorf("took %v", took)
		}
		if _, err := near.Write(nil); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("the line is not closed: %v", err)
		}
		near, _ = net.Pipe()
		if _, err := ProbeRaw(t.Context(), near, time.Second); !errors.As(err, new(*TimeoutError)) {
			t.Errorf("a line that takes nothing: %v", err)
		}
	})
}
