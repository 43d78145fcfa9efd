package smp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"sync"
	"time"
)

// Options tune a [Client]. The zero value suits MCUboot.
type Options struct {
	// Version is the protocol version of requests. Leave it at V1 for a
	// bootloader; V2 brings an application's precise error codes.
	Version Version
	// Timeout is how long a command without a timeout of its own waits for
	// its answer, the time on the wire not counted. 0 means 2 s.
	Timeout time.Duration
	// Baud is the line's speed in bits per second (8N1), from which the time
	// that a request spends on the wire is added to its timeout. 0 means a
	// line too fast to matter.
	Baud int
	// Framing is the one that the target is built for; see [Client.SetFraming].
	Framing Framing
	// Text receives every line that is no SMP frame: boot banners and logs.
	// It is called from the client's reader and must not block.
	Text func(line []byte)
}

const (
	defaultTimeout = 2 * time.Second
	// maxOutstanding bounds how many unanswered probes stay open at once.
	maxOutstanding = 64
)

// Client asks one device over one line. It owns the line: it reads from it
// until Close, so that text is seen also when nothing is asked. Its methods
// may be called from several goroutines at once; requests may overlap, each
// gets its own answer by sequence number, and strays are dropped.
type Client struct {
	line  io.ReadWriteCloser
	opts  Options
	codec codec
	seed  maphash.Seed // of sent

	writes chan write
	gone   chan struct{} // closed when the reader has stopped
	quit   chan struct{} // closed by Close
	once   sync.Once
	wg     sync.WaitGroup

	mu      sync.Mutex
	pending [256]chan<- answer
	seqs    [256]Header
	sent    [256]uint64 // hash of the last message under each number
	seq     uint8
	nudge   bool
	left    time.Time // when what was written has left the line
	raw     rawTalk
	readErr error
	stats   Stats
}

// Stats counts a client's traffic.
type Stats struct {
	Requests int // messages sent
	Answers  int // matched to a request
	Strays   int // late, doubled or unasked messages, dropped
	// Echoes are those strays that are byte for byte one of the last 256
	// requests: the line sends back what it gets, because TX and RX are
	// joined or an echoing shell listens.
	Echoes   int
	Timeouts int // requests that ended in silence
	Decoder  DecoderStats
}

type write struct {
	nudge bool // a line feed goes first
	frame []byte
	done  chan<- error
}

type answer struct {
	header  Header
	payload []byte // nil if off says it all
	off     uint64
	plain   bool // the usual answer to an upload request: success, and off
}

// NewClient returns a client on line, which must be raw (no echo, no newline
// translation) and whose Close must end a Read and a Write in progress. The
// caller must call Close.
func NewClient(line io.ReadWriteCloser, opts Options) *Client {
	if opts.Timeout <= 0 {
		opts.Timeout = defaultTimeout
	}
	c := &Client{
		line:   line,
		opts:   opts,
		codec:  newCodec(),
		seed:   maphash.MakeSeed(),
		writes: make(chan write),
		gone:   make(chan struct{}),
		quit:   make(chan struct{}),
		// A line feed before the first frame ends whatever half line a
		// power-up glitch left in the device's buffer: MCUboot drops a frame
		// whose marker is not at the start of a line.
		nudge: opts.Framing == FramingConsole,
	}
	if opts.Framing == FramingRaw {
		c.seq = rawSeq
	}
	c.wg.Go(c.read)
	c.wg.Go(c.write)
	return c
}

// Close closes the line and waits until nothing of the client runs any more.
// Requests in progress end with an error.
func (c *Client) Close() error {
	var err error
	c.once.Do(func() {
		close(c.quit)
		err = c.line.Close()
	})
	c.wg.Wait()
	return err
}

// Gone is closed when the line has ended: unplugged, or closed by Close.
func (c *Client) Gone() <-chan struct{} { return c.gone }

// SetTimeout changes Options.Timeout for the requests to come.
func (c *Client) SetTimeout(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.opts.Timeout = d
}

// SetVersion changes Options.Version for the requests to come. The version of
// an answer is not looked at: servers answer in the one they know.
func (c *Client) SetVersion(v Version) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.opts.Version = v
}

// Stats returns the counts so far.
func (c *Client) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}

func (c *Client) read() {
	defer close(c.gone)
	// A fault of ours in here, or in the text function, must not take the
	// process down: somebody still has to switch the boards off.
	defer func() {
		if p := recover(); p != nil {
			c.mu.Lock()
			c.readErr = fmt.Errorf("internal fault: %v", p)
			c.mu.Unlock()
		}
	}()
	var (
		dec  Decoder
		bare = rawDecoder{asked: c.asked, codec: c.codec}
		buf  = make([]byte, 4096)
	)
	for {
		n, err := c.line.Read(buf)
		if n > 0 {
			c.mu.Lock()
			raw, stale := c.opts.Framing == FramingRaw, c.raw.stale
			c.raw.stale = false
			c.mu.Unlock()
			if raw && stale {
				bare.giveUp(c.deliver, c.opts.Text)
			}
			var stats DecoderStats
			if raw {
				bare.feed(buf[:n], c.deliver, c.opts.Text)
				stats = bare.stats
			} else {
				dec.Feed(buf[:n], c.deliver, c.opts.Text)
				stats = dec.Stats()
			}
			c.mu.Lock()
			c.stats.Decoder = stats
			c.mu.Unlock()
		}
		if err != nil {
			c.mu.Lock()
			c.readErr = err
			c.mu.Unlock()
			return
		}
	}
}

// deliver hands a message to the request that waits for it.
func (c *Client) deliver(msg []byte) {
	h, payload, err := ParseMessage(msg)
	c.mu.Lock()
	defer c.mu.Unlock()
	want := c.seqs[h.Sequence]
	ch := c.pending[h.Sequence]
	if err != nil || ch == nil || h.Op != want.Op+1 || h.Group != want.Group || h.Command != want.Command {
		c.stats.Strays++
		if err == nil && h == want && maphash.Bytes(c.seed, msg) == c.sent[h.Sequence] {
			c.stats.Echoes++
		}
		return
	}
	c.pending[h.Sequence] = nil
	c.stats.Answers++
	c.raw.known = true
	a := answer{header: h}
	if h.Group == GroupImage && h.Command == cmdImageUpload {
		a.off, a.plain = plainOffset(payload)
	}
	if !a.plain {
		a.payload = append([]byte(nil), payload...)
	}
	ch <- a // has room for every request it was registered for
}

func (c *Client) write() {
	for {
		select {
		case <-c.quit:
			return
		case w := <-c.writes:
			w.done <- c.put(w)
		}
	}
}

// nudgeGap is the pause after a line feed that goes before a frame. Zephyr's
// SMP server has two line buffers, and the empty line takes one until it has been
// looked at.
const nudgeGap = 2 * time.Millisecond

func (c *Client) put(w write) error {
	if w.nudge {
		if _, err := c.line.Write([]byte{'\n'}); err != nil {
			return err
		}
		t := time.NewTimer(nudgeGap)
		defer t.Stop()
		select {
		case <-t.C:
		case <-c.quit:
		}
	}
	_, err := c.line.Write(w.frame)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left = c.left.Add(c.lineTime(len(w.frame)))
	if now := time.Now(); c.left.Before(now) {
		c.left = now
	}
	return err
}

// request is one SMP request; its payload is the encoded CBOR map.
type request struct {
	name    string
	op      Op
	group   Group
	command uint8
	payload []byte
	timeout time.Duration // 0 means the client's
	frame   framing
}

// encode marshals v, one of this package's own request structs.
func (c *Client) encode(v any) []byte {
	b, err := c.codec.enc.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("smp: encoding a request: %v", err)) // our own plain structs
	}
	return b
}

// enlist gives msg, a whole message, its sequence number and version, and
// registers answers to receive what answers it; answers needs room for it. The
// number must be given back with forget. nudge says that a line feed must go
// first.
func (c *Client) enlist(name string, msg []byte, answers chan<- answer) (seq uint8, nudge bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	seq = c.seq
	for c.pending[seq] != nil {
		if seq++; seq == c.seq {
			return 0, false, fmt.Errorf("%s: all 256 sequence numbers are waiting for answers", name)
		}
	}
	c.seq = seq + 1
	h, _, _ := ParseMessage(msg)
	h.Version, h.Sequence = c.opts.Version, seq
	h.Append(msg[:0])
	c.pending[seq], c.seqs[seq], c.sent[seq] = answers, h, maphash.Bytes(c.seed, msg)
	nudge = c.nudge
	c.nudge = false
	c.stats.Requests++
	return seq, nudge, nil
}

// send puts a request on the line and registers answers to receive what
// answers it; answers needs room for it. The returned sequence number must
// be given back with forget.
func (c *Client) send(ctx context.Context, r request, answers chan<- answer) (uint8, error) {
	h := Header{Op: r.op, Length: uint16(len(r.payload)), Group: r.group, Command: r.command}
	msg := append(h.Append(make([]byte, 0, HeaderSize+len(r.payload))), r.payload...)
	seq, nudge, err := c.enlist(r.name, msg, answers)
	if err != nil {
		return 0, err
	}
	framing := c.framing()
	if framing != bare {
		framing = cmp.Or(r.frame, framing)
	}
	frame := framing.append(make([]byte, 0, framing.size(len(msg))), msg)

	done := make(chan error, 1)
	select {
	case c.writes <- write{nudge, frame, done}:
		select {
		case err = <-done:
		case <-ctx.Done():
			err = ctx.Err()
		}
	case <-ctx.Done():
		err = ctx.Err()
	case <-c.gone:
		err = c.lineError()
	case <-c.quit:
		err = c.lineError()
	}
	if err != nil {
		c.forget(seq, answers)
		if cause := context.Cause(ctx); cause != nil {
			var silent *TimeoutError
			if errors.As(cause, &silent) {
				return 0, silent
			}
			return 0, fmt.Errorf("%s: %w", r.name, cause)
		}
		var port *PortError
		if !errors.As(err, &port) {
			err = &PortError{Op: "write", Err: err}
		}
		return 0, fmt.Errorf("%s: %w", r.name, err)
	}
	return seq, nil
}

// forget stops waiting for the answer to seq; one that comes late is a stray.
// The number may have gone to another request meanwhile, which keeps it.
func (c *Client) forget(seq uint8, answers chan<- answer) {
	c.mu.Lock()
	if c.pending[seq] == answers {
		c.pending[seq] = nil
	}
	c.mu.Unlock()
}

// cut notes that a frame was left half sent: the next one starts on a fresh
// line, whose start marker makes the device forget that half, or after a rest.
func (c *Client) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.opts.Framing == FramingRaw {
		c.raw.spoilt = true
		c.left = time.Now() // it may only now come to what it got
		return
	}
	c.nudge = true
}

// silence notes that a request was not answered: its frame may have died half
// way, so the next one starts on a fresh line, or after a rest.
func (c *Client) silence() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Timeouts++
	if c.opts.Framing == FramingRaw {
		c.raw.spoilt = c.raw.spoilt || c.raw.known
		return
	}
	c.nudge = true
}

func (c *Client) lineError() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.readErr
	if err == nil {
		err = io.ErrClosedPipe
	}
	return &PortError{Op: "read", Err: err}
}

// wireTime is how long n payload bytes and their framing take to the device.
func (c *Client) wireTime(n int) time.Duration {
	return c.lineTime(c.framing().size(HeaderSize + n))
}

// lineTime is how long n bytes take to the device, 0 if the line's speed is
// not known.
func (c *Client) lineTime(n int) time.Duration {
	if c.opts.Baud <= 0 {
		return 0
	}
	return time.Duration(n) * 10 * time.Second / time.Duration(c.opts.Baud)
}

// wait returns the first answer, or why there is none. It ends after timeout,
// which includes no wire time.
func (c *Client) wait(ctx context.Context, name string, answers <-chan answer, timeout time.Duration) (answer, error) {
	t := time.NewTimer(timeout)
	defer t.Stop()
	select {
	case a := <-answers:
		return a, nil
	case <-ctx.Done():
		return answer{}, fmt.Errorf("%s: %w", name, context.Cause(ctx))
	case <-t.C:
		c.silence()
		return answer{}, &TimeoutError{Request: name, After: timeout}
	case <-c.gone:
		select {
		case a := <-answers: // it came just before the end
			return a, nil
		default:
		}
		return answer{}, fmt.Errorf("%s: %w", name, c.lineError())
	}
}

// do sends r and decodes its answer into out.
func (c *Client) do(ctx context.Context, r request, out interface{ check(string) error }) error {
	if err := c.rest(ctx, r.name); err != nil {
		return err
	}
	timeout := r.timeout
	if timeout <= 0 {
		c.mu.Lock()
		timeout = c.opts.Timeout
		c.mu.Unlock()
	}
	timeout += c.wireTime(len(r.payload))
	// The write counts too: a line that takes nothing (flow control, a dead
	// adapter) must not hold the caller for ever.
	wctx, cancel := context.WithTimeoutCause(ctx, timeout, &TimeoutError{Request: r.name, After: timeout})
	defer cancel()
	deadline := time.Now().Add(timeout)
	answers := make(chan answer, 1)
	seq, err := c.send(wctx, r, answers)
	if err != nil {
		if ctx.Err() == nil && wctx.Err() != nil {
			c.silence()
		}
		return err
	}
	defer c.forget(seq, answers)
	a, err := c.wait(ctx, r.name, answers, max(time.Until(deadline), 0))
	if silent, ok := errors.AsType[*TimeoutError](err); ok {
		silent.After = timeout
	}
	if err != nil {
		return err
	}
	return c.codec.decode(r.name, a.payload, out)
}
