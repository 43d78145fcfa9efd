package smp

import (
	"slices"
	"time"
)

// A faster mode is used on a device that has shown in this very upload that it
// can take it. The proof costs no chunk: behind one that is sent alone travel
// questions for the position, as many lines as would go ahead, while the device
// is at work on the chunk. They carry an offset that is never the right one, so
// that nothing is written for them, and each that is received is answered. What
// is lost of them costs some milliseconds, and a line feed before the chunk that
// follows, whose start makes the device forget any half of a question.

// selfTest is such a test.
type selfTest struct {
	mode  UploadMode // that it is to prove
	ahead int        // the lines that are to go ahead in it
	due   bool       // it sets out with the next chunk that is fit for it
	until int        // one past the chunk that it set out with
	total int        // questions asked; 0 if it is not under way
	lines int        // that they have
	hold  time.Time  // until when the next chunk waits for their answers
	open  []uint8    // sequence numbers of those that are not answered
}

// appendTest appends the questions of a test that is due to what is written
// next, behind f, if that is fit: a device that erases proves nothing, and the
// end of an upload is no place for it.
func (u *upload) appendTest(f *flight) error {
	t := &u.test
	if f.erases || u.tries > 0 || f.end+u.chunk(f.end) >= len(u.data) {
		return nil
	}
	t.until, t.total, t.lines, t.hold = f.end, 0, 0, time.Time{}
	var sizes [maxWindow]int
	asks := sizes[:0]
	switch full := u.dataIn(1, len(u.data)+1); {
	case t.mode == ModeWindow:
		// As many as are to wait, one of them of a few lines in a row.
		asks = append(asks, min(u.plan(f.off), u.dataIn(4, len(u.data)+1)))
		for len(asks) < u.window-1 {
			asks = append(asks, full)
		}
	case t.ahead == 1:
		asks = append(asks, full)
	default:
		// One of a line first: if only that comes through, fewer may do.
		asks = append(asks, full, u.dataIn(t.ahead-1, len(u.data)+1))
	}
	for _, n := range asks {
		if err := u.ask(n); err != nil {
			return err
		}
	}
	t.due = false
	return nil
}

// held reports whether the next chunk has to wait: for answers that may still
// come, since a device with few line buffers has room for it only then.
func (u *upload) held() bool {
	t := &u.test
	if t.total == 0 || len(t.open) == 0 || t.hold.IsZero() {
		return false
	}
	if time.Now().Before(t.hold) {
		return true
	}
	t.hold = time.Time{}
	u.c.cut() // what comes next starts on a line of its own
	return false
}

// waitForTest sets how long that is, when the chunk before the questions has been
// answered.
func (u *upload) waitForTest() {
	t := &u.test
	answer := u.c.lineTime(u.frame.size(HeaderSize + len("\xbfbrc\x00coff\x1a....\xff")))
	t.hold = time.Now()
	if t.hold.Before(u.free) {
		t.hold = u.free
	}
	t.hold = t.hold.Add(time.Duration(t.lines)*lineWork + time.Duration(t.total)*answer + testSlack)
}

// testSlack is what a device and a computer may add to that.
const testSlack = 5 * time.Millisecond

// ask appends a question that carries n bytes.
func (u *upload) ask(n int) error {
	u.msg = u.appendChunk(u.msg[:0], len(u.data)+1, u.data[:n])
	seq, _, err := u.c.enlist(uploadRequest, u.msg, u.answers)
	if err != nil {
		return err
	}
	before := len(u.out)
	u.out = u.frame.append(u.out, u.msg)
	u.free = u.free.Add(u.c.lineTime(len(u.out) - before))
	u.test.open = append(u.test.open, seq)
	u.test.total++
	u.test.lines += u.frame.lines(len(u.msg))
	return nil
}

// testAnswered reports whether seq is that of a question.
func (u *upload) testAnswered(seq uint8) bool {
	t := &u.test
	i := slices.Index(t.open, seq)
	if i < 0 {
		return false
	}
	t.open = slices.Delete(t.open, i, i+1)
	return true
}

// judge ends a test: once the device has taken the chunk that was sent after the
// questions, no answer to these can come any more.
func (u *upload) judge() {
	t := &u.test
	came, all := t.total-len(t.open), len(t.open) == 0
	u.endTest()
	if all {
		u.goOver()
		return
	}
	u.result.TestsFailed++
	u.settled, u.due = 0, pauseChunks
	u.trials--
	switch {
	case t.mode == ModeWindow:
		u.opts.Window = came + 1
	case came > 0:
		u.ahead, u.due = max(t.ahead/2, 1), settling
	default:
		u.ahead = 1
		u.trials-- // it is deaf, or the line was bad: once more will do
	}
}

// endTest stops waiting for the questions of a test.
func (u *upload) endTest() {
	for _, seq := range u.test.open {
		u.c.forget(seq, u.answers)
	}
	u.test.open, u.test.total = u.test.open[:0], 0
}
