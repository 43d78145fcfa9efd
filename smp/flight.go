package smp

import (
	"context"
	"fmt"
	"time"
)

const (
	// maxWindow bounds UploadOptions.Window.
	maxWindow = 16
	// settling is how many chunks go one at a time before a faster mode is
	// tried: with the usual 1020-byte messages they reach past 4096 bytes, the
	// commonest erase unit.
	settling = 3
	// commonSector is that unit: an application that erases as it goes shows it
	// there, and is left to its own pace.
	commonSector = 4096
	// maxTrials is how often a faster mode may fail, in its test or later; one
	// that held for provenChunks does not count. maxRewinds ends it in any case.
	maxTrials    = 3
	provenChunks = 64
	maxRewinds   = 6
	// pauseChunks go one at a time before it is tried once more.
	pauseChunks = 48
)

// flight is a request on its way.
type flight struct {
	seq      uint8
	off, end int
	frame    []byte    // all its lines
	sent     int       // bytes of frame that were handed to the line
	left     time.Time // when the last of them has left it, and nothing before it is unanswered
	timeout  time.Duration
	early    bool // some of it left before the answer to the one before it
	erases   bool // the device erases for it, or may
	brief    bool // its timeout goes by the answers so far
}

// upload is one image on its way. Nothing is allocated once it is under way:
// every request is built and framed in place, and one timer and one channel
// serve them all.
type upload struct {
	c      *Client
	data   []byte
	opts   UploadOptions
	frame  framing
	off    int // what the device wants next
	end    int // one past what the requests so far carried
	result UploadResult

	mode    UploadMode
	ahead   int // lines that may go ahead
	window  int // requests that may wait in a window
	trials  int // of a faster mode that are left
	settled int // chunks acknowledged since the mode changed
	due     int // how many there must be before a faster mode is tried
	pace    pace
	test    selfTest

	flights []flight // the first n are on their way, oldest first
	n       int
	tries   int // of the chunk at off, that ended in silence
	stalls  int // answers in a row that moved nothing
	// late is a request that was sent again soon, because no answer so far took
	// that long. If it was not lost but the device slow, its answer still counts.
	late flight

	answers chan answer
	written chan error // the end of the write under way
	writing bool
	nudge   bool
	free    time.Time // when everything written has left the line
	timer   *time.Timer
	msg     []byte
	out     []byte // what is written next, or being written
}

func newUpload(c *Client, data []byte, opts UploadOptions) *upload {
	return &upload{
		c: c, data: data, opts: opts, frame: framing(opts.LineLength), end: -1,
		result: UploadResult{Mode: ModeStopAndWait},
		mode:   ModeStopAndWait, ahead: opts.Ahead, trials: maxTrials, due: settling,
		pace:    pace{sector: opts.SectorSize},
		flights: make([]flight, max(2, opts.Window)),
		answers: make(chan answer, 2*maxWindow),
		written: make(chan error, 1),
	}
}

func (u *upload) run(ctx context.Context) error {
	if err := u.first(ctx); err != nil {
		return err
	}
	u.timer = time.NewTimer(time.Hour)
	defer u.timer.Stop()
	defer u.forgetLate()
	defer u.endTest()
	defer u.drop()
	for u.off < len(u.data) {
		u.choose()
		if err := u.c.rest(ctx, uploadRequest); err != nil {
			return err
		}
		if err := u.fill(); err != nil {
			return err
		}
		a, what, err := u.await(ctx)
		switch {
		case err != nil:
		case what == timeRanOut:
			err = u.silence()
		case what == answerCame:
			err = u.answered(a)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// choose has a faster mode tested when it is time to, and goes over to it once
// that is passed.
func (u *upload) choose() {
	if u.mode != ModeStopAndWait || u.n > 0 || u.stalls > 0 || u.tries > 0 {
		return
	}
	if u.test.total > 0 {
		if u.off > u.test.until {
			u.judge()
		}
		return
	}
	if u.test.due || u.settled < u.due || u.trials <= 0 || u.result.Rewinds >= maxRewinds || u.pace.usual == 0 {
		return
	}
	if u.test.mode = u.faster(); u.test.mode == ModeStopAndWait {
		return
	}
	if u.opts.Proven && u.result.Rewinds == 0 {
		u.goOver()
		return
	}
	u.test.due = true
}

// faster is the mode that comes into question for the rest of an upload. It sets
// how far it would go ahead.
func (u *upload) faster() UploadMode {
	chunk := u.chunk(u.off)
	switch {
	case u.opts.Window > 1:
		if u.pace.stops() || u.off <= commonSector+chunk {
			return ModeStopAndWait
		}
		// More than cover the time in which the device is at work gain nothing.
		u.window = min(u.opts.Window, int(u.pace.usual/max(u.c.lineTime(u.frame.size(chunk)), 1))+2)
		return ModeWindow
	case u.opts.Overlap != OverlapAuto || u.c.opts.Baud <= 0:
		return ModeStopAndWait
	case u.pace.sector > 0 && u.pace.sector <= 2*chunk:
		// It erases for about every chunk, and nothing could go ahead.
		return ModeStopAndWait
	}
	u.test.ahead = u.linesAhead(chunk)
	return ModeOverlapped
}

// goOver begins to send in the mode that was tested.
func (u *upload) goOver() { u.mode, u.settled, u.ahead = u.test.mode, 0, u.test.ahead }

// lineWork is what MCUboot's main loop takes for a line, about: of a burst at
// USB speed its eight line buffers held nine lines and not ten.
const lineWork = 600 * time.Microsecond

// linesAhead is how many lines may go ahead of chunks of that size. More than
// the device is busy for gain nothing, and what is not in its buffers cannot be
// lost there. On a line so fast that the main loop falls behind, the buffers
// also hold what it falls behind by, in the lines ahead and those after.
func (u *upload) linesAhead(chunk int) int {
	line := u.c.lineTime(u.frame.full())
	ahead := min(u.ahead, int(u.pace.usual/line)+2)
	if behind := 1 - float64(line)/float64(lineWork); behind > 0 {
		rest := float64(u.frame.lines(chunk + HeaderSize))
		ahead = min(ahead, int((float64(u.ahead)-rest*behind)/(1+behind)))
	}
	return max(ahead, 1)
}

// fallBack goes on with one request at a time, for the time being or for good.
func (u *upload) fallBack() {
	u.result.Rewinds++
	u.result.Mode = ModeStopAndWait
	if u.settled < provenChunks {
		// The next trial, if there is one, asks less of the device: it may have
		// fewer line buffers, or be slower to empty them.
		u.trials--
		u.ahead = max(u.ahead/2, 1)
		if u.mode == ModeWindow {
			u.opts.Window = u.window - 1
		}
	}
	u.mode, u.settled, u.due = ModeStopAndWait, 0, pauseChunks
	u.drop()
}

// drop forgets everything on its way, to be sent again from the device's own
// position.
func (u *upload) drop() {
	for i := range u.flights[:u.n] {
		f := &u.flights[i]
		u.c.forget(f.seq, u.answers)
		if f.sent < len(f.frame) {
			u.c.cut()
		}
	}
	u.n = 0
	for {
		select {
		case <-u.answers:
		default:
			return
		}
	}
}

// forgetLate stops waiting for the late request.
func (u *upload) forgetLate() {
	if u.late.brief {
		u.c.forget(u.late.seq, u.answers)
		u.late = flight{}
	}
}

// depth is how many requests may be on their way.
func (u *upload) depth() int {
	switch u.mode {
	case ModeOverlapped:
		return 2
	case ModeWindow:
		return u.window
	}
	return 1
}

// mayFollow reports whether the chunk at off, n bytes of it, may set out behind
// another. Not the last, for which an encrypted image allows no second copy and
// a bootloader erases its trailer; and in a bootloader none behind a chunk that
// it erases for, when it may be deaf, nor, until overlapping has held for a
// while, one for which it erases nobody knows how long: its loss would be
// noticed late.
func (u *upload) mayFollow(off, n int) bool {
	if off+n == len(u.data) {
		return false
	}
	if u.mode != ModeOverlapped {
		return true
	}
	return !u.flights[u.n-1].erases && (u.pace.slowErase > 0 || u.settled > settling || !u.pace.erases(off, off+n))
}

// plan returns how many bytes the request at off carries.
//
// In a window the lines are full ones: an application's server may have two line
// buffers, and while it decodes one line a short one behind it would be followed
// by a third too soon.
//
// When overlapping, chunks may end where sectors do, so that each erase falls to
// the one that starts a sector. Where the line is what takes long, that one is no
// longer than its lines need to cover the time in which the device writes the one
// before, since behind it the line is silent until it is written; the others
// share what is left evenly. Where the device takes longer, what counts is how
// soon after an erase it has something to do: the next chunk is short. And where
// its decoding alone takes longer than the line, nothing of the kind is gained.
func (u *upload) plan(off int) int {
	n := u.chunk(off)
	if off+n == len(u.data) {
		return n
	}
	if u.mode == ModeWindow || u.test.mode == ModeWindow && (u.test.due || u.test.total > 0) {
		return min(u.dataIn(u.frame.lines(u.opts.MessageSize)-1, off), n)
	}
	sector, unit := u.pace.sector, u.opts.WriteSize
	line, wire := u.c.lineTime(u.frame.full()), u.c.lineTime(u.frame.size(n))
	if u.mode != ModeOverlapped || sector < 2*n || sector%unit != 0 || off%unit != 0 || line <= lineWork {
		return n
	}
	left := sector - off%sector
	chunks := (left + n - 1) / n
	even := ((left+chunks-1)/chunks + unit - 1) / unit * unit
	least := left - (chunks-1)*n
	lineBound := wire > u.pace.usual+time.Duration(u.frame.lines(n)-1)*lineWork
	switch {
	case lineBound && left < sector:
		return even
	case lineBound:
		covers := n * int(u.pace.usual) / int(wire) / unit * unit
		return min(max(least, covers), even)
	case left < sector:
		return max(least, min(even, n/2/unit*unit))
	}
	return max(least, even)
}

// dataIn returns how many bytes a request at off carries that fills a number of
// lines, at most as many as fit the largest message.
func (u *upload) dataIn(lines, off int) int {
	size := min(lines*u.frame.raw()-packetOverhead, u.opts.MessageSize)
	u.msg = u.appendChunk(u.msg[:0], off, nil)
	return roomFor(size - len(u.msg))
}

// fill writes as much as may be on its way now.
func (u *upload) fill() error {
	if u.writing {
		return nil
	}
	u.out, u.nudge = u.out[:0], false
	if u.n == 0 && u.held() {
		return nil
	}
	alone := u.n == 0
	for u.n < u.depth() {
		off := u.off
		if u.n > 0 {
			off = u.flights[u.n-1].end
		}
		n := u.plan(off)
		if u.n > 0 && (off == len(u.data) || !u.mayFollow(off, n)) {
			break
		}
		if err := u.launch(off, n); err != nil {
			return err
		}
	}
	now := time.Now()
	for i := range u.flights[:u.n] {
		f := &u.flights[i]
		upTo := len(f.frame)
		if i > 0 && u.mode == ModeOverlapped {
			upTo = min(upTo, u.ahead*u.frame.full())
		}
		if f.sent >= upTo {
			continue
		}
		u.out = append(u.out, f.frame[f.sent:upTo]...)
		if u.free.Before(now) {
			u.free = now
		}
		u.free = u.free.Add(u.c.lineTime(upTo - f.sent))
		f.sent, f.left = upTo, u.free
		if i > 0 && !f.early {
			f.early = true
			u.result.Early++
		}
	}
	if alone && u.n == 1 && u.test.due {
		return u.appendTest(&u.flights[0])
	}
	return nil
}

// launch makes a request of the n bytes at off.
func (u *upload) launch(off, n int) error {
	f := &u.flights[u.n]
	u.msg = u.appendChunk(u.msg[:0], off, u.data[off:off+n])
	seq, nudge, err := u.c.enlist(uploadRequest, u.msg, u.answers)
	if err != nil {
		return err
	}
	u.nudge = u.nudge || nudge
	*f = flight{seq: seq, off: off, end: off + n, frame: u.frame.append(f.frame[:0], u.msg), erases: u.pace.erases(off, off+n)}
	f.timeout, f.brief = u.timeout(f)
	u.n++
	u.end = max(u.end, f.end)
	u.count(n)
	return nil
}

// timeout is how long the answer to f is waited for, from the moment at which
// it has left the line, and whether that is brief: it goes by the answers so
// far, where these foretell anything. What is missing then is sent again soon,
// and waited for as long as it takes.
func (u *upload) timeout(f *flight) (t time.Duration, brief bool) {
	longest := u.opts.ChunkTimeout
	tries := u.tries
	switch last := f.end == len(u.data); {
	case last:
		longest = u.opts.LastTimeout
	case u.pace.usual == 0 || u.opts.Resends == 0 || f.erases && u.pace.slowErase == 0 || u.frame == bare:
	case u.mode == ModeOverlapped && !f.erases:
		return min(u.pace.expect(), longest), true
	case tries == 0:
		return min(u.pace.patience(), longest), true
	}
	if u.late.brief {
		tries-- // that one was no test of the device's patience
	}
	// Back off, within reason: a device that is slower than thought gets the
	// time, and one that died is not waited for all day.
	t = longest
	for range tries {
		t = min(t+t/2, 2*longest)
	}
	return t, false
}

// event is what await waited for.
type event int

const (
	answerCame event = iota
	timeRanOut       // of the oldest request
	writeEnded       // more may be written
)

// await hands over what is to be written and waits until something happens.
func (u *upload) await(ctx context.Context) (answer, event, error) {
	var end time.Time
	switch {
	case u.n > 0:
		end = u.flights[0].left.Add(u.flights[0].timeout)
	case u.writing: // the last answer has overtaken the end of a write
		end = u.free.Add(u.opts.ChunkTimeout)
	default:
		end = u.test.hold
	}
	u.timer.Reset(time.Until(end))
	var hand chan<- write // while there is something to hand over
	if len(u.out) > 0 && !u.writing {
		hand = u.c.writes
	}
	w := write{u.nudge, u.out, u.written}
	for {
		answers := u.answers
		if hand != nil {
			answers = nil // first the writer, who is free: out must not be made anew
		}
		select {
		case hand <- w:
			hand, u.writing = nil, true
		case err := <-u.written:
			u.writing = false
			u.out = u.out[:0]
			if err != nil {
				return answer{}, 0, fmt.Errorf("%s: %w", uploadRequest, &PortError{Op: "write", Err: err})
			}
			return answer{}, writeEnded, nil
		case a := <-answers:
			return a, answerCame, nil
		case <-u.timer.C:
			if u.writing || hand != nil {
				// The line takes nothing. What it was given belongs to the
				// writer until it ends, if it ever does.
				u.out, u.written, u.writing = nil, make(chan error, 1), false
				u.c.cut()
			}
			return answer{}, timeRanOut, nil
		case <-ctx.Done():
			return answer{}, 0, fmt.Errorf("%s: %w", uploadRequest, context.Cause(ctx))
		case <-u.c.gone:
			select {
			case a := <-u.answers: // it came just before the end
				return a, answerCame, nil
			default:
			}
			return answer{}, 0, fmt.Errorf("%s: %w", uploadRequest, u.c.lineError())
		}
	}
}

// silence follows when the oldest request was not answered in time.
func (u *upload) silence() error {
	if u.n == 0 {
		return nil
	}
	f := &u.flights[0]
	u.c.silence()
	last := f.end == len(u.data)
	switch {
	case u.n > 1 || f.early:
		u.result.Resends += u.n
		u.fallBack()
		return nil
	case u.tries >= u.opts.Resends || last && u.opts.Encrypted:
		return &TimeoutError{Request: uploadRequest, After: f.timeout + u.c.lineTime(len(f.frame))}
	}
	u.tries++
	u.result.Resends++
	if f.brief {
		u.forgetLate()
		u.late = flight{seq: f.seq, off: f.off, end: f.end, left: f.left, brief: true}
		u.n = 0
		return nil
	}
	u.drop()
	return nil
}

// answered takes the position from an answer and lets go of what is settled.
func (u *upload) answered(a answer) error {
	i := 0
	if u.testAnswered(a.header.Sequence) {
		return nil
	}
	for i < u.n && u.flights[i].seq != a.header.Sequence {
		i++
	}
	f, late := u.late, i == u.n
	switch {
	case !late:
		f = u.flights[i]
	case !f.brief || f.seq != a.header.Sequence:
		return nil
	}
	u.forgetLate()
	before, now := u.off, time.Now()
	if err := u.take(a); err != nil {
		return err
	}
	switch {
	case u.off < before:
		return &RestartError{Had: before, Wants: u.off}
	case u.off == before && late:
		return nil
	case u.off == before:
		u.tries = 0
		u.result.Resends += u.n
		if u.n > 1 || f.early {
			u.fallBack()
			return nil
		}
		u.drop()
		if u.stalls++; u.stalls > u.opts.Resends {
			return &StallError{Offset: u.off, Tries: u.stalls}
		}
		return nil
	}
	u.tries, u.stalls = 0, 0
	u.progress()
	if u.test.total > 0 && u.off == u.test.until {
		u.waitForTest()
	}
	if f.end == u.off && (late || i == 0) {
		u.pace.note(f.off, f.end, now.Sub(f.left))
		if f.early {
			u.result.Mode = u.mode
		}
	}
	u.settled++
	for u.n > 0 && u.flights[0].end <= u.off {
		u.c.forget(u.flights[0].seq, u.answers)
		done := u.flights[0]
		copy(u.flights[:u.n], u.flights[1:u.n])
		u.n--
		u.flights[u.n] = done // its buffer is used again
	}
	if u.n == 0 {
		return nil
	}
	if next := &u.flights[0]; next.off != u.off {
		// It took less than it was sent, or stands where nothing on its way
		// begins.
		if unit := 2 * u.opts.WriteSize; next.off < u.off && unit <= min(next.end-next.off, 512) {
			u.opts.WriteSize = unit // larger than was told, it seems
		}
		u.result.Resends += u.n - 1
		if u.n > 1 || next.early {
			u.fallBack()
		} else {
			u.drop()
		}
	} else if next.left.Before(now) {
		next.left = now // it came to this one only now
	}
	return nil
}
