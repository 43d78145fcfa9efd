package smp

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// UploadOptions say how an image is sent. The zero value uploads to image 0
// of any target, slowly but surely sized.
type UploadOptions struct {
	// Image is the image number of the request. What it addresses differs
	// between builds, and on some a wrong one erases a foreign partition:
	// leave it 0 unless the target is known. It is sent in every packet when
	// not 0, which releases up to 1.10 need.
	Image int
	// SHA is the SHA-256 of all bytes sent, for applications: one that has the
	// file already, or part of it from an upload cut short, goes on from
	// there. MCUboot ignores it. nil leaves it out.
	SHA []byte
	// WriteSize is the flash write size in bytes; chunks are a multiple of
	// it, since MCUboot drops the rest of one that is not. 0 means 32, which
	// is a multiple of every usual write size.
	WriteSize int
	// MessageSize is the largest message the target takes, header included.
	// 0 means: ask, else find out with padded probes (FindMessageSize).
	MessageSize int
	// Encrypted says that the image is encrypted. A bootloader starts to
	// decrypt on any request that meets the end of the upload, so the last
	// chunk is then never sent twice and the position is not asked for.
	Encrypted bool

	// FirstTimeout is for the first chunk, in whose time a bootloader may
	// erase the whole slot; 0 means 60 s. ChunkTimeout is for those that
	// follow, 0 means 3 s; LastTimeout for the last, 0 means 10 s. The time
	// on the wire is added to each.
	FirstTimeout, ChunkTimeout, LastTimeout time.Duration
	// Resends is how often one chunk may be sent again, and how often in a
	// row the position may fail to advance; 0 means 5, below 0 none.
	Resends int
	// Progress is called after every answer that moved the position.
	Progress func(UploadProgress)
}

// UploadProgress is how far an upload has come.
type UploadProgress struct {
	Sent, Total int // bytes the device has acknowledged, and all of them
	Resends     int // requests sent again so far
}

// UploadResult tells how an upload went, also one that failed.
type UploadResult struct {
	Sent        int // bytes acknowledged by the device
	Requests    int // upload requests sent, the repeated ones included
	Resends     int // of these, the repeated ones
	Bytes       int // bytes of image in all requests, the repeated ones included
	MessageSize int // the largest message allowed, in bytes
	ChunkSize   int // the most image bytes that one request carried
	// Match is an application's own comparison of the flash content with SHA;
	// nil if it made none.
	Match *bool
}

// UploadError says where an upload stopped; it wraps the reason.
type UploadError struct {
	Offset, Total int
	Err           error
}

func (e *UploadError) Error() string {
	return fmt.Sprintf("upload stopped at byte %d of %d: %v", e.Offset, e.Total, e.Err)
}

func (e *UploadError) Unwrap() error { return e.Err }

// StallError says that the device answers but does not take the data.
type StallError struct {
	Offset int // where it stands
	Tries  int
}

func (e *StallError) Error() string {
	return fmt.Sprintf("the device still wants byte %d after %d tries", e.Offset, e.Tries)
}

// LostError says that the device answers, and got none of several copies of
// the first chunk: the line loses what is long, or the device takes less than
// it was sent.
type LostError struct {
	Copies int
	Size   int // of the message, in bytes
}

func (e *LostError) Error() string {
	return fmt.Sprintf("the device answers, but got none of %d messages of %d bytes", e.Copies, e.Size)
}

// RestartError says that the device lost its place during an upload, as it
// does when it restarts: it wants a byte it had taken before.
type RestartError struct {
	Had, Wants int
}

func (e *RestartError) Error() string {
	return fmt.Sprintf("the device had taken %d bytes and now wants byte %d again: it has restarted", e.Had, e.Wants)
}

// messageSizes are the sizes tried on a target that does not tell its own:
// MCUboot's default buffer, what fits its eight line buffers even when it is
// busy, the fixed buffer of releases up to 1.9, and small ones.
var messageSizes = []int{1020, 740, 508, 252, 124}

// MessageSizeProbe is the Request of the *TimeoutError of a target that answers
// no padded probe of any size.
const MessageSizeProbe = "message size probe"

// FindMessageSize finds the largest message the target takes: by asking for
// its parameters, else by padded probes from large to small.
func (c *Client) FindMessageSize(ctx context.Context) (int, error) {
	p, err := c.Params(ctx)
	sizes := messageSizes
	if err == nil {
		// Told, and yet tried: a buffer that holds a message is of no use if
		// the line buffers before it do not.
		sizes = []int{p.MaxMessage()}
		for _, s := range messageSizes {
			if s < p.MaxMessage() {
				sizes = append(sizes, s)
			}
		}
	}
	var (
		refused *ServerError
		silent  *TimeoutError
		broken  *ProtocolError
	)
	if err != nil && !errors.As(err, &refused) && !errors.As(err, &silent) && !errors.As(err, &broken) {
		return 0, err
	}
	for _, size := range sizes {
		// Twice: a lost line must not halve the speed of a whole upload.
		for range 2 {
			ok, err := c.ProbeSize(ctx, size, 300*time.Millisecond)
			if err != nil {
				return 0, err
			}
			if ok {
				return size, nil
			}
		}
	}
	return 0, &TimeoutError{Request: MessageSizeProbe, After: 300 * time.Millisecond}
}

// Upload sends data and returns when the device has acknowledged all of it,
// which proves neither that it is intact nor that it will start: ask for the
// image list. The device's position rules: whatever offset it returns is
// where the upload goes on. Errors are *UploadError, but for those of
// FindMessageSize and of impossible options. Cancelling ctx stops at once.
func (c *Client) Upload(ctx context.Context, data []byte, opts UploadOptions) (UploadResult, error) {
	if len(data) == 0 {
		return UploadResult{}, errors.New("smp: nothing to upload: the image is empty")
	}
	u := upload{c: c, data: data, opts: opts.withDefaults(), end: -1}
	if u.opts.MessageSize == 0 {
		size, err := c.FindMessageSize(ctx)
		if err != nil {
			return UploadResult{}, fmt.Errorf("finding the message size: %w", err)
		}
		u.opts.MessageSize = size
	}
	u.result.MessageSize = u.opts.MessageSize
	if min(u.room(0), u.room(len(data))) < u.opts.WriteSize {
		return u.result, fmt.Errorf("smp: messages of %d bytes leave no room for %d bytes of image", u.opts.MessageSize, u.opts.WriteSize)
	}
	err := u.run(ctx)
	u.result.Sent = u.off
	if err != nil {
		return u.result, &UploadError{Offset: u.off, Total: len(data), Err: err}
	}
	return u.result, nil
}

func (o UploadOptions) withDefaults() UploadOptions {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&o.FirstTimeout, time.Minute)
	def(&o.ChunkTimeout, 3*time.Second)
	def(&o.LastTimeout, 10*time.Second)
	if o.WriteSize <= 0 {
		o.WriteSize = 32
	}
	switch {
	case o.Resends == 0:
		o.Resends = 5
	case o.Resends < 0:
		o.Resends = 0
	}
	return o
}

type upload struct {
	c      *Client
	data   []byte
	opts   UploadOptions
	off    int // what the device wants next
	end    int // one past what the last request carried
	result UploadResult
}

// The two request forms; data stays last (see newCodec). MCUboot 1.6 to 1.10
// refuses requests with keys other than these.
type firstChunk struct {
	Image int    `cbor:"image,omitempty"`
	Len   int    `cbor:"len"`
	Off   int    `cbor:"off"`
	SHA   []byte `cbor:"sha,omitempty"`
	Data  []byte `cbor:"data"`
}

type nextChunk struct {
	Image int    `cbor:"image,omitempty"`
	Off   int    `cbor:"off"`
	Data  []byte `cbor:"data"`
}

func (u *upload) payload(off int, data []byte) []byte {
	if off == 0 {
		return u.c.encode(firstChunk{Image: u.opts.Image, Len: len(u.data), SHA: u.opts.SHA, Data: data})
	}
	return u.c.encode(nextChunk{Image: u.opts.Image, Off: off, Data: data})
}

// room returns how many bytes of image fit into the request at off.
func (u *upload) room(off int) int {
	room := u.opts.MessageSize - HeaderSize - len(u.payload(off, nil))
	// The byte string's own length field grows with it.
	switch {
	case room > 255+2:
		return room - 2
	case room > 23+1:
		return min(room-1, 255)
	}
	return max(min(room, 23), 0)
}

// chunk returns how many bytes the request at off carries: as many as fit,
// cut to the write size unless they are the last.
func (u *upload) chunk(off int) int {
	room := u.room(off)
	if left := len(u.data) - off; left <= room {
		return left
	}
	return room / u.opts.WriteSize * u.opts.WriteSize
}

// count notes that a request with n bytes of image goes out.
func (u *upload) count(n int) {
	u.result.Requests++
	u.result.Bytes += n
	u.result.ChunkSize = max(u.result.ChunkSize, n)
}

func (u *upload) request(off int, data []byte) request {
	return request{name: "image upload", op: OpWrite, group: GroupImage, command: cmdImageUpload, payload: u.payload(off, data)}
}

type uploadAnswer struct {
	status
	Off   *uint64 `cbor:"off"`
	Match *bool   `cbor:"match"`
}

func (u *upload) run(ctx context.Context) error {
	if err := u.first(ctx); err != nil {
		return err
	}
	stalls := 0
	for u.off < len(u.data) {
		before := u.off
		if err := u.next(ctx); err != nil {
			return err
		}
		switch {
		case u.off < before:
			return &RestartError{Had: before, Wants: u.off}
		case u.off == before:
			if stalls++; stalls > u.opts.Resends {
				return &StallError{Offset: u.off, Tries: stalls}
			}
			u.result.Resends++
		default:
			stalls = 0
			u.progress()
		}
	}
	return nil
}

func (u *upload) progress() {
	if u.opts.Progress != nil {
		u.opts.Progress(UploadProgress{Sent: u.off, Total: len(u.data), Resends: u.result.Resends})
	}
}

// next sends the chunk at the current position, again after each silence, and
// takes the position from the answer.
func (u *upload) next(ctx context.Context) error {
	n := u.chunk(u.off)
	u.end = u.off + n
	r := u.request(u.off, u.data[u.off:u.end])
	last := u.end == len(u.data)
	r.timeout = u.opts.ChunkTimeout
	if last {
		r.timeout = u.opts.LastTimeout
	}
	first, resends := r.timeout, u.opts.Resends
	if last && u.opts.Encrypted {
		resends = 0
	}
	for try := 0; ; try++ {
		u.count(n)
		var out uploadAnswer
		err := u.c.do(ctx, r, &out)
		if err == nil {
			return u.take(out)
		}
		var silent *TimeoutError
		if !errors.As(err, &silent) || try >= resends {
			return err
		}
		u.result.Resends++
		// Back off, within reason: a device that is slower than thought gets
		// the time, and one that died is not waited for all day.
		r.timeout = min(r.timeout+r.timeout/2, 2*first)
	}
}

// take believes the device's position if it is a possible one.
func (u *upload) take(out uploadAnswer) error {
	if out.Off == nil {
		return &ProtocolError{Request: "image upload", Problem: `the answer has no "off"`}
	}
	limit := uint64(u.end)
	if u.off == 0 && len(u.opts.SHA) > 0 {
		// An application that was in the middle of the very same file, known
		// by its SHA, goes on where it stands.
		limit = uint64(len(u.data))
	}
	if *out.Off > limit && *out.Off != uint64(len(u.data)) {
		return &ProtocolError{Request: "image upload", Problem: fmt.Sprintf("the device wants byte %d, but was sent only %d", *out.Off, u.end)}
	}
	if out.Match != nil {
		u.result.Match = out.Match
	}
	u.off = int(*out.Off)
	return nil
}

// first sends the first chunk. Every copy of it makes the device start over,
// and perhaps erase the whole slot again, so it is never sent again on a
// guess: while it is unanswered the device is asked where it stands, which
// changes nothing and is answered only once it is done erasing. Only when it
// says that it never got the chunk is the chunk sent again.
func (u *upload) first(ctx context.Context) error {
	u.end = u.chunk(0)
	r := u.request(0, u.data[:u.end])
	for try := 0; ; try++ {
		u.count(u.end)
		lost, err := u.firstOnce(ctx, r)
		if err != nil {
			return err
		}
		if !lost {
			if u.off == 0 {
				// Taken, answered, and nothing written: less than one write
				// unit, or a server that does not want it.
				return &StallError{Offset: 0, Tries: try + 1}
			}
			u.progress()
			return nil
		}
		if try >= u.opts.Resends {
			return &LostError{Copies: try + 1, Size: HeaderSize + len(r.payload)}
		}
		u.result.Resends++
	}
}

// firstOnce sends the first chunk once. It reports whether the device is
// known not to have got it.
func (u *upload) firstOnce(ctx context.Context, r request) (lost bool, err error) {
	timeout := u.opts.FirstTimeout + u.c.wireTime(len(r.payload))
	fctx, cancel := context.WithTimeoutCause(ctx, timeout, &TimeoutError{Request: r.name, After: timeout})
	defer cancel()
	deadline := time.Now().Add(timeout)

	taken := make(chan answer, 1)
	seq, err := u.c.send(fctx, r, taken)
	if err != nil {
		return false, err
	}
	defer u.c.forget(seq, taken)

	// Out of the upload's range, so that it can never be the byte wanted.
	ask := u.request(len(u.data)+1, []byte{0})
	ask.name = "upload position"
	places := make(chan answer, maxPositionQueries)
	patience := u.opts.ChunkTimeout + u.c.wireTime(len(r.payload))
	for asked := 0; ; {
		t := time.NewTimer(min(patience, max(time.Until(deadline), 0)))
		select {
		case a := <-taken:
			t.Stop()
			var out uploadAnswer
			if err := u.c.codec.decode(r.name, a.payload, &out); err != nil {
				return false, err
			}
			return false, u.take(out)
		case a := <-places:
			t.Stop()
			var out uploadAnswer
			if err := u.c.codec.decode(ask.name, a.payload, &out); err != nil {
				return false, err
			}
			if out.Off == nil || *out.Off == 0 || *out.Off > uint64(u.end) {
				return true, nil
			}
			return false, u.take(out)
		case <-u.c.gone:
			t.Stop()
			return false, u.c.lineError()
		case <-ctx.Done():
			t.Stop()
			return false, context.Cause(ctx)
		case <-t.C:
			if !time.Now().Before(deadline) {
				u.c.silence()
				return false, &TimeoutError{Request: r.name, After: timeout}
			}
			if u.opts.Encrypted || asked == maxPositionQueries {
				patience = timeout // nothing more to try: only wait
				continue
			}
			asked++
			u.c.silence()
			s, err := u.c.send(fctx, ask, places)
			if err != nil {
				return false, err
			}
			defer u.c.forget(s, places)
		}
	}
}

// maxPositionQueries bounds how often a silent device is asked for its
// position during the first chunk: each question, with the line feed before
// it, waits in two of its line buffers while it erases, and of MCUboot's eight
// seven are free.
const maxPositionQueries = 3
