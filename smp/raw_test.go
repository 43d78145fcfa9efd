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

	"github.com/google/go-cmp/cmp"
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
		asked       = "020000000000a701"
		banner      = "2a2a2a20426f6f74696e67205a65706879720d0a"
		framed      = "0609414151444141414741414141416239696247415f0a"
	)
	for name, test := range map[string]struct {
		pieces  []string
		target  Target
		silence bool
		refused bool
	}{
		"bootloader":            {pieces: []string{ok}, target: TargetBootloader},
		"a map without an end":  {pieces: []string{noEnd}, silence: true},
		"application":           {pieces: []string{notKnown}, target: TargetApplication},
		"in pieces":             {pieces: []string{ok[:2], ok[2:18], ok[18:]}, target: TargetBootloader},
		"after a banner":        {pieces: []string{banner + ok}, target: TargetBootloader},
		"after an echo":         {pieces: []string{asked + ok}, target: TargetBootloader},
		"with a banner behind":  {pieces: []string{ok + banner}, target: TargetBootloader},
		"refused":               {pieces: []string{refused}, refused: true},
		"nonsense":              {pieces: []string{noSense}, silence: true},
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
				)
				if target != test.target || errors.As(err, &silence) != test.silence || errors.As(err, &refused) != test.refused {
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

// rawTarget is MCUboot's receiver without frames, and answers as boot_serial
// does: {"rc":0}, to uploads with "off".
type rawTarget struct {
	conn  net.Conn
	limit int // of a message, bytes
	mute  func(h Header) bool

	mu    sync.Mutex
	wg    sync.WaitGroup
	buf   []byte
	last  time.Time
	heard []Header
	at    []time.Time
	out   []byte // goes before the next answer
}

func newRawTarget(t *testing.T, opts Options) (*Client, *rawTarget) {
	t.Helper()
	near, far := net.Pipe()
	d := &rawTarget{conn: far, limit: 1025}
	opts.Framing = FramingRaw
	c := NewClient(near, opts)
	d.wg.Go(d.run)
	t.Cleanup(func() {
		c.Close()
		far.Close()
		d.wg.Wait()
	})
	return c, d
}

func (d *rawTarget) run() {
	buf := make([]byte, 4096)
	for {
		n, err := d.conn.Read(buf)
		if err != nil {
			return
		}
		d.mu.Lock()
		if time.Since(d.last) >= 3*time.Second {
			d.buf = nil
		}
		d.last = time.Now()
		d.buf = append(d.buf, buf[:n]...)
		var out []byte
		for len(d.buf) >= HeaderSize {
			h := parseHeader(d.buf)
			size := HeaderSize + int(h.Length)
			if h.Op != OpRead && h.Op != OpWrite || size > d.limit {
				d.buf = d.buf[:0]
				break
			}
			if len(d.buf) < size {
				break
			}
			d.buf = append([]byte(nil), d.buf[size:]...)
			d.heard, d.at = append(d.heard, h), append(d.at, time.Now())
			if d.mute != nil && d.mute(h) {
				continue
			}
			h.Op, h.Length = h.Op+1, 6
			out = append(out, d.out...)
			out = append(h.Append(out), 0xbf, 0x62, 'r', 'c', 0, 0xff)
		}
		d.mu.Unlock()
		if len(out) > 0 {
			d.conn.Write(out)
		}
	}
}

func (d *rawTarget) times() []time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]time.Time(nil), d.at...)
}

// After a silence a raw target is left alone until it has forgotten, however
// short the timeout was; one that has never answered is asked in bursts.
func TestRawRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, d := newRawTarget(t, Options{})
		if target, err := c.Probe(t.Context(), time.Second); target != TargetBootloader || err != nil {
			t.Fatal(target, err)
		}
		began := time.Now()
		d.mu.Lock()
		d.mute = func(Header) bool { return time.Since(began) < time.Second }
		d.mu.Unlock()
		if ok, err := c.ProbeSize(t.Context(), 100, 300*time.Millisecond); ok || err != nil {
			t.Fatal(ok, err)
		}
		if ok, err := c.ProbeSize(t.Context(), 100, 300*time.Millisecond); !ok || err != nil {
			t.Fatal(ok, err)
		}
		if at := d.times(); len(at) != 3 || at[2].Sub(at[1]) < RawQuiet || at[2].Sub(at[1]) > RawQuiet+time.Millisecond {
			t.Errorf("asked at %v", at)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		c, d := newRawTarget(t, Options{})
		// Half a question, as a target that starts catches it.
		d.buf, d.last = []byte{0, 0}, time.Now()
		began := time.Now()
		d.mute = func(h Header) bool { return h.Group != GroupOS || h.Command != cmdConsoleEcho }
		target, err := c.AwaitTarget(t.Context(), 100*time.Millisecond, 10*time.Second)
		if took := time.Since(began); target != TargetBootloader || err != nil || took < rawBurst || took > rawBurst+RawQuiet+200*time.Millisecond {
			t.Errorf("%v, %v after %v", target, err, took)
		}
		// The restart makes it a stranger again.
		d.mu.Lock()
		d.mute = nil
		d.mu.Unlock()
		if err := c.Reset(t.Context(), BootNormal); err != nil {
			t.Fatal(err)
		}
		restarted, asked := time.Now(), len(d.times())
		d.mu.Lock()
		d.mute = func(Header) bool { return time.Since(restarted) < time.Second }
		d.mu.Unlock()
		if _, err := c.AwaitTarget(t.Context(), 100*time.Millisecond, 10*time.Second); err != nil || time.Since(restarted) > 1100*time.Millisecond {
			t.Errorf("%v, found after %v", err, time.Since(restarted))
		}
		if n := len(d.times()) - asked; n < 10 {
			t.Errorf("asked %d times", n)
		}
	})
}

// A target whose answer to one question took the first byte of the next is not
// believed before it has answered the last.
func TestRawLastAnswerCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, d := newRawTarget(t, Options{})
		// A header that wants a byte more: the next question's first.
		first := Header{Op: OpWrite, Length: 1, Group: GroupOS, Sequence: rawSeq, Command: cmdConsoleEcho}
		d.mute = func(Header) bool { return false }
		time.AfterFunc(50*time.Millisecond, func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.buf, d.last = first.Append(nil), time.Now()
		})
		d.mute = func(h Header) bool { return len(d.heard) == 1 } // the first itself
		began := time.Now()
		target, err := c.AwaitTarget(t.Context(), 100*time.Millisecond, 10*time.Second)
		if took := time.Since(began); target != TargetBootloader || err != nil || took < RawQuiet {
			t.Errorf("%v, %v after %v", target, err, took)
		}
		if _, err := c.Params(t.Context()); !errors.As(err, new(*ProtocolError)) { // {"rc":0} is no such answer, but one
			t.Errorf("the next request: %v", err)
		}
	})
}

// A client that goes over to raw keeps silent first, and never nudges after; the
// other way round it nudges and waits for nothing.
func TestSetFraming(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		c := NewClient(near, Options{})
		defer c.Close()
		type write struct {
			at    time.Duration
			bytes string
		}
		began := time.Now()
		writes := make(chan write, 100)
		go func() {
			buf := make([]byte, 256)
			for {
				n, err := far.Read(buf)
				if err != nil {
					return
				}
				writes <- write{time.Since(began), string(buf[:n])}
			}
		}()
		probe := func() (out []write) {
			if _, err := c.Probe(t.Context(), time.Second); !errors.As(err, new(*TimeoutError)) {
				t.Fatal(err)
			}
			for len(writes) > 0 {
				out = append(out, <-writes)
			}
			return out
		}
		if w := probe(); len(w) != 2 || w[0].bytes != "\n" {
			t.Errorf("console: %+v", w)
		}
		c.SetFraming(FramingRaw)
		if w := probe(); len(w) != 1 || w[0].at != RawQuiet+nudgeGap || w[0].bytes != "\x02\x00\x00\x00\x00\x00\xa7\x01" || c.Framing() != FramingRaw {
			t.Errorf("raw: %+v", w)
		}
		c.SetFraming(FramingConsole)
		if w := probe(); len(w) != 2 || w[0].bytes != "\n" || w[0].at != RawQuiet+nudgeGap+time.Second {
			t.Errorf("console again: %+v", w)
		}
	})
}

// What a line carries besides answers is text, and damage hides no answer but
// its own.
func TestRawDecoder(t *testing.T) {
	const (
		ok     = "\x03\x00\x00\x06\x00\x00\xa7\x01\xbf\x62rc\x00\xff"
		second = "\x03\x00\x00\x06\x00\x00\xa8\x01\xbf\x62rc\x08\xff"
		asked  = "\x02\x00\x00\x01\x00\x00\xa7\x01\xa0"
	)
	for name, tt := range map[string]struct {
		in       string
		messages []string
		text     []string
		bad      int
		held     int // bytes
	}{
		"two":                        {in: ok + second, messages: []string{ok, second}},
		"among text":                 {in: "*** Booting\r\n" + ok + "uart:~$ \n" + second, messages: []string{ok, second}, text: []string{"*** Booting", "uart:~$ "}},
		"tabs and control":           {in: "\tone\x03\x01two\n" + ok, messages: []string{ok}, text: []string{"\tone\x03\x01two"}},
		"an echo":                    {in: asked + ok, messages: []string{asked, ok}},
		"one not asked for":          {in: "\x03\x00\x00\x06\x00\x01\xa7\x01\xbf\x62rc\x00\xff" + ok, messages: []string{ok}},
		"of a sequence not used":     {in: "\x03\x00\x00\x06\x00\x00\x07\x01\xbf\x62rc\x00\xff" + ok, messages: []string{ok}},
		"flags":                      {in: "\x03\x01\x00\x06\x00\x00\xa7\x01\xbf\x62rc\x00\xff" + ok, messages: []string{ok}},
		"a version nobody speaks":    {in: "\x13\x00\x00\x06\x00\x00\xa7\x01\xbf\x62rc\x00\xff" + ok, messages: []string{ok}},
		"reserved bits":              {in: "\x23\x00\x00\x06\x00\x00\xa7\x01\xbf\x62rc\x00\xff" + ok, messages: []string{ok}},
		"version 2":                  {in: "\x0b" + ok[1:], messages: []string{"\x0b" + ok[1:]}},
		"longer than any":            {in: "\x03\x00\xff\xff\x00\x00\xa7\x01\xbf" + ok, messages: []string{ok}},
		"no map":                     {in: "\x03\x00\x00\x06\x00\x00\xa7\x01\x62rc\x00\xff\xff" + ok, messages: []string{ok}},
		"a map without an end":       {in: "\x03\x00\x00\x05\x00\x00\xa7\x01\xbf\x62rc\x00" + ok, messages: []string{ok}, bad: 1},
		"more than a map":            {in: "\x03\x00\x00\x02\x00\x00\xa7\x01\xa0\xa0" + ok, messages: []string{ok}, bad: 1},
		"a lost byte eats the next":  {in: ok[:12] + ok[13:] + second, messages: []string{second}, bad: 1},
		"cut short, then the banner": {in: ok[:11] + "*** Booting\n", text: []string{ok[:11] + "*** Booting"}, bad: 1},
		"half":                       {in: ok[:11], held: 11},
		"a start":                    {in: "\x03", held: 1},
	} {
		for _, step := range []int{1, 3, 1000} {
			d := rawDecoder{codec: newCodec(), asked: askedOnly(0xa7, 0xa8)}
			var messages, text []string
			for in := tt.in; len(in) > 0; in = in[min(step, len(in)):] {
				d.feed([]byte(in[:min(step, len(in))]),
					func(m []byte) { messages = append(messages, string(m)) }, func(l []byte) { text = append(text, string(l)) })
			}
			// Where nothing ends the line the junk before stays in it.
			if diff := cmp.Diff(tt.messages, messages); diff != "" {
				t.Errorf("%s, %d at a time: %s", name, step, diff)
			}
			if diff := cmp.Diff(tt.text, text); diff != "" {
				t.Errorf("%s, %d at a time: %s", name, step, diff)
			}
			if d.stats.BadPacket != tt.bad || d.stats.Messages != len(tt.messages) || len(d.held) != tt.held {
				t.Errorf("%s, %d at a time: %+v, %d held", name, step, d.stats, len(d.held))
			}
		}
	}
}

// askedOnly accepts answers to probes of these numbers, and the probes.
func askedOnly(seqs ...uint8) func(Header) bool {
	return func(h Header) bool {
		for _, s := range seqs {
			want := Header{Op: OpWrite, Length: 1, Group: GroupOS, Sequence: s, Command: cmdConsoleEcho}
			if h == want || h.Op == OpWriteResponse && h.Group == want.Group && h.Sequence == s && h.Command == want.Command {
				return true
			}
		}
		return false
	}
}

// FuzzRawDecoder: whatever comes and however it is cut, every message is one
// that was asked for, nothing is lost, and little is kept; given up on, an answer
// after it is found.
func FuzzRawDecoder(f *testing.F) {
	const ok = "\x03\x00\x00\x06\x00\x00\xa7\x01\xbf\x62rc\x00\xff"
	for _, s := range []string{ok, ok + ok, "boot\n" + ok, ok[:9], "\x03\x00\x3f\x00\x00\x00\xa7\x01\xbf" + ok, "\x03\x03\x00" + ok, "\x0b\x00\x00\x01\x00\x00\xa7\x01\xa0"} {
		f.Add([]byte(s), uint8(3))
	}
	c := newCodec()
	asked := askedOnly(0xa7)
	f.Fuzz(func(t *testing.T, in []byte, step uint8) {
		run := func(step int) (messages []string, d *rawDecoder) {
			d = &rawDecoder{codec: c, asked: asked}
			message := func(m []byte) {
				h, p, err := ParseMessage(m)
				if err != nil || !asked(h) || len(p) == 0 || p[0]>>5 != 5 || c.dec.Wellformed(p) != nil {
					t.Errorf("message %x, %v", m, err)
				}
				messages = append(messages, string(m))
			}
			for rest := in; len(rest) > 0; rest = rest[min(step, len(rest)):] {
				d.feed(rest[:min(step, len(rest))], message, nil)
				if len(d.held) > maxPacket {
					t.Fatalf("%d bytes are kept", len(d.held))
				}
			}
			return messages, d
		}
		whole, d := run(len(in) + 1)
		pieces, _ := run(int(step) + 1)
		if diff := cmp.Diff(whole, pieces); diff != "" {
			t.Errorf("cut differently: %s", diff)
		}
		d.giveUp(nil, nil)
		found := false
		d.feed([]byte(ok), func([]byte) { found = true }, nil)
		if len(d.held) > 0 || !found {
			t.Errorf("after it the answer is found: %v; %d bytes are kept", found, len(d.held))
		}
	})
}

// slowOnce is a device that takes a second over one of its answers.
type slowOnce struct {
	*instant
	reads int
}

func (l *slowOnce) Read(p []byte) (int, error) {
	n, err := l.instant.Read(p)
	if l.reads++; l.reads == 30 {
		time.Sleep(time.Second)
	}
	return n, err
}

// A raw device that is slower than ever is waited for: a copy of the chunk would
// come while it works, and nothing may be sent sooner anyway.
func TestRawWaitsForSlowAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewClient(&slowOnce{instant: &instant{raw: true, answer: make(chan []byte, 1)}}, Options{Framing: FramingRaw, Baud: 1_000_000})
		defer c.Close()
		began := time.Now()
		r, err := c.Upload(t.Context(), make([]byte, 60*992), UploadOptions{MessageSize: 1020})
		if took := time.Since(began); err != nil || r.Resends > 0 || took > 1100*time.Millisecond {
			t.Errorf("%v, %+v after %v", err, r, took)
		}
	})
}
