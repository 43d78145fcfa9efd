package smp

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"
)

// rawSeq is the sequence number of a raw probe: one that text and noise are
// unlikely to hold in its place.
const rawSeq = 0xa7

// maxRawHeard is how much of what a line carries is looked through for an answer.
const maxRawHeard = 64 << 10

// ProbeRaw asks once what is there, in the raw protocol: the bare message,
// without the lines, base64 and CRC of the console
// (CONFIG_BOOT_SERIAL_RAW_PROTOCOL of MCUboot, CONFIG_UART_MCUMGR_RAW_PROTOCOL
// of Zephyr). The target is built for one or the other and does not tell, so
// this is how a station finds out why nothing answers a [Client], which always
// speaks the console's.
//
// It must be the first thing the target hears: console text leaves up to seven
// bytes in a raw target, which spoil what comes next until they expire after
// 3 s (CONFIG_BOOT_SERIAL_RAW_PROTOCOL_INPUT_TIMEOUT_MS). The other way round
// does no harm, since a Client begins with a line feed. Nothing else is sent
// here for the same reason: a raw target takes a line feed for the first byte
// of a header.
//
// ProbeRaw owns line and closes it, which must end a Read and a Write in
// progress. Silence is a *TimeoutError, and so is anything that is no answer;
// a line that fails is a *PortError.
func ProbeRaw(ctx context.Context, line io.ReadWriteCloser, timeout time.Duration) (Target, error) {
	const name = "raw probe"
	h := Header{Op: OpWrite, Length: uint16(len(emptyMap)), Group: GroupOS, Sequence: rawSeq, Command: cmdConsoleEcho}
	var (
		wg     sync.WaitGroup
		found  = make(chan []byte, 1) // the payload of the answer
		failed = make(chan error, 2)  // one from each end
	)
	defer wg.Wait()
	defer line.Close()
	wg.Go(func() {
		var heard []byte
		buf := make([]byte, 512)
		for len(heard) < maxRawHeard {
			n, err := line.Read(buf)
			heard = append(heard, buf[:n]...)
			if payload := rawAnswer(heard, h); payload != nil {
				found <- payload
				return
			}
			if err != nil {
				failed <- &PortError{Op: "read", Err: err}
				return
			}
		}
	})
	wg.Go(func() {
		if _, err := line.Write(append(h.Append(nil), emptyMap...)); err != nil {
			failed <- &PortError{Op: "write", Err: err}
		}
	})
	t := time.NewTimer(timeout)
	defer t.Stop()
	select {
	case payload := <-found:
		return (&Client{codec: newCodec()}).targetOf(payload)
	case err := <-failed:
		return TargetUnknown, fmt.Errorf("%s: %w", name, err)
	case <-ctx.Done():
		return TargetUnknown, fmt.Errorf("%s: %w", name, context.Cause(ctx))
	case <-t.C:
		return TargetUnknown, &TimeoutError{Request: name, After: timeout}
	}
}

// rawAnswer finds the answer to asked in what was heard, and returns its
// payload; nil if it is not there, or not yet all of it. Nothing marks where a
// raw message begins, and a board may print before it.
func rawAnswer(heard []byte, asked Header) []byte {
	for at := 0; at+HeaderSize < len(heard); at++ {
		h, _, _ := ParseMessage(heard[at:]) // its length is looked at below: more may follow
		end := at + HeaderSize + int(h.Length)
		if h.Op == asked.Op+1 && h.Group == asked.Group && h.Sequence == asked.Sequence && h.Command == asked.Command &&
			h.Length > 0 && end <= len(heard) {
			return heard[at+HeaderSize : end]
		}
	}
	return nil
}
