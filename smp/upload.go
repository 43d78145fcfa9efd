package smp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
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
	// LineLength is the target's line buffer in bytes
	// (CONFIG_BOOT_MAX_LINE_INPUT_LEN), where it is known to be larger than the
	// 128 that 0 stands for; at most 512 is made use of. A line too long is met
	// with silence.
	LineLength int

	// Overlap sends lines of the next chunk while a bootloader writes the last
	// one, where that is proven to work (see [OverlapAuto]).
	Overlap Overlap
	// Ahead is how many lines may be on their way before the chunk before them
	// is answered; 0 means 7, of MCUboot's eight line buffers
	// (CONFIG_BOOT_LINE_BUFS) those that are free while it works.
	Ahead int
	// SectorSize is the erase unit of the target's flash in bytes. 0 leaves it
	// to be found out, by the rhythm of the answers.
	SectorSize int
	// Window is how many requests may wait for their answers at once: for
	// applications, whose buffers hold whole requests ([Params.Window]). Up to 1
	// is one at a time, and more than 16 is 16. It is tested first, as overlapping
	// is, and not on a device that erases as it goes. MCUboot has one buffer. With
	// a window, Overlap is not looked at.
	Window int
	// Proven leaves out the self-test before Overlap or a Window is used, for a
	// device of a kind that has passed it. After a loss it is made all the same.
	Proven bool
	// Encrypted says that the image is encrypted. A bootloader starts to
	// decrypt on any request that meets the end of the upload, so the last
	// chunk is then never sent twice and the position not asked for when it may
	// be there.
	Encrypted bool

	// FirstTimeout is for the first chunk, in whose time a bootloader may
	// erase the whole slot; 0 means 60 s. ChunkTimeout is for those that
	// follow, 0 means 3 s; LastTimeout for the last, 0 means 10 s. The time
	// on the wire is added to each. They are for a device that is slow or dead:
	// a chunk whose answer is missing for longer than the answers so far foretell
	// is sent again sooner, once, and the answer to either copy counts.
	FirstTimeout, ChunkTimeout, LastTimeout time.Duration
	// Resends is how often one chunk may be sent again, and how often in a
	// row the position may fail to advance; 0 means 5, below 0 none.
	Resends int
	// Progress is called after every answer that moved the position.
	Progress func(UploadProgress)
}

// Overlap says whether lines may travel ahead of an answer.
type Overlap int

const (
	// OverlapOff never does: one request, one answer.
	OverlapOff Overlap = iota
	// OverlapAuto finds out on this very board in this upload: behind a chunk that
	// is sent alone go questions for the position, as much as would go ahead.
	// If all are answered it overlaps, while every answer comes as expected, and
	// stops at the first that does not. It needs [Options].Baud, since it has to
	// know what is still on the wire.
	OverlapAuto
)

// UploadMode is the way in which an image was sent.
type UploadMode string

// The modes.
const (
	ModeStopAndWait UploadMode = "stop-and-wait" // one request at a time
	ModeOverlapped  UploadMode = "overlapped"    // with lines of the next one ahead
	ModeWindow      UploadMode = "window"        // several requests at a time
)

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

	// Mode is how the image was sent in the end: a faster mode that was given up
	// is not named here, but shows in Rewinds.
	Mode UploadMode
	// Early is how many requests left, whole or in part, before the one ahead of
	// them was answered.
	Early int
	// Rewinds is how often that went wrong, by a missing answer or an offset
	// behind, and sending fell back to one request at a time.
	Rewinds int
	// TestsFailed is how many self-tests showed that this device cannot take a
	// faster mode, or not one that far ahead.
	TestsFailed int
	// SectorSize is the erase unit in bytes, as told or found out; 0 if nothing
	// of the kind showed.
	SectorSize int
	// Elapsed is the time of the upload, finding the message size included.
	Elapsed time.Duration
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

// Lines are the buffers of a target into which its UART or USB interrupt puts
// lines, for its main loop to take them out. The zero value has MCUboot's defaults.
type Lines struct {
	Length int // of one in bytes (CONFIG_BOOT_MAX_LINE_INPUT_LEN), 128 if 0
	Count  int // CONFIG_BOOT_LINE_BUFS, 8 if 0
}

// Holds is the largest message, header included, that they hold by themselves:
// 740 bytes by default. A larger one needs a main loop that takes lines out while
// others come. At UART speeds one does; at USB speed the lines come in a burst, of
// which a MCUboot with eight was seen to take nine and lose the tenth.
func (l Lines) Holds() int {
	count := l.Count
	if count <= 0 {
		count = 8
	}
	return count*l.frame().raw() - packetOverhead
}

// WireSize returns how many bytes a message of n bytes takes on the wire in such
// lines.
func (l Lines) WireSize(n int) int { return l.frame().size(n) }

func (l Lines) frame() framing { return framing(min(max(l.Length, lineLength), maxLineLength)) }

// messageSizes are the sizes tried on a target that does not tell its own, beside
// what its line buffers hold: MCUboot's default buffer, the fixed buffer of
// releases up to 1.9, and small ones.
var messageSizes = []int{1020, 508, 252, 124}

// sizeTime is what the answer to a padded probe gets besides the time on the wire.
const sizeTime = 300 * time.Millisecond

// MessageSizeProbe is the Request of the *TimeoutError of a target that answers
// no padded probe of any size.
const MessageSizeProbe = "message size probe"

// Takes reports whether the target takes messages of size bytes, in lines of the
// given kind: it answers a probe padded to that. Where the speed of the line is
// that of USB ([Options].Baud is 0) a message that the lines do not hold must be
// answered twice in a row, since one may have met an idle moment of the main loop.
func (c *Client) Takes(ctx context.Context, size int, lines Lines) (bool, error) {
	times := 1
	if c.opts.Baud <= 0 && size > lines.Holds() && c.Framing() == FramingConsole {
		times = 2
	}
	for range times {
		if ok, err := c.probeSize(ctx, size, lines.frame(), sizeTime); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// TakesLine reports whether the target takes lines of the given length: it answers
// a probe that is one full line. A line that its buffer cuts is met with silence.
func (c *Client) TakesLine(ctx context.Context, length int) (bool, error) {
	frame := Lines{Length: length}.frame()
	return c.probeSize(ctx, frame.raw()-packetOverhead, frame, sizeTime)
}

// FindMessageSize finds the largest message the target takes in lines of the
// given kind: by asking for its parameters, else by padded probes from large to
// small.
func (c *Client) FindMessageSize(ctx context.Context, lines Lines) (int, error) {
	p, err := c.Params(ctx)
	top := max(messageSizes[0], lines.Holds())
	if err == nil {
		// Told, and yet tried: a buffer that holds a message is of no use if
		// the line buffers before it do not.
		top = p.MaxMessage()
	}
	sizes := []int{top}
	for _, s := range append([]int{lines.Holds()}, messageSizes...) {
		if s < top {
			sizes = append(sizes, s)
		}
	}
	slices.SortFunc(sizes, func(a, b int) int { return b - a })
	sizes = slices.Compact(sizes)
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
			ok, err := c.Takes(ctx, size, lines)
			if err != nil {
				return 0, err
			}
			if ok {
				return size, nil
			}
		}
	}
	return 0, &TimeoutError{Request: MessageSizeProbe, After: sizeTime}
}

// Upload sends data and returns when the device has acknowledged all of it,
// which proves neither that it is intact nor that it will start: ask for the
// image list. The device's position rules: whatever offset it returns is
// where the upload goes on. Errors are *UploadError, but for those of
// FindMessageSize and of impossible options. Cancelling ctx stops at once.
func (c *Client) Upload(ctx context.Context, data []byte, opts UploadOptions) (r UploadResult, err error) {
	if len(data) == 0 {
		return UploadResult{}, errors.New("smp: nothing to upload: the image is empty")
	}
	opts = opts.withDefaults()
	if c.Framing() == FramingRaw {
		// A raw bootloader has one buffer and takes a few bytes at most while it
		// works. What it has not answered must have been forgotten before it is
		// sent again.
		opts.LineLength, opts.Overlap, opts.Window = int(bare), OverlapOff, 1
		opts.ChunkTimeout = max(opts.ChunkTimeout, RawQuiet)
		opts.LastTimeout = max(opts.LastTimeout, RawQuiet)
	}
	u := newUpload(c, data, opts)
	start := time.Now()
	defer func() { r.Elapsed = time.Since(start) }()
	if u.opts.MessageSize == 0 {
		size, err := c.FindMessageSize(ctx, Lines{Length: opts.LineLength})
		if err != nil {
			return u.result, fmt.Errorf("finding the message size: %w", err)
		}
		u.opts.MessageSize = size
	}
	u.result.MessageSize = u.opts.MessageSize
	if min(u.room(0), u.room(len(data))) < u.opts.WriteSize {
		return u.result, fmt.Errorf("smp: messages of %d bytes leave no room for %d bytes of image", u.opts.MessageSize, u.opts.WriteSize)
	}
	err = u.run(ctx)
	u.result.Sent, u.result.SectorSize = u.off, u.pace.sector
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
	if o.LineLength < lineLength {
		o.LineLength = lineLength
	}
	o.LineLength = min(o.LineLength, maxLineLength)
	if o.Ahead <= 0 {
		o.Ahead = 7
	}
	o.Window = min(max(o.Window, 1), maxWindow)
	o.SectorSize = max(o.SectorSize, 0)
	return o
}

// appendChunk appends a whole message, its sequence number still open, that
// carries data for the position off. MCUboot 1.6 to 1.10 refuses requests with
// keys other than these, and in releases with small buffers data must come last.
func (u *upload) appendChunk(dst []byte, off int, data []byte) []byte {
	start := len(dst)
	dst = Header{Op: OpWrite, Group: GroupImage, Command: cmdImageUpload}.Append(dst)
	pairs := byte(2)
	if u.opts.Image != 0 {
		pairs++
	}
	if off == 0 {
		if pairs++; len(u.opts.SHA) > 0 {
			pairs++
		}
	}
	dst = append(dst, cborMap|pairs)
	if u.opts.Image != 0 {
		dst = appendHead(append(dst, cborText|5, 'i', 'm', 'a', 'g', 'e'), cborUint, u.opts.Image)
	}
	if off == 0 {
		dst = appendHead(append(dst, cborText|3, 'l', 'e', 'n'), cborUint, len(u.data))
	}
	dst = appendHead(append(dst, cborText|3, 'o', 'f', 'f'), cborUint, off)
	if off == 0 && len(u.opts.SHA) > 0 {
		dst = appendHead(append(dst, cborText|3, 's', 'h', 'a'), cborBytes, len(u.opts.SHA))
		dst = append(dst, u.opts.SHA...)
	}
	dst = appendHead(append(dst, cborText|4, 'd', 'a', 't', 'a'), cborBytes, len(data))
	dst = append(dst, data...)
	binary.BigEndian.PutUint16(dst[start+2:], uint16(len(dst)-start-HeaderSize))
	return dst
}

// room returns how many bytes of image fit into the request at off.
func (u *upload) room(off int) int {
	u.msg = u.appendChunk(u.msg[:0], off, nil)
	return roomFor(u.opts.MessageSize - len(u.msg))
}

// roomFor returns how long a byte string may be that fits n bytes more than an
// empty one: its own length field grows with it.
func roomFor(n int) int {
	switch {
	case n > 255+2:
		return n - 2
	case n > 23+1:
		return min(n-1, 255)
	}
	return max(min(n, 23), 0)
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
	return request{
		name: uploadRequest, op: OpWrite, group: GroupImage, command: cmdImageUpload,
		payload: u.appendChunk(nil, off, data)[HeaderSize:], frame: u.frame,
	}
}

const uploadRequest = "image upload"

type uploadAnswer struct {
	status
	Off   *uint64 `cbor:"off"`
	Match *bool   `cbor:"match"`
}

func (u *upload) progress() {
	if u.opts.Progress != nil {
		u.opts.Progress(UploadProgress{Sent: u.off, Total: len(u.data), Resends: u.result.Resends})
	}
}

// position reads the offset in an answer, nil if it has none.
func (a answer) position(c codec, name string) (*uint64, error) {
	if a.plain {
		return &a.off, nil
	}
	var out uploadAnswer
	err := c.decode(name, a.payload, &out)
	return out.Off, err
}

// take believes the device's position if it is a possible one.
func (u *upload) take(a answer) error {
	off := a.off
	if !a.plain {
		var out uploadAnswer
		if err := u.c.codec.decode(uploadRequest, a.payload, &out); err != nil {
			return err
		}
		if out.Off == nil {
			return &ProtocolError{Request: uploadRequest, Problem: `the answer has no "off"`}
		}
		if out.Match != nil {
			u.result.Match = out.Match
		}
		off = *out.Off
	}
	limit := uint64(u.end)
	if u.off == 0 && len(u.opts.SHA) > 0 {
		// An application that was in the middle of the very same file, known
		// by its SHA, goes on where it stands.
		limit = uint64(len(u.data))
	}
	if off > limit && off != uint64(len(u.data)) {
		return &ProtocolError{Request: uploadRequest, Problem: fmt.Sprintf("the device wants byte %d, but was sent only %d", off, u.end)}
	}
	u.off = int(off)
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
	if err := u.c.rest(ctx, r.name); err != nil {
		return false, err
	}
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
	if u.frame == bare {
		// Of a question that comes while it erases a raw device may keep a part,
		// and must be left alone afterwards. So not before it should be done.
		patience = u.opts.FirstTimeout / 2
	}
	for asked := 0; ; {
		t := time.NewTimer(min(patience, max(time.Until(deadline), 0)))
		select {
		case a := <-taken:
			t.Stop()
			if asked > 0 {
				// A device that was deaf while it erased may have caught half of a
				// question, which would spoil the line that follows it.
				u.c.cut()
			}
			return false, u.take(a)
		case a := <-places:
			t.Stop()
			off, err := a.position(u.c.codec, ask.name)
			if err != nil {
				return false, err
			}
			if off == nil || *off == 0 || *off > uint64(u.end) {
				return true, nil
			}
			return false, u.take(a)
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
			if u.opts.Encrypted || asked == maxPositionQueries || asked > 0 && u.frame == bare {
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
